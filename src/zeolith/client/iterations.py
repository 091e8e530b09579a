"""Iterating over the transactions of a remote storage on a stream: the server need not be asked for
each record.

What has come waits in memory until the application takes it, no more than the stream's window.  A
transaction's records come behind it, so an application that wants them later, or twice, is given a
stream of its own for that transaction.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ZODB.BaseStorage import DataRecord, TransactionRecord

from ..errors import ClientDisconnected, ClientStorageError, UndecodableMessage
from ..protocol.entries import Close, Entry, EntryReader, Header, Record
from ..protocol.limits import DEFAULT_LIMITS
from ..protocol.streamrequests import OpenIteration
from .channel import Channel
from .plainextension import plain_extension

if TYPE_CHECKING:
    from .iterators import Iterators


class _Entries:
    """The entries of one stream.  One thread at a time.

    :param iterators: is told when nobody holds this any more.
    """

    def __init__(
        self, iterators: Iterators, channel: Channel, start: bytes | None, stop: bytes | None
    ) -> None:
        self._channel = channel
        self._reader = EntryReader(DEFAULT_LIMITS)
        # Filled by the connection's reader.
        self._chunks: deque[bytes] = deque()
        self._is_exhausted = False
        self._stream = channel.streams.prepare(_keeper(self._chunks), is_eager=True)
        self._abandon = weakref.finalize(self, iterators.abandon, channel, self._stream)
        self._abandon.atexit = False
        channel.streams.start(
            self._stream, lambda number, credit: OpenIteration(number, start, stop, credit)
        )

    def next(self) -> Entry | None:
        """Return the next entry, None at the end.

        :raises ClientDisconnected: the connection was lost, or the server sends nonsense.
        :raises Exception: what the server says.
        """
        if self._is_exhausted:
            return None
        if self._channel.is_broken:
            raise ClientDisconnected("the connection on which this iterator began has ended")
        try:
            while (entry := self._reader.next()) is None:
                if not self._feed():
                    self._reader.check_end()
                    self._is_exhausted = True
                    self._abandon.detach()
                    return None
        except UndecodableMessage as error:
            self._channel.close(error)
            raise ClientDisconnected(f"the connection was given up: {error}") from error
        return entry

    def _feed(self) -> bool:
        """Take what has come next; return false at the end."""
        stream, chunks = self._stream, self._chunks
        if not chunks:
            self._channel.wait_until(stream, lambda: bool(chunks) or stream.has_ended)
        if chunks:
            chunk = chunks.popleft()
            self._reader.feed(chunk)
            stream.consumed(len(chunk))
            if stream.due:
                stream.grant()
            return True
        if stream.error is not None:
            self._abandon.detach()
            raise stream.error
        return False


def _keeper(chunks: deque[bytes]) -> Any:
    """Return what keeps the data of a stream; it holds no reference to who reads them."""

    def take(data: bytes | memoryview) -> int:
        # The channel may use the memory again for what comes next.
        chunks.append(bytes(data))
        return 0

    return take


class StreamedTransactions:
    """Iterates over transactions; each is an iterable of its records.

    Any thread, one after the other.

    :param channel: the connection, and no other.
    """

    def __init__(
        self, iterators: Iterators, channel: Channel, start: bytes | None, stop: bytes | None
    ) -> None:
        self.iterators = iterators
        self.channel = channel
        self._entries = _Entries(iterators, channel, start, stop)
        # Guards what follows; held while waiting for the server.
        self._turn = threading.RLock()
        self._tid: bytes | None = None  # whose records are next in the stream
        self._owner: object = None  # who takes them

    def __iter__(self) -> StreamedTransactions:
        return self

    def __next__(self) -> StreamedTransaction:
        with self._turn:
            while self._tid is not None:
                self._next_record()
            self._owner = None
            entry = self._entries.next()
            if entry is None:
                raise StopIteration
            assert isinstance(entry, Header)  # the reader has checked that
            self._tid = entry.tid
            return StreamedTransaction(self, entry)

    def _next_record(self) -> Record | None:
        """Return the next record of the present transaction, None behind the last."""
        entry = self._entries.next()
        if isinstance(entry, Record):
            return entry
        assert isinstance(entry, Close)
        self._tid = None
        return None

    def take_record(self, tid: bytes, owner: object, is_first: bool) -> tuple[bool, Record | None]:
        """Return whether the records of *tid* can be had here, and if so the next one.

        :param owner: who wants them: there can be one.
        :param is_first: it has had none yet.
        """
        with self._turn:
            if self._owner is None and is_first and self._tid == tid:
                self._owner = owner
            if self._owner is not owner:
                return False, None
            return True, self._next_record()


class StreamedTransaction(TransactionRecord):
    """A transaction of a remote storage, as ZODB's iterators describe one."""

    def __init__(self, parent: StreamedTransactions, header: Header) -> None:
        tid, status, user, description, extension = header
        super().__init__(tid, status, user, description, extension)
        if extension:
            # ZODB's class would unpickle it, whatever it names; what the network brings may not.
            self.extension = plain_extension(tid, extension)
        self._parent = parent

    def __iter__(self) -> Iterator[DataRecord]:
        if self._parent.channel.is_broken:
            raise ClientDisconnected("the connection on which this iterator began has ended")
        return StreamedRecords(self._parent, self.tid)


class StreamedRecords:
    """Iterates over the records of one transaction.

    Takes them from the stream that brought the transaction as long as that is there and nobody else
    does; otherwise from one of its own.
    """

    def __init__(self, parent: StreamedTransactions, tid: bytes) -> None:
        self._source: StreamedTransactions | None = parent
        self._tid = tid
        self._count = 0

    def __iter__(self) -> StreamedRecords:
        return self

    def __next__(self) -> DataRecord:
        source = self._source
        if source is None:
            raise StopIteration
        is_there, record = source.take_record(self._tid, self, self._count == 0)
        if not is_there:
            source = self._source = self._own_source(source)
            _, record = source.take_record(self._tid, self, True)
            for _ in range(self._count):
                _, record = source.take_record(self._tid, self, False)
        if record is None:
            self._source = None
            raise StopIteration
        self._count += 1
        return DataRecord(*record)

    def _own_source(self, parent: StreamedTransactions) -> StreamedTransactions:
        own = StreamedTransactions(parent.iterators, parent.channel, self._tid, self._tid)
        if next(own, None) is None:
            raise ClientStorageError(f"transaction {self._tid.hex()} is not there any more")
        return own

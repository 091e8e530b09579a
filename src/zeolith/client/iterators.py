"""Iterating over the transactions of a remote storage (ZODB's IStorageIteration).

In Zeolith's own protocol they come on a stream, see :mod:`.iterations`; what follows is for ZEO's.
The state is the server's; here are ids for it, which mean something on one connection only.  Ids
of iterators that nobody holds any more are given back with the next iterator or at the end of the
next transaction, because a finaliser may run in any thread at any moment and must not touch the
connection.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from ZODB.BaseStorage import DataRecord, TransactionRecord

from ..protocol.messages import (
    IteratorGc,
    IteratorNext,
    IteratorRecordNext,
    IteratorRecordStart,
    IteratorStart,
    Request,
)
from .channel import Channel
from .incoming import Incoming
from .iterations import StreamedTransactions
from .plainextension import plain_extension


class Iterators:
    """All iterators of one client storage.  Any thread.

    :param wait: returns the present channel; waits for one and raises ClientDisconnected if none
        comes in time.
    """

    def __init__(self, wait: Callable[[], Channel]) -> None:
        self._wait = wait
        self._abandoned: deque[tuple[Channel, int | Incoming]] = deque()

    def start(
        self, start: bytes | None, stop: bytes | None
    ) -> TransactionIterator | StreamedTransactions:
        """Return an iterator over the transactions from *start* to *stop*.

        Its methods raise ClientDisconnected when the present connection has been lost.
        """
        channel = self._wait()
        self.give_back(channel)
        if channel.speaks_own:
            return StreamedTransactions(self, channel, start, stop)
        return TransactionIterator(self, channel, channel.call(IteratorStart(start, stop)))

    def abandon(self, channel: Channel, iid: int | Incoming) -> None:
        """Nobody holds the iterator any more.  May be called by a finaliser."""
        if isinstance(iid, Incoming):
            iid.abandon()
        # Takes no lock: its own thread may be holding it.
        self._abandoned.append((channel, iid))

    def give_back(self, channel: Channel) -> None:
        """Tell the server, with the next call on *channel*, which iterators it may forget.

        :raises ClientDisconnected: *channel* has ended, and its iterators with it.
        """
        iids, streams = [], []
        for _ in range(len(self._abandoned)):
            try:
                owner, iid = self._abandoned.popleft()
            except IndexError:
                break  # another thread took the rest
            if owner is channel:
                if isinstance(iid, Incoming):
                    streams.append(iid)
                else:
                    iids.append(iid)
            elif not owner.is_broken:
                self._abandoned.append((owner, iid))
        if iids:
            channel.post(IteratorGc(iids))
        for stream in streams:
            stream.cancel()


class _Remote:
    """An iterator at the server."""

    def __init__(self, iterators: Iterators, channel: Channel, iid: int) -> None:
        self._iterators = iterators
        self.channel = channel
        self.iid = iid
        self._is_exhausted = False
        self._abandon = weakref.finalize(self, iterators.abandon, channel, iid)
        self._abandon.atexit = False

    def _fetch(self, request: Request) -> Any:
        """Return the next item.

        :raises StopIteration: there is none.
        :raises ClientDisconnected: the connection was lost, and the iterator with it.
        """
        if self._is_exhausted:
            raise StopIteration
        item = self.channel.call(request)
        if item is None:
            # The server forgets an iterator when it ends.
            self._is_exhausted = True
            self._abandon.detach()
            raise StopIteration
        return item


class TransactionIterator(_Remote):
    """Iterates over transactions; each is an iterable of its records."""

    def __iter__(self) -> TransactionIterator:
        return self

    def __next__(self) -> RemoteTransaction:
        tid, status, user, description, extension = self._fetch(IteratorNext(self.iid))
        return RemoteTransaction(self._iterators, self, tid, status, user, description, extension)


class RecordIterator(_Remote):
    """Iterates over the records of one transaction."""

    def __iter__(self) -> RecordIterator:
        return self

    def __next__(self) -> DataRecord:
        return DataRecord(*self._fetch(IteratorRecordNext(self.iid)))


class RemoteTransaction(TransactionRecord):
    """A transaction of a remote storage, as ZODB's iterators describe one."""

    def __init__(
        self,
        iterators: Iterators,
        parent: TransactionIterator,
        tid: bytes,
        status: str,
        user: bytes,
        description: bytes,
        extension: Any,
    ) -> None:
        super().__init__(tid, status, user, description, extension)
        if isinstance(extension, bytes) and extension:
            # ZODB's class would unpickle it, whatever it names; what the network brings may not.
            self.extension = plain_extension(tid, extension)
        self._iterators = iterators
        # Held, because the server starts record iterators off the transaction iterator.
        self._parent = parent

    def __iter__(self) -> Iterator[DataRecord]:
        channel = self._parent.channel
        self._iterators.give_back(channel)
        iid = channel.call(IteratorRecordStart(self._parent.iid, self.tid))
        return RecordIterator(self._iterators, channel, iid)

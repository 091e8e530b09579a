"""Streams to one client: several at once, in turns, no faster than it reads, and behind its calls.

Files and storages are read on worker threads, in pieces; what has been read is sent in messages of
bounded size, one of each stream after the other.  No more than :data:`OUTPUT_MARK` bytes wait in
the transport, so that the answer to a call finds little in front of it, and no stream is read ahead
of its credit or beyond :data:`READ_AHEAD` (R8).

The threads do other clients' work, too, and to find the beginning of an iteration or a blob in
another server may take long.  So one client's streams have half of them at most (R7).

Streams of iterations tell of transactions; what is sent passes through :meth:`.Session.send`, so
the invalidations are out before (R1).  While a transaction is being finished nothing is sent that
would have to be kept in memory until then.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from ZODB.POSException import StorageError

from ..errors import IllegalMessage
from ..protocol.faults import serialize_fault
from ..protocol.limits import BULK_FRAME, MAX_STREAMS, STREAM_FRAME
from ..protocol.messages import MsgId
from ..protocol.streamlayouts import STREAM_HEAD, data_head
from ..protocol.streamrequests import StreamData, StreamEnd, StreamFault
from ..protocol.streams import Sender
from .peerlog import peer_logger
from .sources import BlobSource, Source
from .tally import Limit
from .workers import Job, Share

if TYPE_CHECKING:
    from .session import Session

logger = peer_logger(__name__)

OUTPUT_MARK: Final = 128 * 1024
"""Bytes that may wait in the transport of a client that gets streams.  It is what the answer to a
call has to wait for, and enough to keep a line busy while a worker reads more."""

READ_SIZE: Final = 128 * 1024
"""Bytes read at once: fewer changes of thread than one for each message."""

READ_AHEAD: Final = 1024 * 1024
"""Bytes of one client's streams that have been read, or are about to be, and not sent."""

Make = Callable[[], tuple[Source, Any]]
"""Runs on a worker thread: returns a source and the answer to the call that opens the stream."""


class _Outgoing:
    """One stream.

    :ivar waiting: bytes read and not sent, from *position* on.
    :ivar is_answered: the call that opened it has its answer: it may have its turn.
    :ivar is_busy: a worker has the source.
    :ivar is_queued: it has its turn to come.
    :ivar frame: bytes of a file that are sent in one message.
    :ivar was_put_off: a part of the file could not be sent because other data waited.
    :ivar reserved: bytes of the connection's read-ahead that it takes.
    """

    __slots__ = (
        "error",
        "frame",
        "is_answered",
        "is_busy",
        "is_iteration",
        "is_queued",
        "position",
        "reserved",
        "sender",
        "source",
        "waiting",
        "was_put_off",
    )

    def __init__(self, sender: Sender, is_iteration: bool) -> None:
        self.sender = sender
        self.is_iteration = is_iteration
        self.source: Source | None = None
        self.waiting = b""
        self.position = 0
        self.reserved = 0
        self.error: Exception | None = None
        self.is_answered = False
        self.is_busy = True
        self.is_queued = False
        self.frame = BULK_FRAME
        self.was_put_off = False


class Streams:
    """All streams from the server to one client.  Belongs to the loop.

    :param session: the client.
    """

    __slots__ = (
        "_is_closed",
        "_is_waiting",
        "_open",
        "_queue",
        "_read_ahead",
        "_session",
        "_workers",
    )

    def __init__(self, session: Session) -> None:
        self._session = session
        self._open: dict[int, _Outgoing] = {}
        self._queue: deque[_Outgoing] = deque()
        self._read_ahead = 0
        most = max(session.lobby.options.workers // 2, 1)
        self._workers = Share(session.service.pools.quick, most)
        self._is_waiting = False  # somebody will call _go_on
        self._is_closed = False

    def __len__(self) -> int:
        return len(self._open)

    def has(self, number: int) -> bool:
        """Whether there is a stream of that number."""
        return number in self._open

    @property
    def blobs(self) -> int:
        """How many of them are blobs."""
        return sum(not stream.is_iteration for stream in self._open.values())

    # -- what the client says ----------------------------------------------------------------------

    def open(self, msgid: MsgId, number: int, credit: int, make: Make, is_iteration: bool) -> None:
        """Open a stream; answer the call when it is known whether that goes.

        :raises IllegalMessage: there is a stream of that number.
        :raises StorageError: there are too many.
        """
        if number in self._open:
            raise IllegalMessage(f"stream {number} is open already")
        limit = self._session.lobby.options.max_iterators if is_iteration else MAX_STREAMS
        if sum(stream.is_iteration is is_iteration for stream in self._open.values()) >= limit:
            what = "iterators" if is_iteration else "blobs on their way"
            if is_iteration:
                self._session.lobby.tally.hit(Limit.ITERATORS)
            raise StorageError(f"a client may have {limit} {what}, no more")
        if not self._open:
            # Or the transport would take more, and not say when it has room again.
            self._session.connection.limit_output(OUTPUT_MARK)
        stream = self._open[number] = _Outgoing(Sender(number, credit), is_iteration)
        self._session.began()

        def opened(made: tuple[Source, Any] | None, error: Exception | None) -> None:
            stream.is_busy = False
            stream.source, answer = made or (None, None)
            if stream.source is None or self._is_closed:
                self._forget(stream)
            elif isinstance(stream.source, BlobSource):
                self._take_first(stream, stream.source)
            with self._session.connection.gathering():
                self._session.answer(msgid, answer, error)
                # The answer may wait for the end of a commit, and another stream's turn before it.
                self._session.service.when_settled(partial(self._begin, stream))
            self._session.ended()

        cold = self._session.service.cold
        if cold is None or is_iteration:
            self._workers.submit(make, opened)
        else:
            cold.with_blob(self._workers.submit, make, opened)

    def _take_first(self, stream: _Outgoing, source: BlobSource) -> None:
        """Have what was read of a short blob wait to be sent, if there are room and credit."""
        first = source.take_first()
        if not first:
            return
        if len(first) > min(READ_AHEAD - self._read_ahead, stream.sender.credit):
            source.position = 0
            return
        stream.waiting = first
        stream.reserved = len(first)
        self._read_ahead += stream.reserved

    def _begin(self, stream: _Outgoing) -> None:
        if not self._is_closed and stream.source is not None:
            stream.is_answered = True
            self._queue_up(stream)
            self._pump()

    def granted(self, number: int, size: int) -> None:
        """The client takes more of a stream; nothing if that has ended, which it may not know.

        :raises StreamViolation: more than is legal.
        """
        stream = self._open.get(number)
        if stream is not None:
            stream.sender.granted(size)
            self._queue_up(stream)
            self._pump()

    def cancelled(self, number: int) -> None:
        """The client wants no more of a stream; nothing if that has ended, which it may not know.

        :raises StreamViolation: it has said so before.
        """
        stream = self._open.get(number)
        if stream is not None:
            stream.sender.cancelled()
            self._release(stream)
            self._queue_up(stream)
            self._pump()

    # -- sending -----------------------------------------------------------------------------------

    def resume(self) -> None:
        """The client takes data again."""
        self._pump()

    def _queue_up(self, stream: _Outgoing) -> None:
        if stream.is_answered and not stream.is_queued and not stream.is_busy:
            stream.is_queued = True
            self._queue.append(stream)

    def _pump(self) -> None:
        """Give each stream its turn until the transport has enough, or nothing can be done."""
        idle = 0
        while self._queue and idle < len(self._queue) and self._may_send():
            stream = self._queue.popleft()
            stream.is_queued = False
            if self._step(stream):
                idle = 0
            elif stream.is_queued:
                idle += 1

    def _may_send(self) -> bool:
        session = self._session
        if self._is_closed or self._is_waiting or not session.is_writable:
            return False  # whoever ends that calls resume, or _go_on
        publisher = session.publisher
        assert publisher is not None
        if publisher.is_held:
            self._is_waiting = True
            session.service.when_settled(self._go_on)
            return False
        if session.connection.unsent >= OUTPUT_MARK:
            # Written in this step of the loop, and the transport has not yet looked at it.
            self._yield()
            return False
        return True

    def _yield(self) -> None:
        """Let the loop see to others, and then go on."""
        self._is_waiting = True
        self._session.lobby.loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        self._is_waiting = False
        self._pump()

    def _step(self, stream: _Outgoing) -> bool:
        """Do the next thing for *stream*; return whether anything was done."""
        sender = stream.sender
        source = stream.source
        assert source is not None
        if not sender.is_open:
            self._end(stream)
        elif stream.position < len(stream.waiting):
            self._send_some(stream)
        elif stream.error is not None:
            self._end(stream)
        elif source.is_exhausted:
            if isinstance(source, BlobSource) and not source.is_summed:
                self._work(stream, source.sum_up)
            else:
                self._end(stream)
        elif sender.credit:
            if isinstance(source, BlobSource) and self._session.connection.sends_files:
                return self._send_file(stream, source)
            return self._read(stream, source)
        # else it is queued up again when there is credit
        return True

    def _send_some(self, stream: _Outgoing) -> None:
        sender = stream.sender
        codec = self._session.codec
        frame = min(codec.data_frame, codec.max_payload - STREAM_HEAD)
        start = stream.position
        size = sender.sendable(len(stream.waiting) - start, frame)
        assert size, "no more is read than there is credit for"
        stream.position = start + size
        data = stream.waiting[start : stream.position]
        if stream.position == len(stream.waiting):
            self._release(stream)
        sender.sent(size)
        self._session.send(codec.notice(StreamData(sender.number, data)))
        self._queue_up(stream)

    def _send_file(self, stream: _Outgoing, source: BlobSource) -> bool:
        """Send a part of a file past this process's memory; read it if that cannot be done."""
        sender, codec = stream.sender, self._session.codec
        frame = min(stream.frame, codec.data_frame, codec.max_payload - STREAM_HEAD)
        start = source.position
        size = sender.sendable(source.size - start, frame)
        if start + size > source.warm:
            self._work(stream, source.prepare)
            return True
        if source.has_shrunk:
            return self._read(stream, source)  # what is left, and then it says so
        head = data_head(sender.number, size)
        sent = self._session.send_file(head, source.descriptor, start, size)
        if not sent:
            if stream.was_put_off:
                stream.was_put_off = False
                return self._read(stream, source)
            # What was written in this step of the loop has not left yet.
            stream.was_put_off = True
            self._queue_up(stream)
            self._yield()
            return True
        stream.was_put_off = False
        # As long as the system takes all at once, it may be more; else what it does not take is
        # copied, and others wait for it.
        full = sent == len(head) + size
        stream.frame = min(2 * frame, BULK_FRAME) if full else max(sent, STREAM_FRAME)
        sender.sent(size)
        source.position = start + size
        self._queue_up(stream)
        # As long as the client takes all at once nothing else would end this step of the loop.
        self._yield()
        return True

    def _work(self, stream: _Outgoing, job: Job) -> None:
        """Have a worker do something for *stream* that sends nothing."""
        stream.is_busy = True

        def done(result: None, error: Exception | None) -> None:
            stream.is_busy = False
            if self._is_closed:
                self._forget(stream)
                return
            stream.error = error
            self._queue_up(stream)
            self._pump()

        self._workers.submit(job, done)

    def _read(self, stream: _Outgoing, source: Source) -> bool:
        size = min(stream.sender.credit, READ_SIZE)
        if self._read_ahead + size > READ_AHEAD:
            self._queue_up(stream)  # until those that have read have sent
            return False
        self._read_ahead += size
        stream.reserved = size
        stream.is_busy = True

        def have_read(data: bytes | None, error: Exception | None) -> None:
            stream.is_busy = False
            if self._is_closed:
                self._forget(stream)
                return
            if data and stream.sender.is_open:
                stream.waiting = data
                stream.position = 0
            else:
                stream.error = error
                self._release(stream)
            self._queue_up(stream)
            self._pump()

        self._workers.submit(lambda: source.read(size), have_read)
        return True

    def _release(self, stream: _Outgoing) -> None:
        if not stream.is_busy:
            stream.waiting = b""
            stream.position = 0
            self._read_ahead -= stream.reserved
            stream.reserved = 0

    # -- the end -----------------------------------------------------------------------------------

    def _end(self, stream: _Outgoing) -> None:
        sender, error = stream.sender, stream.error
        was_open = sender.is_open
        sender.end()
        self._forget(stream, is_complete=was_open and error is None)
        codec = self._session.codec
        if error is None or not was_open:
            checksum = stream.source.checksum if isinstance(stream.source, BlobSource) else None
            end = StreamEnd(sender.number, checksum if was_open else None)
            self._session.send(codec.notice(end))
            return
        logger.error("(%s) stream %d failed: %s", self._session.name, sender.number, error)
        name, details = serialize_fault(error)
        try:
            frame = codec.notice(StreamFault(sender.number, name, details))
        except (TypeError, ValueError):
            # More than the client takes.
            frame = codec.notice(StreamFault(sender.number, name, (str(error)[:200],)))
        self._session.send(frame)

    def _forget(self, stream: _Outgoing, is_complete: bool = False) -> None:
        """Close what *stream* has open; no worker has it."""
        self._release(stream)
        self._open.pop(stream.sender.number, None)
        if not stream.is_iteration:
            counts = self._session.stats.blobs
            counts.has_sent(stream.sender.offset, is_complete=is_complete)
        if stream.source is not None:
            try:
                stream.source.close()
            except Exception:
                logger.exception("(%s) a stream's files cannot be closed", self._session.name)
        if not self._open and not self._is_closed:
            self._session.connection.limit_output(None)

    def close(self) -> None:
        """The client is gone."""
        self._is_closed = True
        self._queue.clear()
        for stream in list(self._open.values()):
            if not stream.is_busy:
                self._forget(stream)
        self._workers.forget()

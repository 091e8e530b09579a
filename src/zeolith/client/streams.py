"""The streams of one connection: what comes from the server, what goes to it.

Whoever leads takes the data of a stream to where they belong, and wakes the thread whose stream it
is.  That thread gives the credit: it may have to wait for the socket, which the reader must not, or
a server that waits for us to read would wait for ever.  A thread that waits for a stream leads if
nobody else does, as with the answer to a call.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

from ..errors import ClientStorageError, StreamViolation
from ..protocol.faults import parse_fault, serialize_fault
from ..protocol.limits import BULK_WINDOW, FIRST_UPLOAD, STREAM_FRAME, STREAM_WINDOW
from ..protocol.messages import Request
from ..protocol.streamlayouts import STREAM_HEAD
from ..protocol.streamrequests import (
    ForgetUpload,
    OpenUpload,
    StreamCancel,
    StreamCredit,
    StreamData,
    StreamEnd,
    StreamFault,
)
from ..protocol.streams import Receiver, Sender, State
from ..protocol.wholes import Whole
from ..protocol.windows import Window
from .blobahead import Ahead
from .turn import Turns

if TYPE_CHECKING:
    from .channel import Channel

TOTAL_WINDOW: Final = 1024 * 1024
"""Bytes that all streams from one server may be ahead, as far as each can still have a message: on
a slow line a small answer may have to wait for them."""

MAX_DOWNLOADS: Final = 32
"""Blobs that are fetched at once; more wait.  Half of what a server admits: it may still be busy
with one of which we have heard the end, or which we have cancelled."""

FILL_SIZE: Final = 512 * 1024
"""Bytes of a blob taken from the kernel, summed up and written at once: fewer system calls, and the
processor's cache still holds them for the next step.  A stream has two such buffers at most."""

SEND_TIME: Final = 0.004
"""Seconds that it should take to send one message of an upload."""


Take: TypeAlias = Callable[[bytes | memoryview], int]
"""See :class:`Incoming`."""

Parts: TypeAlias = Iterable[bytes | memoryview]
"""Of an upload, of any size but none."""

Announce: TypeAlias = Callable[[int], object]
"""Is told the number of an upload."""


def _ignore(number: int) -> None:
    pass


def _nothing() -> None:
    pass


class Sink(Protocol):
    """Where a stream goes that a thread waits for."""

    @property
    def is_wanted(self) -> bool:
        """Whether more is of use; looked at while data come."""

    def asked(self) -> None:
        """The server has been asked: what takes as long as its answer may be done now.  It must not
        raise; no data are taken meanwhile."""

    def opened(self, answer: Any) -> None:
        """The server has answered so; it may be sending already.  What this raises is passed on."""

    def take(self, data: bytes | memoryview) -> int:
        """See :class:`Incoming`."""


class Incoming:
    """A stream from the server.

    Any thread may use it, but one at a time may wait for it; the connection's reader brings what
    comes.

    :param take: gets the data, by whoever reads: it must neither wait nor raise.  Returns how many
        bytes need no memory any more.
    :param is_eager: wake the thread that waits for whatever comes, not only to give credit.

    :ivar error: what the server said instead of the end; what comes after it has no end.
    :ivar checksum: what the server said with the end; None if it said none.
    """

    __slots__ = (
        "_began",
        "_buffers",
        "_channel",
        "_granted",
        "_is_eager",
        "_lock",
        "_receiver",
        "_take",
        "_window",
        "checksum",
        "error",
        "number",
    )

    def __init__(
        self,
        channel: Channel,
        number: int,
        window: int,
        take: Take,
        is_eager: bool,
    ) -> None:
        self.number = number
        self.error: Exception | None = None
        self._channel = channel
        self._take: Take | None = take
        self._is_eager = is_eager
        self.checksum: bytes | None = None
        # Guards the receiver; nobody waits for anything while holding it.
        self._lock = threading.Lock()
        self._receiver = Receiver(number, window, window)
        # Between peers with long messages it grows with what the line takes.
        self._began = time.monotonic()
        self._window: Window | None = None
        self._granted = 0  # the offset at which that was looked at last
        self._buffers: tuple[memoryview | None, memoryview | None] = None, None

    @property
    def window(self) -> int:
        """Bytes that the server may be ahead; the first credit."""
        return self._receiver.window

    @property
    def has_ended(self) -> bool:
        """Whether the server has said that nothing more will come."""
        return self._receiver.state is State.ENDED

    @property
    def is_open(self) -> bool:
        """Whether the server may go on: it has not ended, and was not told to."""
        return self._receiver.is_open

    @property
    def due(self) -> int:
        """Credit that the server should be given now."""
        return self._receiver.due

    def consumed(self, size: int) -> None:
        """*size* bytes need no memory any more."""
        with self._lock:
            self._receiver.consumed(size)

    def grant(self, most: int = STREAM_WINDOW) -> None:
        """Give the server as much credit as is due.

        :param most: bytes that it may be ahead, as far as the peers have long messages.
        :raises ClientDisconnected: the connection has ended.
        """
        with self._lock:
            receiver = self._receiver
            if receiver.offset > self._granted and self._channel.stream_frame > STREAM_FRAME:
                if self._window is None:
                    self._window = Window(BULK_WINDOW, self._began)
                self._window.most = max(most, STREAM_WINDOW + 1)
                self._window.passed(receiver.offset - self._granted, time.monotonic())
                self._granted = receiver.offset
                receiver.window = self._window.size
            size = self._receiver.due
            if not size:
                return
            self._receiver.grant(size)
        self._channel.post(StreamCredit(self.number, size))
        self._channel.flush()

    def between(self, action: Callable[[], None]) -> None:
        """Call *action* while no data are taken."""
        with self._lock:
            action()

    def abandon(self) -> None:
        """Take no more data.  Takes no lock: finalizers call this, in any thread at any moment."""
        self._take = None

    def cancel(self) -> None:
        """Tell the server to send no more; the data on their way are dropped."""
        self.abandon()
        try:
            with self._lock:
                if not self._receiver.is_open:
                    return
                self._receiver.cancel()
            # Without a connection there is no stream.  In the middle of another call of this thread
            # there is none either, as soon as that has been interrupted.
            with suppress(ClientStorageError):
                self._channel.post(StreamCancel(self.number))
                self._channel.flush()
        except BaseException as error:
            # Interrupted in between: the server would never learn of it.
            self._channel.close(error)
            raise

    def cancel_nowait(self) -> bool:
        """As :meth:`cancel`, with whatever is sent next; return false, and do nothing, if that
        would have to wait for somebody who is sending."""
        with self._lock:
            if self._receiver.is_open:
                if not self._channel.add(StreamCancel(self.number)):
                    return False
                self._receiver.cancel()
        self.abandon()
        return True

    # -- by the connection's reader ----------------------------------------------------------------

    def buffer(self, left: int) -> memoryview:
        """Return where the next part of a long message may be put, of which *left* bytes are to
        come.  It is another one than the last time: that may be in use until the next part has been
        taken."""
        size = min(left, FILL_SIZE)
        used, free = self._buffers
        if free is None or len(free) < size:
            free = memoryview(bytearray(size))
        self._buffers = free, used
        return free[:left]

    def received(self, data: bytes | memoryview) -> None:
        with self._lock:
            self._receiver.received(len(data))
            take = self._take
            if take is not None:
                self._receiver.consumed(take(data))
            is_news = self._is_eager or self._receiver.due > 0
        if is_news:
            self._channel.wake(self)

    def received_whole(self, data: bytes, checksum: bytes) -> None:
        """All has come at once."""
        with self._lock:
            self._receiver.received(len(data))
            take = self._take
            if take is not None:
                take(data)
            self.checksum = checksum
            self._receiver.end()
        self._channel.wake(self)

    def end(self, error: Exception | None, checksum: bytes | None = None) -> None:
        with self._lock:
            # First: whoever sees the end without the lock must see why, or takes it for a good one.
            self.error = error
            self.checksum = checksum
            self._receiver.end()
        self._channel.wake(self)


class Outgoing:
    """A stream to the server."""

    def __init__(self, number: int) -> None:
        # Guards the sender; nobody waits for anything while holding it.
        self._lock = threading.Lock()
        self.sender = Sender(number, STREAM_WINDOW)

    @property
    def is_ready(self) -> bool:
        """Whether there is credit, or no use for it."""
        return self.sender.credit > 0 or not self.sender.is_open

    def sendable(self, wanted: int, frame: int) -> int:
        """Return how many of *wanted* bytes are to be sent now, and take their credit."""
        with self._lock:
            size = self.sender.sendable(wanted, frame)
            if size:
                self.sender.sent(size)
            return size

    def granted(self, size: int) -> None:
        with self._lock:
            self.sender.granted(size)

    def cancelled(self) -> None:
        with self._lock:
            self.sender.cancelled()

    def end(self) -> None:
        with self._lock:
            self.sender.end()


class _Pace:
    """How long the messages of uploads are: other threads' calls wait for one to be sent.

    Any thread; who comes between another one's look and step has it one step longer or shorter.

    :param most: bytes that one may have.
    :ivar frame: bytes that the next one may have.
    """

    __slots__ = ("_most", "frame")

    def __init__(self, most: int) -> None:
        self._most = most
        self.frame = min(STREAM_FRAME, most)

    def took(self, size: int, seconds: float) -> None:
        """To send *size* bytes took so long."""
        if seconds > SEND_TIME:
            self.frame = min(max(self.frame // 2, STREAM_FRAME), self._most)
        elif size == self.frame and seconds < SEND_TIME / 4:
            self.frame = min(2 * self.frame, self._most)


class Streams:
    """All streams of one connection.  Any thread, except where stated.

    :param channel: the connection.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._numbers = itertools.count()
        self._incoming: dict[int, Incoming] = {}
        self._outgoing: dict[int, Outgoing] = {}
        self._uploads = 0  # so far
        self._latest_pace: _Pace | None = None  # what the line took is what it takes
        # Held from the choice of a number until its first message is on its way.
        self._beginning = threading.Lock()
        self._downloads: Turns[Sink] = Turns(lambda: MAX_DOWNLOADS)
        self.ahead = Ahead(channel, self)
        """Blobs that are likely to be wanted next."""

    # -- from the server ---------------------------------------------------------------------------

    def prepare(self, take: Take, is_eager: bool = False) -> Incoming:
        """Return a stream that nobody has asked the server for yet.

        Whoever has it sees to it that it is cancelled when it is not needed any more, and only then
        calls :meth:`start`: an interrupt in between must not leave it open.

        :param take, is_eager: see :class:`Incoming`.
        """
        window = max(STREAM_FRAME, min(STREAM_WINDOW, TOTAL_WINDOW // (len(self._incoming) + 1)))
        return Incoming(self._channel, self._free_number(), window, take, is_eager)

    def _free_number(self) -> int:
        number = next(self._numbers) % FIRST_UPLOAD
        while number in self._incoming:
            number = next(self._numbers) % FIRST_UPLOAD
        return number

    def begin(self, take: Take, window: int) -> Incoming:
        """Return a stream that is asked for now, by other means than :meth:`start`.

        :param take: see :class:`Incoming`.
        :param window: bytes that the server may be ahead; the first credit.
        """
        stream = Incoming(self._channel, self._free_number(), window, take, False)
        self._incoming[stream.number] = stream
        return stream

    def refused(self, number: int) -> None:
        """A stream that was asked for will not come."""
        stream = self._incoming.pop(number, None)
        if stream is not None:
            stream.end(None)

    def start(
        self,
        stream: Incoming,
        make_request: Callable[[int, int], Request],
        asked: Callable[[], None] | None = None,
    ) -> Any:
        """Open *stream*; return the answer to the call that does it.

        :param make_request: gets the stream's number and first credit.
        :param asked: called when the server has been asked, before its answer is waited for.
        :raises ClientDisconnected: the connection ended before the answer came.
        :raises Exception: what the server says instead of opening it.
        """
        self._incoming[stream.number] = stream
        slot = None
        try:
            slot = self._channel.start(make_request(stream.number, stream.window), None)
            if asked is not None:
                asked()
            return self._channel.result(slot)
        except Exception:
            # An exception of a signal handler, such as a time limit, does not mean that.
            is_refused = slot is None or slot.error is not None  # or without a connection
            # If it is not there, the server has ended what it had not answered.
            if is_refused and self._incoming.pop(stream.number, None) is not None:
                stream.end(None)
            raise

    def fetch(
        self,
        make_request: Callable[[int, int], Request],
        sink: Sink,
        meanwhile: Callable[[], None] = _nothing,
    ) -> bytes | None:
        """Open a stream and return when all of it has come, or when *sink* wants no more.

        :returns: the checksum that the server said with the end; None if it said none.

        At most :data:`MAX_DOWNLOADS` threads do so at once, others wait.

        :param make_request: as for :meth:`start`.
        :param meanwhile: called when the server has been asked, before its answer is waited for.
        :raises ClientDisconnected: the connection ended before the stream did.
        :raises Exception: what the server says.
        """
        try:
            self._downloads.take(sink)
            stream = self.prepare(sink.take)

            def asked() -> None:
                stream.between(sink.asked)
                meanwhile()

            try:
                sink.opened(self.start(stream, make_request, asked))
                while not stream.has_ended and sink.is_wanted:
                    stream.grant(BULK_WINDOW // max(len(self._incoming), 1))
                    self._channel.wait_until(stream, lambda: stream.has_ended or stream.due > 0)
            finally:
                stream.cancel()  # unless it has ended
        finally:
            self._downloads.give_up(sink)
        if stream.error is not None:
            raise stream.error
        return stream.checksum

    # -- to the server -----------------------------------------------------------------------------

    def upload(self, parts: Parts, announce: Announce = _ignore) -> tuple[int, int]:
        """Send a stream; return its number and size.

        Whoever does not have it attached, for whatever reason, has to call :meth:`forget`.

        :param parts: what they raise ends the stream.
        :param announce: called with the number before anything is sent.
        :raises ClientDisconnected: the connection has ended.
        """
        stream, pace = None, self._pace()
        rest = iter(parts)
        try:
            first = next(rest, None)
            # The server takes numbers in turn: nobody else's first message may come in between.
            with self._beginning:
                stream = self._begin(announce)
                if first is None:
                    return self._end(stream), 0
                begun = self._send_some(stream, memoryview(first), pace)
            self._send_all(stream, itertools.chain((memoryview(first)[begun:],), rest), pace)
        except BaseException as error:
            if stream is not None:
                self._fail(stream, error)
            raise
        return self._end(stream), stream.sender.offset

    def upload_whole(
        self, data: bytes, attached: Callable[[int], Request], announce: Announce
    ) -> bool:
        """Send a short stream, its end, and what follows it, at once; return false, and do nothing,
        if a message may not be so long now.

        :param attached: returns what follows, if the stream has that number.
        :param announce: as for :meth:`upload`; so is what may be raised.
        """
        channel, pace = self._channel, self._pace()
        frame = min(pace.frame, channel.max_payload - STREAM_HEAD, STREAM_WINDOW)
        if not 0 < len(data) <= frame or channel.stream_frame <= STREAM_FRAME:
            return False
        with self._beginning:
            number = self._next_number
            # First: there is no stream yet if that fails.
            tail = channel.encode(StreamEnd(number)) + channel.encode(attached(number))
            self._uploads += 1
            announce(number)
            began = time.monotonic()
            channel.send_data(number, data, tail)
        pace.took(len(data), time.monotonic() - began)
        return True

    def go_on(
        self,
        identity: bytes,
        is_new: bool,
        parts_from: Callable[[int], Parts],
        announce: Announce,
    ) -> tuple[int, int]:
        """As :meth:`upload`, with what the server does not have of it from other connections.

        :param identity: by which it is known on all connections.
        :param is_new: the server cannot have heard of it, and need not be asked.
        :param parts_from: returns what is behind so many bytes; what it raises ends the stream.
        :param announce: as for :meth:`upload`.
        :returns: the stream's number, and the size of all of it.
        :raises Exception: what the server says.
        """
        channel, stream, slot, offset = self._channel, None, None, 0
        try:
            with self._beginning:
                stream = self._begin(announce)
                request = OpenUpload(stream.sender.number, identity)
                if is_new:
                    channel.post(request)
                else:
                    slot = channel.start(request, None)
            if slot is not None:
                offset = _offset_in(channel.result(slot))
            self._send_all(stream, parts_from(offset), self._pace())
        except BaseException as error:
            if slot is not None and slot.error is not None:
                # The server has not opened it.
                assert stream is not None
                self._outgoing.pop(stream.sender.number, None)
            elif stream is not None:
                self._fail(stream, error)
            raise
        return self._end(stream), offset + stream.sender.offset

    def forget(self, number: int) -> None:
        """Have the server forget an upload, whatever was said of it; nothing if it is attached."""
        self._outgoing.pop(number, None)
        # Without a connection there is no upload.  A server that takes one transaction at a time
        # forgets it at the end of that.
        if self._channel.transactions > 1:
            with suppress(ClientStorageError):
                self._channel.post(ForgetUpload(number))

    @property
    def _next_number(self) -> int:
        return FIRST_UPLOAD + self._uploads % FIRST_UPLOAD

    def _begin(self, announce: Announce) -> Outgoing:
        """Return the next stream to the server.  ``_beginning`` is held."""
        number = self._next_number
        self._uploads += 1
        announce(number)
        stream = self._outgoing[number] = Outgoing(number)
        return stream

    def _end(self, stream: Outgoing) -> int:
        """Say that that was all; return the stream's number."""
        number = stream.sender.number
        self._outgoing.pop(number, None)
        stream.end()
        self._channel.post(StreamEnd(number))
        return number

    def _fail(self, stream: Outgoing, error: BaseException) -> None:
        number = stream.sender.number
        if self._outgoing.pop(number, None) is None:
            return  # its end may have been said
        stream.end()
        with suppress(ClientStorageError):
            self._channel.post(StreamFault(number, *_reason(error)))

    def _send_all(self, stream: Outgoing, parts: Parts, pace: _Pace) -> None:
        for part in parts:
            if not self._send(stream, memoryview(part), pace):
                return  # The server will say why when it is asked what became of it.

    def _send(self, stream: Outgoing, chunk: memoryview, pace: _Pace) -> bool:
        """Send *chunk*, waiting for credit; return false if the server wants no more."""
        channel = self._channel
        while chunk:
            if not stream.is_ready:
                channel.flush()
                channel.wait_until(stream, lambda: stream.is_ready)
            size = self._send_some(stream, chunk, pace)
            if not size:
                return False
            chunk = chunk[size:]
        return True

    def _pace(self) -> _Pace:
        pace = self._latest_pace
        if pace is None:
            # Not before the server has said what it takes.
            pace = self._latest_pace = _Pace(self._channel.stream_frame)
        return pace

    def _send_some(self, stream: Outgoing, chunk: memoryview, pace: _Pace) -> int:
        """Send as much of *chunk* as one message may have; return how much that is."""
        channel, number = self._channel, stream.sender.number
        frame = min(pace.frame, channel.max_payload - STREAM_HEAD)
        size = stream.sendable(len(chunk), frame)
        if not size:
            return 0
        if channel.stream_frame <= STREAM_FRAME:
            channel.post(StreamData(number, bytes(chunk[:size])))
        else:
            began = time.monotonic()
            channel.send_data(number, chunk[:size])
            pace.took(size, time.monotonic() - began)
        return size

    # -- by the connection's reader ----------------------------------------------------------------

    @property
    def is_receiving(self) -> bool:
        """Whether a stream from the server is open."""
        return bool(self._incoming)

    @property
    def receiving(self) -> int:
        """How many streams the server has not ended yet, also those that nobody wants any more."""
        return len(self._incoming)

    def handle_whole(self, whole: Whole) -> None:
        """As :meth:`handle` with all of a short blob.

        :raises StreamViolation: that is not legal.
        """
        stream = self._find(whole.number)
        del self._incoming[whole.number]
        stream.received_whole(whole.data, whole.checksum)

    def buffer(self, number: int, left: int) -> memoryview:
        """Return where the next part of a long message of that stream may be put, of which *left*
        bytes are to come."""
        stream = self._incoming.get(number)
        # Of a stream that nobody knows it is an error, which is found when it is handled.
        return (
            memoryview(bytearray(min(left, FILL_SIZE))) if stream is None else stream.buffer(left)
        )

    def handle(self, request: Any) -> None:
        """Take in what the server says of a stream; only whoever holds the reading role.

        :raises StreamViolation: that is not legal.
        """
        number = request.stream
        if isinstance(request, StreamData):
            self._find(number).received(request.data)
        elif isinstance(request, (StreamCredit, StreamCancel)):
            self._answered(number, request)
        else:
            stream = self._find(number)
            error = None
            if isinstance(request, StreamFault):
                error = parse_fault(request.name, request.details)
            del self._incoming[number]
            stream.end(error, request.checksum if isinstance(request, StreamEnd) else None)

    def _find(self, number: int) -> Incoming:
        stream = self._incoming.get(number)
        if stream is None:
            raise StreamViolation(number, "nobody has opened it")
        return stream

    def _answered(self, number: int, request: StreamCredit | StreamCancel) -> None:
        stream = self._outgoing.get(number)
        if stream is None:
            if not 0 <= number - FIRST_UPLOAD < self._uploads:
                raise StreamViolation(number, "nobody has opened it")
            return  # It has crossed the end.
        if isinstance(request, StreamCredit):
            stream.granted(request.size)
        else:
            stream.cancelled()
        self._channel.wake(stream)


def _offset_in(answer: Any) -> int:
    """Return how many bytes of an upload the server has.

    :raises ClientStorageError: it does not say that.
    """
    offset = answer.get("offset") if type(answer) is dict else None
    if type(offset) is not int or offset < 0:
        raise ClientStorageError("the server does not say how much it has of an upload")
    return offset


def _reason(error: BaseException) -> tuple[str, Any]:
    """Return what the server is told of *error*: no path of ours, only what kind it is."""
    name, _ = serialize_fault(error)
    return name, ()

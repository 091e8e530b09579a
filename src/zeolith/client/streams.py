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
from ..protocol.wholes import Whole
from .blobahead import Ahead
from .incoming import FILL_SIZE, Incoming, Take
from .outgoing import Outgoing, Pace
from .turn import Turns

if TYPE_CHECKING:
    from .channel import Channel

TOTAL_WINDOW: Final = 1024 * 1024
"""Bytes that all streams from one server may be ahead, as far as each can still have a message: on
a slow line a small answer may have to wait for them."""

MAX_DOWNLOADS: Final = 32
"""Blobs that are fetched at once; more wait.  Half of what a server admits: it may still be busy
with one of which we have heard the end, or which we have cancelled."""


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
        self._latest_pace: Pace | None = None  # what the line took is what it takes
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
        except BaseException as error:
            if slot is None:
                # Interrupted: it is not known whether the server was asked, and will ever end it.
                self._channel.close(error)
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

    def _send_all(self, stream: Outgoing, parts: Parts, pace: Pace) -> None:
        for part in parts:
            if not self._send(stream, memoryview(part), pace):
                return  # The server will say why when it is asked what became of it.

    def _send(self, stream: Outgoing, chunk: memoryview, pace: Pace) -> bool:
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

    def _pace(self) -> Pace:
        pace = self._latest_pace
        if pace is None:
            # Not before the server has said what it takes.
            pace = self._latest_pace = Pace(self._channel.stream_frame)
        return pace

    def _send_some(self, stream: Outgoing, chunk: memoryview, pace: Pace) -> int:
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

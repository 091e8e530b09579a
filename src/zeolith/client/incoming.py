"""A stream from the server, and whoever waits for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final, TypeAlias

from ..errors import ClientStorageError
from ..protocol.limits import BULK_WINDOW, STREAM_FRAME, STREAM_WINDOW
from ..protocol.streamrequests import StreamCancel, StreamCredit
from ..protocol.streams import Receiver, State
from ..protocol.windows import Window

if TYPE_CHECKING:
    from .channel import Channel

FILL_SIZE: Final = 512 * 1024
"""Bytes of a blob taken from the kernel, summed up and written at once: fewer system calls, and the
processor's cache still holds them for the next step.  A stream has two such buffers at most."""

Take: TypeAlias = Callable[[bytes | memoryview], int]
"""See :class:`Incoming`."""


class Incoming:
    """A stream from the server.

    Any thread may use it, but one at a time may wait for it; the connection's reader brings what
    comes.

    :param take: gets the data, by whoever reads: it must not wait, and raise nothing but
        :class:`~zeolith.errors.StreamViolation`.  Returns how many bytes need no memory any more.
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

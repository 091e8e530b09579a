"""Long messages of an upload, from the socket to the file without the event loop.

Through the loop each piece would be copied once more, and go from one thread to another and back.
So while a client sends as fast as its blob can be written, the thread that writes reads the socket
itself, and the loop does not.  It takes only what belongs to the one stream: at any other message,
at the limits of the stream, and when nothing comes for a moment, the loop reads again.  Which of
both reads is no difference to the client, nor to the rules of streams: what was taken is counted as
if it had come through the loop.
"""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Callable
from time import monotonic
from typing import Any, Final

from ..protocol.streamlayouts import DATA_HEAD_SIZE, parse_data_head

LEAST: Final = 48 * 1024
"""Bytes that are to come of a message, and have come at once, before a thread reads the rest: a
slow line never delivers that much, and a thread that waits for it would be missing elsewhere."""

PIECE: Final = 512 * 1024
"""Bytes taken from the socket, summed up and written at once."""

PATIENCE: Final = 0.002
"""Seconds to wait for more: the client may have to be told first that it may send."""

SLICE: Final = 0.02
"""Seconds after which the thread is free for others."""

BEGIN_TIME: Final = 0.01
"""Seconds after which the loop goes on reading if no thread has begun: all may be busy for long, or
the client's uploads wait for the disk, and other calls of the client must not wait with them."""

_MSG_PEEK: Final = socket.MSG_PEEK


def make_source(transport: Any) -> socket.socket | None:
    """Return another descriptor of the socket that *transport* has; None if what comes there has to
    be decrypted first.

    :raises OSError: there are no more descriptors.
    """
    if transport.get_extra_info("ssl_object") is not None:
        return None
    sock = transport.get_extra_info("socket")
    if sock is None or sock.fileno() < 0:
        return None
    source = socket.socket(fileno=socket.dup(sock.fileno()))
    source.setblocking(False)
    return source


class Siphon:
    """Takes what comes of one stream for a while.

    :meth:`run` belongs to a worker thread; the rest to the loop, which does not read from the
    socket meanwhile.

    :param source: the socket, which does not block; it is closed at the end, or when it is clear
        that there is no beginning.
    :param number: of the stream.
    :param left: bytes that are to come of its present message.
    :param limit: how many bytes of the stream may come from now on.
    :param most: how many are wanted of a blob that is not too long.
    :param longest: bytes of data that a message may have.
    :param write: takes what has come, in a buffer that is good until its next call returns.
    :param tell: called by the thread when it has taken more: not every time.

    :ivar left: as above, at the end.
    :ivar limit: may be raised meanwhile, before the client is told.
    :ivar number: as given.
    :ivar taken: bytes of the stream that were taken so far.
    """

    __slots__ = (
        "_claim",
        "_is_stopped",
        "_longest",
        "_most",
        "_source",
        "_tell",
        "_told",
        "_write",
        "left",
        "limit",
        "number",
        "taken",
    )

    def __init__(
        self,
        source: socket.socket,
        number: int,
        left: int,
        limit: int,
        most: int,
        longest: int,
        write: Callable[[memoryview], None],
        tell: Callable[[], None],
    ) -> None:
        self._source = source
        self.number = number
        self.left = left
        self.limit = limit
        self._most = most
        self._longest = longest
        self._write = write
        self._tell = tell
        self._told = 0
        self.taken = 0
        self._is_stopped = False
        # Whoever takes it first has the source to close: it is never given back.
        self._claim = threading.Lock()

    def withdraw(self) -> bool:
        """Take nothing at all, unless a thread has begun; return whether that is so."""
        if not self._claim.acquire(blocking=False):
            return False
        self._source.close()
        return True

    def stop(self) -> None:
        """Take no more than the thread is about to.  May be called again."""
        self._is_stopped = True
        self.withdraw()

    def run(self) -> None:
        """Take what comes, unless that was withdrawn.

        :raises OSError: it could not be written.
        """
        if not self._claim.acquire(blocking=False):
            return
        with self._source:
            self._take()

    def _take(self) -> None:
        free, used = memoryview(bytearray(PIECE)), memoryview(bytearray(PIECE))
        poll = select.poll()
        poll.register(self._source, select.POLLIN)
        deadline = monotonic() + SLICE
        goes_on = True
        while goes_on and not self._is_stopped and monotonic() < deadline:
            size, goes_on = self._fill(free)
            if size:
                self.taken += size
                self._write(free[:size])
                free, used = used, free
            if self.taken - self._told >= (PIECE if size else 1):
                self._told = self.taken
                self._tell()
            if goes_on and not size:
                goes_on = bool(poll.poll(PATIENCE * 1000))

    def _fill(self, buffer: memoryview) -> tuple[int, bool]:
        """Take what is there; return how much that is, and whether more may be taken."""
        size = 0
        try:
            while size < len(buffer):
                if not self.left and not self._begin(self.taken + size):
                    return size, False
                end = min(size + self.left, len(buffer))
                count = self._source.recv_into(buffer[size:end])
                if not count:
                    return size, False  # the loop will see that, too
                self.left -= count
                size += count
        except (BlockingIOError, InterruptedError):
            pass
        except OSError:
            return size, False  # so it will see this
        return size, True

    def _begin(self, taken: int) -> bool:
        """Take the head of the next message; return false if that is not ours.

        :raises BlockingIOError: it has not come.
        """
        head = self._source.recv(DATA_HEAD_SIZE, _MSG_PEEK)
        if len(head) < DATA_HEAD_SIZE:
            return False
        found = parse_data_head(head)
        if found is None or found[0] != self.number:
            return False
        size = found[1]
        if not LEAST <= size <= self._longest or taken + size > min(self.limit, self._most):
            return False  # what is to be done about that is known elsewhere
        self._source.recv(DATA_HEAD_SIZE)
        self.left = size
        return True

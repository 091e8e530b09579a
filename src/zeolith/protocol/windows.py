"""How far the sender of a blob may be ahead: as far as the line takes in a moment."""

from __future__ import annotations

from .limits import BULK_WINDOW, STREAM_WINDOW, WINDOW_TIME


class Window:
    """The window of one stream; whoever gives the credit uses it.  Time is an argument.

    :param most: bytes that it has at most.
    :param now: seconds of any clock that does not go back.
    :ivar size: bytes that the sender may be ahead.
    """

    __slots__ = ("_passed", "_since", "most", "size")

    def __init__(self, most: int, now: float) -> None:
        self.most = most
        self.size = min(STREAM_WINDOW, most)
        self._since = now
        self._passed = 0

    def passed(self, size: int, now: float) -> None:
        """*size* bytes more have passed; look at the window anew when half of it has."""
        self._passed += size
        if 2 * self._passed < self.size:
            return
        # One that is twice as long at most: the first bytes may have waited for the sender's disk,
        # or have waited for us in the system's buffers.
        seconds = max(now - self._since, 1e-6)
        lasting = int(self._passed / seconds * WINDOW_TIME)
        least = min(STREAM_WINDOW, self.most)
        self.size = max(least, min(lasting, 2 * self.size, self.most, BULK_WINDOW))
        self._since, self._passed = now, 0

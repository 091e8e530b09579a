"""A short upload, in memory until all of it has come.

To make a file for the first bytes, write them, and see to the end when that has come are jobs that
each go to a thread and back, which for a short blob takes longer than the disk needs.  So what has
come of one waits for its end, and the file is made, written and summed up at once.
"""

from __future__ import annotations

from typing import Final

SHORT: Final = 128 * 1024
"""Bytes of an upload that may wait: of a longer one the file is begun.  Half of what a client may
send without hearing from us."""

HOLD_MARK: Final = 1024 * 1024
"""Bytes of one client's uploads that wait, counted as the memory they take (R8).  When there are
more, because they come interleaved or are never ended, the next one is begun."""

_SLACK: Final = 8
"""How many times their own length parts may keep in memory."""


class Held:
    """What has come of one upload.  Belongs to the loop until a job has it.

    :ivar cost: bytes of memory that it takes.
    :ivar parts: in order.
    """

    __slots__ = ("cost", "parts")

    def __init__(self) -> None:
        self.parts: list[bytes | memoryview] = []
        self.cost = 0

    def add(self, data: bytes | memoryview) -> None:
        """Append *data*."""
        kept = len(data)
        if isinstance(data, memoryview):
            # It keeps all that was received together with it.
            kept = len(data.obj)  # type: ignore[arg-type]  # bytes, of which it is a part
            if kept > _SLACK * len(data):
                data = bytes(data)
                kept = len(data)
        self.parts.append(data)
        self.cost += kept + _OVERHEAD

    @property
    def overhead(self) -> int:
        """Bytes of memory that it takes besides the data."""
        return _OVERHEAD * (len(self.parts) + 1)


_OVERHEAD: Final = 200
"""Bytes of a part besides its data."""

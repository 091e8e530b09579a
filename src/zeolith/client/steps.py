"""Whether ids are asked for in equal steps, as what was committed together is read again.

Pure: no connection, no clock, no lock.
"""

from __future__ import annotations

from typing import Final

ENOUGH: Final = 3
"""Ids in equal steps that make a sequence: two always are."""

LONGEST: Final = 64
"""The greatest step.  Objects that are committed together get their ids one after the other; those
with blobs have others in between."""

FEWEST: Final = 4
"""How many are expected at first; twice as many each time that all of them were asked for."""

MISS: Final = 8
"""How many that were of use make up for one that was not."""

MOST_MISSES: Final = 2
"""Of one transaction, that nothing has made up for: then no more is expected.  To ask in vain takes
as long as to ask."""

_LAST: Final = (1 << 64) - 1


class Steps:
    """What was asked for last, and what is to come if that goes on.

    :param most: how many ids are expected at most.

    :ivar has_jumped: the last id was not the one that was to come next: others may be past.
    """

    __slots__ = (
        "_count",
        "_expected",
        "_last",
        "_missed",
        "_most",
        "_step",
        "_tid",
        "_width",
        "has_jumped",
    )

    def __init__(self, most: int) -> None:
        self._most = most
        self._last = 0
        self._tid = b""
        self._step = 0
        self._count = 0  # ids in this step, to the last one
        self._width = FEWEST
        self._expected = 0  # the last id that was returned
        self._missed = 0  # of _tid
        self.has_jumped = True

    def follow(self, oid: bytes, tid: bytes) -> list[bytes] | None:
        """Note that *oid* as *tid* wrote it was asked for; return the ids that will be, as far as
        they were not returned before.  None if *oid* is not in the sequence of those before, or
        too many were of no use.

        An id that was passed over, because somebody else has asked for it, is no end of it.
        """
        number = int.from_bytes(oid, "big")
        step = number - self._last
        self._last = number
        self.has_jumped = step != self._step or tid != self._tid
        if tid != self._tid:
            self._missed = 0
        if tid != self._tid or not self._goes_on(number, step):
            self._step = step if tid == self._tid and abs(step) <= LONGEST else 0
            self._tid = tid
            self._count = 2 if self._step else 1
            self._width = FEWEST
            return None
        self._count += 1
        if self._count < ENOUGH or self._missed >= MISS * MOST_MISSES:
            return None
        return self._next(number)

    def _goes_on(self, number: int, step: int) -> bool:
        if not self._step or not step or step % self._step:
            return False
        times = step // self._step
        return times == 1 or (self._count >= ENOUGH and 1 < times <= self._most)

    def _next(self, number: int) -> list[bytes]:
        step = self._step
        if self._count == ENOUGH:
            self._expected = number
        ahead = (self._expected - number) // step
        if ahead < 0:
            self._expected, ahead = number, 0
        if ahead > self._width // 2:
            return []  # many at a time
        if self._count > ENOUGH:
            self._width = min(2 * self._width, self._most)
        first = self._expected + step
        self._expected = number + self._width * step
        found = range(first, self._expected + step // abs(step), step)
        return [n.to_bytes(8, "big") for n in found if 0 <= n <= _LAST]

    def judge(self, is_of_use: bool) -> None:
        """Note whether it was good that an id had been returned."""
        self._missed = max(self._missed - 1, 0) if is_of_use else self._missed + MISS

    def is_past(self, oid: bytes, tid: bytes) -> bool:
        """Whether that is not to come any more, if this goes on."""
        return tid != self._tid or (int.from_bytes(oid, "big") - self._last) * self._step <= 0

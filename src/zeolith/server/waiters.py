"""Those who wait until a storage has passed a transaction."""

from __future__ import annotations

import logging
from asyncio import TimerHandle
from bisect import bisect_right, insort
from collections.abc import Callable
from typing import Final

logger = logging.getLogger(__name__)


class Waiter:
    """One who waits.

    :ivar tid: the transaction.
    :ivar owner: the session for which it waits.
    :ivar timer: ended with the waiting; None if there is none.
    """

    __slots__ = ("number", "owner", "passed", "tid", "timer")

    def __init__(self, tid: bytes, number: int, owner: object, passed: Callable[[], None]) -> None:
        self.tid = tid
        self.number = number
        self.owner = owner
        self.passed = passed
        self.timer: TimerHandle | None = None

    def __lt__(self, other: Waiter) -> bool:
        return (self.tid, self.number) < (other.tid, other.number)


class Waiters:
    """Keeps waiters in the order of their transactions.  Belongs to the loop's thread.

    How many there may be is for those to bound who add them.
    """

    __slots__ = ("_count", "_rows")

    def __init__(self) -> None:
        self._rows: Final[list[Waiter]] = []
        self._count = 0

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, tid: bytes, owner: object, passed: Callable[[], None]) -> Waiter:
        """Have *passed* called once the storage has passed *tid*, unless that is given up before.

        :param owner: for whom; see :meth:`forget`.
        """
        self._count += 1
        waiter = Waiter(tid, self._count, owner, passed)
        insort(self._rows, waiter)
        return waiter

    def remove(self, waiter: Waiter) -> bool:
        """Give *waiter* up; return whether it was still waiting."""
        try:
            self._rows.remove(waiter)
        except ValueError:
            return False
        return True

    def forget(self, owner: object) -> None:
        """Give up all waiters of *owner*."""
        for waiter in [waiter for waiter in self._rows if waiter.owner is owner]:
            self._rows.remove(waiter)
            _stop(waiter)

    def release(self, last_tid: bytes) -> None:
        """All transactions up to *last_tid* have been announced: call those who waited for that."""
        rows = self._rows
        if not rows or rows[0].tid > last_tid:
            return
        count = bisect_right(rows, last_tid, key=lambda waiter: waiter.tid)
        released = rows[:count]
        del rows[:count]
        for waiter in released:
            _stop(waiter)
            try:
                waiter.passed()
            except Exception:
                # A defect that concerns one client must not leave all others waiting.
                logger.exception("error in %r", waiter.passed)


def _stop(waiter: Waiter) -> None:
    if waiter.timer is not None:
        waiter.timer.cancel()

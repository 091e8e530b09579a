"""Whose turn it is to commit: as many transactions of a client storage at once as its server takes.

A semaphore would do if no signal handler ever raised: of one that was acquired as an interrupt
arrived nobody could tell any more whether it has to be released, and in the end no thread could
commit again.  Here a turn is an entry of a dictionary made with ``setdefault``: that it was made
and whose it is are one step, so whoever is interrupted anywhere may safely call
:meth:`Turns.give_up`.
"""

from __future__ import annotations

from _thread import LockType, allocate_lock
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Generic, TypeVar

T = TypeVar("T")

RECHECK: Final = 1.0
"""Seconds after which one who waits looks by himself: an interrupt may have cut off who was about
to wake him, and another server may take more at once."""


class Turns(Generic[T]):
    """The turns of some among many; any thread may call anything.

    :param most: returns how many there are at present, at least one.  May be called at any time;
        if there are fewer than are taken, nobody loses his.
    """

    def __init__(self, most: Callable[[], int]) -> None:
        self._most = most
        # By number, in the order in which they were taken.
        self._taken: dict[int, T] = {}
        self._waiting: dict[LockType, None] = {}

    @property
    def holders(self) -> list[T]:
        """Those who have one, in the order in which they got it."""
        return list(self._taken.values())

    def take(self, who: T) -> int:
        """Wait until a turn is free, give it to *who*, and return its number, from 0 on.

        If this raises, :meth:`give_up` has to be called all the same.
        """
        # One at a time, as threads mostly come, need not know how many there are.
        if self._taken.setdefault(0, who) is who:
            return 0
        number = self._try(who)
        if number is not None:
            return number
        lock = allocate_lock()
        lock.acquire()
        try:
            self._waiting[lock] = None
            # After having enlisted: whoever gives up looks at those who wait after that.
            while (number := self._try(who)) is None:
                lock.acquire(timeout=RECHECK)
        finally:
            self._waiting.pop(lock, None)
        return number

    def _try(self, who: T) -> int | None:
        taken = self._taken
        for number in range(self._most()):
            if taken.setdefault(number, who) is who:
                return number
        return None

    def give_up(self, who: T) -> None:
        """Take the turn from *who*, who may not have one; wake one who waits."""
        taken = self._taken
        if taken.get(0) is who:
            del taken[0]
        else:
            # A list of numbers: nothing is made in between for which the collector would run, and
            # a finalizer let another thread change the dictionary.
            for number in list(taken):
                if taken.get(number) is who:
                    del taken[number]
        for lock in list(self._waiting):
            # RuntimeError: he has been woken for another turn, so this one is for the next.
            with suppress(RuntimeError):
                lock.release()
                return

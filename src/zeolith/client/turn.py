"""Whose turn it is to commit: one transaction of a client storage at a time.

A lock would do if no signal handler ever raised: of a lock that was acquired as an interrupt
arrived nobody could tell any more whether it has to be released, and no thread could ever commit
again.  Here the turn is an entry of a dictionary made with ``setdefault``: that it was made and
whose it is are one step, so whoever is interrupted anywhere may safely call :meth:`Turn.give_up`.
"""

from __future__ import annotations

from _thread import LockType, allocate_lock
from contextlib import suppress
from typing import Final, Generic, TypeVar

T = TypeVar("T")

_HOLDER: Final = "holder"

RECHECK: Final = 1.0
"""Seconds after which one who waits looks by himself: an interrupt may have cut off who was about
to wake him."""


class Turn(Generic[T]):
    """The turn of one among many; any thread may call anything."""

    def __init__(self) -> None:
        self._turn: dict[str, T] = {}
        self._waiting: dict[LockType, None] = {}

    @property
    def holder(self) -> T | None:
        """Whoever has it."""
        return self._turn.get(_HOLDER)

    def take(self, who: T) -> None:
        """Wait until the turn is free, and give it to *who*.

        If this raises, :meth:`give_up` has to be called all the same.
        """
        if self._turn.setdefault(_HOLDER, who) is who:
            return
        lock = allocate_lock()
        lock.acquire()
        try:
            self._waiting[lock] = None
            # After having enlisted: whoever gives up looks at those who wait after that.
            while self._turn.setdefault(_HOLDER, who) is not who:
                lock.acquire(timeout=RECHECK)
        finally:
            self._waiting.pop(lock, None)

    def give_up(self, who: T) -> None:
        """Take the turn from *who*, who may not have it; wake one who waits if it is free."""
        if self._turn.get(_HOLDER) is who:
            del self._turn[_HOLDER]
        if self._waiting and not self._turn:
            # RuntimeError: others come and go, or he is awake; they look by themselves.
            with suppress(RuntimeError, StopIteration):
                next(iter(self._waiting)).release()

"""A thread that does something whenever it is told to."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Final

logger = logging.getLogger(__name__)

RETRY: Final = 60.0
"""Seconds after which a chore that has failed is tried again."""


_STRETCH: Final = 50
_REST: Final = 0.001


class Rests:
    """Lets the threads that serve clients run now and then.  Belongs to one thread at a time."""

    def __init__(self) -> None:
        self._count = 0
        self._never = threading.Event()

    def __call__(self) -> None:
        """A step of many is done."""
        self._count += 1
        if self._count % _STRETCH == 0:
            self._never.wait(_REST)


class Chore:
    """Calls a function, on a thread of its own, once or more after each :meth:`wake`.

    Any thread.  The thread starts with the first wake, and is a daemon: a store that does not
    answer must not keep the process from ending.

    :param name: of the thread.
    :param work: the function.  It returns after how many seconds it wants to be called again, None:
        not before a :meth:`wake`.  What it raises is logged, and it is called again after *retry*.
    :param retry: seconds.
    """

    def __init__(self, name: str, work: Callable[[], float | None], retry: float = RETRY) -> None:
        self._work = work
        self._retry = retry
        self._changed = threading.Condition()
        self._is_wanted = False
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._is_started = False

    @property
    def is_closed(self) -> bool:
        """Whether the work should come to its end."""
        return self._is_closed

    def wake(self) -> None:
        """Have the function called soon; do nothing after :meth:`close`."""
        with self._changed:
            if self._is_closed:
                return
            self._is_wanted = True
            if not self._is_started:
                self._is_started = True
                self._thread.start()
            self._changed.notify_all()

    def close(self, timeout: float) -> bool:
        """Have the thread end when what it does is done; return whether it has, in *timeout* s."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        if self._is_started:
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        delay: float | None = None
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._is_wanted or self._is_closed, delay)
                if self._is_closed:
                    return
                self._is_wanted = False
            try:
                delay = self._work()
            except Exception as error:
                # The store or the disk as a rule; a defect must not end the thread either.
                logger.error("%s: %s", self._thread.name, error, exc_info=_trace_of(error))
                delay = self._retry


def _trace_of(error: Exception) -> Exception | None:
    from .failures import StoreFailure

    return None if isinstance(error, StoreFailure | OSError) else error

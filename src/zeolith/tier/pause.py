"""A store that is down is left alone for a moment, so that nobody queues up to wait for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from .failures import StoreUnavailable

PAUSE: Final = 5.0
"""Seconds."""


class Pause:
    """Has calls to a store that has just failed fail at once.  Any thread.

    :param seconds: after a failure.
    :ivar trouble: what the last call failed with; empty if it succeeded.
    :ivar failures: how many calls the store has failed.
    """

    def __init__(self, seconds: float = PAUSE) -> None:
        self._seconds = seconds
        self._until = 0.0
        self._lock = threading.Lock()  # guards all of this
        self.trouble = ""
        self.failures = 0

    @contextmanager
    def guarding(self) -> Iterator[None]:
        """Make a call to the store in the block.

        :raises StoreUnavailable: the store has failed a moment ago.
        """
        with self._lock:
            if time.monotonic() < self._until:
                raise StoreUnavailable(self.trouble)
        try:
            yield
        except StoreUnavailable as error:
            with self._lock:
                self.failures += 1
                self.trouble = str(error)
                self._until = time.monotonic() + self._seconds
            raise
        with self._lock:
            self.trouble = ""
            self._until = 0.0

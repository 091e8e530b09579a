"""The return of a storage that failed.

A storage that fails in the middle of a commit is in a state that nobody knows; FileStorage closes
itself.  Opened anew it is as after a crash: at its last complete transaction.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, Final, Protocol

from .inbox import Inbox
from .service import StorageService
from .workers import WorkerPool

logger = logging.getLogger(__name__)

SHORTEST_DELAY: Final = 1.0
"""Seconds between a failure and the first attempt to open the storage."""

LONGEST_DELAY: Final = 30.0
"""Seconds between two attempts; the delay doubles up to this."""

STEADY: Final = 60.0
"""Seconds of service after which the next failure is taken for a new one, and the delay is short
again.  A disk that stays full lets a storage open, but fail again with the next commit."""


class Clock(Protocol):
    """The part of an event loop that knows the time."""

    def time(self) -> float: ...

    def call_later(self, delay: float, callback: Callable[[], None]) -> Any: ...


class TransactionsMissing(Exception):
    """The storage, opened anew, ends before transactions that clients have been told of.

    :param found: its last transaction.
    :param known: the last that was announced.
    """

    def __init__(self, found: bytes, known: bytes) -> None:
        super().__init__(found, known)
        self.found = found
        self.known = known

    def __str__(self) -> str:
        return (
            f"its last transaction is {self.found.hex()}, but {self.known.hex()} had been committed"
        )


class Recovery:
    """Closes one storage whenever it has failed, and opens it again.

    Belongs to the loop's thread; the work is done on a thread of its own.

    :param name: the storage's name.
    :param reopen: opens the storage and returns a prepared service of it, on the thread; None if
        nobody knows how to open it.
    :param clock: the loop.
    :param inbox: the way back to the loop.
    :param returned: called with the new service, which is to be opened.
    :param given_up: called with the reason when the storage stays out of service for good.
    """

    def __init__(
        self,
        name: str,
        reopen: Callable[[], StorageService] | None,
        clock: Clock,
        inbox: Inbox,
        returned: Callable[[StorageService], None],
        given_up: Callable[[str], None],
    ) -> None:
        self._name = name
        self._reopen = reopen
        self._clock = clock
        self._returned = returned
        self._given_up = given_up
        self._worker = WorkerPool(f"zeolith-recovery-{name}", 1, inbox)
        self._failed: StorageService | None = None
        self._is_released = True
        self._failed_at = 0.0
        self._returned_at: float | None = None
        self._delay = SHORTEST_DELAY
        self._timer: Any = None
        self._is_stopped = False
        self._lock = threading.Lock()  # guards the two below
        self._is_closed = False
        self._fresh: StorageService | None = None  # opened, but not yet in service

    def begin(self, failed: StorageService) -> None:
        """Close the storage of *failed*, which has been withdrawn; then see to its return."""
        self._failed = failed
        self._failed_at = now = self._clock.time()
        if self._returned_at is None or now - self._returned_at >= STEADY:
            self._delay = SHORTEST_DELAY
        self._is_released = False
        self._worker.submit(partial(self._release, failed), self._released)
        if self._reopen is None:
            self._given_up("the server does not know how to open it again")

    def stop(self) -> None:
        """Bring nothing back any more: the server ends."""
        self._is_stopped = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def close(self, timeout: float) -> None:
        """Close what is open.  The loop no longer runs.

        :param timeout: seconds to wait for a storage that is just being closed or opened.
        """
        with self._lock:
            self._is_closed = True
            fresh, self._fresh = self._fresh, None
        self._worker.close()
        if not self._worker.join(timeout):
            logger.warning("storage %r is still being closed or opened", self._name)
        elif self._failed is not None and not self._is_released:
            # The server ended before the thread had begun with it.
            self._release(self._failed)
        if fresh is not None:
            fresh.close(timeout)

    # -- the way back ----------------------------------------------------------------------------

    def _release(self, failed: StorageService) -> None:
        """Runs on the worker thread."""
        try:
            failed.release()
        finally:
            self._is_released = True

    def _released(self, result: None, error: Exception | None) -> None:
        if error is not None:
            logger.error("storage %r: closing it failed", self._name, exc_info=error)
        if self._reopen is not None:
            self._schedule()

    def _schedule(self) -> None:
        if self._is_stopped:
            return
        delay, self._delay = self._delay, min(self._delay * 2, LONGEST_DELAY)
        logger.warning("storage %r will be opened again in %g s", self._name, delay)
        self._timer = self._clock.call_later(delay, self._try)

    def _try(self) -> None:
        self._timer = None
        self._worker.submit(self._open, self._opened)

    def _open(self) -> None:
        """Runs on the worker thread."""
        assert self._reopen is not None
        assert self._failed is not None
        service = self._reopen()
        known = self._failed.log.last_tid
        if service.start_tid < known:
            service.close(0.0)
            raise TransactionsMissing(service.start_tid, known)
        with self._lock:
            if not self._is_closed:
                self._fresh = service
                return
        service.close(0.0)

    def _opened(self, result: None, error: Exception | None) -> None:
        if isinstance(error, TransactionsMissing):
            self._given_up(f"opened again, it has lost transactions: {error}")
            return
        if error is not None:
            logger.error("storage %r cannot be opened: %s", self._name, error)
            self._schedule()
            return
        if self._is_stopped:
            return  # close() sees to it
        with self._lock:
            service, self._fresh = self._fresh, None
        assert service is not None
        self._failed = None
        self._returned_at = self._clock.time()
        logger.warning(
            "storage %r is in service again after %.1f s; its last transaction is %s",
            self._name,
            self._returned_at - self._failed_at,
            service.start_tid.hex(),
        )
        self._returned(service)

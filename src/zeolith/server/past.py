"""What one client asks of the past: one question at a time, and where it is in its answers.

The threads for what takes long are few and for all clients: whoever asks much gets one of them.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from .workers import Done, Job, Lane, WorkerPool

if TYPE_CHECKING:
    from .history import History
    from .session import Session

logger = logging.getLogger(__name__)


HOLD: Final = 60.0
"""Seconds for which a client's place is held between two pages.  What holds it may be a file that a
pack has replaced, or a connection to a database; to find the place again costs a moment."""


class Past:
    """The questions of one session that may take long.

    Belongs to the loop's thread, except :attr:`history`.

    :param pool: runs the jobs.
    :param loop: the event loop.
    :ivar history: where the client is in reading what changed; belongs to the job that runs.
    :ivar is_over: whether the client is gone: what is still to be answered need not be.
    """

    __slots__ = ("_lane", "_loop", "_timer", "history", "is_over")

    def __init__(self, pool: WorkerPool, loop: asyncio.AbstractEventLoop) -> None:
        self._lane = Lane(pool)
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None
        self.history: History | None = None
        self.is_over = False

    def submit(self, job: Job, done: Done) -> None:
        """Have *job* run after all jobs before it, then *done* on the loop with its result.

        Once the client is gone *done* gets neither a result nor an error.
        """
        self._stop_timer()
        self._lane.submit(lambda: None if self.is_over else job(), partial(self._ran, done))

    def _ran(self, done: Done, result: Any, error: Exception | None) -> None:
        done(result, error)
        if self.history is not None and not self.is_over:
            self._stop_timer()
            self._timer = self._loop.call_later(HOLD, self._expire)

    def _expire(self) -> None:
        self._timer = None
        self._lane.submit(self._let_go, _log)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def close(self) -> None:
        """The client is gone: let go of what is held for it."""
        self.is_over = True
        self._stop_timer()
        self._lane.submit(self._let_go, _log)

    def _let_go(self) -> None:
        history, self.history = self.history, None
        if history is not None:
            history.close()


def _log(result: Any, error: Exception | None) -> None:
    if error is not None:
        logger.error("a storage's iterator could not be closed: %s", error, exc_info=error)


def past_of(session: Session) -> Past:
    """Return what *session* asks of the past; made when it first does."""
    if session.past is None:
        session.past = Past(session.service.pools.slow, session.lobby.loop)
    return session.past

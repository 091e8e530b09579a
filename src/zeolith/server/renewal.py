"""Certificates that are renewed while the server runs."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from ..credentials import Credentials
from .workers import WorkerPool

LOOK: Final = 10.0
"""Seconds between two looks at the files.  Whoever renews them waits that long at most; a look is
a few system calls."""


class Renewal:
    """Has *credentials* look for renewed files now and then.  Belongs to the loop's thread.

    :param loop: the event loop.
    :param pool: runs what may block.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, pool: WorkerPool, credentials: Credentials
    ) -> None:
        self._loop = loop
        self._pool = pool
        self._credentials = credentials
        self._is_stopped = False
        self._timer: asyncio.TimerHandle | None = None
        self._look()  # the first one warns of a certificate that ends soon

    def stop(self) -> None:
        """Look no more."""
        self._is_stopped = True
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        self._pool.submit(self._credentials.refresh, self._looked)

    def _looked(self, result: Any, error: Exception | None) -> None:
        if error is not None:
            self._loop.call_exception_handler(
                {"message": "looking for renewed certificates failed", "exception": error}
            )
        if not self._is_stopped:
            self._timer = self._loop.call_later(LOOK, self._look)

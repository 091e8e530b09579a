"""Log lines that strangers cause, as many as somebody may want to read.

Whoever can reach the port can be refused as often as he likes: his lines must not fill the disk,
nor hide all others (R8).
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

MOST_LINES: Final = 10
"""Events in a period that get a line each; of the others only their number is told."""

PERIOD: Final = 60.0
"""Seconds, counted from the first event."""


class LimitedLog:
    """Warns of events of one kind.  Belongs to the loop's thread.

    :param loop: knows the time.
    :param logger: where the lines go.
    :param kind: what happens, in the plural, as in "log-ins were refused".
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, logger: logging.Logger, kind: str) -> None:
        self._loop = loop
        self._logger = logger
        self._kind = kind
        self._count = 0
        self._timer: asyncio.TimerHandle | None = None

    def warn(self, text: str, *args: object) -> None:
        """An event has happened."""
        if self._timer is None:
            self._timer = self._loop.call_later(PERIOD, self._end_period)
        self._count += 1
        if self._count <= MOST_LINES:
            self._logger.warning(text, *args)

    def close(self) -> None:
        """Tell what has not been told; any number of times."""
        if self._timer is not None:
            self._timer.cancel()
            self._end_period()

    def _end_period(self) -> None:
        self._timer = None
        left_out, self._count = self._count - MOST_LINES, 0
        if left_out > 0:
            self._logger.warning("%d more %s within %g s", left_out, self._kind, PERIOD)

"""Log lines that peers cause, as many of each address as somebody may want to read (R8).

A message names its peer by its first argument, as in ``logger.warning("(%s) left", session.name)``.
Names know where they come from; a :class:`PeerLogger` asks them whether there may be another line.
So whoever adds a line about a peer need not think of its limit.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final

from .tally import Limit, Tally

logger = logging.getLogger(__name__)

PERIOD: Final = 60.0
"""Seconds, counted from the first line."""

MOST_ORIGINS: Final = 10_000
"""Addresses that are counted apart in one period; all others share one more count."""

MOST_NOTES: Final = 10
"""Addresses of which it is told at the end of a period how many lines were left out."""

_OTHERS: Final = "others"


class PeerLines:
    """Counts the lines of each address.  Belongs to the loop's thread.

    :param loop: knows the time.
    :param most: lines of one address in a period; what is critical is always told.
    :param tally: counts those that were left out.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, most: int, tally: Tally) -> None:
        self._loop = loop
        self._most = most
        self._tally = tally
        self._counts: dict[str, int] = {}
        self._timer: asyncio.TimerHandle | None = None

    def may_say(self, origin: str) -> bool:
        """Count a line about a peer of *origin*; return whether it may be written."""
        if self._timer is None:
            self._timer = self._loop.call_later(PERIOD, self._end_period)
        if origin not in self._counts and len(self._counts) >= MOST_ORIGINS:
            origin = _OTHERS
        count = self._counts[origin] = self._counts.get(origin, 0) + 1
        if count <= self._most:
            return True
        self._tally.hit(Limit.LOG_LINES)
        return False

    def close(self) -> None:
        """Tell what has not been told; any number of times."""
        if self._timer is not None:
            self._timer.cancel()
            self._end_period()

    def _end_period(self) -> None:
        self._timer = None
        counts, self._counts = self._counts, {}
        left_out = [
            (count - self._most, origin) for origin, count in counts.items() if count > self._most
        ]
        left_out.sort(reverse=True)
        for count, origin in left_out[:MOST_NOTES]:
            logger.warning(
                "(%s) suppressed %d more lines within %g s (peer-log-lines)", origin, count, PERIOD
            )
        rest = sum(count for count, _ in left_out[MOST_NOTES:])
        if rest:
            logger.warning("suppressed %d more lines about other addresses", rest)


class PeerName(str):
    """What a peer is called in messages.

    :ivar lines: counts what is said of it.
    :ivar origin: where it comes from.
    """

    __slots__ = ("lines", "origin")

    lines: PeerLines
    origin: str

    def __new__(cls, text: str, lines: PeerLines, origin: str) -> PeerName:
        name = super().__new__(cls, text)
        name.lines = lines
        name.origin = origin
        return name

    def replace_text(self, text: str) -> PeerName:
        """Return another name of the same peer."""
        return PeerName(text, self.lines, self.origin)


class PeerLogger(logging.LoggerAdapter[logging.Logger]):
    """A logger that leaves out lines about peers of which there are too many.

    :param logger: gets the others.
    """

    def __init__(self, logger: logging.Logger) -> None:
        super().__init__(logger, None)

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        """Log a message; see the module."""
        if not self.isEnabledFor(level):
            return
        name = args[0] if args else None
        if (
            isinstance(name, PeerName)
            and level < logging.CRITICAL
            and not name.lines.may_say(name.origin)
        ):
            return
        # One more: this method is not where the message comes from.
        kwargs["stacklevel"] = kwargs.get("stacklevel", 1) + 1
        super().log(level, msg, *args, **kwargs)


def peer_logger(name: str) -> PeerLogger:
    """Return the logger of a module that speaks of peers."""
    return PeerLogger(logging.getLogger(name))

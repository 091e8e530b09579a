"""When a side has to say something, and when it gives up the other one; pure, time is an argument.

Whoever looks after a connection looks at it now and then, and notes only *whether* something has
been heard or said since the look before: on the way of each message this costs next to nothing.
The first sign may then be older than the look that found it by the time between two looks, which
is why both limits are kept by looking a little earlier than they end.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Final, NamedTuple

MIN_SILENCE: Final = 1
"""Least number of seconds that a side can ask the other not to be silent for.  Less would only say
that a network or a machine is busy, and costs three heartbeats each time."""

MAX_SILENCE: Final = 86_400
"""Most seconds: a day.  Who wants to wait for longer has no use for a limit."""

BEATS: Final = 3
"""Heartbeats in the time after which the other side would give us up: two of them may be late."""

_LOOKS: Final = 12
"""Looks in the shorter of the two limits: what is left to chance is a twelfth of it."""

_MARGIN: Final = 2
"""Pauses between looks by which a peer is given up early: one because the last sign may be as much
older than the look that found it, one for looks that come late."""


def is_silence(seconds: object) -> bool:
    """Return whether *seconds* is a limit of silence that can be agreed upon."""
    # A comparison with "not a number" is false.
    return type(seconds) in (int, float) and MIN_SILENCE <= seconds <= MAX_SILENCE  # type: ignore[operator]


class Outlook(NamedTuple):
    """What is to be done now, and when to look again.

    :ivar is_dead: the peer has been silent for too long: it is to be given up.
    :ivar is_due: a heartbeat is to be sent now.
    :ivar next_look: when to look again at the latest; infinite if there is nothing to look for.
    """

    is_dead: bool
    is_due: bool
    next_look: float


class _Limits(NamedTuple):
    """What two limits mean to who looks.

    :ivar pause: seconds between two looks.
    :ivar grace: seconds without a sign after which the peer is dead.
    :ivar beat: seconds without a message of ours after which a heartbeat is due.
    """

    pause: float
    grace: float
    beat: float


# Many connections of a server have the same limits: each of them shall not cost much.
@lru_cache(maxsize=64)
def _limits_of(patience: float | None, demand: float | None) -> _Limits:
    pause = min(patience or math.inf, demand or math.inf) / _LOOKS
    return _Limits(
        pause,
        math.inf if patience is None else patience - _MARGIN * pause,
        # One pause for what the look finds, and half of one lest rounding costs another look.
        math.inf if demand is None else demand / BEATS - 1.5 * pause,
    )


class Liveness:
    """Two limits of one connection.

    Belongs to whoever looks after the connection.

    :param now: present time in seconds, of whatever clock.
    :param patience: seconds of silence after which we give up the peer; None: never.
    :param demand: seconds of silence after which the peer gives us up; None: never.
    """

    __slots__ = ("_heard_at", "_limits", "_spoke_at")

    def __init__(self, now: float, patience: float | None, demand: float | None) -> None:
        self._limits = _limits_of(patience, demand)
        self._heard_at = now
        self._spoke_at = now

    @property
    def pause(self) -> float:
        """Seconds between two looks; infinite without limits."""
        return self._limits.pause

    def look(self, now: float, has_heard: bool, has_spoken: bool) -> Outlook:
        """Return what is to be done.

        A heartbeat that is due counts as sent.

        :param has_heard: whether anything was heard of the peer since the last look, or could not
            have been.
        :param has_spoken: whether anything was sent since then, or could not have been.
        """
        pause, grace, beat = self._limits
        if has_heard:
            self._heard_at = now
        dies_at = self._heard_at + grace
        is_due = not has_spoken and now >= self._spoke_at + beat
        if has_spoken or is_due:
            self._spoke_at = now
        return Outlook(now >= dies_at, is_due, min(now + pause, dies_at))


class SteadyClock:
    """A clock that stands still while nobody looks at it, for one who looks after many.

    When a process was stopped, or its loop was busy with something else, then for that time it has
    heard nobody, and nobody is to blame.

    :param now: present time in seconds.
    :ivar time: seconds since the clock was made, without such times.
    """

    __slots__ = ("_seen", "time")

    def __init__(self, now: float) -> None:
        self._seen = now
        self.time = 0.0

    def advance(self, now: float, planned: float) -> float:
        """Return the time.

        :param planned: seconds that were to pass since the last call; what is above that by more
            than half is not counted.
        """
        passed = now - self._seen
        self._seen = now
        self.time += passed if passed <= 1.5 * planned else planned
        return self.time

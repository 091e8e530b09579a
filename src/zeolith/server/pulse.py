"""Silence on both sides of all connections: one timer for all of them.

Clients that speak Zeolith's own protocol send heartbeats, and get them from here.  ZEO's clients do
neither in a way that could be relied on; TCP notices their end.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable
from typing import Protocol

from ..protocol.liveness import Liveness, SteadyClock


class Member(Protocol):
    """What the pulse needs of a connection.

    :ivar liveness: its limits; None if it has none.
    """

    liveness: Liveness | None

    def take_signs(self) -> tuple[bool, bool]:
        """Return whether the peer was heard and spoken to since the last such call, or could not
        have been."""

    def beat(self) -> None:
        """Send a heartbeat."""

    def fall_silent(self, seconds: float) -> None:
        """The peer has been silent for *seconds*: drop it."""


class Pulse:
    """Looks at connections now and then.  Belongs to the loop's thread.

    :param loop: the event loop.
    :param members: all connections; called at each look.
    :param patience: seconds of silence after which a client is dropped.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        members: Callable[[], Iterable[Member]],
        patience: float,
    ) -> None:
        self._loop = loop
        self._members = members
        self._patience = patience
        self._timer: asyncio.TimerHandle | None = None
        # Between two looks, and from the last one to the next; infinite if there is none.
        self._pause = self._planned = math.inf
        # When the last look was.
        self._looked_at = loop.time()
        self._clock = SteadyClock(self._looked_at)

    def join(self, member: Member, demand: float | None) -> None:
        """Look after *member* from now on.

        :param demand: seconds of silence after which its peer gives us up; None: never.
        """
        now = self._loop.time()
        if self._timer is None:
            # For nobody the clock has not been looked at.
            self._looked_at = now
            self._clock.advance(now, 0.0)
        member.liveness = Liveness(self._clock.time, self._patience, demand)
        self._hurry(now, member.liveness.pause)

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _hurry(self, now: float, pause: float) -> None:
        """See to it that looks are *pause* seconds apart at most."""
        if pause >= self._pause and self._timer is not None:
            return
        self.stop()
        self._pause = pause
        self._planned = now + pause - self._looked_at
        self._timer = self._loop.call_later(pause, self._look)

    def _look(self) -> None:
        self._timer = None
        now = self._loop.time()
        time = self._clock.advance(now, self._planned)
        self._looked_at = now
        pause = math.inf
        dead: list[Member] = []
        due: list[Member] = []
        for member in self._members():
            liveness = member.liveness
            if liveness is None:
                continue
            is_dead, is_due, _ = liveness.look(time, *member.take_signs())
            if is_dead:
                dead.append(member)
                continue
            if is_due:
                due.append(member)
            if liveness.pause < pause:
                pause = liveness.pause
        if pause < math.inf:
            self._hurry(now, pause)
        else:
            self._pause = math.inf
        # Last: connections come and go by it, and whatever goes wrong, the next look comes.
        for member in dead:
            member.fall_silent(self._patience)
        for member in due:
            member.beat()

"""The idle watcher, with a clock of the test's."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from zeolith.client import watcher
from zeolith.client.watcher import HEARTBEAT, watch


class Clock:
    """Stands for the module ``time``."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(watcher, "time", clock)
    return clock


class Idle:
    """A channel that nobody uses; time passes only while it is waited for."""

    def __init__(self, clock: Clock, rounds: int) -> None:
        self.wire = self
        self.reads = 0
        self.heartbeats: list[float] = []
        self.waits: list[float] = []
        self._clock = clock
        self._rounds = rounds

    @property
    def is_broken(self) -> bool:
        return len(self.waits) >= self._rounds

    def is_readable(self, timeout: float) -> bool:
        self.waits.append(timeout)
        self._clock.now += timeout
        return False

    def heartbeat(self) -> None:
        self.heartbeats.append(self._clock.now)


def test_an_idle_connection_costs_a_heartbeat_a_minute_and_nothing_else(clock: Clock) -> None:
    channel: Any = Idle(clock, 3)
    watch(channel, threading.Event())
    assert channel.waits == [HEARTBEAT] * 3
    assert channel.heartbeats == [1000.0 + HEARTBEAT * n for n in (1, 2, 3)]


class Nudge:
    """An event that is waited for in ticks of the clock's time."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.ticks = 0
        self.is_set = False

    def wait(self, timeout: float) -> bool:
        self._clock.now += timeout
        self.ticks += 1
        return self.is_set

    def clear(self) -> None:
        self.is_set = False


class Busy(Idle):
    """A channel on which calls are made: whenever the watcher looks, somebody else reads."""

    def __init__(self, clock: Clock, calls: int) -> None:
        super().__init__(clock, calls)
        self._calls = calls

    def is_readable(self, timeout: float) -> bool:
        self.waits.append(timeout)
        return True

    def read_if_ready(self) -> bool:
        return False


def test_a_busy_connection_is_looked_at_once_a_tick(clock: Clock) -> None:
    channel: Any = Busy(clock, 5)
    nudge: Any = Nudge(clock)
    watch(channel, nudge)
    # Nobody read during the ticks, so the socket was looked at again after each.
    assert nudge.ticks in (4, 5)
    assert channel.heartbeats == []


def test_a_busy_connection_has_its_heartbeats_too(clock: Clock) -> None:
    channel: Any = Busy(clock, 2)

    class Reading(Nudge):
        def wait(self, timeout: float) -> bool:
            # During all of the first ticks somebody reads.
            if self.ticks < 3.5 * HEARTBEAT / timeout:
                channel.reads += 1
            return super().wait(timeout)

    nudge: Any = Reading(clock)
    watch(channel, nudge)
    assert len(channel.heartbeats) == 3
    assert len(channel.waits) == 2


def test_a_nudge_is_taken_note_of(clock: Clock) -> None:
    channel: Any = Busy(clock, 2)
    nudge: Any = Nudge(clock)
    nudge.is_set = True
    watch(channel, nudge)
    assert not nudge.is_set

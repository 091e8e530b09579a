"""Heartbeats to clients, and the end of those that are silent; the loop's time is the test's."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest

from zeolith.protocol.liveness import Liveness
from zeolith.server.pulse import Pulse


class Handle:
    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True


class Loop:
    """An event loop that has timers only."""

    def __init__(self) -> None:
        self.now = 100.0
        self.scheduled = 0
        self._timers: list[tuple[float, int, Handle, Callable[[], None]]] = []
        self._count = itertools.count()

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, callback: Callable[[], None]) -> Handle:
        assert math.isfinite(delay)
        handle = Handle(self)
        heapq.heappush(self._timers, (self.now + delay, next(self._count), handle, callback))
        return handle

    @property
    def is_idle(self) -> bool:
        return all(handle.is_cancelled for _, _, handle, _ in self._timers)

    def run_until(self, end: float) -> None:
        while self._timers and self._timers[0][0] <= end:
            when, _, handle, callback = heapq.heappop(self._timers)
            if not handle.is_cancelled:
                self.now = max(self.now, when)
                self.scheduled += 1
                callback()
        self.now = max(self.now, end)


class Client:
    """A connection, and what happened to it and when."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.liveness: Liveness | None = None
        self.was_heard = self.was_spoken_to = False
        self.is_talkative = False
        self.beats: list[float] = []
        self.ended: float | None = None

    def take_signs(self) -> tuple[bool, bool]:
        signs = self.was_heard or self.is_talkative, self.was_spoken_to
        self.was_heard = self.was_spoken_to = False
        return signs

    def beat(self) -> None:
        self.was_spoken_to = True
        self.beats.append(self.loop.now)

    def fall_silent(self, seconds: float) -> None:
        assert seconds == 120.0
        self.ended = self.loop.now


class Bed:
    def __init__(self) -> None:
        self.loop = Loop()
        self.clients: list[Client] = []
        loop: Any = self.loop
        self.pulse = Pulse(loop, lambda: [c for c in self.clients if c.ended is None], 120.0)

    def connect(self, demand: float | None, is_talkative: bool = False) -> Client:
        client = Client(self.loop)
        client.is_talkative = is_talkative
        self.clients.append(client)
        self.pulse.join(client, demand)
        return client


@pytest.fixture
def bed() -> Bed:
    return Bed()


def gaps(times: list[float]) -> list[float]:
    return [later - earlier for earlier, later in itertools.pairwise(times)]


def test_a_silent_client_is_dropped_within_the_limit(bed: Bed) -> None:
    client = bed.connect(60.0)
    bed.loop.run_until(150.0)
    client.was_heard = True
    bed.loop.run_until(1000.0)
    assert client.ended is not None
    assert 100.0 <= client.ended - 150.0 <= 120.0
    # Nobody is left to look at.
    assert bed.loop.is_idle


def test_each_client_gets_heartbeats_as_it_asks(bed: Bed) -> None:
    clients = {demand: bed.connect(demand, True) for demand in (30.0, 60.0, 240.0, None)}
    bed.loop.run_until(100.0 + 3600)
    for demand, client in clients.items():
        assert client.ended is None
        if demand is None:
            assert client.beats == []
        else:
            assert demand / 6 <= min(gaps(client.beats))
            assert max(gaps(client.beats)) <= demand / 3 + 1e-9


def test_what_is_sent_anyway_counts(bed: Bed) -> None:
    client = bed.connect(60.0, True)
    for second in range(100, 1000, 5):
        bed.loop.run_until(second)
        client.was_spoken_to = True
    assert client.beats == []


def test_one_timer_for_all(bed: Bed) -> None:
    for _ in range(1000):
        bed.connect(60.0, True)
    bed.loop.run_until(100.0 + 600)
    assert bed.loop.scheduled <= 120


def test_a_client_in_a_hurry_speeds_the_others_looks_up_and_no_longer_than_it_is_there(
    bed: Bed,
) -> None:
    slow = bed.connect(None, True)
    bed.loop.run_until(105.0)
    hasty = bed.connect(1.0, True)
    bed.loop.run_until(135.0)
    assert max(gaps([105.0, *hasty.beats])) <= 1 / 3 + 1e-9
    looks = bed.loop.scheduled
    hasty.ended = bed.loop.now
    bed.loop.run_until(335.0)
    assert bed.loop.scheduled - looks <= 22
    # What was counted meanwhile is right.
    slow.is_talkative = False
    slow.was_heard = True
    bed.loop.run_until(1000.0)
    assert slow.ended is not None
    assert 100.0 <= slow.ended - 335.0 <= 120.0


def test_a_loop_that_was_stopped_has_heard_nobody_and_drops_nobody(bed: Bed) -> None:
    """SIGSTOP, a suspended machine, a call that blocks the loop: the timer may come first."""
    clients = [bed.connect(60.0) for _ in range(3)]
    bed.loop.run_until(110.0)
    bed.loop.now += 10_000.0
    bed.loop.run_until(bed.loop.now)
    assert [client.ended for client in clients] == [None] * 3
    # They are still watched.
    stopped = bed.loop.now
    bed.loop.run_until(stopped + 1000.0)
    assert all(client.ended is not None and client.ended - stopped <= 120 for client in clients)


def test_time_without_clients_is_not_counted(bed: Bed) -> None:
    first = bed.connect(60.0)
    bed.loop.run_until(1000.0)
    assert first.ended is not None
    second = bed.connect(60.0)
    bed.loop.run_until(2000.0)
    assert second.ended is not None
    assert 100.0 <= second.ended - 1000.0 <= 120.0


def test_what_goes_wrong_with_one_is_not_the_end_for_the_others(bed: Bed) -> None:
    class Broken(Client):
        def beat(self) -> None:
            raise RuntimeError("a defect")

    broken = Broken(bed.loop)
    broken.is_talkative = True
    bed.clients.append(broken)
    bed.pulse.join(broken, 60.0)
    client = bed.connect(60.0)
    ends = 0
    while client.ended is None:
        try:
            bed.loop.run_until(1000.0)
        except RuntimeError:
            ends += 1
    assert ends > 5
    assert client.ended - 100.0 <= 120.0


def test_a_pulse_that_was_stopped_is_still(bed: Bed) -> None:
    client = bed.connect(60.0)
    bed.pulse.stop()
    bed.pulse.stop()
    bed.loop.run_until(1000.0)
    assert client.ended is None
    assert client.beats == []

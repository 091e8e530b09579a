"""The idle watcher, with a clock of the test's."""

from __future__ import annotations

import itertools
import socket
import threading
from contextlib import suppress
from typing import Any

import pytest

from zeolith.client import watcher
from zeolith.client.channel import Channel
from zeolith.client.watcher import ROUTINE, watch
from zeolith.client.wire import PlainWire
from zeolith.errors import ClientDisconnected
from zeolith.protocol.greeting import Coding
from zeolith.protocol.hello import Terms
from zeolith.protocol.peers import Hello, ServerPeer

from ..support.waiting import Background
from .conftest import Recorder

PAUSE = ROUTINE / 12


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

    speaks_own = False
    demand: float | None = None

    def __init__(self, clock: Clock, rounds: int, silence: float | None = None) -> None:
        self.wire = self
        self.terms = Terms(silence)
        self.reads = 0
        self.has_spoken = False
        self.heartbeats: list[float] = []
        self.waits: list[float] = []
        self.cause: BaseException | None = None
        self._clock = clock
        self._rounds = rounds

    @property
    def is_broken(self) -> bool:
        return self.cause is not None or len(self.waits) >= self._rounds

    def is_readable(self, timeout: float) -> bool:
        if timeout:
            self.waits.append(timeout)
            self._clock.now += timeout
        return False

    def heartbeat(self) -> None:
        self.heartbeats.append(self._clock.now)
        self.has_spoken = True

    def close(self, cause: BaseException) -> None:
        self.cause = cause


def intervals(times: list[float]) -> list[float]:
    return [later - earlier for earlier, later in itertools.pairwise(times)]


def test_an_idle_connection_costs_a_heartbeat_a_minute_and_little_else(clock: Clock) -> None:
    channel: Any = Idle(clock, 60)
    watch(channel, threading.Event())
    assert channel.waits == [PAUSE] * 60
    assert set(intervals(channel.heartbeats)) == {60.0}


def test_a_server_gets_heartbeats_as_often_as_it_asks(clock: Clock) -> None:
    channel: Any = Idle(clock, 400)
    channel.demand = 30.0
    channel.speaks_own = True
    watch(channel, threading.Event())
    assert set(intervals(channel.heartbeats)) == {10.0}
    assert channel.cause is None  # nothing was said about how long the server may be silent


def test_who_talks_sends_no_heartbeats(clock: Clock) -> None:
    class Talking(Idle):
        def is_readable(self, timeout: float) -> bool:
            self.has_spoken = True
            return super().is_readable(timeout)

    channel: Any = Talking(clock, 60)
    watch(channel, threading.Event())
    assert channel.heartbeats == []


def test_a_silent_server_is_given_up(clock: Clock) -> None:
    channel: Any = Idle(clock, 1000, silence=60.0)
    channel.speaks_own = True
    watch(channel, threading.Event())
    assert isinstance(channel.cause, ClientDisconnected)
    assert str(channel.cause) == "the server has not been heard of for 60 seconds"
    assert 50.0 <= clock.now - 1000.0 <= 60.0


def test_a_process_that_was_stopped_has_heard_nobody_and_gives_nobody_up(clock: Clock) -> None:
    class Stopped(Idle):
        speaks_own = True

        def is_readable(self, timeout: float) -> bool:
            if timeout and len(self.waits) == 3:
                clock.now += 10_000
            return super().is_readable(timeout)

    channel: Any = Stopped(clock, 1000, silence=60.0)
    watch(channel, threading.Event())
    assert channel.cause is not None
    assert 50.0 <= clock.now - 11_000.0 <= 60.0


def test_a_silent_server_of_zeo_s_is_not(clock: Clock) -> None:
    """It has nothing to say, and sends no heartbeats."""
    channel: Any = Idle(clock, 100, silence=60.0)
    watch(channel, threading.Event())
    assert channel.cause is None
    assert clock.now > 2000


def test_what_waits_to_be_read_was_sent_by_somebody(clock: Clock) -> None:
    """The thread that reads is in the database's code, for minutes."""

    class Unread(Idle):
        speaks_own = True

        def is_readable(self, timeout: float) -> bool:
            if clock.now > 1600:
                self.waits += [0.0] * 9
            return True

        def read_if_ready(self) -> bool:
            return False

    channel: Any = Unread(clock, 9, silence=60.0)
    nudge: Any = Nudge(clock)
    watch(channel, nudge)
    assert channel.cause is None
    assert clock.now > 1600


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

    def __init__(self, clock: Clock, calls: int, silence: float | None = None) -> None:
        super().__init__(clock, calls, silence)
        self._calls = calls

    def is_readable(self, timeout: float) -> bool:
        if timeout:
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


@pytest.mark.parametrize("silence", [None, 60.0])
def test_a_busy_connection_has_its_heartbeats_too(clock: Clock, silence: float | None) -> None:
    """One on which much arrives, and nothing is sent."""
    channel: Any = Busy(clock, 2, silence)
    channel.speaks_own = True
    channel.demand = 90.0

    class Reading(Nudge):
        def wait(self, timeout: float) -> bool:
            # During all of the first ticks somebody reads.
            if self.ticks < 100 / timeout:
                channel.reads += 1
            return super().wait(timeout)

    nudge: Any = Reading(clock)
    watch(channel, nudge)
    assert len(channel.heartbeats) == 3
    assert len(channel.waits) == 2
    assert channel.cause is None


def test_a_nudge_is_taken_note_of(clock: Clock) -> None:
    channel: Any = Busy(clock, 2)
    nudge: Any = Nudge(clock)
    nudge.is_set = True
    watch(channel, nudge)
    assert not nudge.is_set


def test_what_else_is_to_be_done_is_done_once_a_minute(clock: Clock) -> None:
    channel = Idle(clock, rounds=60)
    began, called = clock.now, []
    watch(channel, threading.Event(), lambda: called.append(clock.now))  # type: ignore[arg-type]
    passed = clock.now - began
    assert passed > 5 * watcher.TENDING
    assert passed // (watcher.TENDING + PAUSE) <= len(called) <= passed // watcher.TENDING


def test_a_server_that_reads_nothing_does_not_hold_up_who_would_notice() -> None:
    """A heartbeat for which there is no room would wait for the server, for ever."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        peer = ServerPeer(Coding.MSGPACK, terms=Terms(1.0))
        theirs.sendall(peer.greeting())
        channel = Channel(PlainWire(ours), Recorder(), "hung", Terms(1.0))
        channel.greet()
        assert isinstance(peer.receive(theirs.recv(4096))[0], Hello)
        theirs.sendall(peer.welcome())
        channel._read()
        channel.registered()
        # As after a commit of many objects whose last byte has just found room.
        ours.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                ours.send(bytes(4096))
        ours.setblocking(True)
        watching = Background(lambda: watch(channel, threading.Event()))
        try:
            watching.result(10)
            assert "not been heard of for 1 seconds" in str(channel._cause)
        finally:
            channel.wire.abort()

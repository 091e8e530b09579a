"""Who has to say something when, and who is given up; the test is the clock."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zeolith.protocol.liveness import (
    MAX_SILENCE,
    MIN_SILENCE,
    Liveness,
    SteadyClock,
    is_silence,
)

LIMITS = st.floats(MIN_SILENCE, MAX_SILENCE)
PART = st.floats(0, 1)


@pytest.mark.parametrize("value", [1, 1.0, 60, 0.5 + 1, 86_400])
def test_limits_that_can_be_agreed_upon(value: Any) -> None:
    assert is_silence(value)


@pytest.mark.parametrize(
    "value", [0, 0.99, 86_400.1, -1, math.nan, math.inf, True, "60", None, b"60", [60]]
)
def test_limits_that_cannot(value: Any) -> None:
    assert not is_silence(value)


@given(LIMITS, st.none() | st.floats(0.2, 5), PART, st.lists(PART, max_size=60))
def test_a_silent_peer_is_given_up_within_the_limit_and_not_before_five_sixths(
    patience: float, part: float | None, heard: float, lateness: list[float]
) -> None:
    """Whenever the last sign came, and although looks are late by up to half a pause."""
    liveness = Liveness(1000.0, patience, None if part is None else patience * part)
    pause = liveness.pause
    heard_at = 1000.0 + heard * pause
    next_look = 1000.0 + pause
    has_heard, is_dead = True, False
    while not is_dead:
        now = next_look + (lateness.pop() * pause / 2 if lateness else 0.0)
        is_dead, _, next_look = liveness.look(now, has_heard, False)
        assert is_dead or now < next_look <= now + pause
        has_heard = False
    assert patience * 0.8333 <= now - heard_at <= patience * (1 + 1e-9)


@given(st.none() | LIMITS, LIMITS, st.lists(PART, max_size=30), st.lists(st.booleans()))
def test_nobody_waits_longer_than_a_third_of_his_limit(
    patience: float | None, demand: float, signs: list[float], heard: list[bool]
) -> None:
    liveness = Liveness(0.0, patience, demand)
    spoke_at = now = 0.0
    next_look = liveness.pause
    for _ in range(100):
        has_spoken = bool(signs)
        if has_spoken:
            spoke_at = now + signs.pop() * (next_look - now)
        now = next_look
        _, is_due, next_look = liveness.look(now, heard.pop() if heard else False, has_spoken)
        if is_due:
            assert not has_spoken
            spoke_at = now
        assert now - spoke_at <= demand / 3 * (1 + 1e-9)


def test_heartbeats_are_not_sent_by_who_talks() -> None:
    liveness = Liveness(0.0, 60.0, 60.0)
    now = 0.0
    for _ in range(100):
        outlook = liveness.look(now, True, True)
        assert not outlook.is_due
        assert not outlook.is_dead
        now = outlook.next_look


def test_a_silent_side_sends_as_few_as_will_do() -> None:
    liveness = Liveness(0.0, None, 60.0)
    now, beats = 0.0, 0
    while now < 3600:
        outlook = liveness.look(now, False, False)
        beats += outlook.is_due
        now = outlook.next_look
    assert 180 <= beats <= 240


def test_without_limits_there_is_nothing_to_look_for() -> None:
    liveness = Liveness(0.0, None, None)
    assert liveness.look(1e9, False, False) == (False, False, math.inf)


def test_connections_with_the_same_limits_share_them() -> None:
    """A server has thousands of them."""
    one, two = Liveness(0.0, 120.0, 60.0), Liveness(1.0, 120.0, 60.0)
    assert one._limits is two._limits
    assert not hasattr(one, "__dict__")


# -- the steady clock --------------------------------------------------------------------------


def test_time_in_which_nobody_looked_does_not_pass() -> None:
    clock = SteadyClock(500.0)
    assert clock.advance(510.0, 10.0) == 10.0
    assert clock.advance(524.0, 10.0) == 24.0  # a little late
    # The process was stopped for an hour.
    assert clock.advance(4_124.0, 10.0) == 34.0
    assert clock.advance(4_134.0, 10.0) == 44.0


def test_who_was_stopped_gives_nobody_up() -> None:
    clock = SteadyClock(0.0)
    liveness = Liveness(0.0, 60.0, 60.0)
    for now in (5.0, 10.0, 100_000.0):
        assert not liveness.look(clock.advance(now, 5.0), False, True).is_dead

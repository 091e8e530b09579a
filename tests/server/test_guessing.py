"""Who guesses passwords waits, and nobody else does."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zeolith.server import guessing
from zeolith.server.guessing import REFILL, Guessing

ATTEMPTS = 50


def fail(counts: Guessing, address: str, name: str, now: float, times: int) -> list[float]:
    return [counts.take(address, name, now) for _ in range(times)]


def test_an_address_that_fails_waits_whatever_names_it_tries() -> None:
    counts = Guessing(ATTEMPTS)
    waits = [counts.take("a", f"user {number}", 0) for number in range(ATTEMPTS + 2)]
    assert waits == [0] * ATTEMPTS + [REFILL, REFILL]
    assert counts.take("b", "user 1", 0) == 0


def test_a_name_waits_wherever_it_is_tried_from() -> None:
    counts = Guessing(ATTEMPTS)
    waits = [counts.take(f"address {number}", "bob", 0) for number in range(ATTEMPTS + 2)]
    assert waits == [0] * ATTEMPTS + [REFILL, REFILL]
    assert counts.take("address 1", "alice", 0) == 0


def test_nobody_keeps_a_user_out_of_where_he_is_at_home() -> None:
    counts = Guessing(ATTEMPTS)
    assert counts.take("home", "bob", 0) == 0
    counts.succeeded("home", "bob", 0)
    for number in range(2 * ATTEMPTS):
        counts.take(f"address {number}", "bob", 0)
    assert counts.take("elsewhere", "bob", 0) > 0
    assert counts.take("home", "bob", 0) == 0


def test_r7_nor_does_who_fails_beside_him() -> None:
    """As a process of the same machine that has an old password, and tries again and again."""
    counts = Guessing(ATTEMPTS)
    assert counts.take("home", "bob", 0) == 0
    counts.succeeded("home", "bob", 0)
    fail(counts, "home", "eve", 0, 2 * ATTEMPTS)
    for _ in range(3 * ATTEMPTS):
        assert counts.take("home", "bob", 0) == 0
        counts.succeeded("home", "bob", 0)
    assert counts.take("home", "alice", 0) > 0
    # It is not for guessing either.
    waits = fail(counts, "home", "bob", 0, ATTEMPTS + 2)
    assert waits == [0] * ATTEMPTS + [REFILL, REFILL]


def test_time_gives_attempts_back() -> None:
    counts = Guessing(ATTEMPTS)
    fail(counts, "a", "bob", 0, ATTEMPTS)
    assert counts.take("a", "bob", REFILL * 0.75) == pytest.approx(REFILL / 4)
    assert counts.take("a", "bob", REFILL) == 0
    assert counts.take("a", "bob", REFILL) > 0
    assert fail(counts, "a", "bob", REFILL * 1000, ATTEMPTS + 1)[-2:] == [0, REFILL]


def test_what_succeeds_costs_nothing() -> None:
    counts = Guessing(ATTEMPTS)
    for _ in range(3 * ATTEMPTS):
        assert counts.take("a", "bob", 0) == 0
        counts.succeeded("a", "bob", 0)
    # But it gives back no more than it took: who has a password of his own guesses no faster.
    fail(counts, "a", "eve", 0, ATTEMPTS)
    assert counts.take("a", "carol", 0) > 0


def test_attempts_under_way_count() -> None:
    counts = Guessing(ATTEMPTS)
    assert not any(fail(counts, "a", "bob", 0, ATTEMPTS))
    assert counts.take("a", "bob", 0) > 0
    counts.succeeded("a", "bob", 0)
    assert counts.take("a", "bob", 0) == 0


def test_r8_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guessing, "MAX_KEYS", 100)
    counts = Guessing(ATTEMPTS)
    for number in range(1000):
        counts.take(f"address {number}", f"user {number}", 0)
        counts.succeeded(f"address {number}", f"user {number}", 0)
        counts.take(f"address {number}", f"other {number}", 0)
    assert len(counts) <= 201


def test_who_waits_has_nothing_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """By naming many users: else two addresses free each other as often as they like."""
    monkeypatch.setattr(guessing, "MAX_KEYS", 100)
    counts = Guessing(ATTEMPTS)
    fail(counts, "a", "bob", 0, ATTEMPTS)
    fail(counts, "b", "eve", 0, ATTEMPTS)
    for number in range(1000):
        assert counts.take("b", f"user {number}", 0) > 0
    assert counts.take("a", "alice", 0) > 0
    assert counts.take("c", "bob", 0) > 0


def test_r8_long_names_take_no_more_room_than_short_ones() -> None:
    counts = Guessing(ATTEMPTS)
    tracemalloc.start()
    try:
        for number in range(500):
            counts.take(f"address {number}", f"{number}" + "x" * 10_000, 0)
        size, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size < 1_000_000


@given(
    st.lists(
        st.tuples(
            st.sampled_from("ab"),
            st.sampled_from("xy"),
            st.booleans(),
            st.floats(0, 30, allow_nan=False),
        ),
        max_size=300,
    )
)
def test_no_address_fails_faster_than_it_may(steps: list[tuple[str, str, bool, float]]) -> None:
    counts, now = Guessing(ATTEMPTS), 0.0
    failed = {"a": 0, "b": 0}
    # Each has attempts of his own, for his own name.
    at_home: dict[str, set[str]] = {"a": set(), "b": set()}
    for address, name, succeeds, pause in steps:
        now += pause
        if counts.take(address, name, now) == 0:
            if succeeds:
                counts.succeeded(address, name, now)
                at_home[address].add(name)
            else:
                failed[address] += 1
        stores = 1 + len(at_home[address])
        assert failed[address] <= stores * (ATTEMPTS + now / REFILL) + 1e-6

"""The small pure parts of the client."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest

from zeolith.client.backoff import Backoff
from zeolith.client.connector import format_address
from zeolith.client.states import TRANSITIONS, State
from zeolith.client.undo import filtered_undo_log


def test_delays_double_up_to_the_longest() -> None:
    backoff = Backoff(0.05, 5.0, random.Random(1))
    ceilings = [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
    for ceiling in ceilings:
        assert ceiling / 2 < backoff.next_delay() <= ceiling
    backoff.reset()
    assert backoff.next_delay() <= 0.05


def test_delays_differ_between_clients() -> None:
    delays = {Backoff(1.0, 5.0).next_delay() for _ in range(20)}
    assert len(delays) > 1


def test_every_state_can_be_closed_and_closed_is_final() -> None:
    assert TRANSITIONS[State.CLOSED] == frozenset()
    for state in set(State) - {State.CLOSED}:
        assert State.CLOSED in TRANSITIONS[state]


def test_every_state_is_reached_from_connecting() -> None:
    reached = {State.CONNECTING}
    for _ in State:
        reached |= set(itertools.chain.from_iterable(TRANSITIONS[state] for state in reached))
    assert reached == set(State)


@pytest.mark.parametrize(
    ("address", "text"),
    [("/run/zeo.sock", "/run/zeo.sock"), (("db", 8100), "db:8100"), (("::1", 1), "[::1]:1")],
)
def test_addresses_are_written_as_users_write_them(address: Any, text: str) -> None:
    assert format_address(address) == text


def test_the_undo_log_is_filtered_page_by_page() -> None:
    log = [{"n": n} for n in range(450)]
    asked = []

    def fetch(first: int, last: int) -> list[dict[str, Any]]:
        asked.append((first, last))
        return log[first:last]

    odd = filtered_undo_log(fetch, 2, -3, lambda entry: entry["n"] % 2 == 1)
    assert [entry["n"] for entry in odd] == [5, 7, 9]
    assert asked == [(0, 100)]
    assert filtered_undo_log(fetch, 0, 1000, lambda entry: entry["n"] > 440) == log[441:]
    assert filtered_undo_log(fetch, 0, -5, lambda entry: False) == []

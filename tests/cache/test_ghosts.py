"""Ids that are remembered for a while."""

from __future__ import annotations

from zeolith.cache.ghosts import Ghosts


def to_oid(n: int) -> bytes:
    return n.to_bytes(8, "big")


def test_who_was_added_is_remembered_once() -> None:
    ghosts = Ghosts(100)
    assert not ghosts.take(to_oid(5))
    ghosts.add(to_oid(5))
    assert ghosts.take(to_oid(5))
    assert not ghosts.take(to_oid(5))


def test_the_last_are_remembered_and_those_long_ago_are_not() -> None:
    ghosts = Ghosts(1_000)
    for n in range(20_000):
        ghosts.add(to_oid(n))
    assert sum(ghosts.take(to_oid(n)) for n in range(19_500, 20_000)) > 350
    assert sum(ghosts.take(to_oid(n)) for n in range(10_000)) < 50


def test_few_are_taken_for_others() -> None:
    ghosts = Ghosts(1_000)
    for n in range(0, 20_000, 2):
        ghosts.add(to_oid(n))
    assert sum(ghosts.take(to_oid(n)) for n in range(1, 200_000, 2)) < 20


def test_cleared_it_knows_nobody() -> None:
    ghosts = Ghosts(100)
    ghosts.add(to_oid(5))
    ghosts.clear()
    assert not ghosts.take(to_oid(5))

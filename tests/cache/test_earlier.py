"""Earlier revisions: each answers its own range of tids and no other."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from zeolith.cache.earlier import MAX_REVISIONS, EarlierRevisions

OID, OTHER = b"\xff" * 8, b"\0" * 8


def to_tid(n: int) -> bytes:
    return n.to_bytes(8, "big")


@pytest.fixture
def earlier() -> EarlierRevisions:
    earlier = EarlierRevisions()
    earlier.add(OID, to_tid(10), to_tid(20), 1010)
    earlier.add(OID, to_tid(30), to_tid(40), 2**48 - 1)
    return earlier


@pytest.mark.parametrize(
    ("tid", "start"),
    [(10, None), (11, 10), (20, 10), (21, None), (30, None), (31, 30), (40, 30), (41, None)],
)
def test_a_revision_answers_after_its_start_up_to_its_end(
    earlier: EarlierRevisions, tid: int, start: int | None
) -> None:
    found = earlier.find(OID, to_tid(tid))
    if start is None:
        assert found is None
    else:
        place = 1010 if start == 10 else 2**48 - 1
        assert found == (to_tid(start), to_tid(start + 10), place)
    assert earlier.find(OTHER, to_tid(tid)) is None


def test_what_is_known_of_an_object(earlier: EarlierRevisions) -> None:
    assert earlier.rows
    assert earlier.has(OID, to_tid(10))
    assert not earlier.has(OID, to_tid(20))
    assert not earlier.has(OTHER, to_tid(10))
    assert earlier.last_end(OID) == to_tid(40)
    assert earlier.last_end(OTHER) == b""


def test_removed_by_place(earlier: EarlierRevisions) -> None:
    assert not earlier.remove(OID, 5)
    assert not earlier.remove(OTHER, 1010)
    assert earlier.remove(OID, 1010)
    assert not earlier.remove(OID, 1010)
    assert earlier.find(OID, to_tid(15)) is None
    assert earlier.find(OID, to_tid(35)) is not None
    assert earlier.remove(OID, 2**48 - 1)
    assert not earlier.rows


def test_cleared(earlier: EarlierRevisions) -> None:
    earlier.clear()
    assert not earlier.rows
    assert earlier.find(OID, to_tid(15)) is None


def test_the_oldest_of_very_many_are_dropped() -> None:
    earlier = EarlierRevisions()
    dropped = [earlier.add(OID, to_tid(n), to_tid(n + 1), n) for n in range(MAX_REVISIONS + 3)]
    assert dropped == [0] * MAX_REVISIONS + [1] * 3
    assert earlier.find(OID, to_tid(3)) is None
    assert earlier.find(OID, to_tid(4)) == (to_tid(3), to_tid(4), 3)
    assert earlier.add(OID, to_tid(2), to_tid(3), 2) == 1
    assert not earlier.has(OID, to_tid(2)), "the one added may be the oldest itself"


@given(st.permutations(range(8)))
def test_the_order_in_which_they_come_does_not_matter(order: list[int]) -> None:
    earlier = EarlierRevisions()
    for n in order:
        earlier.add(OID, to_tid(10 * n), to_tid(10 * n + 5), n)
    for n in order:
        assert earlier.find(OID, to_tid(10 * n + 3)) == (to_tid(10 * n), to_tid(10 * n + 5), n)
        assert earlier.find(OID, to_tid(10 * n + 7)) is None
    assert earlier.last_end(OID) == to_tid(75)

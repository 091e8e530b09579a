"""Pages to changes: what is put together, and what is no page."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zeolith.client import changes
from zeolith.client.changes import PAGE, Change, ChangePages
from zeolith.errors import IllegalMessage
from zeolith.protocol.additions import ChangesSince


def tid(number: int) -> bytes:
    return number.to_bytes(8, "big")


A, B, C, D = map(tid, range(100, 104))


def page(
    *found: tuple[int, bytes], last: int, cut: bool = False, more: bool = False
) -> dict[str, Any]:
    return {
        "changes": [(tid(number), oids) for number, oids in found],
        "last": tid(last),
        "cut": cut,
        "more": more,
    }


def test_pages_one_after_the_other() -> None:
    pages = ChangePages(tid(3))
    assert pages.question() == ChangesSince(tid(3), PAGE, None)
    found, pages = pages.take(page((4, A), (6, b""), last=6, more=True))
    assert found == [Change(tid(4), (A,)), Change(tid(6), ())]
    assert pages.has_more
    assert pages.position == tid(6)
    assert pages.question() == ChangesSince(tid(6), PAGE, None)
    found, pages = pages.take(page(last=9))
    assert found == []
    assert pages.position == tid(9)
    assert not pages.has_more


def test_a_transaction_in_parts() -> None:
    pages = ChangePages(tid(3))
    got, pages = pages.take(page((4, A), (6, A + B), last=4, cut=True, more=True))
    assert got == [Change(tid(4), (A,))]
    assert pages.position == tid(4)
    assert pages.question() == ChangesSince(tid(4), PAGE, tid(6) + B)
    got, pages = pages.take(page((6, C), last=4, cut=True, more=True))
    assert got == []
    assert pages.question() == ChangesSince(tid(4), PAGE, tid(6) + C)
    got, pages = pages.take(page((6, D), (8, A), last=8))
    assert got == [Change(tid(6), (A, B, C, D)), Change(tid(8), (A,))]
    assert pages.question() == ChangesSince(tid(8), PAGE, None)


@pytest.mark.parametrize("rest", [page((9, C), last=9), page(last=9)])
def test_a_rest_that_was_packed_away(rest: dict[str, Any]) -> None:
    pages = ChangePages(tid(3))
    got, pages = pages.take(page((6, A), last=3, cut=True, more=True))
    assert got == []
    got, pages = pages.take(rest)
    assert got[0] == Change(tid(6), (A,))
    assert [change.tid for change in got[1:]] == [found for found, _ in rest["changes"]]
    assert pages.question() == ChangesSince(tid(9), PAGE, None)


@pytest.mark.parametrize(
    "answer",
    [
        None,
        7,
        [],
        {},
        {"changes": None, "last": tid(9), "cut": False, "more": False},
        {"changes": [], "cut": False, "more": False},
        {"changes": [], "last": tid(9), "more": False},
        {"changes": [], "last": tid(9), "cut": False},
        {"changes": [], "last": tid(9), "cut": 0, "more": False},
        {"changes": [], "last": tid(9), "cut": False, "more": None},
        {"changes": [7], "last": tid(9), "cut": False, "more": False},
        {"changes": [(tid(4),)], "last": tid(9), "cut": False, "more": False},
        {"changes": [(tid(4), "x" * 8)], "last": tid(9), "cut": False, "more": False},
        {"changes": [(tid(4), [A])], "last": tid(9), "cut": False, "more": False},
        {"changes": [(b"4", A)], "last": tid(9), "cut": False, "more": False},
        {"changes": [("4" * 8, A)], "last": tid(9), "cut": False, "more": False},
        page((4, A[:7]), last=9),
        page((4, A + A), last=9),
        page((4, B + A), last=9),
        page((4, A), (4, B), last=9),
        page((5, A), (4, B), last=9),
        page((3, A), last=9),
        page((4, A), last=3),
        page(last=2),
        page(last=9, cut=True),
        page((4, b""), last=3, cut=True),
        page((4, A), last=4, cut=True),
        page((4, A), last=2, cut=True),
        {**page(last=9), "last": b"9"},
        {**page(last=9), "last": None},
    ],
)
def test_what_is_no_page_is_refused(answer: Any) -> None:
    with pytest.raises(IllegalMessage):
        ChangePages(tid(3)).take(answer)


def test_parts_that_do_not_fit_together_are_refused() -> None:
    for second in (page((6, A), last=6), page((6, B), last=6), page((5, C), last=6)):
        pages = ChangePages(tid(5))
        _, pages = pages.take(page((6, A + B), last=5, cut=True, more=True))
        with pytest.raises(IllegalMessage):
            pages.take(second)


def test_a_server_that_goes_on_naming_objects_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """R8: a transaction is held as a whole, but not whatever a server says of it."""
    monkeypatch.setattr(changes, "MAX_OBJECTS", 3)
    pages = ChangePages(tid(3))
    _, pages = pages.take(page((6, A + B), last=3, cut=True, more=True))
    with pytest.raises(IllegalMessage, match="more than 3"):
        pages.take(page((6, C + D), last=3, cut=True, more=True))


VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(0, 9),
        st.sampled_from([tid(n) for n in range(1, 9)]),
        st.lists(st.sampled_from([A, B, C, D]), max_size=4).map(b"".join),
        st.binary(max_size=9),
        st.text(max_size=3),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(tuple),
        st.fixed_dictionaries({"changes": inner, "last": inner, "cut": inner, "more": inner}),
    ),
    max_leaves=12,
)
PAGES = st.fixed_dictionaries(
    {
        "changes": st.lists(
            st.tuples(
                st.integers(1, 9).map(tid), st.lists(st.sampled_from([A, B, C, D])).map(b"".join)
            ),
            max_size=4,
        ),
        "last": st.integers(1, 9).map(tid),
        "cut": st.booleans(),
        "more": st.booleans(),
    }
)


@given(st.lists(st.one_of(PAGES, VALUES), max_size=8))
def test_whatever_a_server_says_what_is_handed_out_is_in_order(answers: list[Any]) -> None:
    """Hostile answers are refused, or they are pages; the only error is IllegalMessage."""
    pages = ChangePages(tid(0))
    found: list[Change] = []
    for answer in answers:
        try:
            got, following = pages.take(answer)
        except IllegalMessage:
            continue
        assert following.position >= pages.position
        found += got
        pages = following
        pages.question()
    tids = [change.tid for change in found]
    assert tids == sorted(set(tids))
    for change in found:
        assert list(change.oids) == sorted(set(change.oids))
    assert all(found_tid <= pages.position for found_tid in tids)

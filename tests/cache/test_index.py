"""The index of current revisions behaves like a dictionary, in less memory."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from zeolith.cache.index import PAGE_BITS, PlaceIndex

oids = st.one_of(
    st.integers(0, 40).map(lambda n: n.to_bytes(8, "big")),
    st.sampled_from([0x3FFF, 0x4000, 0x7FFF, 0xFFFF, 0x10000, 2**63, 2**64 - 1]).map(
        lambda n: n.to_bytes(8, "big")
    ),
    st.binary(min_size=8, max_size=8),
)
places = st.integers(0, 2**48 - 1)


@given(st.lists(st.tuples(oids, st.one_of(st.none(), places))))
def test_it_is_a_dictionary(steps: list[tuple[bytes, int | None]]) -> None:
    index = PlaceIndex()
    model: dict[bytes, int] = {}
    for oid, place in steps:
        if place is not None:
            index.set(oid, place)
            model[oid] = place
        elif oid in model:
            index.delete(oid)
            del model[oid]
        else:
            assert index.get(oid) is None
            with pytest.raises(KeyError):
                index.delete(oid)
    for oid, _ in steps:
        assert index.get(oid) == model.get(oid)
    assert sum(len(page) for page in index.pages.values()) == len(model)
    index.suspect_all()
    assert not index.pages
    listed = [item for number in index.suspects for item in index.suspects_of(number)]
    assert sorted(listed) == sorted(model.items())


def test_an_empty_page_is_given_up() -> None:
    index = PlaceIndex()
    for n in range(1000):
        index.set((n << 20).to_bytes(8, "big"), n)
    assert len(index.pages) == 1000
    for n in range(1000):
        index.delete((n << 20).to_bytes(8, "big"))
    assert index.pages == {}


def test_a_page_that_is_not_there_has_no_items() -> None:
    assert PlaceIndex().suspects_of(7) == []


def test_suspects_are_held_but_not_served() -> None:
    index = PlaceIndex()
    oids = [n.to_bytes(8, "big") for n in (1, 2, 3, 1 << 20)]
    for n, oid in enumerate(oids):
        index.set(oid, n)
    index.suspect_all()
    index.set(oid := (4).to_bytes(8, "big"), 4)
    assert [index.is_suspect(oid) for oid in oids] == [True] * 4
    assert not index.is_suspect(oid)
    assert [index.get(oid) for oid in oids] == [0, 1, 2, 3]
    index.move(oids[0], 10)
    index.move(oid, 14)
    assert (index.is_suspect(oids[0]), index.get(oids[0])) == (True, 10)
    assert (index.is_suspect(oid), index.get(oid)) == (False, 14)
    with pytest.raises(KeyError):
        index.move((5).to_bytes(8, "big"), 1)
    index.acquit(oids[1])
    assert (index.is_suspect(oids[1]), index.get(oids[1])) == (False, 1)
    with pytest.raises(KeyError):
        index.acquit(oids[1])
    assert not index.discard(oids[2], 7)
    assert index.discard(oids[2], 2)
    index.acquit_page(0)
    index.acquit_page(7)
    assert sorted(index.suspects) == [(1 << 20) >> PAGE_BITS]
    assert {oid: index.get(oid) for oid in (oids[0], oids[1], oid)} == {
        oids[0]: 10, oids[1]: 1, oid: 14
    }  # fmt: skip
    index.delete(oids[3])
    assert not index.suspects


def test_what_is_suspected_twice_is_suspected_once() -> None:
    index = PlaceIndex()
    index.set(b"1234567a", 1)
    index.suspect_all()
    index.set(b"1234567b", 2)
    index.suspect_all()
    assert not index.pages
    copy = PlaceIndex()
    copy.load(index.dump(), index.dump_suspects())
    assert copy.get(b"1234567a") == 1
    assert copy.is_suspect(b"1234567b")
    assert copy.cut(lambda place: place < 2) == 1
    assert copy.get(b"1234567b") is None
    copy.clear()
    assert copy.get(b"1234567a") is None


def test_clear_forgets_all() -> None:
    index = PlaceIndex()
    pages = index.pages
    index.set(b"12345678", 5)
    index.clear()
    assert index.get(b"12345678") is None
    assert index.pages is pages

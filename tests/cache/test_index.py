"""The index of current revisions behaves like a dictionary, in less memory."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from zeolith.cache.index import PlaceIndex

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
    listed = [item for number in index.pages for item in index.items_of(number)]
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
    assert PlaceIndex().items_of(7) == []


def test_clear_forgets_all() -> None:
    index = PlaceIndex()
    pages = index.pages
    index.set(b"12345678", 5)
    index.clear()
    assert index.get(b"12345678") is None
    assert index.pages is pages

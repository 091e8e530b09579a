"""What :class:`zeolith.cache.ClientCache` promises, of our own cache and ZEO's in the adapter."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from ZEO.cache import ClientCache as ZeoCache

from zeolith.cache import ClientCache, ForeignCache, RingCache
from zeolith.types import MAX_TID, NO_TID

OID, OTHER = b"\0" * 8, b"\x7f" + b"\xff" * 7  # ZEO's takes no larger ids


def to_tid(n: int) -> bytes:
    return n.to_bytes(8, "big")


T1, T2, T3, T4, T5 = map(to_tid, range(1, 6))


def make_zeo_cache() -> Any:
    return ZeoCache(None, 100_000)


@pytest.fixture(
    params=[lambda: RingCache(100_000), lambda: ForeignCache(make_zeo_cache())],
    ids=["ring", "foreign"],
)
def cache(request: pytest.FixtureRequest) -> Iterator[ClientCache]:
    make: Callable[[], ClientCache] = request.param
    cache = make()
    yield cache
    cache.close()


def test_nothing_is_held_at_first(cache: ClientCache) -> None:
    assert cache.load_before(OID, MAX_TID) is None
    assert len(cache) == 0
    assert cache.last_tid() == NO_TID


def test_a_current_revision_answers_after_its_start(cache: ClientCache) -> None:
    cache.store(OID, T2, None, b"data")
    assert cache.load_before(OID, T2) is None
    assert cache.load_before(OID, T3) == (b"data", T2, None)
    assert cache.load_before(OID, MAX_TID) == (b"data", T2, None)
    assert cache.load_before(OTHER, MAX_TID) is None
    assert len(cache) == 1


def test_an_earlier_revision_answers_up_to_its_end(cache: ClientCache) -> None:
    cache.store(OID, T2, T4, b"data")
    assert cache.load_before(OID, T2) is None
    assert cache.load_before(OID, T3) == (b"data", T2, T4)
    assert cache.load_before(OID, T4) == (b"data", T2, T4)
    assert cache.load_before(OID, T5) is None
    assert len(cache) == 1


@pytest.mark.parametrize("data", [b"", b"x", b"x" * 20_000])
def test_data_of_any_length(cache: ClientCache, data: bytes) -> None:
    cache.store(OID, T1, None, data)
    cache.store(OTHER, T1, T2, data)
    assert cache.load_before(OID, T2) == (data, T1, None)
    assert cache.load_before(OTHER, T2) == (data, T1, T2)


def test_an_invalidation_ends_the_current_revision(cache: ClientCache) -> None:
    cache.store(OID, T2, None, b"data")
    cache.invalidate(OID, T4)
    assert cache.load_before(OID, T4) == (b"data", T2, T4)
    assert cache.load_before(OID, T5) is None
    assert len(cache) == 1


def test_an_invalidation_with_the_cached_tid_changes_nothing(cache: ClientCache) -> None:
    # ZODB 3.9.6 and ZEO 6.2: it wrecked the cache, with a KeyError at the eviction.
    cache.store(OID, T2, None, b"data")
    cache.invalidate(OID, T2)
    assert cache.load_before(OID, T3) == (b"data", T2, None)
    for n in range(2_000):
        cache.store(to_tid(n + 1), T2, None, b"x" * 100)
    cache.store(OID, T2, None, b"data")
    assert cache.load_before(OID, T3) == (b"data", T2, None)


def test_an_invalidation_older_than_the_revision_changes_nothing(cache: ClientCache) -> None:
    cache.store(OID, T3, None, b"data")
    cache.invalidate(OID, T2)
    assert cache.load_before(OID, MAX_TID) == (b"data", T3, None)


@pytest.mark.parametrize("is_held", [True, False])
def test_a_revision_is_replaced_by_the_next(cache: ClientCache, is_held: bool) -> None:
    if is_held:
        cache.store(OID, T2, None, b"old")
    cache.replace(OID, T4, b"new")
    assert cache.load_before(OID, T4) == ((b"old", T2, T4) if is_held else None)
    assert cache.load_before(OID, MAX_TID) == (b"new", T4, None)
    assert len(cache) == 1 + is_held


@pytest.mark.parametrize("start", [T4, T5])
def test_what_a_load_has_brought_already_is_not_replaced(cache: ClientCache, start: bytes) -> None:
    cache.store(OID, start, None, b"data")
    cache.replace(OID, T4, b"data")
    assert cache.load_before(OID, MAX_TID) == (b"data", start, None)
    assert cache.load_before(OID, T4) is None
    assert len(cache) == 1


def test_an_invalidation_of_something_not_held_changes_nothing(cache: ClientCache) -> None:
    cache.invalidate(OID, T2)
    cache.invalidate(OID, None)
    cache.store(OID, T1, T2, b"data")
    cache.invalidate(OID, T3)
    assert cache.load_before(OID, T2) == (b"data", T1, T2)
    assert len(cache) == 1


def test_an_invalidation_without_a_tid_forgets_the_current_revision(cache: ClientCache) -> None:
    cache.store(OID, T1, T2, b"earlier")
    cache.store(OID, T2, None, b"data")
    cache.invalidate(OID, None)
    assert cache.load_before(OID, MAX_TID) is None
    assert cache.load_before(OID, T2) == (b"earlier", T1, T2)
    assert len(cache) == 1


def test_revisions_side_by_side(cache: ClientCache) -> None:
    cache.store(OID, T3, None, b"three")
    cache.store(OID, T1, T2, b"one")
    assert cache.load_before(OID, T2) == (b"one", T1, T2)
    assert cache.load_before(OID, T3) is None
    assert cache.load_before(OID, T4) == (b"three", T3, None)
    cache.invalidate(OID, T4)
    cache.store(OID, T4, None, b"four")
    assert cache.load_before(OID, T4) == (b"three", T3, T4)
    assert cache.load_before(OID, T5) == (b"four", T4, None)
    assert len(cache) == 3


def test_storing_what_is_held_changes_nothing(cache: ClientCache) -> None:
    cache.store(OID, T1, T2, b"earlier")
    cache.store(OID, T2, None, b"data")
    cache.store(OID, T1, T2, b"earlier")
    cache.store(OID, T2, None, b"data")
    assert len(cache) == 2


def test_a_newer_current_revision_replaces_an_older_one(cache: ClientCache) -> None:
    # The server told of T3 in the answer to a load, before the invalidation.
    cache.store(OID, T1, None, b"old")
    cache.store(OID, T3, None, b"new")
    assert cache.load_before(OID, T4) == (b"new", T3, None)
    # T2 may have written it as well: the old one is no answer any more, for any tid.
    assert cache.load_before(OID, T3) is None
    cache.invalidate(OID, T3)
    assert cache.load_before(OID, T4) == (b"new", T3, None)
    assert len(cache) == 1


def test_an_older_current_revision_does_not_replace_a_newer_one(cache: ClientCache) -> None:
    cache.store(OID, T3, None, b"new")
    cache.store(OID, T1, None, b"old")
    assert cache.load_before(OID, T4) == (b"new", T3, None)
    assert cache.load_before(OID, T2) is None
    assert len(cache) == 1


def test_the_end_of_the_current_revision_may_be_learnt_by_a_load(cache: ClientCache) -> None:
    cache.store(OID, T1, None, b"data")
    cache.store(OID, T1, T3, b"data")
    assert cache.load_before(OID, T3) == (b"data", T1, T3)
    assert cache.load_before(OID, T4) is None
    assert len(cache) == 1


def test_a_current_revision_older_than_an_earlier_one_offered_is_stale(cache: ClientCache) -> None:
    cache.store(OID, T1, None, b"stale")
    cache.store(OID, T3, T4, b"later")
    assert cache.load_before(OID, T3) is None
    assert cache.load_before(OID, T4) == (b"later", T3, T4)
    assert cache.load_before(OID, T5) is None
    assert len(cache) == 1


def test_the_last_tid_only_grows(cache: ClientCache) -> None:
    cache.store(OID, T1, None, b"data")
    cache.set_last_tid(T3)
    cache.set_last_tid(T3)
    assert cache.last_tid() == T3
    with pytest.raises(ValueError, match="older"):
        cache.set_last_tid(T2)
    assert cache.last_tid() == T3
    cache.set_last_tid(T4)
    assert cache.last_tid() == T4


def test_clear_forgets_everything_and_the_last_tid(cache: ClientCache) -> None:
    cache.store(OID, T1, T2, b"earlier")
    cache.store(OID, T2, None, b"data")
    cache.set_last_tid(T4)
    cache.clear()
    assert cache.load_before(OID, T2) is None
    assert cache.load_before(OID, MAX_TID) is None
    assert len(cache) == 0
    assert cache.last_tid() == NO_TID
    cache.set_last_tid(T3)
    assert cache.last_tid() == T3
    cache.store(OID, T3, None, b"anew")
    assert cache.load_before(OID, T4) == (b"anew", T3, None)


def test_closed_it_answers_nothing_and_closes_again(cache: ClientCache) -> None:
    cache.store(OID, T1, None, b"data")
    cache.close()
    assert cache.load_before(OID, T2) is None
    cache.close()


def test_r6_suspects_are_not_served_until_they_are_cleared(cache: ClientCache) -> None:
    suspects = cache.suspects
    if isinstance(cache, ForeignCache):
        assert suspects is None
        return
    assert suspects is not None
    assert suspects.page() is None
    oids = [b"%08d" % n for n in range(6)]
    for oid in oids:
        cache.store(oid, T2, None, b"data")
    cache.store(OTHER, T1, T2, b"earlier")
    suspects.suspect_all()
    assert len(suspects) == 6
    assert len(cache) == 7
    for oid in oids:
        assert cache.load_before(oid, MAX_TID) is None
        assert cache.load_before(oid, T3) is None
    assert cache.load_before(OTHER, T2) == (b"earlier", T1, T2)
    page = suspects.page()
    assert page is not None
    number, pairs = page
    assert sorted(pairs) == [(oid, T2) for oid in oids]
    # Loaded meanwhile: found to be as it was, changed, changed before and after, ended.
    cache.store(oids[0], T2, None, b"data")
    cache.store(oids[1], T3, None, b"new")
    cache.invalidate(oids[2], T3)
    cache.store(oids[3], T2, T3, b"data")
    assert cache.load_before(oids[0], MAX_TID) == (b"data", T2, None)
    assert cache.load_before(oids[1], MAX_TID) == (b"new", T3, None)
    # Where it ended is not known: it may have changed before T3, too.
    assert cache.load_before(oids[2], T3) is None
    assert cache.load_before(oids[3], T3) == (b"data", T2, T3)
    assert len(suspects) == 2
    suspects.settle(number, [oids[1], oids[4]])
    assert len(suspects) == 0
    assert cache.load_before(oids[1], MAX_TID) == (b"new", T3, None)
    assert cache.load_before(oids[2], MAX_TID) is None
    assert cache.load_before(oids[4], MAX_TID) is None
    assert cache.load_before(oids[5], MAX_TID) == (b"data", T2, None)
    # That it is current is known again: so where it ends is.
    cache.invalidate(oids[5], T4)
    assert cache.load_before(oids[5], T4) == (b"data", T2, T4)


def test_what_we_make_of_a_suspect_is_none(cache: ClientCache) -> None:
    if cache.suspects is None:
        return
    cache.store(OID, T1, None, b"data")
    cache.suspects.suspect_all()
    cache.replace(OID, T4, b"new")
    assert cache.load_before(OID, MAX_TID) == (b"new", T4, None)
    # Others may have changed it before.
    assert cache.load_before(OID, T4) is None
    assert len(cache) == 1
    assert len(cache.suspects) == 0


def test_suspects_can_be_given_up(cache: ClientCache) -> None:
    if cache.suspects is None:
        return
    cache.store(OID, T1, None, b"data")
    cache.suspects.suspect_all()
    cache.store(OTHER, T1, None, b"data")
    assert cache.suspects.forget_all() == 1
    assert len(cache) == 1
    assert cache.load_before(OTHER, MAX_TID) == (b"data", T1, None)
    cache.store(OID, T1, None, b"data")
    assert cache.load_before(OID, MAX_TID) == (b"data", T1, None)


def test_a_server_that_says_otherwise_is_believed(cache: ClientCache) -> None:
    """Of what is suspect an answer knows more than we do, even if it names an older revision."""
    if cache.suspects is None:
        return
    cache.store(OID, T3, None, b"gone")
    cache.suspects.suspect_all()
    cache.store(OID, T2, None, b"data")
    assert cache.load_before(OID, MAX_TID) == (b"data", T2, None)


def test_it_keeps_to_its_size(cache: ClientCache) -> None:
    for n in range(3_000):
        cache.store(to_tid(n), T1, None, b"x" * 100)
        assert cache.load_before(to_tid(n), T2) == (b"x" * 100, T1, None)
    assert 500 < len(cache) < 1_000
    held = sum(cache.load_before(to_tid(n), T2) is not None for n in range(3_000))
    assert held == len(cache)


def test_far_more_than_it_can_hold_is_not_kept(cache: ClientCache) -> None:
    cache.store(OID, T1, None, b"old")
    cache.store(OID, T2, None, b"x" * 1_000_000)
    assert cache.load_before(OID, T3) is None, "not kept, and what it replaces is stale"
    cache.store(OID, T1, T2, b"x" * 1_000_000)
    assert cache.load_before(OID, T2) is None
    assert len(cache) == 0


def test_a_foreign_cache_that_knows_a_tid_is_asked_for_it() -> None:
    zeo_cache = make_zeo_cache()
    zeo_cache.setLastTid(T3)
    cache = ForeignCache(zeo_cache)
    try:
        assert cache.last_tid() == T3
        cache.set_last_tid(T4)
        assert zeo_cache.getLastTid() == T4
    finally:
        cache.close()


def test_many_are_kept_as_one_after_the_other(cache: ClientCache) -> None:
    third = b"\0" * 7 + b"\3"
    cache.store(OTHER, T1, None, b"older")
    cache.store_many(
        [
            (OID, T2, None, b"current"),
            (third, T1, T3, b"earlier"),
            (OTHER, T3, None, b"newer"),
            (OID, T2, None, b"again"),
            (third, T3, None, b"current, too"),
        ]
    )
    assert cache.load_before(OID, MAX_TID) == (b"current", T2, None)
    assert cache.load_before(third, T3) == (b"earlier", T1, T3)
    assert cache.load_before(third, MAX_TID) == (b"current, too", T3, None)
    assert cache.load_before(OTHER, MAX_TID) == (b"newer", T3, None)
    cache.store_many([])
    cache.store_many([(OID, T3, None, b"newer"), (third, T2, None, b"late")])
    assert cache.load_before(OID, MAX_TID) == (b"newer", T3, None)
    assert cache.load_before(third, MAX_TID) == (b"current, too", T3, None)


def test_many_are_dropped_when_closed(cache: ClientCache) -> None:
    if isinstance(cache, RingCache):
        cache.close()
        cache.store_many([(OID, T2, None, b"data")])
        assert cache.load_before(OID, MAX_TID) is None


def test_it_says_how_many_it_holds(cache: ClientCache) -> None:
    assert cache.statistics().revisions == 0
    cache.store(OID, T1, T2, b"one")
    cache.store(OID, T2, None, b"two")
    assert cache.statistics().revisions == 2

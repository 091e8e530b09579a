"""R2: the client applies messages in the order of their arrival."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from tests.rules.conftest import Attach, Database, tid_of
from tests.support.raw import oid_of
from tests.support.waiting import Background, wait_until
from ZODB.Connection import TransactionMetaData

from zeolith.cache import RingCache
from zeolith.protocol.loadrequests import LoadedMany, LoadMany
from zeolith.protocol.messages import Call, InvalidateTransaction, LoadBefore, Ping, TpcFinish, Vote
from zeolith.types import MAX_TID

X = oid_of(7)


def served_from_cache(storage: Any, oid: bytes, tid: bytes = MAX_TID) -> Any:
    return storage._cache.load_before(oid, tid)


@pytest.mark.parametrize("is_split", [False, True])
def test_r2_a_load_answered_before_an_invalidation_is_not_current_after_it(
    attach: Attach, is_split: bool
) -> None:
    """A row 1 (ZEO#155)."""
    storage, server = attach()
    load = Background(lambda: storage.loadBefore(X, MAX_TID))
    call = server.expect(LoadBefore)
    frames = [
        server.reply_bytes(call, (b"old", tid_of(1), None)),
        server.notice_bytes(InvalidateTransaction(tid_of(2), [X])),
    ]
    if is_split:
        for frame in frames:
            server.send(frame)
    else:
        server.send(*frames)
    assert load.result() == (b"old", tid_of(1), None)
    wait_until(lambda: storage.lastTransaction() == tid_of(2))
    assert served_from_cache(storage, X) is None
    assert served_from_cache(storage, X, tid_of(2)) in (None, (b"old", tid_of(1), tid_of(2)))


def test_r2_a_load_answered_after_an_invalidation_is_current(attach: Attach) -> None:
    storage, server = attach()
    load = Background(lambda: storage.loadBefore(X, MAX_TID))
    call = server.expect(LoadBefore)
    server.send(
        server.notice_bytes(InvalidateTransaction(tid_of(2), [X])),
        server.reply_bytes(call, (b"new", tid_of(2), None)),
    )
    assert load.result() == (b"new", tid_of(2), None)
    assert served_from_cache(storage, X) == (b"new", tid_of(2), None)


def test_r2_a_load_may_show_a_transaction_before_its_invalidation(attach: Attach) -> None:
    """A (3.9.6): the invalidation that names the cached tid does not wreck the cache."""
    storage, server = attach()
    load = Background(lambda: storage.loadBefore(X, MAX_TID))
    call = server.expect(LoadBefore)
    server.send(
        server.reply_bytes(call, (b"new", tid_of(2), None)),
        server.notice_bytes(InvalidateTransaction(tid_of(2), [X])),
    )
    load.result()
    wait_until(lambda: storage.lastTransaction() == tid_of(2))
    assert served_from_cache(storage, X) in (None, (b"new", tid_of(2), None))
    server.notify(InvalidateTransaction(tid_of(3), [X]))
    wait_until(lambda: storage.lastTransaction() == tid_of(3))
    assert served_from_cache(storage, X) is None


def test_r2_the_reader_fills_the_cache_not_the_thread_that_waits(
    attach: Attach, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread waits for a load while another one reads.  Whoever stores the answer is stopped
    until the invalidation behind it has been applied, or until it is clear that it cannot be."""
    applied = threading.Event()
    store, invalidate = RingCache.store, RingCache.invalidate

    def late_store(cache: RingCache, *record: Any) -> None:
        applied.wait(0.3)
        store(cache, *record)

    def noted_invalidate(cache: RingCache, oid: bytes, tid: bytes | None) -> None:
        invalidate(cache, oid, tid)
        applied.set()

    monkeypatch.setattr(RingCache, "store", late_store)
    monkeypatch.setattr(RingCache, "invalidate", noted_invalidate)
    storage, server = attach()
    leader = Background(storage.ping)
    ping = server.next_call()
    while ping.request != Ping():
        ping = server.next_call()
    follower = Background(lambda: storage.loadBefore(X, MAX_TID))
    load = server.expect(LoadBefore)
    server.send(
        server.reply_bytes(load, (b"old", tid_of(1), None)),
        server.notice_bytes(InvalidateTransaction(tid_of(2), [X])),
        server.reply_bytes(ping, None),
    )
    leader.result()
    follower.result()
    assert storage.lastTransaction() == tid_of(2)
    assert served_from_cache(storage, X) is None


@pytest.mark.parametrize("is_split", [False, True])
def test_r2_prefetched_objects_keep_the_order_too(attach: Attach, is_split: bool) -> None:
    """An invalidation between two parts of an answer: each part is right at its own place."""
    storage, server = attach()
    oids = [oid_of(number) for number in (1, 2, 3)]
    storage.prefetch(oids, tid_of(9))
    assert server.expect(LoadMany).request == LoadMany(tid_of(9), tuple(oids))
    one, two, three = zip(oids, (tid_of(1), tid_of(2), tid_of(1)), (None,) * 3, (b"1", b"2", b"3"))
    parts = [[one], [two, three]] if is_split else [[one, three], [two]]
    server.send(
        server.notice_bytes(LoadedMany(tid_of(9), parts[0])),
        server.notice_bytes(InvalidateTransaction(tid_of(2), oids[:2])),
        server.notice_bytes(LoadedMany(tid_of(9), parts[1])),
    )
    wait_until(lambda: storage.lastTransaction() == tid_of(2))
    wait_until(lambda: served_from_cache(storage, oids[2]))
    assert served_from_cache(storage, oids[0]) is None
    assert served_from_cache(storage, oids[1]) == (b"2", tid_of(2), None)


def test_r2_many_answers_are_in_the_cache_before_anybody_learns_of_one(
    attach: Attach, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever stores them is stopped until the invalidation behind them has been applied, or until
    it is clear that it cannot be."""
    applied = threading.Event()
    store_many, invalidate = RingCache.store_many, RingCache.invalidate

    def late_store(cache: RingCache, records: Any) -> None:
        applied.wait(0.3)
        store_many(cache, records)

    def noted_invalidate(cache: RingCache, oid: bytes, tid: bytes | None) -> None:
        invalidate(cache, oid, tid)
        applied.set()

    monkeypatch.setattr(RingCache, "store_many", late_store)
    monkeypatch.setattr(RingCache, "invalidate", noted_invalidate)
    storage, server = attach()
    storage.prefetch([X, oid_of(8)], MAX_TID)
    server.expect(LoadMany)
    loads = [Background(lambda: storage.loadBefore(X, MAX_TID)) for _ in range(2)]
    records = [(X, tid_of(1), None, b"old"), (oid_of(8), tid_of(1), None, b"other")]
    server.send(
        server.notice_bytes(LoadedMany(MAX_TID, records)),
        server.notice_bytes(InvalidateTransaction(tid_of(2), [X])),
    )
    assert [load.result() for load in loads] == [(b"old", tid_of(1), None)] * 2
    wait_until(lambda: storage.lastTransaction() == tid_of(2))
    assert served_from_cache(storage, X) is None
    assert served_from_cache(storage, oid_of(8)) == (b"other", tid_of(1), None)


def test_r2_our_own_commit_takes_its_place_among_the_others(attach: Attach) -> None:
    """A (ZEO#195): a notice overtakes no reply, and a reply no notice."""
    storage, server = attach()
    database = Database(storage)
    order: list[object] = []
    database.on_invalidate = order.append
    meta = TransactionMetaData()
    storage.tpc_begin(meta)
    storage.store(X, tid_of(1), b"ours", "", meta)

    def commit() -> bytes:
        storage.tpc_vote(meta)
        return storage.tpc_finish(meta, lambda tid: order.append((tid, "ours")))

    committing = Background(commit)
    vote = server.next()
    while not (isinstance(vote, Call) and isinstance(vote.request, Vote)):
        vote = server.next()
    server.reply(vote, [])
    finish = server.expect(TpcFinish)
    server.send(
        server.notice_bytes(InvalidateTransaction(tid_of(2), [X])),
        server.reply_bytes(finish, tid_of(3)),
        server.notice_bytes(InvalidateTransaction(tid_of(4), [oid_of(8)])),
    )
    assert committing.result() == tid_of(3)
    wait_until(lambda: storage.lastTransaction() == tid_of(4))
    assert order == [tid_of(2), (tid_of(3), "ours"), tid_of(4)]
    assert served_from_cache(storage, X) == (b"ours", tid_of(3), None)


def test_r2_an_invalidation_right_after_our_commit_wins(attach: Attach) -> None:
    """Another client changes the object we have just written."""
    storage, server = attach()
    meta = TransactionMetaData()
    storage.tpc_begin(meta)
    storage.store(X, tid_of(1), b"ours", "", meta)
    committing = Background(lambda: (storage.tpc_vote(meta), storage.tpc_finish(meta)))
    vote = server.next()
    while not (isinstance(vote, Call) and isinstance(vote.request, Vote)):
        vote = server.next()
    server.reply(vote, [])
    finish = server.expect(TpcFinish)
    server.send(
        server.reply_bytes(finish, tid_of(2)),
        server.notice_bytes(InvalidateTransaction(tid_of(3), [X])),
    )
    committing.result()
    wait_until(lambda: storage.lastTransaction() == tid_of(3))
    assert served_from_cache(storage, X) is None


def test_r2_concurrent_loads_of_one_object_share_one_request(attach: Attach) -> None:
    storage, server = attach()
    first = Background(lambda: storage.loadBefore(X, MAX_TID))
    call = server.expect(LoadBefore)
    others = [Background(lambda: storage.loadBefore(X, MAX_TID)) for _ in range(5)]
    slots = storage._link.channel()._slots
    wait_until(lambda: len(slots[X, MAX_TID].locks) >= 5 if (X, MAX_TID) in slots else False)
    server.reply(call, (b"data", tid_of(1), None))
    assert [load.result() for load in [first, *others]] == [(b"data", tid_of(1), None)] * 6
    storage_pings = Background(storage.ping)
    asked = server.next_call()
    assert asked.request == Ping(), "a second request was sent"
    server.reply(asked, None)
    storage_pings.result()

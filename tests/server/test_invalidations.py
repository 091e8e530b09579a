"""What the last transactions changed."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zeolith.server.invalidations import ENTRY_OVERHEAD, InvalidationLog, split
from zeolith.types import NO_TID


def num(number: int) -> bytes:
    return number.to_bytes(8, "big")


def joined(*numbers: int) -> bytes:
    return b"".join(map(num, numbers))


def since(log: InvalidationLog, tid: bytes) -> tuple[bytes, list[bytes]] | None:
    """What is known to have changed after *tid*, the newest first."""
    entries = log.after(tid)
    if entries is None:
        return None
    oids = [oid for _, oids in reversed(entries) for oid in split(oids)]
    return log.last_tid, list(dict.fromkeys(oids))


def log_of(
    transactions: Iterable[tuple[int, list[int]]], size: int = 100, memory: int = 100_000
) -> InvalidationLog:
    log = InvalidationLog(size, memory)
    log.reset(num(0), [])
    for tid, oids in transactions:
        log.append(num(tid), map(num, oids))
    return log


def test_what_changed_since() -> None:
    log = log_of([(1, [1]), (2, [2, 3]), (3, []), (4, [1, 4])])
    assert log.last_tid == num(4)
    found = since(log, num(1))
    assert found is not None
    assert found[0] == num(4)
    assert sorted(found[1]) == [num(1), num(2), num(3), num(4)]
    assert since(log, num(3)) == (num(4), [num(1), num(4)])
    assert since(log, num(4)) == (num(4), [])
    # Newer than anything here: the client compares the tids.
    assert since(log, num(9)) == (num(4), [])


def test_only_the_last_are_kept() -> None:
    log = log_of([(n, [n]) for n in range(1, 6)], size=2)
    assert len(log) == 2
    assert log.floor == num(3)
    assert since(log, num(2)) is None
    assert since(log, num(3)) == (num(5), [num(5), num(4)])


def test_a_queue_of_size_zero_knows_the_last_tid() -> None:
    log = log_of([(1, [1]), (2, [2])], size=0)
    assert len(log) == 0
    assert since(log, num(1)) is None
    assert since(log, num(2)) == (num(2), [])


def test_r8_the_memory_of_all_transactions_is_bounded() -> None:
    log = log_of([(n, list(range(40))) for n in range(1, 6)], memory=2 * (320 + ENTRY_OVERHEAD))
    assert len(log) == 2
    # One that is larger than all that may be kept is not kept, and nothing before it.
    log.append(num(6), map(num, range(1000)))
    assert len(log) == 0
    assert since(log, num(5)) is None
    assert since(log, num(6)) == (num(6), [])
    log.append(num(7), [])
    assert log.after(num(6)) == [(num(7), b"")]


def test_r8_a_transaction_takes_no_more_than_is_counted() -> None:
    for size in (0, 1, 1000):
        tracemalloc.start()
        try:
            log = log_of([], size=10_000, memory=1 << 30)
            before = tracemalloc.get_traced_memory()[0]
            for tid in range(1, 201):
                log.append(num(tid), map(num, range(tid, tid + size)))
            used = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
        assert used <= 200 * (8 * size + ENTRY_OVERHEAD)


def test_starting_from_a_storages_list() -> None:
    log = InvalidationLog(100, 100_000)
    log.reset(num(3), [(num(2), joined(20, 21)), (num(3), joined(30))])
    assert since(log, num(2)) == (num(3), [num(30)])
    # What the transaction before the oldest one changed is not known.
    assert since(log, num(1)) is None


def test_starting_from_a_list_longer_than_the_queue() -> None:
    log = InvalidationLog(2, 100_000)
    log.reset(num(4), [(num(n), num(n)) for n in (1, 2, 3, 4)])
    assert since(log, num(2)) == (num(4), [num(4), num(3)])
    assert since(log, num(1)) is None


def test_starting_without_a_list() -> None:
    log = InvalidationLog(100, 100_000)
    log.reset(num(7), [])
    assert since(log, num(6)) is None
    assert since(log, num(7)) == (num(7), [])
    log.append(num(8), [num(1)])
    assert since(log, num(7)) == (num(8), [num(1)])


def test_a_list_that_does_not_reach_the_last_transaction_is_not_trusted() -> None:
    log = InvalidationLog(100, 100_000)
    log.reset(num(9), [(num(7), num(1)), (num(8), num(2))])
    assert (log.floor, log.last_tid, len(log)) == (num(9), num(9), 0)


def test_starting_anew_forgets() -> None:
    log = log_of([(1, [1]), (2, [2])])
    log.reset(num(5), [])
    assert since(log, num(1)) is None
    assert since(log, num(5)) == (num(5), [])


def test_an_empty_storage() -> None:
    log = InvalidationLog(100, 100_000)
    log.reset(NO_TID, [])
    assert since(log, NO_TID) == (NO_TID, [])
    log.append(num(1), [num(0)])
    assert since(log, NO_TID) == (num(1), [num(0)])


@pytest.mark.parametrize(
    ("oid", "tid", "expected"),
    [(1, 3, True), (1, 4, False), (2, 2, False), (3, 1, True), (9, 2, False), (9, 0, True)],
)
def test_whether_an_object_changed(oid: int, tid: int, expected: bool) -> None:
    log = log_of([(1, [0]), (2, [2, 3]), (3, []), (4, [1])], size=3)
    assert log.has_changed(num(oid), num(tid)) is expected


def test_an_id_that_is_only_seen_across_two_others_has_not_changed() -> None:
    log = log_of([(1, [0x0102030405060708, 0x1112131415161718])])
    assert log.has_changed(num(0x1112131415161718), num(0))
    assert not log.has_changed(num(0x0506070811121314), num(0))
    # Seen across two others first, and then as one of them.
    log.append(num(2), [num(0x7FF), num(0xFFFFFFFFFFFFFFFF), num(0xFF)])
    assert log.has_changed(num(0xFFFFFFFFFFFFFFFF), num(1))


@given(
    st.lists(st.lists(st.integers(0, 9), max_size=4), max_size=20),
    st.integers(0, 22),
    st.integers(0, 6),
    st.integers(0, 12 * ENTRY_OVERHEAD),
)
def test_r6_an_answer_is_complete_or_none(
    changes: list[list[int]], after: int, size: int, memory: int
) -> None:
    log = log_of(enumerate(changes, 1), size, memory)
    found = since(log, num(after))
    expected = {num(oid) for oids in changes[after:] for oid in oids}
    if found is not None:
        assert found[0] == num(len(changes))
        assert set(found[1]) == expected
        assert len(set(found[1])) == len(found[1])
    for oid in range(10):
        if num(oid) in expected:
            assert log.has_changed(num(oid), num(after))

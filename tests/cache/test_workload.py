"""A trace as what was asked for, whatever the traced cache held."""

from __future__ import annotations

from zeolith.cache.traces import EMPTY, ZERO, Code, Event
from zeolith.cache.workload import STEP_BITS, STEP_MASK, Step, Workload, WorkloadReader

A, B = b"\0" * 7 + b"\1", b"\0" * 7 + b"\2"
T1, T2, T3 = (n.to_bytes(8, "big") for n in (1, 2, 3))


def event(
    code: int, oid: bytes = b"", start: bytes = ZERO, end: bytes = ZERO, length: int = 0
) -> Event:
    return Event(1000 + code, code, False, length, oid, start, end)


def make(*events: Event) -> Workload:
    reader = WorkloadReader()
    for one in events:
        reader.add(one)
    return reader.finish()


def steps(workload: Workload) -> list[tuple[Step, int]]:
    return [(Step(step & STEP_MASK), step >> STEP_BITS) for step in workload.steps]


def test_a_miss_asked_for_what_is_stored_next() -> None:
    workload = make(
        event(Code.LOAD_MISS, A),
        event(Code.LOAD_MISS, B),
        event(Code.LOAD_MISS, A),
        event(Code.STORE, B, T2, length=20),
        event(Code.STORE, A, T1, length=10),
        event(Code.LOAD_HIT, A, T1, length=10),
        event(Code.LOAD_EARLIER_MISS, A, end=T1),
    )
    assert steps(workload) == [
        (Step.LOAD, 1),
        (Step.LOAD, 0),
        (Step.LOAD, 1),
        (Step.STORE, 0),
        (Step.STORE, 1),
        (Step.LOAD, 1),
        (Step.MISS, 0),
    ]
    assert workload.lengths.tolist() == [20, 10]
    assert workload.oids.tolist() == [2, 1]
    assert workload.starts.tolist() == [2, 1]
    assert workload.loads == 5
    assert workload.times.tolist() == [1032, 1032, 1032, 1034, 1036]


def test_what_a_warm_cache_held_is_known_by_its_hits() -> None:
    workload = make(
        event(Code.LOAD_HIT, A, T1, length=10), event(Code.LOAD_EARLIER_HIT, B, end=T2, length=9)
    )
    assert steps(workload) == [(Step.LOAD, 0), (Step.LOAD, 1)]
    assert workload.starts.tolist() == [1, 2]
    assert workload.lengths.tolist() == [10, 9]


def test_revisions_end() -> None:
    workload = make(
        event(Code.STORE, A, T1, length=10),
        event(Code.INVALIDATE_MISS, A, T2),  # the traced cache had dropped it
        event(Code.STORE, A, T2, length=11),
        event(Code.STORE_EARLIER, B, T1, T3, length=12),
        event(Code.INVALIDATE_DISCARD, A),
        event(Code.INVALIDATE_KEEP, B, T3),  # of which no current one was seen
        event(Code.LOAD_EARLIER_HIT, A, end=T1, length=10),
    )
    assert steps(workload) == [
        (Step.STORE, 0),
        (Step.END, 0),
        (Step.STORE, 1),
        (Step.STORE, 2),
        (Step.END, 1),
        (Step.LOAD, 0),
    ]
    assert workload.ends.tolist() == [2, 0, 3]


def test_starts() -> None:
    workload = make(event(Code.START, end=EMPTY), event(Code.START))
    assert steps(workload) == [(Step.CLEAR, 0)]


def test_tids_that_are_none() -> None:
    workload = make(event(Code.STORE, A, EMPTY, length=1), event(Code.STORE, B, T1, EMPTY, 1))
    assert max(*workload.starts, *workload.ends) < 2**63 - 1


def test_loads_alone() -> None:
    workload = Workload.of_reads([1, 0, 1], [7, 8])
    assert steps(workload) == [(Step.LOAD, 1), (Step.LOAD, 0), (Step.LOAD, 1)]
    assert workload.lengths.tolist() == [7, 8]
    assert workload.loads == 3


def test_zeo_writes_a_miss_twice() -> None:
    workload = make(
        event(Code.LOAD_MISS, A),
        event(Code.LOAD_EARLIER_MISS, A, end=T2),
        event(Code.STORE, A, T1, length=1),
        event(Code.LOAD_MISS, A),
        event(Code.LOAD_EARLIER_MISS, B, end=T2),
    )
    assert workload.loads == 3

"""The trace of a cache says what the cache was asked, and what it answered."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from zeolith.cache import RingCache
from zeolith.cache.home import CacheHome
from zeolith.cache.traced import TracedCache
from zeolith.cache.tracefile import TraceFile
from zeolith.cache.traces import EMPTY, ZERO, Code, Event, open_trace
from zeolith.types import MAX_TID


def to_tid(n: int) -> bytes:
    return n.to_bytes(8, "big")


A, B, C = map(to_tid, range(100, 103))
T1, T2, T3, T4, T5 = map(to_tid, range(1, 6))


class Traced:
    """A traced cache, and what its trace says since it was asked last."""

    def __init__(self, path: Path, size: int = 100_000, home: CacheHome | None = None) -> None:
        self.trace = TraceFile(str(path))
        self.cache = TracedCache(size, self.trace, home=home)
        self._read = 0
        self.said()

    def said(self) -> list[tuple[int, bytes, bytes, bytes, int]]:
        self.trace.flush()
        with open_trace(self.trace.path) as reader:
            events = list(reader)
        new, self._read = events[self._read :], len(events)
        return [(event.code, event.oid, event.start, event.end, event.length) for event in new]


@pytest.fixture
def open_traced(tmp_path: Path) -> Iterator[Callable[..., Traced]]:
    opened: list[Traced] = []

    def open_one(size: int = 100_000, home: CacheHome | None = None) -> Traced:
        opened.append(Traced(tmp_path / "cache.trace", size, home))
        return opened[-1]

    yield open_one
    for traced in opened:
        traced.cache.close()


def test_loads(open_traced: Callable[..., Traced]) -> None:
    traced = open_traced()
    cache = traced.cache
    cache.set_last_tid(T3)
    assert cache.load_before(A, MAX_TID) is None
    assert cache.load_before(A, T3) is None
    cache.store(A, T1, T2, b"one")
    cache.store(A, T2, None, b"other")
    assert cache.load_before(A, T4) == (b"other", T2, None)
    assert cache.load_before(A, T2) == (b"one", T1, T2)
    assert traced.said() == [
        (Code.LOAD_MISS, A, ZERO, ZERO, 0),
        (Code.LOAD_EARLIER_MISS, A, ZERO, T3, 0),
        (Code.STORE_EARLIER, A, T1, T2, 3),
        (Code.STORE, A, T2, ZERO, 5),
        (Code.LOAD_HIT, A, T2, ZERO, 5),
        (Code.LOAD_EARLIER_HIT, A, ZERO, T1, 3),
    ]


def test_stores(open_traced: Callable[..., Traced]) -> None:
    traced = open_traced()
    cache = traced.cache
    cache.store(A, T2, None, b"data")
    cache.store(A, T2, None, b"data")
    cache.store(A, T1, None, b"older")
    cache.store(B, T1, None, b"x" * 50_000)
    cache.store_many([(C, T1, None, b"new"), (A, T3, None, b"newer"), (B, T1, T2, b"ended")])
    assert traced.said() == [
        (Code.STORE, A, T2, ZERO, 4),
        (Code.STORE, B, T1, ZERO, 50_000),  # for which a larger cache has room
        (Code.STORE, C, T1, ZERO, 3),
        (Code.STORE, A, T3, ZERO, 5),
        (Code.STORE_EARLIER, B, T1, T2, 5),
    ]
    assert cache.load_before(B, MAX_TID) is None


def test_invalidations(open_traced: Callable[..., Traced]) -> None:
    traced = open_traced()
    cache = traced.cache
    for oid in (A, B):
        cache.store(oid, T2, None, b"data")
    traced.said()
    cache.invalidate(A, T2)
    cache.invalidate(A, T3)
    cache.invalidate(A, T4)
    cache.invalidate(B, None)
    cache.invalidate(B, None)
    cache.replace(B, T4, b"own")
    cache.replace(B, T5, b"next")
    assert cache.load_before(B, T5) == (b"own", T4, T5)
    assert traced.said()[:-1] == [
        (Code.INVALIDATE_KEEP, A, T3, ZERO, 0),
        (Code.INVALIDATE_MISS, A, T4, ZERO, 0),
        (Code.INVALIDATE_DISCARD, B, ZERO, ZERO, 0),
        (Code.INVALIDATE_MISS, B, ZERO, ZERO, 0),
        (Code.INVALIDATE_MISS, B, T4, ZERO, 0),
        (Code.STORE, B, T4, ZERO, 3),
        (Code.INVALIDATE_KEEP, B, T5, ZERO, 0),
        (Code.STORE, B, T5, ZERO, 4),
    ]


def test_nothing_goes_past_the_trace() -> None:
    """A method that is added to the cache has to be traced, or to be named here."""
    inherited = {
        name
        for name in dir(RingCache)
        if not name.startswith("_") and getattr(TracedCache, name) is getattr(RingCache, name)
    }
    assert inherited == {
        *("database", "set_database", "last_tid", "set_last_tid"),
        *("statistics", "store_many"),  # the latter calls what is traced
    }


def test_an_empty_beginning_is_told_from_a_warm_one(
    tmp_path: Path, open_traced: Callable[..., Traced]
) -> None:
    def open_again() -> Traced:
        return open_traced(home=CacheHome(str(tmp_path / "app.zec")))

    traced = open_again()
    traced.cache.store(A, T1, None, b"data")
    traced.cache.close()
    traced = open_again()
    traced.cache.clear()
    traced.cache.close()
    with open_trace(traced.trace.path) as reader:
        starts = [event.end for event in reader if event.code == Code.START]
    assert starts == [EMPTY, ZERO, EMPTY]


def test_it_does_what_the_other_does(open_traced: Callable[..., Traced]) -> None:
    """Tracing changes neither what is held nor what is kept."""
    plain, traced = RingCache(20_000), open_traced(20_000).cache
    try:
        for n in range(3_000):
            oid = to_tid(n * n % 331)
            assert plain.load_before(oid, MAX_TID) == traced.load_before(oid, MAX_TID)
            for cache in (plain, traced):
                if n % 7 == 0:
                    cache.invalidate(oid, to_tid(n))
                cache.store(oid, to_tid(n), None, b"%100d" % n)
        assert plain.statistics() == traced.statistics()
    finally:
        plain.close()


def test_a_cache_saved_has_its_trace_written(open_traced: Callable[..., Traced]) -> None:
    traced = open_traced()
    traced.cache.load_before(A, MAX_TID)
    traced.cache.save()
    with open_trace(traced.trace.path) as reader:
        assert [event.code for event in reader] == [Code.START, Code.LOAD_MISS]


def test_threads(open_traced: Callable[..., Traced]) -> None:
    traced = open_traced()
    cache = traced.cache
    for n in range(100):
        cache.store(to_tid(n), T1, None, b"data")
    before = len(traced.said())

    def load() -> None:
        for n in range(3_000):
            assert cache.load_before(to_tid(n % 100), MAX_TID) is not None

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    for n in range(100, 1_000):
        cache.store(to_tid(n), T1, None, b"data")
    for thread in threads:
        thread.join()
    assert before == 100
    codes = [code for code, *_ in traced.said()]
    assert codes.count(Code.LOAD_HIT) == 12_000
    assert codes.count(Code.STORE) == 900


def test_zeos_tools_read_it(
    tmp_path: Path, open_traced: Callable[..., Traced], capsys: pytest.CaptureFixture[str]
) -> None:
    from ZEO.scripts import cache_simul, cache_stats

    traced = open_traced()
    cache = traced.cache
    for n in range(500):
        oid = to_tid(n % 50 + 1)
        cache.set_last_tid(to_tid(n + 1))
        if cache.load_before(oid, MAX_TID) is None or n % 3 == 0:
            cache.invalidate(oid, to_tid(n + 1))
            cache.store(oid, to_tid(n + 1), None, b"x" * 100)
        cache.load_before(oid, to_tid(n // 2 + 1))
        cache.invalidate(to_tid(7000 + n), to_tid(n + 1))
    cache.invalidate(to_tid(1), None)
    cache.clear()
    # ZEO's simulation fails where a trace ends with a start.
    cache.invalidate(to_tid(1), to_tid(600))
    cache.close()
    with open_trace(traced.trace.path) as reader:
        events: list[Event] = list(reader)
    present = {event.code for event in events}
    assert present >= {0, 0x10, 0x1C, 0x1E, 0x20, 0x22, 0x24, 0x26, 0x52}
    hits = sum(event.code in (0x22, 0x26) for event in events)
    assert cache_stats.main(["-v", "-h", "-s", traced.trace.path]) is None
    out = capsys.readouterr().out
    assert f"Read {len(events):,} trace records" in out
    assert f"{100 * hits / 1000:5.1f}%".strip() in out
    assert "unknown code" not in out
    assert cache_simul.main(["-s", "0.01", traced.trace.path]) is None
    assert "CircularCacheSimulation" in capsys.readouterr().out

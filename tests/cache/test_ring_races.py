"""Hits take no lock: whatever happens between their steps, the answer is right or None."""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
from bisect import bisect_left
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from zeolith.cache import RingCache, ring
from zeolith.cache.log import LENGTH_BITS
from zeolith.types import MAX_TID

OID = b"\0" * 7 + b"\7"


def to_tid(n: int) -> bytes:
    return n.to_bytes(8, "big")


T1, T2, T3 = map(to_tid, range(1, 4))


@pytest.fixture
def cache() -> Iterator[RingCache]:
    cache = RingCache(10_000)
    yield cache
    cache.close()


class Interruption:
    """Stands for ``pread`` in the path of a hit; acts once, before or in the middle of it."""

    def __init__(self) -> None:
        self.before: Callable[[], None] | None = None
        self.midway: Callable[[], None] | None = None
        self.reads = 0

    def __call__(self, fd: int, length: int, offset: int) -> bytes:
        self.reads += 1
        act, self.before = self.before, None
        if act is not None:
            act()
        act, self.midway = self.midway, None
        if act is None:
            return os.pread(fd, length, offset)
        # The worst a reader can see of a place written over meanwhile: a bit of both.
        half = length // 2
        first = os.pread(fd, half, offset)
        act()
        return first + os.pread(fd, length - half, offset + half)


@pytest.fixture
def interruption(monkeypatch: pytest.MonkeyPatch) -> Interruption:
    interruption = Interruption()
    monkeypatch.setattr(ring, "pread", interruption)
    return interruption


def drive_out(cache: RingCache) -> None:
    """Write over the whole file."""
    for n in range(1000, 1200):
        cache.store(to_tid(n), T2, None, b"y" * 100)


def in_a_thread(act: Callable[[], None]) -> Callable[[], None]:
    """Have *act* done by another thread, to the end."""

    def run() -> None:
        thread = threading.Thread(target=act)
        thread.start()
        thread.join()

    return run


@pytest.mark.parametrize("when", ["before", "midway"])
def test_a_place_written_over_during_a_hit(
    cache: RingCache, interruption: Interruption, when: str
) -> None:
    cache.store(OID, T1, None, b"x" * 100)
    setattr(interruption, when, in_a_thread(lambda: drive_out(cache)))
    assert cache.load_before(OID, MAX_TID) is None
    assert interruption.reads == 1


@pytest.mark.parametrize("when", ["before", "midway"])
def test_a_place_written_over_with_the_same_object(
    cache: RingCache, interruption: Interruption, when: str
) -> None:
    # Same object, same place, same length: only the sweep count tells that it is another record.
    cache.store(OID, T1, None, b"x" * 100)
    place = cache._index.get(OID)

    def replace() -> None:
        drive_out(cache)
        cache.clear()
        cache.store(OID, T2, None, b"y" * 100)

    setattr(interruption, when, in_a_thread(replace))
    assert cache.load_before(OID, MAX_TID) == (b"y" * 100, T2, None)
    assert cache._index.get(OID) == place
    assert cache.load_before(OID, T2) is None


def test_a_place_written_over_with_an_earlier_revision(
    cache: RingCache, interruption: Interruption
) -> None:
    # The record is whole and the object's, but it is not the current one.
    cache.store(OID, T2, None, b"x" * 100)
    place = cache._index.get(OID)
    assert place is not None

    def replace() -> None:
        cache.clear()
        cache.store(OID, T1, T2, b"y" * 100)

    interruption.before = in_a_thread(replace)
    assert cache.load_before(OID, MAX_TID) is None
    assert cache._earlier.has_place(OID, place)


@pytest.mark.parametrize("when", ["before", "midway"])
def test_a_place_written_over_in_the_course_of_sweeps(
    cache: RingCache, interruption: Interruption, when: str
) -> None:
    # As above, without clear(): the file is gone round until the object comes to lie there again.
    # The rest of the cache is full already, so that what is not used has to go.
    for n in range(2_000):
        cache.store(to_tid(10_000 + n), T1, None, b"x" * 100)
    cache.store(OID, T1, None, b"x" * 100)
    place = cache._index.get(OID)
    assert place is not None

    def replace() -> None:
        position = place >> LENGTH_BITS
        n = 2000
        while cache._index.get(OID) is not None or cache._rings._small._head != position:
            cache.store(to_tid(n), T2, None, b"y" * 100)
            n += 1
        cache._rings._ghosts.clear()
        cache.store(OID, T2, None, b"y" * 100)
        assert cache._index.get(OID) == place

    setattr(interruption, when, in_a_thread(replace))
    assert cache.load_before(OID, MAX_TID) == (b"y" * 100, T2, None)


def test_a_record_in_use_copied_during_a_hit_is_found(
    cache: RingCache, interruption: Interruption
) -> None:
    cache.store(OID, T1, None, b"x" * 100)
    assert cache.load_before(OID, T2) is not None

    def store_until_it_has_moved() -> None:
        place = cache._index.get(OID)
        for n in range(1000, 1100):
            cache.store(to_tid(n), T2, None, b"y" * 100)
            if cache._index.get(OID) != place and not cache._rings._small.offset(place or 0):
                return

    interruption.midway = in_a_thread(store_until_it_has_moved)
    assert cache.load_before(OID, T2) == (b"x" * 100, T1, None)


def test_an_invalidation_during_a_hit(cache: RingCache, interruption: Interruption) -> None:
    cache.store(OID, T1, None, b"one")
    interruption.midway = in_a_thread(lambda: cache.invalidate(OID, T2))
    found = cache.load_before(OID, T2)
    assert found in [(b"one", T1, None), (b"one", T1, T2)]
    assert cache.load_before(OID, T2) == (b"one", T1, T2)


@pytest.mark.parametrize("when", ["before", "midway"])
def test_closed_during_a_hit_and_the_descriptor_given_to_another_file(
    cache: RingCache, interruption: Interruption, when: str, tmp_path: Path
) -> None:
    cache.store(OID, T1, None, b"x" * 100)
    other = tmp_path / "other"
    other.write_bytes((OID + T1 + b"\0" * 4 + b"z" * 100) * 10)
    fds: list[int] = []

    def replace() -> None:
        fd = cache._fd
        cache.close()
        fds.append(os.open(other, os.O_RDONLY))
        if fds[0] != fd:
            fds.append(os.dup2(fds[0], fd))

    setattr(interruption, when, in_a_thread(replace))
    try:
        assert cache.load_before(OID, MAX_TID) is None
    finally:
        for fd in fds:
            os.close(fd)


def test_closed_during_a_hit(cache: RingCache, interruption: Interruption) -> None:
    cache.store(OID, T1, None, b"x" * 100)
    interruption.before = in_a_thread(cache.close)
    assert cache.load_before(OID, MAX_TID) is None


def test_a_load_inside_a_change_of_the_same_thread(
    cache: RingCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As a finalizer would do it, which the garbage collector runs whenever it likes.
    cache.store(OID, T1, None, b"one")
    cache.store(T1, T1, T2, b"earlier")
    append = cache._rings._small.append
    found: list[object] = []

    def append_and_load(record: bytes) -> int | None:
        found.append(cache.load_before(OID, T2))
        found.append(cache.load_before(T1, T2))
        found.append(cache.load_before(T3, T2))
        return append(record)

    monkeypatch.setattr(cache._rings._small, "append", append_and_load)
    cache.store(T2, T1, None, b"two")
    assert found == [(b"one", T1, None), (b"earlier", T1, T2), None]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_child_of_fork_can_close_while_the_parent_changes(cache: RingCache) -> None:
    # The lock is held by a thread that the child does not have.
    cache.store(OID, T1, None, b"one")
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with cache._lock:
            held.set()
            release.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    pid = os.fork()
    if pid == 0:
        try:
            signal.alarm(20)  # rather than wait for ever
            cache.close()
            os._exit(0 if cache.load_before(OID, T2) is None else 1)
        finally:
            os._exit(2)
    release.set()
    thread.join()
    assert os.waitpid(pid, 0)[1] == 0
    assert cache.load_before(OID, T2) == (b"one", T1, None)


def test_hits_and_plain_misses_wait_for_nobody(cache: RingCache) -> None:
    cache.store(OID, T1, None, b"one")
    held, release = threading.Event(), threading.Event()
    released: list[bool] = []

    def hold() -> None:
        with cache._lock:
            held.set()
            released.append(release.wait(10))

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    assert cache.load_before(OID, T2) == (b"one", T1, None)
    assert cache.load_before(T3, T2) is None
    release.set()
    thread.join()
    assert released == [True]


def test_an_earlier_revision_is_read_while_nothing_changes(
    cache: RingCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.store(OID, T1, T2, b"x" * 100)
    find = cache._earlier.find
    is_changed = threading.Event()

    def change() -> None:
        drive_out(cache)
        is_changed.set()

    thread = threading.Thread(target=change)

    def find_and_wait(oid: bytes, tid: bytes) -> tuple[bytes, bytes, int] | None:
        found = find(oid, tid)
        thread.start()
        assert not is_changed.wait(0.1), "the file was changed in the middle of a read"
        return found

    monkeypatch.setattr(cache._earlier, "find", find_and_wait)
    assert cache.load_before(OID, T2) == (b"x" * 100, T1, T2)
    thread.join()
    assert is_changed.is_set()


class History:
    """What was committed, as the readers may know it: every tuple is replaced, never changed."""

    def __init__(self, count: int) -> None:
        self.oids = [to_tid(n) for n in range(count)]
        self.tids: dict[bytes, tuple[int, ...]] = dict.fromkeys(self.oids, (1,))

    @staticmethod
    def record_of(oid: bytes, start: int) -> bytes:
        return (oid + to_tid(start)) * (1 + (start * 31 + oid[7]) % 40)


def test_readers_beside_a_changing_thread() -> None:
    cache = RingCache(30_000)
    history = History(200)
    cache.set_last_tid(T1)
    wrong: list[str] = []
    hits = [0] * 3
    done = threading.Event()

    def read(number: int) -> None:
        rng = random.Random(number)
        while not done.is_set():
            oid = rng.choice(history.oids)
            last = int.from_bytes(cache.last_tid(), "big")
            tid = max(1, last + 1 - rng.choice((0, 0, 0, 1, 5, 30)))
            found = cache.load_before(oid, to_tid(tid))
            if found is None:
                continue
            hits[number] += 1
            data, start, end = found
            tids = history.tids[oid]
            right = tids[bisect_left(tids, tid) - 1]
            later = [other for other in tids if other > right]
            if start != to_tid(right) or data != history.record_of(oid, right):
                wrong.append(f"{oid!r} before {tid}: {start!r}, should be {right}")
            if end is not None and (not later or end != to_tid(later[0])):
                wrong.append(f"{oid!r} before {tid}: ends {end!r}, should be {later[:1]}")
            if end is None and later and later[0] <= last:
                wrong.append(f"{oid!r} before {tid}: current, but ended at {later[0]}")

    threads = [threading.Thread(target=read, args=(number,)) for number in range(len(hits))]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        rng = random.Random(99)
        clock = 1
        steps = 0
        # However the system shares out its cores, every reader has its turn.
        while steps < 6_000 or (min(hits) < 100 and all(thread.is_alive() for thread in threads)):
            steps += 1
            oid = rng.choice(history.oids)
            tids = history.tids[oid]
            what = rng.random()
            if what < 0.7:
                at = rng.randrange(len(tids)) if what < 0.1 else len(tids) - 1
                end = to_tid(tids[at + 1]) if at + 1 < len(tids) else None
                cache.store(oid, to_tid(tids[at]), end, history.record_of(oid, tids[at]))
            else:
                clock += 1
                history.tids[oid] = (*tids, clock)
                cache.invalidate(oid, to_tid(clock))
                cache.set_last_tid(to_tid(clock))
    finally:
        done.set()
        for thread in threads:
            thread.join()
        sys.setswitchinterval(interval)
        cache.close()
    assert wrong == []
    assert min(hits) >= 100
    assert cache.statistics().dropped > 1000

"""A cache that outlives its process: what is opened is right, or not there."""

from __future__ import annotations

import errno
import logging
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.caches import OpenCache, kill
from ZEO.cache import ClientCache as ZeoCache

from zeolith.cache import MINIMUM_SIZE, RingCache
from zeolith.cache.home import ASIDE, HEADER_SIZE, CacheHome, CacheInUse, ForeignFile
from zeolith.protocol.hello import Database
from zeolith.types import MAX_TID, NO_TID

OID = b"\0" * 7 + b"\7"
DATABASE = Database("some identity", 3)


def to_tid(n: int) -> bytes:
    return n.to_bytes(8, "big")


T1, T2, T3, T4 = map(to_tid, range(1, 5))


def fill(cache: RingCache, first: int, last: int) -> None:
    for n in range(first, last):
        cache.store(to_tid(n), T1, None, b"%100d" % n)
    cache.set_last_tid(max(T1, cache.last_tid()))


def test_what_was_there_is_there_again(open_cache: OpenCache) -> None:
    cache = open_cache()
    fill(cache, 100, 400)
    cache.store(OID, T1, T2, b"one")
    cache.store(OID, T2, None, b"two")
    cache.invalidate(OID, T3)
    cache.store(OID, T3, None, b"three")
    cache.set_last_tid(T4)
    cache.set_database(DATABASE)
    held = len(cache)
    cache.close()
    again = open_cache()
    assert len(again) == held
    assert again.last_tid() == T4
    assert again.database == DATABASE
    assert again.load_before(OID, T2) == (b"one", T1, T2)
    assert again.load_before(OID, T3) == (b"two", T2, T3)
    assert again.load_before(OID, T4) == (b"three", T3, None)
    for n in range(100, 400):
        assert again.load_before(to_tid(n), MAX_TID) == (b"%100d" % n, T1, None)
    assert again.statistics().damaged == 0


def test_it_goes_on_where_it_was(open_cache: OpenCache) -> None:
    cache = open_cache(20_000)
    fill(cache, 0, 1_000)
    cache.close()
    for start in range(1_000, 3_000, 100):
        cache = open_cache(20_000)
        fill(cache, start, start + 100)
        assert 100 < len(cache) < 200
        cache.close()
    assert os.path.getsize(cache._home.path if cache._home else "") <= 20_000 + HEADER_SIZE


def test_after_a_crash_it_is_as_it_was_saved(open_cache: OpenCache) -> None:
    cache = open_cache()
    cache.store(OID, T1, None, b"one")
    cache.set_last_tid(T1)
    cache.save()
    cache.invalidate(OID, T2)
    cache.store(OID, T2, None, b"two")
    cache.set_last_tid(T2)
    kill(cache)
    again = open_cache()
    assert again.last_tid() == T1
    assert again.load_before(OID, T2) == (b"one", T1, None)


def test_what_was_written_over_before_a_crash_is_not_there(
    open_cache: OpenCache,
) -> None:
    cache = open_cache(20_000)
    fill(cache, 0, 100)
    cache.set_last_tid(T1)
    cache.save()
    fill(cache, 1_000, 1_100)
    kill(cache)
    again = open_cache(20_000)
    found = [again.load_before(to_tid(n), T2) for n in range(100)]
    assert {None, *((b"%100d" % n, T1, None) for n in range(100))} > set(found)
    assert 10 < sum(revision is not None for revision in found) < 90
    assert again.statistics().damaged == found.count(None)
    # And it can be used.
    fill(again, 2_000, 3_000)
    assert again.load_before(to_tid(2_999), T2) == (b"%100d" % 2_999, T1, None)


def test_an_earlier_revision_never_passes_for_the_current_one(path: str) -> None:
    """R6: written over, after the snapshot, by an earlier revision of the very same object."""
    passed = 0
    for fillers in range(1, 120):
        for suffix in ("", ".index"):
            Path(path + suffix).unlink(missing_ok=True)
        cache = RingCache(MINIMUM_SIZE, home=CacheHome(path))
        cache.store(OID, T3, None, b"new")
        place = cache._index.get(OID)
        cache.set_last_tid(T3)
        cache.save()
        for n in range(fillers):
            cache.store(to_tid(1_000 + n), T1, None, b"f" * (n % 90))
        cache.store(OID, T1, T2, b"old")
        passed += any(to_tid(place or 0)[2:] in row for _, row in cache._earlier.dump())
        kill(cache)
        cache = RingCache(MINIMUM_SIZE, home=CacheHome(path))
        assert cache.load_before(OID, MAX_TID) in (None, (b"new", T3, None))
        cache.close()
    assert passed, "it never came to lie there"


def test_what_follows_a_clearance_is_not_taken_for_what_was_before(
    open_cache: OpenCache,
) -> None:
    # The same object at the same place, with a tid that the earlier history may have had too.
    cache = open_cache()
    cache.store(OID, T2, None, b"this history")
    cache.set_last_tid(T3)
    cache.save()
    cache.clear()
    cache.store(OID, T1, None, b"that history")
    assert cache.load_before(OID, T2) == (b"that history", T1, None)
    kill(cache)
    again = open_cache()
    assert again.last_tid() == NO_TID
    assert again.load_before(OID, MAX_TID) is None


@pytest.mark.parametrize("file", ["", ".index"])
def test_cut_anywhere_it_is_right_or_empty(path: str, file: str) -> None:
    cache = RingCache(MINIMUM_SIZE, home=CacheHome(path))
    for n in range(7):
        cache.store(to_tid(n), T1, None, b"%10d" % n)
    cache.store(OID, T2, None, b"two")
    cache.set_last_tid(T2)
    cache.close()
    kept = {name: Path(path + name).read_bytes() for name in ("", ".index")}
    for size in range(len(kept[file])):
        if HEADER_SIZE > size > 100 and not file:
            continue  # nothing but zeros
        for name, data in kept.items():
            Path(path + name).write_bytes(data[:size] if name == file else data)
        cache = RingCache(MINIMUM_SIZE, home=CacheHome(path))
        assert cache.last_tid() in (NO_TID, T2)
        assert cache.load_before(OID, MAX_TID) in (None, (b"two", T2, None))
        for n in range(7):
            assert cache.load_before(to_tid(n), MAX_TID) in (None, (b"%10d" % n, T1, None))
        cache.close()


@pytest.mark.parametrize("file", ["", ".index"])
def test_whatever_bits_are_wrong_the_answers_are_right(path: str, file: str) -> None:
    cache = RingCache(MINIMUM_SIZE, home=CacheHome(path))
    for n in range(7):
        cache.store(to_tid(n), T1, None, b"%10d" % n)
    cache.store(OID, T1, T2, b"one")
    cache.store(OID, T2, None, b"two")
    cache.set_last_tid(T2)
    cache.close()
    kept = {name: Path(path + name).read_bytes() for name in ("", ".index")}
    begin = HEADER_SIZE if not file else 0
    for bit in range(8 * begin, 8 * len(kept[file]), 7):
        damaged = bytearray(kept[file])
        damaged[bit // 8] ^= 1 << bit % 8
        for name, data in kept.items():
            Path(path + name).write_bytes(damaged if name == file else data)
        cache = RingCache(MINIMUM_SIZE, home=CacheHome(path))
        assert cache.last_tid() in (NO_TID, T2)
        assert cache.load_before(OID, MAX_TID) in (None, (b"two", T2, None))
        assert cache.load_before(OID, T2) in (None, (b"one", T1, T2))
        for n in range(7):
            assert cache.load_before(to_tid(n), MAX_TID) in (None, (b"%10d" % n, T1, None))
        kill(cache)


def test_random_damage_to_a_full_cache(path: str) -> None:
    chance = random.Random(5)
    cache = RingCache(40_000, home=CacheHome(path))
    fill(cache, 0, 1_000)
    cache.set_last_tid(T1)
    cache.close()
    for turn in range(30):
        data = bytearray(Path(path).read_bytes())
        for _ in range(chance.randrange(1, 40)):
            at = chance.randrange(HEADER_SIZE, len(data))
            data[at : at + 8] = chance.randbytes(min(8, len(data) - at))
        Path(path).write_bytes(data)
        cache = RingCache(40_000, home=CacheHome(path))
        last = 1_000 + turn * 50
        for n in range(last):
            assert cache.load_before(to_tid(n), T2) in (None, (b"%100d" % n, T1, None))
        fill(cache, last, last + 50)
        assert cache.load_before(to_tid(last + 49), T2) is not None
        cache.close()


@pytest.mark.parametrize("size", [35_000, 45_000, 60_000, 150_000])
def test_another_size_keeps_what_lies_within_it(
    open_cache: OpenCache, path: str, size: int
) -> None:
    for last in (300, 1_000):  # before the head has come to the end, and after
        for suffix in ("", ".index"):
            Path(path + suffix).unlink(missing_ok=True)
        cache = open_cache(60_000)
        fill(cache, 0, last)
        held = len(cache)
        cache.close()
        cache = open_cache(size)
        found = {n: cache.load_before(to_tid(n), T2) for n in range(last)}
        kept = [n for n, revision in found.items() if revision is not None]
        assert all(found[n] == (b"%100d" % n, T1, None) for n in kept)
        assert 0.5 * min(held, size / 128) < len(kept) <= min(held, size / 128)
        assert os.path.getsize(path) <= max(size, 60_000) + HEADER_SIZE
        fill(cache, 5_000, 9_000)
        assert os.path.getsize(path) <= size + HEADER_SIZE
        assert 0.5 < len(cache) * 128 / size < 1.1
        cache.close()


def test_a_much_smaller_size_begins_empty(
    open_cache: OpenCache, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    cache = open_cache(60_000)
    fill(cache, 0, 300)
    cache.close()
    cache = open_cache(10_000)
    assert len(cache) == 0
    assert cache.load_before(to_tid(5), T2) is None
    assert "begins empty" in caplog.text
    fill(cache, 0, 300)
    assert os.path.getsize(path) <= 10_000 + HEADER_SIZE
    assert cache.load_before(to_tid(299), T2) is not None


def test_two_owners(open_cache: OpenCache, path: str) -> None:
    cache = open_cache()
    cache.store(OID, T1, None, b"one")
    with pytest.raises(CacheInUse, match="another storage of this process"):
        CacheHome(path)
    assert cache.load_before(OID, T2) == (b"one", T1, None)
    cache.close()
    open_cache()


def test_a_cache_of_zeo_is_put_aside(
    path: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    theirs = ZeoCache(path, 100_000)
    theirs.setLastTid(T1)
    theirs.close()
    before = Path(path).read_bytes()
    cache = RingCache(100_000, home=CacheHome(path))
    assert len(cache) == 0
    assert cache.last_tid() == NO_TID
    cache.close()
    assert Path(path + ASIDE).read_bytes() == before
    assert ASIDE in caplog.text


def test_a_file_of_something_else_is_left_alone(path: str) -> None:
    Path(path).write_bytes(b"important")
    with pytest.raises(ForeignFile, match="another name"):
        CacheHome(path)
    assert Path(path).read_bytes() == b"important"
    Path(path).unlink()
    CacheHome(path).close()  # the lock was given back


def test_a_full_disk_when_saving(
    open_cache: OpenCache,
    path: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    cache = open_cache()
    cache.store(OID, T1, None, b"one")
    cache.set_last_tid(T1)
    cache.save()

    def fail(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING):
        patch.setattr(os, "replace", fail)
        cache.set_last_tid(T2)
        cache.save()
        assert os.strerror(errno.ENOSPC) in caplog.text
        kill(cache)
    again = open_cache()
    assert again.last_tid() == T1
    assert not list(Path(path).parent.glob("*.new"))


def test_a_child_leaves_the_files_to_its_parent(open_cache: OpenCache, path: str) -> None:
    cache = open_cache()
    cache.store(OID, T1, None, b"one")
    cache.set_last_tid(T1)
    cache.save()
    before = Path(path + ".index").read_bytes()
    cache.set_last_tid(T2)
    pid = os.fork()
    if pid == 0:
        cache.close()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert Path(path + ".index").read_bytes() == before
    with pytest.raises(CacheInUse):
        CacheHome(path)
    assert cache.load_before(OID, T2) == (b"one", T1, None)


WRITER = """
import sys
from zeolith.cache import RingCache
from zeolith.cache.home import CacheHome
cache = RingCache(30_000, home=CacheHome(sys.argv[1]))
n = 0
while True:
    n += 1
    tid = n.to_bytes(8, "big")
    for k in range(n % 7 + 1):
        oid = ((n * 31 + k * 17) % 300).to_bytes(8, "big")
        cache.invalidate(oid, tid)
        cache.store(oid, tid, None, tid + oid * (n % 40))
    cache.set_last_tid(tid)
    if n % 50 == 0:
        cache.save()
        print(n, flush=True)
"""


def test_killed_at_any_instant(path: str) -> None:
    """R6: what a killed process leaves is right as of the last tid that it tells."""
    warm = 0
    for turn in range(8):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            for _ in range(2 + turn):
                process.stdout.readline()
            process.kill()
        cache = RingCache(30_000, home=CacheHome(path))
        told = int.from_bytes(cache.last_tid(), "big")
        assert told % 50 == 0
        current: dict[int, int] = {}
        for n in range(1, told + 1):
            for k in range(n % 7 + 1):
                current[(n * 31 + k * 17) % 300] = n
        for oid, n in current.items():
            found = cache.load_before(to_tid(oid), to_tid(told + 1))
            assert found in (None, (to_tid(n) + to_tid(oid) * (n % 40), to_tid(n), None))
            warm += found is not None
        kill(cache)
        for suffix in ("", ".index"):
            Path(path + suffix).unlink()
    assert warm

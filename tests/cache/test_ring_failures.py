"""A disk that fails: no caller hears of it, nothing wrong is served, the log says it once."""

from __future__ import annotations

import errno
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from zeolith.cache import RingCache, ring
from zeolith.errors import ConfigurationError
from zeolith.types import MAX_TID

OID = b"\0" * 7 + b"\7"


def to_tid(n: int) -> bytes:
    return n.to_bytes(8, "big")


T1, T2, T3 = map(to_tid, range(1, 4))


@pytest.fixture
def cache() -> Iterator[RingCache]:
    cache = RingCache(100_000)
    yield cache
    cache.close()


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    caplog.set_level(logging.WARNING, "zeolith.cache")
    return lambda: [record.getMessage() for record in caplog.records]


def full_after(limit: int, number: int = errno.ENOSPC) -> Callable[[int, bytes, int], int]:
    """A ``pwrite`` on a disk with room for *limit* bytes of the file."""
    pwrite = os.pwrite

    def write(fd: int, data: bytes, at: int) -> int:
        room = limit - at
        if room <= 0:
            raise OSError(number, os.strerror(number))
        return pwrite(fd, data[:room], at)

    return write


def fail(*args: object) -> bytes:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def fill(cache: RingCache, first: int, last: int) -> None:
    for n in range(first, last):
        cache.store(to_tid(n), T1, None, b"%100d" % n)
        assert len(cache) <= 1000


def held_rightly(cache: RingCache, first: int, last: int) -> int:
    found = {n: cache.load_before(to_tid(n), T2) for n in range(first, last)}
    hits = {n: revision for n, revision in found.items() if revision is not None}
    assert hits == {n: (b"%100d" % n, T1, None) for n in hits}
    return len(hits)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_on_a_full_disk_it_goes_on_with_the_room_it_has(
    cache: RingCache,
    warnings: Callable[[], list[str]],
    monkeypatch: pytest.MonkeyPatch,
    number: int,
) -> None:
    monkeypatch.setattr(os, "pwrite", full_after(50_000, number))
    fill(cache, 0, 340)
    assert held_rightly(cache, 0, 340) == 340
    fill(cache, 340, 400)
    assert held_rightly(cache, 0, 400) >= 340
    fill(cache, 400, 3_000)
    assert held_rightly(cache, 2_900, 3_000) == 100
    assert 300 < held_rightly(cache, 0, 3_000) == len(cache)
    assert cache.statistics().capacity <= 50_000
    assert len(warnings()) == 1
    assert "goes on with" in warnings()[0]


def test_on_a_disk_full_from_the_start_it_stays_empty(
    cache: RingCache, warnings: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "pwrite", full_after(1_000))
    fill(cache, 0, 100)
    assert held_rightly(cache, 0, 100) == len(cache) == 0
    assert len(warnings()) == 1
    assert "stays empty" in warnings()[0]
    assert os.strerror(errno.ENOSPC) in warnings()[0]
    assert os.fstat(cache._fd).st_size == 0
    cache.invalidate(to_tid(1), T2)
    cache.set_last_tid(T2)
    assert cache.last_tid() == T2
    cache.clear()
    cache.store(OID, T1, T2, b"data")
    assert len(cache) == 0
    assert cache.statistics().capacity == 0


def test_a_full_disk_does_not_keep_a_stale_revision_alive(
    cache: RingCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    # zodb-dev 2004-12: the entry stayed, and every transaction after it ended in a conflict.
    fill(cache, 0, 100)
    cache.store(OID, T1, None, b"one")
    monkeypatch.setattr(os, "pwrite", full_after(0))
    cache.invalidate(OID, T2)
    cache.store(OID, T2, None, b"two")
    assert cache.load_before(OID, T3) is None


@pytest.mark.parametrize("how", ["older", "unknown tid", "newer stored"])
def test_a_full_disk_met_by_any_change(
    cache: RingCache, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    fill(cache, 0, 100)
    cache.store(OID, T1, None, b"one")
    monkeypatch.setattr(os, "pwrite", full_after(0))
    if how == "older":
        cache.store(OID, T2, T3, b"two")
    elif how == "unknown tid":
        cache.invalidate(OID, None)
    else:
        cache.store(OID, T2, None, b"two")
    assert cache.load_before(OID, MAX_TID) is None


def test_a_disk_that_is_full_again_after_the_file_was_gone_round(
    cache: RingCache, warnings: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Some file systems need room to write over what they have.
    fill(cache, 0, 2_000)
    monkeypatch.setattr(os, "pwrite", full_after(0))
    fill(cache, 2_000, 2_100)
    assert held_rightly(cache, 0, 2_100) == len(cache) == 0
    assert len(warnings()) == 1


def test_a_disk_that_cannot_be_written(
    cache: RingCache, warnings: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(cache, 0, 500)
    monkeypatch.setattr(os, "pwrite", full_after(0, errno.EIO))
    fill(cache, 500, 600)
    assert held_rightly(cache, 0, 600) == len(cache) == 0
    assert len(warnings()) == 1


def test_a_disk_that_cannot_be_read(
    cache: RingCache, warnings: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(cache, 0, 500)
    with monkeypatch.context() as patch:
        patch.setattr(ring, "pread", fail)
        patch.setattr(os, "pread", fail)
        assert cache.load_before(to_tid(1), T2) is None
    assert held_rightly(cache, 0, 500) == len(cache) == 0
    assert len(warnings()) == 1


@pytest.mark.parametrize(
    "change", ["invalidate", "store", "store earlier", "load earlier", "sweep"]
)
def test_a_disk_that_cannot_be_read_when_something_changes(
    cache: RingCache,
    warnings: Callable[[], list[str]],
    monkeypatch: pytest.MonkeyPatch,
    change: str,
) -> None:
    fill(cache, 0, 500)
    cache.store(OID, T1, T2, b"earlier")
    monkeypatch.setattr(os, "pread", fail)
    if change == "invalidate":
        cache.invalidate(to_tid(1), T2)
    elif change == "store":
        cache.store(to_tid(1), T2, None, b"new")
    elif change == "store earlier":
        cache.store(to_tid(1), T2, T3, b"new")
    elif change == "load earlier":
        assert cache.load_before(OID, T2) is None
    else:
        fill(cache, 500, 1_500)
    assert len(cache) == 0
    assert len(warnings()) == 1


def test_a_passing_failure_of_a_hit_is_made_good(
    cache: RingCache, warnings: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(cache, 0, 10)
    monkeypatch.setattr(ring, "pread", fail)
    assert held_rightly(cache, 0, 10) == 10
    assert warnings() == []


@pytest.mark.parametrize("size", [0, 10, 50, 119])
def test_a_file_cut_off_by_somebody(
    cache: RingCache, warnings: Callable[[], list[str]], size: int
) -> None:
    fill(cache, 0, 10)
    os.ftruncate(cache._fd, size)
    assert held_rightly(cache, 0, 10) == len(cache) == 0
    assert len(warnings()) == 1


def test_a_file_written_over_by_somebody(
    cache: RingCache, warnings: Callable[[], list[str]]
) -> None:
    fill(cache, 0, 10)
    cache.store(OID, T1, T2, b"earlier")
    os.pwrite(cache._fd, bytes(10_000), 0)
    assert cache.load_before(OID, T2) is None
    assert held_rightly(cache, 0, 10) == len(cache) == 0
    assert len(warnings()) == 1
    cache.store(OID, T2, None, b"new")
    assert cache.load_before(OID, T3) == (b"new", T2, None)


def test_an_earlier_revision_that_is_another_than_the_index_says(
    cache: RingCache, warnings: Callable[[], list[str]]
) -> None:
    cache.store(OID, T1, T2, b"earlier")
    os.pwrite(cache._fd, T3, 8)
    assert cache.load_before(OID, T2) is None
    assert len(warnings()) == 1


def test_a_disk_that_does_not_even_take_its_room_back(
    cache: RingCache, warnings: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(cache, 0, 10)
    monkeypatch.setattr(os, "pwrite", full_after(0, errno.EIO))
    monkeypatch.setattr(os, "ftruncate", fail)
    fill(cache, 10, 20)
    assert len(cache) == 0
    assert len(warnings()) == 1


LIMITED = """
import logging, resource
from zeolith.cache import RingCache

logging.basicConfig(format="%(message)s")
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
cache = RingCache(1_000_000)
tid, after = bytes(7) + bytes([1]), bytes(7) + bytes([2])
for n in range(5_000):
    cache.store(n.to_bytes(8, "big"), tid, None, b"%100d" % n)
right = 0
for n in range(5_000):
    found = cache.load_before(n.to_bytes(8, "big"), after)
    if found is not None:
        if found != (b"%100d" % n, tid, None):
            raise SystemExit(f"wrong: {found}")
        right += 1
print(right, cache.statistics().capacity)
cache.close()
"""


def test_a_real_limit_of_the_system() -> None:
    run = subprocess.run(
        [sys.executable, "-c", LIMITED], check=True, capture_output=True, text=True
    )
    right, capacity = map(int, run.stdout.split())
    assert right > 300
    assert 40_000 < capacity <= 50_000
    assert run.stderr.count("\n") == 1


def test_the_tests_of_this_room_pass_without_asserts_in_the_code() -> None:
    # lp 544305: ZEO's cache broke under -O.  pytest's own asserts still count there.
    here = Path(__file__).parent
    run = subprocess.run(
        [
            sys.executable,
            "-O",
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-W",
            "ignore::pytest.PytestConfigWarning",
            str(here / "test_contract.py"),
            str(here / "test_ring_model.py"),
        ],
        check=False,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_a_directory_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="missing") as caught:
        RingCache(100_000, directory=str(tmp_path / "missing"))
    assert "writable" in caught.value.remedy


def test_a_temporary_file_has_no_name(tmp_path: Path) -> None:
    cache = RingCache(100_000, directory=str(tmp_path))
    try:
        fill(cache, 0, 10)
        assert list(tmp_path.iterdir()) == []
    finally:
        cache.close()


@pytest.mark.parametrize("can_shrink", [True, False])
def test_what_cannot_be_listed_is_not_held(
    cache: RingCache, monkeypatch: pytest.MonkeyPatch, can_shrink: bool
) -> None:
    """R6: who verifies the cache takes what is not listed for not held."""
    fill(cache, 0, 300)
    fill(cache, 20_000, 20_300)
    number = errno.ENOSPC if can_shrink else errno.EIO
    pread, broken = os.pread, [3]

    def read(fd: int, size: int, at: int) -> bytes:
        broken[0] -= 1
        if broken[0] == 0:
            raise OSError(number, os.strerror(number))
        return pread(fd, size, at)

    cache.suspects.suspect_all()
    listed: set[bytes] = set()
    with monkeypatch.context() as patch:
        patch.setattr("zeolith.cache.log.os.pread", read)
        while (page := cache.suspects.page()) is not None:
            listed.update(oid for oid, _ in page[1])
            cache.suspects.settle(page[0], [])
    held = {
        to_tid(n)
        for n in (*range(300), *range(20_000, 20_300))
        if cache.load_before(to_tid(n), MAX_TID) is not None
    }
    assert held <= listed
    assert bool(held) is can_shrink
    assert len(cache) == len(held)


@pytest.mark.parametrize("limit", [0, 1_000, 20_000])
def test_a_disk_that_fills_up_under_many(
    cache: RingCache,
    monkeypatch: pytest.MonkeyPatch,
    warnings: Callable[[], list[str]],
    limit: int,
) -> None:
    monkeypatch.setattr(os, "pwrite", full_after(limit))
    for first in range(0, 400, 20):
        cache.store_many([(to_tid(n), T1, None, b"%100d" % n) for n in range(first, first + 20)])
        for n in range(first + 20):
            found = cache.load_before(to_tid(n), MAX_TID)
            assert found in (None, (b"%100d" % n, T1, None))
    assert len(warnings()) == 1
    assert bool(len(cache)) is (limit == 20_000)


@pytest.mark.parametrize("behind", [100, 6_000, 20_000, 60_000, 120_000])
def test_a_disk_that_is_full_soon_behind_the_small_ring(
    monkeypatch: pytest.MonkeyPatch, behind: int
) -> None:
    """The main ring is the smaller one then, and has no room for what the small one takes."""
    cache = RingCache(1_000_000)
    try:
        border = cache._rings.state.small.end << cache._rings.shift
        monkeypatch.setattr(os, "pwrite", full_after(border + behind))
        for n in range(6_000):
            size = 100 if n % 10 else (2_000, 20_000, 60_000)[n // 10 % 3]
            cache.store(to_tid(n), T1, None, bytes([n % 256]) * size)
            cache.load_before(to_tid(n), T2)
            cache.load_before(to_tid(n - 5 if n > 5 else n), T2)
            if n % 97 == 0:
                for m in range(max(0, n - 300), n):
                    found = cache.load_before(to_tid(m), T2)
                    assert found is None or found[0][:1] == bytes([m % 256])
        assert len(cache) > 20
        assert 150_000 < cache.statistics().capacity < 400_000
        assert cache.statistics().damaged == 0
    finally:
        cache.close()


def test_damage_does_not_pass_when_it_is_copied(cache: RingCache) -> None:
    """What moves to the other ring gets a new checksum: only if the old one was right."""
    cache.store(OID, T1, None, b"x" * 100)
    cache.invalidate(OID, T2)
    cache.store(OID, T2, None, b"y" * 100)
    for at in (60, 60 + 128):
        os.pwrite(cache._fd, b"?", at)
    fill(cache, 1_000, 1_300)  # the small ring goes round, the main one takes what leaves it
    assert cache.load_before(OID, T2) is None
    assert cache.load_before(OID, MAX_TID) is None

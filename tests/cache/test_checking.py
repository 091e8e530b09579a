"""Checking a cache file: what is right passes, what is damaged is named, and left out on demand."""

from __future__ import annotations

import errno
import os
import random
import struct
from pathlib import Path

import pytest
from tests.support.caches import OpenCache, kill
from ZEO.cache import ClientCache as ZeoCache

from zeolith.cache import CacheInUse, RingCache, checking
from zeolith.cache.checking import NO_INDEX, Damage, Findings, check, fix
from zeolith.cache.home import HEADER_SIZE, ForeignFile
from zeolith.cache.inspection import look
from zeolith.cache.log import LENGTH_BITS
from zeolith.cache.records import CHECKSUM_SIZE, OVERHEAD, pack_body, seal
from zeolith.cache.snapshot import Snapshot, parse_snapshot, serialize_snapshot
from zeolith.types import MAX_TID


def to_tid(n: int) -> bytes:
    return n.to_bytes(8, "big")


T1, T2, T3, T4 = map(to_tid, range(1, 5))
OID = to_tid(7)


def check_all(path: str) -> tuple[Findings, list[Damage]]:
    damages: list[Damage] = []
    return check(look(path), damages.append, lambda count: None), damages


def fix_all(path: str) -> None:
    fix(check_all(path)[0])


def snapshot_of(path: str) -> Snapshot:
    return parse_snapshot(Path(path + ".index").read_bytes())


def seed_at(path: str, offset: int) -> int:
    rings = snapshot_of(path).rings
    return rings.seals.seed_at(offset >> rings.shift)


def write_snapshot(path: str, snapshot: Snapshot) -> None:
    Path(path + ".index").write_bytes(serialize_snapshot(snapshot))


def overwrite(path: str, offset: int, data: bytes) -> None:
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(data)


def place_of(path: str, oid: bytes) -> tuple[int, bytes]:
    """Return where the record of *oid* is in a file that has one of it only, and the record."""
    data = Path(path).read_bytes()
    offset = data.index(oid, HEADER_SIZE)
    (length,) = struct.unpack_from(">I", data, offset + 16)
    return offset, data[offset : offset + length]


def work(cache: RingCache, rng: random.Random, first: int) -> int:
    """Use *cache* as clients do; return the last transaction."""
    tid = first
    for _ in range(rng.randrange(20, 300)):
        tid += 1
        oid = to_tid(rng.randrange(60) if rng.random() < 0.7 else rng.randrange(1 << 40))
        action = rng.random()
        if action < 0.2:
            cache.load_before(oid, to_tid(tid))
        elif action < 0.4:
            cache.invalidate(oid, to_tid(tid) if rng.random() < 0.9 else None)
        elif action < 0.5:
            end = rng.randrange(2, max(3, tid + 1))
            cache.store(oid, to_tid(rng.randrange(1, end)), to_tid(end), bytes(rng.randrange(300)))
        elif action < 0.6:
            cache.store_many(
                [(to_tid(n), to_tid(tid), None, bytes(50)) for n in range(tid, tid + 5)]
            )
        else:
            cache.store(oid, to_tid(tid), None, bytes(rng.randrange(900)))
        cache.set_last_tid(to_tid(tid))
    return tid


@pytest.mark.parametrize("seed", range(15))
def test_what_a_client_leaves_is_good(seed: int, open_cache: OpenCache, path: str) -> None:
    rng = random.Random(seed)
    tid = 0
    for _ in range(6):
        cache = open_cache(rng.choice([10_000, 20_000, 20_000, 40_000]))
        if rng.random() < 0.1:
            cache.clear()
            tid = 0
        tid = work(cache, rng, tid)
        held = len(cache)
        cache.close()
        findings, damages = check_all(path)
        assert damages == []
        assert findings.is_clean
        assert findings.faults == ()
        assert findings.current + findings.earlier == held
    assert findings.bytes_read > 1_000


@pytest.mark.parametrize("seed", range(10))
def test_after_a_crash_what_was_written_over_is_named_and_left_out(
    seed: int, open_cache: OpenCache, path: str
) -> None:
    rng = random.Random(seed)
    cache = open_cache(10_000)
    tid = work(cache, rng, 0)
    cache.save()
    for n in range(rng.randrange(40, 60)):
        cache.store(to_tid(10_000 + n), to_tid(tid), None, bytes(100))
    kill(cache)
    findings, damages = check_all(path)
    assert not findings.is_clean
    assert findings.damaged == len(damages)
    fix(findings)
    mended, damages = check_all(path)
    assert mended.is_clean
    assert damages == []
    left = findings.current + findings.earlier - findings.damaged
    assert mended.current + mended.earlier == left
    # And a client finds just that, and nothing is missing that it believes it has.
    again = open_cache(10_000)
    assert len(again) == left
    assert again.last_tid() == to_tid(tid)
    for oid, _ in list(again._index.items()):
        assert again.load_before(oid, MAX_TID) is not None
    assert again.statistics().damaged == 0


def test_what_is_yet_to_be_verified_is_checked_too(open_cache: OpenCache, path: str) -> None:
    cache = open_cache()
    cache.store(to_tid(7), T2, None, b"damaged")
    cache.store(to_tid(8), T2, None, b"suspect")
    cache.suspects.suspect_all()
    cache.store(to_tid(9), T2, None, b"verified")
    cache.close()
    offset, record = place_of(path, to_tid(7))
    with open(path, "r+b") as file:
        os.pwrite(file.fileno(), bytes(len(record)), offset)
    findings, _ = check_all(path)
    assert (findings.current, findings.damaged) == (3, 1)
    fix(findings)
    again = open_cache()
    assert len(again) == 2
    assert len(again.suspects) == 1
    assert again.load_before(to_tid(8), MAX_TID) is None
    assert again.load_before(to_tid(9), MAX_TID) is not None


def test_each_bit_of_a_record_counts(open_cache: OpenCache, path: str) -> None:
    cache = open_cache()
    cache.store(OID, T1, T2, b"earlier")
    cache.store(to_tid(8), T2, None, b"current")
    cache.store(to_tid(9), T2, None, b"untouched")
    cache.close()
    for oid, is_earlier in ((OID, True), (to_tid(8), False)):
        offset, record = place_of(path, oid)
        for bit in range(len(record) * 8):
            changed = bytearray(record)
            changed[bit // 8] ^= 1 << bit % 8
            overwrite(path, offset, bytes(changed))
            _, (damage,) = check_all(path)
            assert damage == (
                oid,
                is_earlier,
                offset,
                "another record was written there, or it was damaged",
            )
        overwrite(path, offset, record)
    assert check_all(path)[0].is_clean


def test_the_right_record_with_the_wrong_seal(open_cache: OpenCache, path: str) -> None:
    """A record of another round must not pass for it, nor one of another cache."""
    cache = open_cache()
    cache.store(OID, T1, None, b"data")
    cache.close()
    offset, record = place_of(path, OID)
    seed = seed_at(path, offset)
    for other in (seed ^ 0xFFFFFFFF, seed ^ 1):
        overwrite(path, offset, seal(record[:-CHECKSUM_SIZE], other))
        assert check_all(path)[0].damaged == 1
    overwrite(path, offset, seal(pack_body(to_tid(8), T1, b"data"), seed))
    assert check_all(path)[0].damaged == 1


def test_an_earlier_revision_with_another_beginning(open_cache: OpenCache, path: str) -> None:
    cache = open_cache()
    cache.store(OID, T2, T3, b"data")
    cache.close()
    offset, _ = place_of(path, OID)
    overwrite(path, offset, seal(pack_body(OID, T1, b"data"), seed_at(path, offset)))
    _, (damage,) = check_all(path)
    assert damage.problem == "it is another revision than the index says"


def test_revisions_that_contradict_each_other(open_cache: OpenCache, path: str) -> None:
    cache = open_cache()
    cache.store(OID, T1, T2, b"one")
    cache.store(OID, T3, None, b"two")
    cache.close()
    snapshot = snapshot_of(path)
    ((number, row),) = snapshot.rows
    write_snapshot(path, snapshot._replace(rows=[(number, row[:8] + T4 + row[16:])]))
    _, (damage,) = check_all(path)
    assert (damage.oid, damage.is_earlier) == (OID, False)
    assert damage.problem == "an earlier revision of the object ends after it begins"
    write_snapshot(path, snapshot._replace(rows=[(number, row[:8] + T1 + row[16:])]))
    _, (damage,) = check_all(path)
    assert (damage.oid, damage.is_earlier) == (OID, True)
    fix_all(path)
    again = open_cache()
    assert again.load_before(OID, T2) is None
    assert again.load_before(OID, T4) == (b"two", T3, None)


@pytest.mark.parametrize("cut", [1, 20, OVERHEAD + 3])
def test_a_file_that_ends_too_early(cut: int, open_cache: OpenCache, path: str) -> None:
    cache = open_cache()
    for n in range(10):
        cache.store(to_tid(n), T1, None, b"data")
    cache.close()
    offset, record = place_of(path, to_tid(9))
    os.truncate(path, offset + len(record) - cut)
    _, (damage,) = check_all(path)
    assert (damage.oid, damage.problem) == (to_tid(9), "the file ends before it")


@pytest.mark.parametrize("where", [0, 1, 10_000, (1 << 26) - 1])
def test_places_outside_of_what_is_in_use(where: int, open_cache: OpenCache, path: str) -> None:
    cache = open_cache()
    cache.store(OID, T1, None, b"data")
    cache.close()
    snapshot = snapshot_of(path)
    ((number, page),) = snapshot.pages
    place = (where << LENGTH_BITS | OVERHEAD).to_bytes(6, "big")
    write_snapshot(path, snapshot._replace(pages=[(number, page[:2] + place)]))
    _, (damage,) = check_all(path)
    assert damage == (OID, False, where * 16, "it lies where the cache keeps nothing")
    fix_all(path)
    assert check_all(path)[0].is_clean
    assert len(open_cache()) == 0


def test_a_count_that_is_wrong(open_cache: OpenCache, path: str) -> None:
    cache = open_cache()
    cache.store(OID, T1, None, b"data")
    cache.close()
    write_snapshot(path, snapshot_of(path)._replace(revisions=3))
    findings, damages = check_all(path)
    assert damages == []
    assert findings.faults == ("the index says that it has 3 records, and has 1",)
    fix(findings)
    assert check_all(path)[0].is_clean
    assert len(open_cache()) == 1


def test_an_index_that_cannot_be_used(open_cache: OpenCache, path: str) -> None:
    cache = open_cache()
    cache.store(OID, T1, None, b"data")
    cache.close()
    index = Path(path + ".index")
    whole = index.read_bytes()
    for damaged in (b"", whole[:-1], whole[:20] + b"?" + whole[21:]):
        index.write_bytes(damaged)
        findings, _ = check_all(path)
        assert not findings.is_clean
        assert "it" in findings.faults[0]
    fix(findings)
    assert check_all(path)[0].is_clean
    assert not index.exists()
    assert os.path.getsize(path) == HEADER_SIZE
    again = open_cache()
    assert len(again) == 0
    again.store(OID, T1, None, b"data")
    assert again.load_before(OID, T2) == (b"data", T1, None)


def test_no_index(open_cache: OpenCache, path: str) -> None:
    cache = open_cache()
    kill(cache)
    assert check_all(path)[0].is_clean
    cache = open_cache()
    cache.store(OID, T1, None, b"data")
    kill(cache)
    findings, _ = check_all(path)
    assert findings.faults == (NO_INDEX,)
    fix(findings)
    assert check_all(path)[0].is_clean


def test_a_cache_in_use_is_refused(open_cache: OpenCache, path: str) -> None:
    cache = open_cache()
    cache.store(OID, T1, None, b"data")
    cache.save()
    with pytest.raises(CacheInUse, match=rf"uses it \(process {os.getpid()}\)"):
        # At once, not after reading all of it.
        check(look(path), print, lambda count: pytest.fail("a record was read"))
    findings = Findings(look(path), 1, 0, 0, (frozenset(), frozenset()), ("something",))
    with pytest.raises(CacheInUse, match=r"another storage of this process uses it"):
        fix(findings)
    assert cache.load_before(OID, T2) == (b"data", T1, None)


def test_a_cache_that_is_used_meanwhile_is_refused(open_cache: OpenCache, path: str) -> None:
    cache = open_cache()
    cache.store(OID, T1, None, b"data")
    cache.close()
    opened: list[RingCache] = []
    with pytest.raises(CacheInUse, match="a process uses it"):
        check(look(path), print, lambda count: opened.append(open_cache()))


def test_a_cache_that_was_used_meanwhile_is_refused(open_cache: OpenCache, path: str) -> None:
    cache = open_cache()
    cache.store(OID, T1, None, b"data")
    cache.close()

    def use() -> None:
        cache = open_cache()
        cache.store(to_tid(8), T1, None, b"more")
        cache.close()

    with pytest.raises(CacheInUse, match="a process has used it while it was checked"):
        check(look(path), print, lambda count: use())
    findings, _ = check_all(path)
    use()
    cache = open_cache()
    cache.invalidate(OID, T2)
    cache.close()
    before = Path(path + ".index").read_bytes()
    with pytest.raises(CacheInUse, match="check it again"):
        fix(findings)
    assert Path(path + ".index").read_bytes() == before
    # What refused it has not kept it locked.
    open_cache().close()


def test_a_fix_that_fails_changes_nothing(
    open_cache: OpenCache, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = open_cache()
    cache.store(OID, T1, None, b"data")
    cache.close()
    overwrite(path, HEADER_SIZE, bytes(8))
    findings, _ = check_all(path)
    before = Path(path + ".index").read_bytes()

    def fail(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", fail)
        with pytest.raises(OSError, match="No space"):
            fix(findings)
    assert Path(path + ".index").read_bytes() == before
    fix(findings)
    assert check_all(path)[0].is_clean


def test_a_bad_sector_costs_only_what_is_on_it(
    open_cache: OpenCache, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = open_cache()
    for n in range(10):
        cache.store(to_tid(n), T1, None, bytes(100))
    cache.close()
    offset, _ = place_of(path, to_tid(5))
    pread = os.pread

    def fail_there(descriptor: int, size: int, at: int) -> bytes:
        is_it = os.path.samestat(os.fstat(descriptor), os.stat(path))
        if is_it and at <= offset < at + size:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return pread(descriptor, size, at)

    monkeypatch.setattr("os.pread", fail_there)
    _, (damage,) = check_all(path)
    assert damage == (to_tid(5), False, offset, "it cannot be read: Input/output error")


def test_records_are_read_in_order_and_at_once(
    open_cache: OpenCache, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = open_cache(4 << 20)
    order = list(range(2_000))
    random.Random(1).shuffle(order)
    for n in order:
        cache.store(to_tid(n), T1, None, bytes(random.Random(n).randrange(2_000)))
    cache.store(to_tid(5_000), T1, None, bytes(900_000))
    cache.close()
    reads: list[int] = []
    pread = os.pread

    def record(descriptor: int, size: int, at: int) -> bytes:
        reads.append(at)
        return pread(descriptor, size, at)

    monkeypatch.setattr("os.pread", record)
    files = look(path)
    reads.clear()
    done: list[int] = []
    findings = check(files, print, done.append)
    assert findings.is_clean
    assert findings.current == 2_001
    assert sum(done) == findings.bytes_read
    assert reads == sorted(reads)
    assert len(reads) < 2 * findings.bytes_read / checking.CHUNK + 4


def test_nothing_is_changed(open_cache: OpenCache, path: str, tmp_path: Path) -> None:
    cache = open_cache()
    cache.store(OID, T1, None, b"data")
    cache.close()
    overwrite(path, HEADER_SIZE, bytes(8))
    before = {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in tmp_path.iterdir()}
    assert check_all(path)[0].damaged == 1
    assert {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in tmp_path.iterdir()} == before


def test_a_cache_of_zeo_is_left_alone(path: str) -> None:
    ZeoCache(path, 100_000).close()
    with pytest.raises(ForeignFile, match="is a cache of ZEO"):
        check_all(path)
    assert not os.path.exists(path + ".zeo")

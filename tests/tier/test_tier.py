"""Blobs here and in a store: what is fetched, kept, evicted and swept."""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.raw import oid_of
from tests.support.stores import MemoryStore, age_files, down
from tests.support.waiting import DEADLINE, Background, wait_until
from ZODB.POSException import POSKeyError, StorageError

from zeolith.tier import evicting
from zeolith.tier import tier as tier_module
from zeolith.tier.evicting import Evicted, evict
from zeolith.tier.failures import StoreUnavailable
from zeolith.tier.objects import StoredObject, make_name
from zeolith.tier.owner import FILE_NAME
from zeolith.tier.pause import Pause
from zeolith.tier.stubs import read_stub, stub_of, write_stub
from zeolith.tier.tier import FETCH_PREFIX, BlobAway, BlobTier

TID = bytes.fromhex("040d284fb1c9e3dd")
LATER = bytes.fromhex("040d284fb1c9e3ee")


class Site:
    """A blob directory with a store in memory."""

    def __init__(self, helper: Any, store: MemoryStore) -> None:
        self.helper, self.store = helper, store
        self._tiers: list[BlobTier] = []
        self.tier = self.open()

    def open(self, limit: int = 10_000, **options: Any) -> BlobTier:
        options = {"pause": Pause(0.0), "grace": 0.0, "retry": 0.01, **options}
        self.tier = BlobTier(self.helper, self.store, limit, **options)
        self._tiers.append(self.tier)
        return self.tier

    def path(self, number: int, tid: bytes = TID) -> str:
        return str(self.helper.getBlobFilename(oid_of(number), tid))

    def write(self, number: int, data: bytes = b"data", tid: bytes = TID) -> str:
        """Make a file as a storage does."""
        self.helper.createPathForOID(oid_of(number))
        path = self.path(number, tid)
        Path(path).write_bytes(data)
        return path

    def commit(self, number: int, data: bytes = b"data", tid: bytes = TID) -> StoredObject:
        """Make a blob as a server does, and wait for its stub."""
        path = self.write(number, data, tid)
        found = self.tier.upload(path, oid_of(number))
        self.tier.committed(tid, {oid_of(number): found})
        wait_until(lambda: read_stub(stub_of(path)) == found, "the stub is there")
        return found

    def commit_cold(self, number: int, data: bytes = b"data") -> StoredObject:
        """Make a blob that is in the store only."""
        found = self.commit(number, data)
        os.remove(self.path(number))
        return found

    def close(self) -> None:
        for tier in self._tiers:
            tier.close()


@pytest.fixture
def site(helper: Any, store: MemoryStore) -> Iterator[Site]:
    found = Site(helper, store)
    yield found
    found.close()


def quiet() -> bytes:
    """The last transaction, later than all."""
    return b"\x7f" * 8


def counted(tier: BlobTier, name: str) -> Any:
    return tier.describe()[name]


# -- reading -------------------------------------------------------------------------------------


def test_what_is_here_needs_no_store(site: Site) -> None:
    site.commit(1)
    site.store.before = down
    assert site.tier.load(oid_of(1), TID) == site.path(1)
    with pytest.raises(POSKeyError):
        site.tier.load(oid_of(2), TID)
    assert (counted(site.tier, "hits"), counted(site.tier, "misses")) == (1, 0)


def test_what_is_away_is_fetched(site: Site) -> None:
    site.commit_cold(1, b"away")
    with pytest.raises(BlobAway):
        site.tier.local(oid_of(1), TID)
    path = site.tier.load(oid_of(1), TID)
    assert path == site.path(1)
    assert Path(path).read_bytes() == b"away"
    assert not stat.S_IMODE(os.stat(path).st_mode) & 0o222
    assert counted(site.tier, "fetched_bytes") == 4
    site.tier.load(oid_of(1), TID)
    assert (counted(site.tier, "hits"), counted(site.tier, "misses")) == (1, 2)
    assert os.listdir(site.helper.temp_dir) == []


def test_fetches_of_one_blob_collapse(site: Site) -> None:
    site.commit_cold(1)
    has_begun, may_go_on = threading.Event(), threading.Event()

    def before(what: str) -> None:
        if what == "get":
            has_begun.set()
            assert may_go_on.wait(20)

    site.store.before = before
    site.store.calls.clear()
    first = Background(lambda: site.tier.load(oid_of(1), TID))
    assert has_begun.wait(20)
    others = [Background(lambda: site.tier.load(oid_of(1), TID)) for _ in range(3)]
    wait_until(lambda: counted(site.tier, "misses") == 4, "all want it")
    may_go_on.set()
    assert {each.result() for each in (first, *others)} == {site.path(1)}
    assert site.store.calls == ["get"]


def test_all_who_wait_learn_of_a_failure(site: Site) -> None:
    site.commit_cold(1)
    has_begun, may_go_on = threading.Event(), threading.Event()

    def before(what: str) -> None:
        has_begun.set()
        assert may_go_on.wait(20)
        down(what)

    site.store.before = before
    first = Background(lambda: site.tier.load(oid_of(1), TID))
    assert has_begun.wait(20)
    second = Background(lambda: site.tier.load(oid_of(1), TID))
    wait_until(lambda: counted(site.tier, "misses") == 2, "both want it")
    may_go_on.set()
    for each in (first, second):
        with pytest.raises(StoreUnavailable, match="down"):
            each.result()


@pytest.mark.parametrize("content", [b"dat", b"dat0", b"", b"data and more"])
def test_what_comes_damaged_gets_no_name(site: Site, content: bytes) -> None:
    found = site.commit_cold(1)
    site.store.objects[found.name] = content
    with pytest.raises(StorageError, match=r"bytes instead of 4|checksum differs"):
        site.tier.load(oid_of(1), TID)
    assert not os.path.exists(site.path(1))
    assert os.listdir(site.helper.temp_dir) == []


def test_a_disk_that_is_full(site: Site) -> None:
    site.commit_cold(1)

    def full(what: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "here")

    site.store.before = full
    with pytest.raises(StorageError, match=r"cannot keep a fetched blob in .*No space left"):
        site.tier.load(oid_of(1), TID)
    assert counted(site.tier, "failures") == 0  # not the store's
    site.store.before = lambda what: None
    assert Path(site.tier.load(oid_of(1), TID)).read_bytes() == b"data"


def test_a_damaged_stub(site: Site) -> None:
    site.commit_cold(1)
    Path(stub_of(site.path(1))).write_text("{")
    with pytest.raises(StorageError, match="is damaged: restore it from a backup"):
        site.tier.load(oid_of(1), TID)


def test_a_blob_that_is_packed_away_while_it_is_fetched(site: Site) -> None:
    site.commit_cold(1)
    site.store.before = lambda what: os.remove(stub_of(site.path(1)))
    with pytest.raises(POSKeyError):
        site.tier.load(oid_of(1), TID)
    assert not os.path.exists(site.path(1))


def test_r7_who_must_not_wait_does_not(site: Site) -> None:
    site.commit_cold(1)
    site.tier.start(quiet)
    with site.tier.not_waiting(), pytest.raises(StorageError, match="try again in a moment"):
        site.tier.load(oid_of(1), TID)
    wait_until(lambda: os.path.exists(site.path(1)), "it was fetched")
    with site.tier.not_waiting():
        assert site.tier.load(oid_of(1), TID) == site.path(1)


def test_r7_a_store_that_is_down_is_left_alone(site: Site) -> None:
    site.commit_cold(1)
    tier = site.open(pause=Pause(600))
    site.store.calls.clear()
    site.store.before = down
    for _ in range(3):
        with pytest.raises(StoreUnavailable, match="cannot get: down"):
            tier.load(oid_of(1), TID)
    assert site.store.calls == ["get"]
    found = tier.describe()
    assert (found["failures"], found["trouble"]) == (1, "cannot get: down")


# -- size ----------------------------------------------------------------------------------------


def test_the_least_recently_used_go_first(site: Site) -> None:
    tier = site.open(2500)
    for number in (1, 2, 3):
        site.commit(number, bytes(1000))
        age_files(site.helper.base_dir, 1000)
    tier.load(oid_of(1), TID)
    tier.start(quiet)
    wait_until(lambda: counted(tier, "evicted") == 1, "one was evicted")
    assert [os.path.exists(site.path(number)) for number in (1, 2, 3)] == [True, False, True]
    found = tier.describe()
    assert (found["files"], found["bytes"], found["cold"], found["limit"]) == (2, 2000, 1, 2500)


def test_commits_and_fetches_make_others_go(site: Site) -> None:
    tier = site.open(2500)
    tier.start(quiet)
    wait_until(lambda: counted(tier, "files") == 0, "the files are counted")
    for number in range(1, 7):
        site.commit(number, bytes(1000))
        age_files(site.helper.base_dir, 1000)
    wait_until(lambda: counted(tier, "bytes") <= 2500, "some were evicted")
    assert not os.path.exists(site.path(1))
    for number in range(1, 7):
        tier.load(oid_of(number), TID)
        age_files(site.helper.base_dir, 1000)
    wait_until(lambda: counted(tier, "bytes") <= 2500, "some were evicted again")


def test_r4_a_file_goes_only_when_its_stub_is_on_disk(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    tier = site.open(100)
    site.commit(1, bytes(1000))
    steps: list[str] = []
    fsync, remove = os.fsync, os.remove

    def note_fsync(descriptor: int) -> None:
        steps.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    def note_remove(path: str) -> None:
        steps.append(f"remove {path}")
        remove(path)

    monkeypatch.setattr("os.fsync", note_fsync)
    monkeypatch.setattr("os.remove", note_remove)
    tier.start(quiet)
    wait_until(lambda: counted(tier, "evicted") == 1, "it was evicted")
    path = site.path(1)
    assert steps == [stub_of(path), os.path.dirname(path), f"remove {path}"]


def test_r4_a_fetched_file_gets_its_name_when_it_is_on_disk(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.commit_cold(1, bytes(1000))
    synced: list[int] = []
    fsync = os.fsync

    def note(descriptor: int) -> None:
        assert not os.path.exists(site.path(1))
        synced.append(os.fstat(descriptor).st_size)
        fsync(descriptor)

    monkeypatch.setattr("os.fsync", note)
    site.tier.load(oid_of(1), TID)
    assert synced == [1000]


def test_many_files(site: Site) -> None:
    """Of many that can go, those that are the oldest."""
    tier = site.open(10_000)
    for number in range(100):
        site.commit(number, bytes(150 + number % 7))
        status = os.stat(site.path(number))
        # In an order of its own.
        os.utime(site.path(number), (1000.0 + number * 37 % 100, status.st_mtime))
    size = sum(150 + number % 7 for number in range(100))
    tier.start(quiet)
    wait_until(lambda: counted(tier, "evicted") > 0, "some were evicted")
    by_age = sorted(range(100), key=lambda number: number * 37 % 100)
    is_here = [os.path.exists(site.path(number)) for number in by_age]
    assert is_here == sorted(is_here)
    assert 0 < counted(tier, "bytes") <= 9000
    assert size - counted(tier, "bytes") < size - 9000 + 160


def test_what_was_asked_for_a_moment_ago_stays(site: Site) -> None:
    tier = site.open(100, grace=500.0)
    for number in (1, 2):
        site.commit(number, bytes(1000))
    age_files(site.helper.base_dir, 1000)
    tier.load(oid_of(1), TID)
    tier.start(quiet)
    wait_until(lambda: counted(tier, "evicted") == 1, "the other was evicted")
    assert os.path.exists(site.path(1))


def test_what_had_to_stay_goes_later(site: Site) -> None:
    """Though nobody does anything meanwhile."""
    tier = site.open(100, grace=0.3)
    tier.start(quiet)
    wait_until(lambda: counted(tier, "bytes") is not None, "it was counted")
    site.commit(1, bytes(1000))
    wait_until(lambda: counted(tier, "evicted") == 1, "it was evicted after a while")


def test_not_each_blob_is_worth_a_look_at_all_files(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = []

    def look(*arguments: Any) -> Evicted:
        looks.append(arguments)
        return evict(*arguments)

    monkeypatch.setattr(tier_module, "evict", look)
    monkeypatch.setattr(tier_module, "_LEAST_REST", 3600.0)
    tier = site.open(100, grace=3600, retry=3600)
    tier.start(quiet)
    wait_until(lambda: counted(tier, "bytes") is not None, "it was counted")
    for number in range(1, 6):
        site.commit(number, bytes(1000))
    site.close()
    assert len(looks) == 1


def test_a_file_whose_stub_goes_at_the_last_moment_stays(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.commit(1, bytes(1000))
    tried = threading.Event()

    def lose(stub: str) -> None:
        os.remove(stub)
        tried.set()

    monkeypatch.setattr(evicting, "sync_file", lose)
    tier = site.open(100)
    tier.start(quiet)
    assert tried.wait(DEADLINE)
    site.close()
    assert os.path.exists(site.path(1))


def test_what_the_store_does_not_have_stays(site: Site) -> None:
    site.write(1, bytes(1000))
    site.store.before = down
    tier = site.open(100)
    tier.start(quiet)
    wait_until(lambda: counted(tier, "failures") > 1, "it has tried")
    assert (counted(tier, "pending"), counted(tier, "pending_bytes")) == (1, 1000)
    assert os.path.exists(site.path(1))
    site.store.before = lambda what: None
    wait_until(lambda: not os.path.exists(site.path(1)), "it was uploaded and evicted")
    assert (counted(tier, "pending"), counted(tier, "trouble")) == (0, None)


def test_a_stub_that_does_not_fit_its_file_evicts_nothing(site: Site) -> None:
    site.commit(3, bytes(1000))
    site.write(1, bytes(1000))
    site.write(2, bytes(1000))
    write_stub(stub_of(site.path(1)), StoredObject(make_name(oid_of(1)), 999, "0" * 64))
    Path(stub_of(site.path(2))).write_text('{"name": "../../x", "size": 1000}')
    tier = site.open(100)
    tier.start(quiet)
    wait_until(lambda: not os.path.exists(site.path(3)), "the good one was evicted")
    wait_until(lambda: not os.path.exists(site.path(2)), "with a good stub it is evicted")
    assert Path(tier.load(oid_of(2), TID)).read_bytes() == bytes(1000)
    # Of two that differ nobody knows which is right.
    assert os.path.exists(site.path(1))
    assert os.path.exists(stub_of(site.path(1)))


# -- the place in the store ----------------------------------------------------------------------


def test_stubs_of_another_place_evict_nothing(site: Site) -> None:
    """Its bucket may have been emptied since: the files here may be the only ones."""
    site.commit(1, bytes(1000))
    site.close()
    os.remove(site.helper.base_dir + FILE_NAME)
    site.store = MemoryStore()
    site.store.before = down
    tier = site.open(100)
    tier.start(quiet)
    wait_until(lambda: counted(tier, "bytes") == 1000, "it was counted")
    wait_until(lambda: counted(tier, "failures") >= 4, "it was tried by both threads")
    assert os.path.exists(site.path(1))
    site.store.before = lambda what: None
    wait_until(lambda: not os.path.exists(site.path(1)), "it was uploaded and evicted")
    assert list(site.store.objects.values()) == [bytes(1000)]
    assert Path(tier.load(oid_of(1), TID)).read_bytes() == bytes(1000)


def test_a_new_place_does_not_have_what_is_away(site: Site) -> None:
    site.commit(1)
    site.commit_cold(2)
    site.close()
    os.remove(site.helper.base_dir + FILE_NAME)
    site.store = MemoryStore()
    path = site.write(3)
    with pytest.raises(StoreUnavailable, match="one and the same word"):
        site.open().upload(path, oid_of(3))
    assert (site.store.objects, site.store.marker) == ({}, None)
    assert os.path.exists(stub_of(site.path(1)))
    assert os.path.exists(stub_of(site.path(2)))


def test_two_that_begin_in_one_place(site: Site) -> None:
    path = site.write(1)

    def other(what: str) -> None:
        if what == "write_marker":
            site.store.marker = "other"

    site.store.before = other
    with pytest.raises(StoreUnavailable, match="belongs to another blob directory"):
        site.tier.upload(path, oid_of(1))
    assert (site.store.objects, site.store.marker) == ({}, "other")
    assert not os.path.exists(site.helper.base_dir + FILE_NAME)


def test_a_fetch_that_nobody_waits_for_is_no_load(site: Site) -> None:
    site.commit_cold(1)
    site.tier.fetch(oid_of(1), TID)
    assert (counted(site.tier, "hits"), counted(site.tier, "misses")) == (0, 0)


def test_a_place_that_became_that_of_others_is_not_swept(site: Site) -> None:
    site.commit(1)
    orphan(site, make_name(oid_of(1)))
    site.store.marker = "other"
    site.tier.packed()
    wait_until(lambda: counted(site.tier, "failures") > 0, "it has tried")
    assert "another blob directory" in counted(site.tier, "trouble")
    assert len(site.store.objects) == 2


# -- uploads -------------------------------------------------------------------------------------


def test_a_directory_that_was_there_before(site: Site) -> None:
    for number in range(5):
        site.write(number, b"old")
    site.tier.start(quiet)
    wait_until(lambda: counted(site.tier, "uploads") == 5, "all were uploaded")
    wait_until(lambda: counted(site.tier, "pending") == 0, "all have stubs")
    assert sorted(site.store.objects.values()) == [b"old"] * 5
    for name in site.store.objects:
        assert name[17:33] == TID.hex()
        assert site.store.labels[name]["tid"] == TID.hex()


def test_what_is_not_committed_is_not_for_keeps(site: Site) -> None:
    site.write(1)
    site.write(2, tid=LATER)
    site.tier.start(lambda: TID)
    wait_until(lambda: os.path.exists(stub_of(site.path(1))), "the first has a stub")
    wait_until(lambda: "list" in site.store.calls, "the round is over")
    assert not os.path.exists(stub_of(site.path(2, LATER)))
    assert len(site.store.objects) == 1


def test_two_uploads_of_one_blob(site: Site) -> None:
    """As after a commit whose stub was not written yet when the directory was looked through."""
    first = site.commit(1)
    second = site.tier.upload(site.path(1), oid_of(1))
    site.tier.committed(TID, {oid_of(1): second})
    wait_until(lambda: set(site.store.objects) == {first.name}, "the second object goes")
    assert read_stub(stub_of(site.path(1))) == first


def test_what_is_dropped_goes(site: Site) -> None:
    path = site.write(1)
    found = site.tier.upload(path, oid_of(1))
    site.tier.drop([found])
    wait_until(lambda: not site.store.objects, "the object goes")


def test_stubs_are_written_at_the_end_at_the_latest(site: Site) -> None:
    path = site.write(1)
    found = site.tier.upload(path, oid_of(1))
    with site.tier.lock:
        site.tier.committed(TID, {oid_of(1): found})
    site.tier.close()
    assert read_stub(stub_of(path)) == found


def test_what_a_killed_server_has_left_of_fetches(site: Site) -> None:
    path = Path(site.helper.temp_dir) / f"{FETCH_PREFIX}1"
    path.write_text("part")
    site.tier.start(quiet)
    assert not path.exists()


# -- sweeping ------------------------------------------------------------------------------------


def orphan(site: Site, name: str) -> None:
    site.store.objects[name] = b"x"


def test_what_nobody_names_is_swept(site: Site) -> None:
    kept = site.commit(1)
    aside = site.commit(2)
    packed = site.commit(3)
    unborn = site.tier.upload(site.write(4), oid_of(4))
    os.remove(site.path(4))
    # As a pack does it.
    top = site.helper.base_dir.rstrip("/")
    target = Path(stub_of(site.path(2)).replace(top, top + ".old"))
    target.parent.mkdir(parents=True)
    os.rename(stub_of(site.path(2)), target)
    for number in (2, 3):
        os.remove(site.path(number))
    os.remove(stub_of(site.path(3)))
    orphan(site, make_name(oid_of(1)))
    orphan(site, make_name(oid_of(9)))
    orphan(site, "something/of/somebody/else")
    site.tier.packed()
    wait_until(lambda: counted(site.tier, "swept") == 3, "three are swept")
    assert set(site.store.objects) == {
        kept.name, aside.name, unborn.name, "something/of/somebody/else"
    }  # fmt: skip
    assert packed.name not in site.store.objects


def test_what_is_young_is_not_swept(site: Site) -> None:
    site.store.age = 30
    orphan(site, make_name(oid_of(1)))
    tier = site.open(orphan_age=60)
    tier.packed()
    wait_until(lambda: "list" in site.store.calls, "it was looked at")
    site.close()
    assert len(site.store.objects) == 1


def test_an_object_of_a_damaged_stub_is_not_swept(site: Site) -> None:
    found = site.commit_cold(1)
    Path(stub_of(site.path(1))).write_text("{")
    orphan(site, make_name(oid_of(2)))
    site.tier.packed()
    wait_until(lambda: counted(site.tier, "swept") == 1, "the other one is swept")
    assert set(site.store.objects) == {found.name}


@pytest.mark.parametrize(
    ("break_it", "problem"),
    [
        (
            lambda site: os.remove(site.helper.base_dir + FILE_NAME),
            "that directory was this one",
        ),
        (lambda site: setattr(site.store, "marker", None), "which says that there is one"),
        (lambda site: setattr(site.store, "marker", "other"), "another blob directory than"),
    ],
    ids=["empty directory", "empty store", "other store"],
)
def test_nothing_is_deleted_or_stored_in_a_place_of_others(
    site: Site, break_it: Callable[[Site], None], problem: str
) -> None:
    """A directory whose disk is not there has no stubs: all objects would be swept."""
    found = site.commit(1)
    orphan(site, make_name(oid_of(1)))
    objects = dict(site.store.objects)
    break_it(site)
    for ask in (BlobTier.packed, lambda tier: tier.drop([found])):
        ask(site.open())
        wait_until(lambda: counted(site.tier, "failures") > 0, "it has tried")
        assert problem in counted(site.tier, "trouble")
        site.tier.close()
    path = site.write(2)
    with pytest.raises(StoreUnavailable, match=problem):
        site.open().upload(path, oid_of(2))
    assert site.store.objects == objects

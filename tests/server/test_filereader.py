"""A file reader returns what the storage itself returns, whatever happens to the file."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ZODB.Connection import TransactionMetaData
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage
from ZODB.POSException import POSKeyError
from ZODB.serialize import referencesf
from ZODB.tests.MinPO import MinPO
from ZODB.tests.StorageTestBase import zodb_pickle
from ZODB.utils import maxtid, p64, z64

from zeolith.server.filereader import FileReader, can_read_directly

OIDS = [p64(number) for number in range(1, 6)]


class Own(FileStorage):
    """A subclass, which may do anything."""


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[Any]:
    storage = FileStorage(str(tmp_path / "Data.fs"))
    yield storage
    storage.close()


@pytest.fixture
def reader(storage: Any) -> Iterator[FileReader]:
    reader = FileReader(storage)
    yield reader
    reader.close()


def commit(storage: Any, records: dict[bytes, bytes]) -> bytes:
    """Store new revisions of objects; return the tid."""
    meta = TransactionMetaData()
    storage.tpc_begin(meta)
    for oid, data in records.items():
        try:
            serial = storage.getTid(oid)
        except POSKeyError:
            serial = z64
        storage.store(oid, serial, data, "", meta)
    storage.tpc_vote(meta)
    tid: bytes = storage.tpc_finish(meta)
    return tid


def undo(storage: Any, number: int = 0) -> bytes:
    """Undo the last transaction but *number*; return the tid of that."""
    meta = TransactionMetaData()
    storage.tpc_begin(meta)
    storage.undo(storage.undoLog(0, 10)[number]["id"], meta)
    storage.tpc_vote(meta)
    tid: bytes = storage.tpc_finish(meta)
    return tid


def outcome(load: Any, oid: bytes, tid: bytes) -> Any:
    """What *load* returns, or the class of what it raises."""
    try:
        return load(oid, tid)
    except POSKeyError as error:
        return type(error)


def check_all(reader: FileReader, storage: Any, tids: list[bytes]) -> None:
    for oid in [*OIDS, p64(99)]:
        for tid in [z64, *tids, maxtid]:
            assert outcome(reader.load_before, oid, tid) == outcome(storage.loadBefore, oid, tid)


def test_current_records_are_read_without_the_storage(
    storage: Any, reader: FileReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    tid = commit(storage, {OIDS[0]: b"short", OIDS[1]: b"long" * 1000, OIDS[2]: b"x" * 982})
    monkeypatch.setattr(reader, "_load", None)
    assert reader.load_before(OIDS[0], maxtid) == (b"short", tid, None)
    assert reader.load_before(OIDS[1], maxtid) == (b"long" * 1000, tid, None)
    assert reader.load_before(OIDS[2], maxtid) == (b"x" * 982, tid, None)


@pytest.mark.parametrize("size", [1, 900, 981, 982, 983, 1023, 1024, 5000, 70_000])
def test_records_of_any_size(storage: Any, reader: FileReader, size: int) -> None:
    tids = [commit(storage, {OIDS[0]: b"a" * size, OIDS[1]: b"b"})]
    check_all(reader, storage, tids)


def test_earlier_revisions_and_unknown_objects_are_the_storages(
    storage: Any, reader: FileReader
) -> None:
    tids = [commit(storage, dict.fromkeys(OIDS[:3], b"%d" % number)) for number in range(3)]
    check_all(reader, storage, tids)


def test_records_that_point_to_others_are_the_storages(storage: Any, reader: FileReader) -> None:
    tids = [commit(storage, dict.fromkeys(OIDS[:3], b"%d" % number)) for number in range(3)]
    tids.append(undo(storage))
    check_all(reader, storage, tids)
    # Undoing the creation leaves an object that exists only in the past.
    tids.append(commit(storage, {OIDS[4]: b"new"}))
    tids.append(undo(storage))
    check_all(reader, storage, tids)


def test_an_aborted_vote_leaves_nothing_behind(storage: Any, reader: FileReader) -> None:
    tids = [commit(storage, {OIDS[0]: b"first"})]
    check_all(reader, storage, tids)
    meta = TransactionMetaData()
    storage.tpc_begin(meta)
    storage.store(OIDS[0], tids[0], b"never", "", meta)
    storage.tpc_vote(meta)
    check_all(reader, storage, tids)
    storage.tpc_abort(meta)
    check_all(reader, storage, tids)
    tids.append(commit(storage, {OIDS[0]: b"second"}))
    check_all(reader, storage, tids)


def test_a_pack_moves_the_reader_to_the_new_file(
    storage: Any, reader: FileReader, tmp_path: Path
) -> None:
    for number in range(5):
        commit(storage, {z64: zodb_pickle(MinPO(number))})
        commit(storage, {oid: zodb_pickle(MinPO(number)) for oid in OIDS[:3]})
    assert reader.load_before(z64, maxtid) == storage.loadBefore(z64, maxtid)
    before = os.stat(tmp_path / "Data.fs").st_size
    storage.pack(time.time() + 1, referencesf)
    assert os.stat(tmp_path / "Data.fs").st_size < before
    os.remove(tmp_path / "Data.fs.old")
    check_all(reader, storage, [])
    assert reader.load_before(z64, maxtid) == storage.loadBefore(z64, maxtid)
    tid = commit(storage, {z64: b"after the pack"})
    assert reader.load_before(z64, maxtid) == (b"after the pack", tid, None)


def test_while_a_pack_replaces_file_and_index_the_answers_stay_right(
    storage: Any, reader: FileReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(5):
        commit(storage, {z64: zodb_pickle(MinPO(number))})
    expected = storage.loadBefore(z64, maxtid)
    assert reader.load_before(z64, maxtid) == expected
    seen = []
    original = FileStorage._initIndex

    def between(self: Any, index: Any, tindex: Any) -> None:
        # The file is the new one here, the index still the old one.  A reader that mixed them
        # would look for the record in the wrong place; this one waits for the pack to be done.
        looking = threading.Thread(target=lambda: seen.append(reader.load_before(z64, maxtid)))
        looking.start()
        looking.join(0.2)
        assert seen == []
        original(self, index, tindex)
        threads.append(looking)

    threads: list[threading.Thread] = []
    monkeypatch.setattr(FileStorage, "_initIndex", between)
    storage.pack(time.time() + 1, referencesf)
    for thread in threads:
        thread.join()
    assert len(threads) == 1
    assert seen == [expected]


def test_a_file_that_was_moved_away_is_not_read(
    storage: Any, reader: FileReader, tmp_path: Path
) -> None:
    tids = [commit(storage, {OIDS[0]: b"data"})]
    shutil.copy(tmp_path / "Data.fs", tmp_path / "copy.fs")
    os.rename(tmp_path / "copy.fs", tmp_path / "Data.fs")
    check_all(reader, storage, tids)
    assert reader._fd == -1


def test_no_descriptor_is_left_open(storage: Any, reader: FileReader) -> None:
    commit(storage, {OIDS[0]: b"data"})
    for _ in range(3):
        reader.load_before(OIDS[0], maxtid)
        fd = reader._fd
        os.fstat(fd)
        reader.close()
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
        reader.close()


def test_only_plain_file_storages_are_read_directly(tmp_path: Path, storage: Any) -> None:
    assert can_read_directly(storage)
    assert not can_read_directly(MappingStorage())
    own = Own(str(tmp_path / "own.fs"))
    assert not can_read_directly(own)
    own.close()

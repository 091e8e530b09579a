"""What the server knows of storages."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import ZODB.blob
from tests.support.histories import commit
from ZODB.Connection import TransactionMetaData
from ZODB.DemoStorage import DemoStorage
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage
from ZODB.POSException import ConflictError, POSKeyError, Unsupported
from ZODB.tests.hexstorage import HexStorage
from ZODB.tests.MinPO import MinPO
from ZODB.tests.StorageTestBase import zodb_pickle

from zeolith.server.access import (
    DatabaseFacade,
    StorageAccess,
    is_fast,
)
from zeolith.server.invalidations import InvalidationLog
from zeolith.server.publisher import Publisher
from zeolith.types import NO_TID

OID = bytes(7) + b"\1"


class Slow(MappingStorage):
    """A subclass: nobody knows what it does."""


@pytest.fixture
def open_files(files: FileStorage) -> Iterator[FileStorage]:
    with closing(files):
        yield files


def test_which_storages_are_fast(open_files: FileStorage, tmp_path: Path) -> None:
    mapping = MappingStorage()
    wrapped = ZODB.blob.BlobStorage(str(tmp_path / "wrapped"), mapping)
    assert all(map(is_fast, [mapping, open_files, wrapped]))
    assert is_fast(DemoStorage(base=open_files, changes=wrapped, close_base_on_close=False))
    slow = Slow()
    assert not is_fast(slow)
    assert not is_fast(DemoStorage(base=slow))
    assert not is_fast(DemoStorage(changes=slow))
    assert not is_fast(ZODB.blob.BlobStorage(str(tmp_path / "slow"), slow))
    assert not is_fast(object())


def test_where_loads_run_can_be_chosen() -> None:
    assert StorageAccess("1", MappingStorage(), "auto").is_fast
    assert not StorageAccess("1", MappingStorage(), "workers").is_fast
    assert StorageAccess("1", Slow(), "loop").is_fast


def test_information(open_files: FileStorage) -> None:
    info = StorageAccess("1", open_files).info()
    assert list(info) == [
        "length",
        "size",
        "name",
        "supportsUndo",
        "supports_record_iternext",
        "interfaces",
    ]
    assert info["supportsUndo"] is True
    assert info["supports_record_iternext"] is True
    assert ("ZODB.interfaces", "IBlobStorage") in info["interfaces"]
    assert ("zope.interface", "Interface") in info["interfaces"]
    info = StorageAccess("1", MappingStorage()).info()
    assert (info["supportsUndo"], info["supports_record_iternext"]) == (False, False)


def test_missing_methods_are_named() -> None:
    access = StorageAccess("main", MappingStorage())
    with pytest.raises(Unsupported, match="'main' does not support undo"):
        access.method("undo")
    for call in (
        access.temporary_directory,
        lambda: access.load_blob(OID, OID),
        lambda: access.shared_blob_path(OID, "x.tmp"),
    ):
        with pytest.raises(Unsupported, match="blobs"):
            call()
    assert access.last_invalidations(100) == []
    assert access.last_transaction() == NO_TID


@pytest.mark.parametrize("wrap", [False, True])
def test_conflicts_can_be_left_alone(open_files: FileStorage, tmp_path: Path, wrap: bool) -> None:
    """Also when the storage that would resolve them is wrapped in another one."""
    storage: Any = open_files
    if wrap:
        inner = FileStorage(str(tmp_path / "inner.fs"))
        storage = ZODB.blob.BlobStorage(str(tmp_path / "outer"), inner)
    try:
        StorageAccess("1", storage).resolver = None
        method = inner.tryToResolveConflict if wrap else storage.tryToResolveConflict
        with pytest.raises(ConflictError) as caught:
            method(OID, b"2" * 8, b"1" * 8, b"data")
        assert caught.value.oid == OID
        assert caught.value.serials == (b"2" * 8, b"1" * 8)
    finally:
        if wrap:
            storage.close()


def test_blobs_that_are_not_there(open_files: FileStorage) -> None:
    with pytest.raises(POSKeyError):
        StorageAccess("1", open_files).load_blob(OID, OID)


@pytest.mark.parametrize(
    "wrap",
    [lambda files: DemoStorage(changes=files, close_changes_on_close=False), HexStorage],
    ids=["demo", "hex"],
)
def test_r4_blobs_a_transaction_has_written(
    open_files: FileStorage, tmp_path: Path, wrap: Callable[[Any], Any]
) -> None:
    """Whatever the storage that keeps them is wrapped in."""
    access = StorageAccess("1", wrap(open_files))
    assert access.dirty_blobs() == []
    upload = tmp_path / "upload"
    upload.write_bytes(b"blob")
    meta = TransactionMetaData()
    access.storage.tpc_begin(meta)
    access.storage.storeBlob(OID, NO_TID, b"record", str(upload), "", meta)
    ((path, top),) = access.dirty_blobs()
    assert Path(path).read_bytes() == b"blob"
    assert Path(path).is_relative_to(top)
    access.abort(meta)
    assert access.dirty_blobs() == []
    assert not Path(path).exists()


def test_what_a_storage_sees_of_the_database() -> None:
    wakes: list[int] = []
    log = InvalidationLog(10, 100_000)
    log.reset(NO_TID, [])
    publisher = Publisher("1", log, lambda: wakes.append(1))
    storage = MappingStorage()
    facade = DatabaseFacade(StorageAccess("1", storage), publisher)
    facade.invalidate(b"1" * 8, [OID])
    facade.invalidate(b"2" * 8, {OID: 1}, "")
    with pytest.raises(Unsupported):
        facade.invalidate(b"3" * 8, [OID], "version")
    publisher.drain()
    assert log.after(NO_TID) == [(b"1" * 8, OID), (b"2" * 8, OID)]
    before = storage.lastTransaction()
    facade.invalidateCache()
    # R6: a storage that is a client of another server tells this before it shows how far that is.
    tid = commit(storage, OID)
    assert tid > before
    publisher.drain()
    assert log.last_tid == tid
    assert log.after(before) is None
    assert len(wakes) == 3


def test_r6_a_storage_that_cannot_even_say_how_far_it_goes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Clients are ahead of what is told them then, and drop what they have."""
    log = InvalidationLog(10, 100_000)
    log.reset(b"1" * 8, [])
    publisher = Publisher("1", log, lambda: None)
    storage = MappingStorage()
    facade = DatabaseFacade(StorageAccess("1", storage), publisher)

    def fail() -> bytes:
        raise OSError("gone")

    storage.lastTransaction = fail
    facade.invalidateCache()
    publisher.drain()
    assert log.last_tid == NO_TID
    assert "does not say which transaction is its last" in caplog.text


def test_a_storage_needs_nothing_else_of_a_database() -> None:
    publisher = Publisher("1", InvalidationLog(10, 100_000), lambda: None)
    facade = DatabaseFacade(StorageAccess("1", MappingStorage()), publisher)
    assert facade.transform_record_data(b"x") == facade.untransform_record_data(b"x") == b"x"
    assert facade.references(zodb_pickle(MinPO())) == []


def test_c_directories_that_somebody_else_makes_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ZODB#309: between looking for a directory and making it."""
    storage = FileStorage(str(tmp_path / "Data.fs"), blob_dir=str(tmp_path / "blobs"))
    access = StorageAccess("1", storage)
    path = storage.fshelper.getPathForOID(b"\0" * 7 + b"\1")
    real = os.path.exists

    def exists(name: str) -> bool:
        found = real(name)
        if name == path:
            os.makedirs(path, exist_ok=True)
        return found

    monkeypatch.setattr(os.path, "exists", exists)
    access.make_blob_directories([b"\0" * 7 + b"\1"])
    assert os.path.isdir(path)
    access.close()

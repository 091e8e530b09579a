"""Blobs get the places that ZODB gives them."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from ZODB.blob import BlobStorage, FilesystemHelper
from ZODB.Connection import TransactionMetaData
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage

from zeolith.server.access import StorageAccess
from zeolith.server.blobplaces import BlobPlaces, makes_places

OIDS = [bytes(8), b"\x00" * 7 + b"\x01", bytes(range(8)), b"\xff" * 8]
TIDS = [bytes(7) + b"\x01", b"\x03\xf9\x0a\x0b\x0c\x0d\x0e\x0f", b"\xff" * 8]


@pytest.mark.parametrize("layout", ["bushy", "lawn"])
def test_each_path_is_zodb_s(tmp_path: Path, layout: str) -> None:
    helper = FilesystemHelper(str(tmp_path), layout)
    places = BlobPlaces(helper)
    assert places.top == helper.base_dir
    for oid in OIDS:
        assert places.directory(oid) == helper.getPathForOID(oid)
        for tid in TIDS:
            assert places.file(oid, tid) == helper.getBlobFilename(oid, tid)


def store(access: StorageAccess, oid: bytes, make: Callable[[], str]) -> str:
    storage: Any = access.storage
    meta = TransactionMetaData()
    storage.tpc_begin(meta)
    try:
        access.store_blob(oid, bytes(8), b"record", make(), meta)
        storage.tpc_vote(meta)
        tid = storage.tpc_finish(meta)
    except BaseException:
        access.abort(meta)
        raise
    return str(storage.loadBlob(oid, tid))


@pytest.fixture
def access(tmp_path: Path) -> Any:
    storage = FileStorage(str(tmp_path / "Data.fs"), blob_dir=str(tmp_path / "blobs"))
    yield StorageAccess("1", storage)
    storage.close()


def source(access: StorageAccess, data: bytes = b"blob") -> str:
    path = Path(access.temporary_directory()) / "source"
    path.write_bytes(data)
    return str(path)


@pytest.mark.parametrize("is_there", [False, True])
def test_a_file_gets_its_place_and_is_protected(access: StorageAccess, is_there: bool) -> None:
    if is_there:
        access.make_blob_directories(OIDS)
    path = Path(store(access, OIDS[2], lambda: source(access)))
    assert path.read_bytes() == b"blob"
    assert path.stat().st_mode & 0o777 == 0o400 | path.parent.stat().st_mode & 0o444
    assert os.listdir(access.temporary_directory()) == []


def test_a_file_on_another_disk_is_copied(
    access: StorageAccess, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(old: str, new: str) -> None:
        raise OSError(18, "Invalid cross-device link")

    access.make_blob_directories(OIDS)
    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", refuse)
        path = Path(store(access, OIDS[2], lambda: source(access)))
    assert path.read_bytes() == b"blob"


def test_why_a_directory_cannot_be_made(
    access: StorageAccess, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: str, mode: int = 0o777) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "mkdir", refuse)
        with pytest.raises(OSError, match="No space left"):
            store(access, OIDS[2], lambda: source(access))


def test_whoever_has_his_own_way_is_asked(access: StorageAccess) -> None:
    asked = []
    own = access.storage.storeBlob

    def store_blob(*arguments: Any) -> Any:
        asked.append(arguments[0])
        return own(*arguments)

    access.storage.storeBlob = store_blob
    store(access, OIDS[2], lambda: source(access))
    assert asked == [OIDS[2]]


def test_other_storages_see_to_it_themselves(tmp_path: Path) -> None:
    storage = BlobStorage(str(tmp_path / "blobs"), MappingStorage())
    assert not makes_places(storage)
    access = StorageAccess("1", storage)
    path = store(access, OIDS[2], lambda: source(access))
    assert Path(path).read_bytes() == b"blob"
    with closing(FileStorage(str(tmp_path / "Data.fs"))) as without_blobs:
        assert not makes_places(without_blobs)


def test_a_file_of_a_shared_directory_stays_readable(access: StorageAccess, tmp_path: Path) -> None:
    """As ZODB has it: it is a client's, who may have others that read it."""
    access.make_blob_directories(OIDS)
    directory = Path(access.storage.fshelper.getPathForOID(OIDS[2]))
    directory.chmod(0o711)
    shared = directory / "sent.tmp-"
    shared.write_bytes(b"blob")
    shared.chmod(0o644)
    path = Path(store(access, OIDS[2], lambda: str(shared)))
    assert path.stat().st_mode & 0o777 == 0o444

"""What a server that was killed has left of blobs that were not committed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from tests.server.conftest import Connect, Serve
from tests.support.blobdisk import Disk, Uploader, debris
from tests.support.raw import RemoteFault, oid_of
from ZODB import utils
from ZODB.blob import BlobStorage
from ZODB.Connection import TransactionMetaData
from ZODB.DemoStorage import DemoStorage
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage

from zeolith.server.access import StorageAccess
from zeolith.server.voted import LIST_NAME, UPLOAD_PREFIX, VotedBlobs


@pytest.fixture
def disk(tmp_path: Path) -> Any:
    found = Disk("bushy", tmp_path)
    yield found
    found.storage.close()


def store(disk: Disk, tmp_path: Path, data: bytes, is_committed: bool) -> str:
    """Store a blob behind the server's back; return its file."""
    path = tmp_path / "new"
    path.write_bytes(data)
    meta = TransactionMetaData()
    storage = disk.storage
    storage.tpc_begin(meta)
    voted = VotedBlobs(storage)
    voted.note_stored([oid_of(1)])
    storage.storeBlob(oid_of(1), bytes(8), b"record", str(path), "", meta)
    storage.tpc_vote(meta)
    found = str(storage.fshelper.getBlobFilename(oid_of(1), storage._tid))
    if is_committed:
        storage.tpc_finish(meta)
    else:
        # As if the process had ended here: the storage does not know its blob.
        storage.dirty_oids = []
        storage.tpc_abort(meta)
    return found


def test_what_was_not_committed_is_removed(disk: Disk, tmp_path: Path) -> None:
    path = store(disk, tmp_path, b"lost", is_committed=False)
    assert os.path.exists(path)
    VotedBlobs(disk.storage).recover()
    assert disk.is_right()
    VotedBlobs(disk.storage).recover()


def test_what_was_committed_stays(disk: Disk, tmp_path: Path) -> None:
    """Killed after the commit, before the list was removed."""
    path = store(disk, tmp_path, b"kept", is_committed=True)
    VotedBlobs(disk.storage).recover()
    assert Path(path).read_bytes() == b"kept"
    assert debris(disk.directory) == []


def test_a_list_that_was_cut_off(disk: Disk, tmp_path: Path) -> None:
    path = store(disk, tmp_path, b"lost", is_committed=False)
    with open(disk.directory / "tmp" / LIST_NAME, "a") as file:
        file.write("0123 zz\n\xe4\n" + "00" * 8 + " " + "00" * 3)
    VotedBlobs(disk.storage).recover()
    assert not os.path.exists(path)
    assert debris(disk.directory) == []


def test_uploads_are_removed_and_other_files_are_not(disk: Disk) -> None:
    temporary = disk.directory / "tmp"
    (temporary / f"{UPLOAD_PREFIX}abc").write_bytes(b"x")
    (temporary / f"{UPLOAD_PREFIX}abc.1-0").write_bytes(b"x")
    (temporary / "BUCabc.tmp").write_bytes(b"an application's")
    VotedBlobs(disk.storage).recover()
    assert debris(disk.directory) == ["tmp/BUCabc.tmp"]


def test_what_a_failed_copy_has_left(
    disk: Disk, serve: Serve, raw: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The temporary directory is on another disk, and that of the blobs becomes full."""
    rename, copy = os.rename, utils.cp

    def other_device(source: str, target: str) -> None:
        if target.endswith(".blob"):
            raise OSError(18, "Invalid cross-device link")
        rename(source, target)

    def fill_disk(source: Any, target: Any, *rest: Any) -> None:
        target.write(source.read(10))
        raise OSError(28, "No space left on device")

    server = serve(disk.storage)
    uploader = Uploader(raw(server.address))
    uploader.client.begin()
    uploader.store(oid_of(1), bytes(1000))
    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", other_device)
        patch.setattr(utils, "cp", fill_disk)
        with pytest.raises(RemoteFault, match="No space left"):
            uploader.client.vote()
    uploader.client.ping()
    tid = uploader.commit(oid_of(2), b"again")
    disk.committed(2, tid, b"again")
    assert disk.is_right()
    assert copy is utils.cp


def test_where_nobody_knows_whose_directory_it_is(tmp_path: Path) -> None:
    """Only a FileStorage has a lock: others may share the directory."""
    files = FileStorage(str(tmp_path / "Data.fs"))
    blobs = BlobStorage(str(tmp_path / "one"), files)
    assert len(StorageAccess("1", blobs).voted) == 1
    assert StorageAccess("1", files).voted == []
    mapping = BlobStorage(str(tmp_path / "two"), MappingStorage())
    assert StorageAccess("1", mapping).voted == []
    demo = DemoStorage(base=blobs, changes=mapping)
    assert StorageAccess("1", demo).voted == []
    blobs.close()
    reader = FileStorage(str(tmp_path / "Data.fs"), read_only=True, blob_dir=str(tmp_path / "one"))
    assert StorageAccess("1", reader).voted == []
    reader.close()

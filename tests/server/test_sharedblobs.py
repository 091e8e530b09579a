"""Files that clients have put into the server's blob directory themselves."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from ZODB.blob import BlobStorage
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage

from zeolith.server.access import StorageAccess
from zeolith.server.sharedblobs import check_shared_name

OID = bytes(7) + b"\1"


@pytest.mark.parametrize("name", ["x.tmp", "0x03.tmp-", "a b.tmp", "x.tmp~"])
def test_names_of_shared_blobs(name: str) -> None:
    check_shared_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "", ".tmp", "..", "x", "x.tmp--", "x.blob", "../x.tmp", "a/x.tmp", "/x.tmp", "a\\x.tmp",
        "x\0.tmp", "..tmp", ".x.tmp",
    ],
)  # fmt: skip
def test_e_names_that_are_no_shared_blobs(name: str) -> None:
    """CVE-2009-2701."""
    with pytest.raises(ValueError, match="temporary blob file"):
        check_shared_name(name)


@pytest.fixture(params=["file", "bushy", "lawn"])
def access(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StorageAccess]:
    if request.param == "file":
        storage = FileStorage(str(tmp_path / "Data.fs"), blob_dir=str(tmp_path / "blobs"))
    else:
        storage = BlobStorage(str(tmp_path / "blobs"), MappingStorage(), request.param)
    with closing(storage):
        yield StorageAccess("1", storage)


@pytest.fixture
def directory(access: StorageAccess) -> Path:
    return Path(access.storage.fshelper.getPathForOID(OID, create=True))


def refuse(access: StorageAccess, name: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        access.shared_blob_path(OID, name)


def test_a_plain_file_is_found(access: StorageAccess, directory: Path) -> None:
    (directory / "x.tmp").write_bytes(b"blob")
    assert access.shared_blob_path(OID, "x.tmp") == str(directory / "x.tmp")
    refuse(access, "x.blob", "temporary blob file")


def test_a_file_that_is_not_there(access: StorageAccess, tmp_path: Path) -> None:
    refuse(access, "x.tmp", "share the server's blob directory")
    other = Path(access.storage.fshelper.getPathForOID(bytes(7) + b"\2", create=True))
    (other / "x.tmp").write_bytes(b"of another object")
    refuse(access, "x.tmp", f"{tmp_path}/blobs/ .No such file")


@pytest.mark.parametrize("kind", ["link", "link to nothing", "directory", "pipe", "socket"])
def test_e_what_is_no_plain_file(
    access: StorageAccess, directory: Path, tmp_path: Path, kind: str
) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    path = directory / "x.tmp"
    if kind == "link":
        path.symlink_to(secret)
    elif kind == "link to nothing":
        path.symlink_to(tmp_path / "nothing")
    elif kind == "directory":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        server = socket.socket(socket.AF_UNIX)
        descriptor = os.open(directory, os.O_RDONLY)
        server.bind(f"/proc/self/fd/{descriptor}/x.tmp")  # a short enough name
        os.close(descriptor)
        server.close()
    refuse(access, "x.tmp", "not a plain file")


def test_e_a_file_with_another_name(access: StorageAccess, directory: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    os.link(tmp_path / "secret", directory / "x.tmp")
    refuse(access, "x.tmp", "hard link")


def test_e_a_directory_that_is_a_link(
    access: StorageAccess, directory: Path, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "x.tmp").write_bytes(b"secret")
    directory.rmdir()
    directory.symlink_to(tmp_path / "elsewhere")
    refuse(access, "x.tmp", "to which a link leads")


def test_a_blob_directory_may_be_a_link_itself(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "blobs").symlink_to(tmp_path / "disk")
    with closing(BlobStorage(str(tmp_path / "blobs"), MappingStorage())) as storage:
        directory = Path(storage.fshelper.getPathForOID(OID, create=True))
        (directory / "x.tmp").write_bytes(b"blob")
        access = StorageAccess("1", storage)
        assert access.shared_blob_path(OID, "x.tmp") == str(directory / "x.tmp")


@pytest.mark.parametrize("refused", ["file", "directory"])
def test_rights_are_missing(
    access: StorageAccess, directory: Path, monkeypatch: pytest.MonkeyPatch, refused: str
) -> None:
    (directory / "x.tmp").write_bytes(b"blob")
    path = str(directory / "x.tmp" if refused == "file" else directory)
    monkeypatch.setattr(os, "access", lambda name, mode: name != path)
    refuse(access, "x.tmp", "has to run as the user")

"""Blob files on their way to their places."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from tests.support.blobdirectories import readable_as_folder
from zeolith.client.blobfiles import install, take_in, usable
from zeolith.errors import ClientStorageError


@pytest.fixture
def bucket(tmp_path: Path) -> Path:
    found = tmp_path / "bucket"
    found.mkdir()
    return found


@pytest.fixture
def source(tmp_path: Path) -> Path:
    found = tmp_path / "source"
    found.write_bytes(b"data")
    return found


def test_a_file_is_taken_by_its_name(bucket: Path, source: Path) -> None:
    inode = source.stat().st_ino
    path = Path(take_in(str(source), str(bucket), b"\0" * 7 + b"\1"))
    assert not source.exists()
    assert path.stat().st_ino == inode
    assert path.parent == bucket
    assert path.name.startswith("0x0000000000000001")
    assert path.name.endswith(".tmp-")
    assert stat.S_IMODE(path.stat().st_mode) == readable_as_folder(str(path))


def test_a_file_with_another_name_is_copied(bucket: Path, source: Path, tmp_path: Path) -> None:
    """A committed blob never changes; whoever has the other name could change it."""
    other = tmp_path / "other"
    os.link(source, other)
    path = Path(take_in(str(source), str(bucket), None))
    assert not source.exists()
    with other.open("ab") as file:
        file.write(b", changed")
    assert path.read_bytes() == b"data"
    assert path.stat().st_nlink == 1


def test_a_full_disk_leaves_the_callers_file(
    bucket: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfile", fail)
    os.link(source, tmp_path / "other")
    with pytest.raises(OSError, match="No space"):
        take_in(str(source), str(bucket), None)
    assert source.read_bytes() == b"data"
    assert os.listdir(bucket) == []


def test_a_file_is_on_disk_before_it_has_its_name(
    bucket: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = bucket / "0.01.blob"
    synced: list[bool] = []
    fsync = os.fsync

    def note(descriptor: int) -> None:
        synced.append(target.exists())
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    assert install(str(source), str(target)) == 4
    assert synced == [False]
    assert target.read_bytes() == b"data"
    assert stat.S_IMODE(target.stat().st_mode) == readable_as_folder(str(target))


def test_errors_of_the_system_are_a_storages(tmp_path: Path) -> None:
    with (
        pytest.raises(ClientStorageError, match=r"x cannot be used: .*No space") as caught,
        usable("x"),
    ):
        raise OSError(28, "No space left on device")
    assert isinstance(caught.value.__cause__, OSError)
    with pytest.raises(FileNotFoundError), usable("x"):
        raise FileNotFoundError

"""Blob files on their way to their places."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path

import pytest

from tests.support.blobdirectories import readable_as_folder
from zeolith.client.blobfiles import take_in, usable
from zeolith.client.bloblengths import ATTRIBUTE
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
    path = Path(take_in(str(source), str(bucket), b"\0" * 7 + b"\1").path)
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
    path = Path(take_in(str(source), str(bucket), None).path)
    assert not source.exists()
    with other.open("ab") as file:
        file.write(b", changed")
    assert path.read_bytes() == b"data"
    assert path.stat().st_nlink == 1


@pytest.mark.parametrize(("most", "data"), [(0, None), (3, None), (4, b"data"), (5, b"data")])
@pytest.mark.parametrize("names", [1, 2])
def test_what_is_in_a_short_file(
    bucket: Path, source: Path, tmp_path: Path, most: int, data: bytes | None, names: int
) -> None:
    if names > 1:
        os.link(source, tmp_path / "other")
    taken = take_in(str(source), str(bucket), None, most)
    assert (taken.size, taken.data) == (4, data)


def test_what_somebody_writes_to_is_not_read(
    bucket: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = os.read

    def read(descriptor: int, size: int) -> bytes:
        with open(taken_path(bucket), "ab") as file:
            file.write(b", and more")
        return original(descriptor, size)

    monkeypatch.setattr(os, "read", read)
    monkeypatch.setattr(os, "fchmod", lambda *arguments: None)
    assert take_in(str(source), str(bucket), None, 100).data is None


def taken_path(bucket: Path) -> Path:
    (path,) = bucket.iterdir()
    return path


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


def test_a_file_gets_its_place_without_waiting_for_the_disk(
    bucket: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", None)
    target = bucket / "0.01.blob"
    assert take_in(str(source), str(bucket), None).install(str(target)) == 4
    assert target.read_bytes() == b"data"
    assert stat.S_IMODE(target.stat().st_mode) == readable_as_folder(str(target))
    assert os.getxattr(target, ATTRIBUTE) == b"4"


def test_a_file_that_cannot_be_sealed_leaves_nothing(
    bucket: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "setxattr", fail)
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output"):
        take_in(str(source), str(bucket), None)
    assert os.listdir(bucket) == []


def test_a_file_is_new_as_a_blob(bucket: Path, source: Path) -> None:
    """Or what was just committed would be the first to go."""
    os.utime(source, (1000, 2000))
    target = bucket / "0.01.blob"
    take_in(str(source), str(bucket), None).install(str(target))
    assert target.stat().st_atime > time.time() - 3600
    assert target.stat().st_mtime == 2000


def test_errors_of_the_system_are_a_storages(tmp_path: Path) -> None:
    with (
        pytest.raises(ClientStorageError, match=r"x cannot be used: .*No space") as caught,
        usable("x"),
    ):
        raise OSError(28, "No space left on device")
    assert isinstance(caught.value.__cause__, OSError)
    with pytest.raises(FileNotFoundError), usable("x"):
        raise FileNotFoundError

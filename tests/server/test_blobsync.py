"""R4: blob files and the directories that lead to them reach the disk."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from zeolith.server.blobsync import flush, sync_blobs


def test_r4_blobs_and_all_their_directories_reach_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.readlink(f"/proc/self/fd/{fd}")))
    top = tmp_path / "blobs"
    files = [top / "a" / "b" / "one.blob", top / "a" / "b" / "two.blob", top / "c" / "x.blob"]
    for path in files:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    sync_blobs((str(path), f"{top}/") for path in files)
    expected = [*files, top / "a" / "b", top / "a", top, top / "c"]
    assert sorted(synced) == sorted(map(str, expected))
    # Files come before the directories that name them.
    assert synced[:3] == list(map(str, files))


def test_r4_a_missing_blob_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        sync_blobs([(str(tmp_path / "nothing"), str(tmp_path))])


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    found: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda fd: found.append(os.readlink(f"/proc/self/fd/{fd}")))
    return found


def test_r4_what_is_on_disk_already_needs_its_new_directory_only(
    tmp_path: Path, synced: list[str]
) -> None:
    upload, place = tmp_path / "upload", tmp_path / "b" / "0.blob"
    place.parent.mkdir()
    with upload.open("wb") as file:
        file.write(b"blob")
        file.flush()
        flushed = flush(file.fileno())
    assert synced == [str(upload)]
    upload.rename(place)
    place.chmod(0o400)
    sync_blobs([(str(place), str(tmp_path))], {flushed})
    assert synced[1:] == [str(place.parent), str(tmp_path)]


@pytest.mark.parametrize("change", ["copied", "longer", "written to"])
def test_r4_another_file_than_was_flushed_is_brought_to_disk(
    tmp_path: Path, synced: list[str], change: str
) -> None:
    """A storage copies what is on another disk, and a wrapper may change what it is given."""
    upload, place = tmp_path / "upload", tmp_path / "0.blob"
    upload.write_bytes(b"blob")
    os.utime(upload, (1, 1))
    with upload.open("rb") as file:
        flushed = flush(file.fileno())
    if change == "copied":
        place.write_bytes(upload.read_bytes())
        os.utime(place, (1, 1))
    else:
        upload.rename(place)
        place.write_bytes(b"blob, longer" if change == "longer" else b"BLOB")
        if change == "longer":
            os.utime(place, (1, 1))
    del synced[:]
    sync_blobs([(str(place), str(tmp_path))], {flushed})
    assert synced == [str(place), str(tmp_path)]


def test_one_directory_below_two(tmp_path: Path, synced: list[str]) -> None:
    top = tmp_path / "a"
    inner = top / "b"
    inner.mkdir(parents=True)
    files = [inner / "one", inner / "two"]
    for path in files:
        path.write_bytes(b"x")
    sync_blobs([(str(files[0]), str(inner)), (str(files[1]), str(top))])
    assert sorted(synced) == sorted(map(str, [*files, inner, top]))

"""The length of a cached blob is noted with it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from zeolith.client.bloblengths import ATTRIBUTE, check_length, note_length


@pytest.fixture
def blob(tmp_path: Path) -> Path:
    path = tmp_path / "blob"
    path.write_bytes(b"data")
    return path


def check(path: Path) -> None:
    with path.open("rb") as file:
        check_length(file.fileno(), path.stat().st_size)


@pytest.mark.parametrize("left", [0, 1, 3])
def test_what_is_shorter_than_noted_is_not_there(blob: Path, left: int) -> None:
    note_length(str(blob))
    check(blob)
    os.truncate(blob, left)
    with pytest.raises(FileNotFoundError, match=f"of b'4' bytes has only {left} left"):
        check(blob)


def test_a_file_without_a_note_is_taken_as_it_is(blob: Path) -> None:
    """A ZEO client's, or one that was on disk before it had its name."""
    check(blob)
    os.setxattr(blob, ATTRIBUTE, b"nonsense")
    with pytest.raises(FileNotFoundError, match="nonsense"):
        check(blob)


@pytest.mark.parametrize("has_attributes", [False, True])
def test_where_nothing_can_be_noted_the_file_is_brought_to_disk(
    blob: Path, monkeypatch: pytest.MonkeyPatch, has_attributes: bool
) -> None:
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.readlink(f"/proc/self/fd/{fd}")))
    if has_attributes:

        def refuse(*args: object) -> None:
            raise OSError(95, "Operation not supported")

        monkeypatch.setattr(os, "setxattr", refuse)
    else:
        monkeypatch.delattr(os, "setxattr")
        monkeypatch.delattr(os, "getxattr")
    note_length(str(blob))
    assert synced == [str(blob)]
    check(blob)


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        note_length(str(tmp_path / "nothing"))

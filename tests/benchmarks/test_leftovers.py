"""Turns of benchmarks give their room back, and leave their files."""

from __future__ import annotations

import os
from pathlib import Path

from benchmarks.leftovers import empty_files


def test_files_lose_what_is_in_them_and_stay(tmp_path: Path) -> None:
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    (blobs / "one.blob").write_bytes(b"content")
    (blobs / "one.blob").chmod(0o400)
    (blobs / "empty").touch()
    inodes = [os.stat(path).st_ino for path in sorted(blobs.iterdir())]
    empty_files(tmp_path)
    assert [path.name for path in sorted(blobs.iterdir())] == ["empty", "one.blob"]
    assert [os.stat(path).st_ino for path in sorted(blobs.iterdir())] == inodes
    assert not any(path.stat().st_size for path in blobs.iterdir())


def test_only_files_are_touched(tmp_path: Path) -> None:
    folder = tmp_path / "turn"
    folder.mkdir()
    outside = tmp_path / "outside"
    outside.write_bytes(b"of somebody else")
    (folder / "link").symlink_to(outside)
    os.mkfifo(folder / "pipe")
    empty_files(folder)
    assert outside.read_bytes() == b"of somebody else"

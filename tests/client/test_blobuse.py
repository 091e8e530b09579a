"""When a cached blob was last used."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from zeolith.client.blobuse import note_use


@pytest.mark.parametrize("is_open", [False, True])
def test_a_use_is_noted_whatever_the_file_system_does(tmp_path: Path, is_open: bool) -> None:
    path = tmp_path / "x.blob"
    path.touch()
    os.utime(path, ns=(1, 123_456_789))
    before = time.time()
    with path.open("rb") as file:
        note_use(file.fileno() if is_open else str(path), path.stat())
    assert before - 1 <= path.stat().st_atime <= time.time()
    assert path.stat().st_mtime_ns == 123_456_789


def test_one_note_a_second_suffices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.blob"
    path.touch()
    os.utime(path, (1000.0, 1.0))
    for now, expected in ((1000.5, 1000.0), (1001.0, 1001.0), (900.0, 900.0)):
        monkeypatch.setattr(time, "time", lambda now=now: now)
        monkeypatch.setattr(time, "time_ns", lambda now=now: int(now * 1e9))
        note_use(str(path), path.stat())
        assert path.stat().st_atime == expected


def test_what_cannot_be_noted_is_not(tmp_path: Path) -> None:
    path = tmp_path / "x.blob"
    path.touch()
    os.utime(path, (1, 1))
    status = path.stat()
    path.unlink()
    note_use(str(path), status)
    assert not path.exists()

"""Files that are in memory: what this system really does, and one that does not know how."""

from __future__ import annotations

import errno
import fcntl
import os
import sys
from pathlib import Path

import pytest

from zeolith.server import warmfiles
from zeolith.server.warmfiles import NEVER, open_warm, read_warm

DATA = os.urandom(10_000)


@pytest.fixture
def path(tmp_path: Path) -> bytes:
    found = tmp_path / "file"
    found.write_bytes(DATA)
    return bytes(found)


def test_what_has_just_been_written_is_there(path: bytes) -> None:
    room = memoryview(bytearray(len(DATA)))
    descriptor = -1
    try:
        descriptor = open_warm(path)
        assert read_warm(descriptor, room[:5000]) == 5000
        assert read_warm(descriptor, room) == len(DATA)
        assert room == DATA
        flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
        assert flags & os.O_ACCMODE == os.O_RDONLY
        # Neither a lease nor the journal is waited for.
        assert flags & os.O_NONBLOCK
        assert flags & os.O_NOATIME
        assert not os.get_inheritable(descriptor)
    except OSError as error:
        # Not every file system, or machine, can tell.
        if error.errno not in NEVER:
            raise
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def test_a_name_that_nobody_has_looked_up(tmp_path: Path) -> None:
    """It is not looked for on the disk; a system that has just made the directory may know."""
    with pytest.raises(OSError, match="file") as caught:
        open_warm(bytes(tmp_path / "file"))
    assert caught.value.errno in (errno.EAGAIN, errno.ENOENT, *NEVER)


@pytest.mark.parametrize("name", ["_syscall", "_number"])
def test_another_system(path: bytes, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(warmfiles, name, None)
    with pytest.raises(OSError, match="file") as caught:
        open_warm(path)
    assert caught.value.errno == errno.ENOSYS


def test_only_linux_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert warmfiles._find() is None
    monkeypatch.undo()
    monkeypatch.delattr(os, "RWF_NOWAIT", raising=False)
    assert warmfiles._find() is None

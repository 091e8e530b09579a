"""Locks in a blob cache."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
import zc.lockfile

from zeolith.client import bloblocks
from zeolith.client.blobbuckets import Buckets
from zeolith.client.bloblocks import FileLock, is_shared, share, try_lock
from zeolith.errors import ClientStorageError


def test_a_lock_file_is_zeos(tmp_path: Path) -> None:
    path = str(tmp_path / ".lock")
    lock = try_lock(path)
    assert lock is not None
    assert try_lock(path) is None
    with pytest.raises(zc.lockfile.LockError):
        zc.lockfile.LockFile(path)
    lock.close()
    lock.close()
    with closing(zc.lockfile.LockFile(path)):
        assert try_lock(path) is None


def test_a_lock_that_cannot_be_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError):
        try_lock(str(tmp_path / "no" / ".lock"))

    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    before = os.listdir("/dev/fd")
    with pytest.raises(OSError, match="No locks"):
        try_lock(str(tmp_path / ".lock"))
    assert os.listdir("/dev/fd") == before
    with pytest.raises(ClientStorageError, match="No locks"), Buckets().find(str(tmp_path)):
        pass


def test_a_child_of_a_fork_has_no_part_in_a_lock(tmp_path: Path) -> None:
    """Otherwise it would stay locked for as long as the child lives, if the parent dies."""
    path = str(tmp_path / ".lock")
    lock = try_lock(path)
    assert lock is not None
    descriptor = lock._descriptor
    child = os.fork()
    if child == 0:
        status = 1
        try:
            try:
                os.fstat(descriptor)
            except OSError:
                lock.close()  # what the forking thread does if it goes on
                status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert try_lock(path) is None
    lock.close()
    assert lock not in bloblocks._held


def test_a_lock_is_released_whoever_has_its_file_open(tmp_path: Path) -> None:
    """Such as a child between its fork and its exec."""
    path = str(tmp_path / ".lock")
    lock = try_lock(path)
    assert lock is not None
    inherited = os.dup(lock._descriptor)
    lock.close()
    again = try_lock(path)
    assert again is not None
    again.close()
    os.close(inherited)


def test_a_killed_process_leaves_no_lock(tmp_path: Path) -> None:
    path = str(tmp_path / ".lock")
    program = (
        "import sys; from zeolith.client.bloblocks import try_lock; "
        "lock = try_lock(sys.argv[1]); print('held', flush=True); sys.stdin.read()"
    )
    arguments = [sys.executable, "-c", program, path]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"held\n"
        assert try_lock(path) is None
        child.kill()
    lock = try_lock(path)
    assert lock is not None
    lock.close()


def test_readers_share_and_the_evictor_is_alone(tmp_path: Path) -> None:
    path = tmp_path / "x.blob"
    path.write_bytes(b"data")
    with path.open("rb") as one, path.open("rb") as other, path.open("rb") as evictor:
        assert share(one.fileno()).st_size == 4
        assert share(other.fileno()).st_size == 4
        assert is_shared(evictor.fileno())
        one.close()
        assert is_shared(evictor.fileno())
        other.close()
        assert not is_shared(evictor.fileno())
        with path.open("rb") as late, pytest.raises(FileNotFoundError):
            share(late.fileno())


def test_a_file_that_was_removed_while_it_was_opened(tmp_path: Path) -> None:
    path = tmp_path / "x.blob"
    path.write_bytes(b"data")
    with path.open("rb") as file:
        path.unlink()
        with pytest.raises(FileNotFoundError, match="has been evicted"):
            share(file.fileno())


def test_a_child_of_a_fork_reads_on(tmp_path: Path) -> None:
    """A web server hands an open blob to a process that it forks."""
    path = tmp_path / "x.blob"
    path.write_bytes(b"data")
    reader, writer = os.pipe()
    file = path.open("rb")
    share(file.fileno())
    child = os.fork()
    if child == 0:
        os.read(reader, 1)
        os._exit(0 if os.read(file.fileno(), 10) == b"data" else 1)
    file.close()
    with path.open("rb") as evictor:
        assert is_shared(evictor.fileno())
        os.write(writer, b"x")
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert not is_shared(evictor.fileno())
    os.close(reader)
    os.close(writer)


def test_a_bucket_is_held_by_one_thread_at_a_time(tmp_path: Path) -> None:
    buckets = Buckets()
    inside: list[int] = []
    most: list[int] = []

    def work() -> None:
        for _ in range(20):
            with buckets.find(str(tmp_path)):
                inside.append(1)
                most.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(most) == 100
    assert max(most) == 1


def test_patience_with_another_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    buckets = Buckets()
    lock = try_lock(str(tmp_path / ".lock"))
    assert isinstance(lock, FileLock)
    monkeypatch.setattr(bloblocks, "LOCK_TIMEOUT", 0.01)
    with pytest.raises(ClientStorageError, match="another process"), buckets.find(str(tmp_path)):
        pass
    lock.close()
    with buckets.find(str(tmp_path)):
        pass


def test_a_process_that_receives_a_large_blob_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For as long as the blob grows, but no longer."""
    monkeypatch.setattr(bloblocks, "LOCK_TIMEOUT", 1e-9)
    partial = tmp_path / "0.01.blob.dl"
    partial.touch()
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        now = time.time()
        os.utime(partial, (now, now + 3600 if len(pauses) < 5 else now - 1))

    monkeypatch.setattr(time, "sleep", pause)
    pause(0)
    lock = try_lock(str(tmp_path / ".lock"))
    assert lock is not None
    with (
        pytest.raises(ClientStorageError, match="another process"),
        Buckets().find(str(tmp_path)),
    ):
        pass
    assert len(pauses) == 5
    lock.close()

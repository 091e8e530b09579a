"""The size of a client's blob directory: what goes when it is too large."""

from __future__ import annotations

import fcntl
import os
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import zc.lockfile

from tests.support.blobdirectories import SERIAL, fill, leftovers, no_fetch, sender, which
from tests.support.raw import oid_of
from zeolith.client import bloblocks, blobsizes
from zeolith.client.blobs import BlobDirectory
from zeolith.client.blobsizes import clear_bucket, shrink, shrink_cache
from zeolith.errors import ConfigurationError


def test_least_recently_used_go_first(blob_cache: BlobDirectory) -> None:
    paths = fill(blob_cache, range(5), 100)
    os.utime(paths[0], (5000, 1000))
    shrink(blob_cache.path, 250)
    assert which(paths) == [0, 4]


def test_nothing_goes_while_the_size_is_right(blob_cache: BlobDirectory) -> None:
    paths = fill(blob_cache, range(5), 100)
    shrink(blob_cache.path, 500)
    assert which(paths) == [0, 1, 2, 3, 4]


def test_a_held_bucket_is_left_alone(blob_cache: BlobDirectory) -> None:
    paths = fill(blob_cache, range(3), 100)
    with closing(zc.lockfile.LockFile(os.path.join(os.path.dirname(paths[0]), ".lock"))):
        shrink(blob_cache.path, 0)
    assert which(paths) == [0]


def test_a_file_used_since_the_scan_is_left_alone(
    blob_cache: BlobDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = fill(blob_cache, range(2), 100)
    original = bloblocks.try_lock

    def use_then_lock(path: str) -> Any:
        if path.startswith(os.path.dirname(paths[0])):
            os.utime(paths[0], (9000, 1000))
        return original(path)

    monkeypatch.setattr(blobsizes, "try_lock", use_then_lock)
    shrink(blob_cache.path, 0)
    assert which(paths) == [0]


def test_open_files_are_left_alone(blob_cache: BlobDirectory) -> None:
    """C: the size check never takes a blob that this process is reading."""
    data = b"x" * 1000
    with blob_cache.open(oid_of(1), SERIAL, None, sender(blob_cache, data)) as file:
        assert shrink(blob_cache.path, 0) is False
        assert os.path.exists(blob_cache.filename(oid_of(1), SERIAL))
        assert file.read() == data
    assert shrink(blob_cache.path, 0) is True
    assert not os.path.exists(blob_cache.filename(oid_of(1), SERIAL))


def test_a_check_leaves_nothing_open(blob_cache: BlobDirectory) -> None:
    """C: ZEO#27."""
    fill(blob_cache, range(20), 10)
    with blob_cache.open(oid_of(3), SERIAL, None, no_fetch):
        before = os.listdir("/dev/fd")
        for target in (100, 0):
            shrink(blob_cache.path, target)
        assert os.listdir("/dev/fd") == before


def test_on_file_systems_that_cannot_tell_who_reads_blobs_are_evicted(
    blob_cache: BlobDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NFS demands a descriptor that can be written to; who has it open reads on all the same."""
    flock = fcntl.flock

    def as_on_nfs(descriptor: int, operation: int) -> None:
        mode = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE
        if operation & fcntl.LOCK_EX and mode == os.O_RDONLY:
            raise OSError(9, "Bad file descriptor")
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", as_on_nfs)
    with blob_cache.open(oid_of(1), SERIAL, None, sender(blob_cache, b"data")) as file:
        assert shrink(blob_cache.path, 0) is True
        assert not os.path.exists(blob_cache.filename(oid_of(1), SERIAL))
        assert file.read() == b"data"


def test_what_cannot_be_read_can_be_evicted(
    blob_cache: BlobDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client of ZEO that runs as another user has made it: 0400."""
    paths = fill(blob_cache, range(2), 10)
    original = os.open

    def refuse(path: str, *more: Any) -> int:
        if path == paths[0]:
            raise PermissionError(13, "Permission denied", path)
        return original(path, *more)

    monkeypatch.setattr(os, "open", refuse)
    assert shrink(blob_cache.path, 0) is True
    assert which(paths) == []


def test_what_dead_processes_left_is_removed(blob_cache: BlobDirectory) -> None:
    bucket = Path(blob_cache.fshelper.createPathForOID(oid_of(1)))
    (bucket / "0.03ff.blob.dl").write_bytes(b"partial")
    (bucket / "0xnew.tmp-").write_bytes(b"an upload")
    shrink(blob_cache.path, 10)
    assert leftovers(blob_cache) == ["0xnew.tmp-"]


def test_an_upload_of_long_ago_is_removed(
    blob_cache: BlobDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = Path(blob_cache.fshelper.createPathForOID(oid_of(1)))
    (bucket / "0xold.tmp-").write_bytes(b"an upload")
    monkeypatch.setattr(blobsizes, "ABANDONED_AGE", -1.0)
    shrink(blob_cache.path, 10)
    assert leftovers(blob_cache) == []


def age_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blobsizes, "ABANDONED_AGE", -1.0)


def test_what_was_never_committed_is_removed_after_long(
    blob_cache: BlobDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = Path(blob_cache.temp_dir)
    (temporary / "BUCx").write_bytes(b"a blob")
    (temporary / "savepointsx").mkdir()
    (temporary / "savepointsx" / "0x01-0x02.spb").write_bytes(b"another")
    (temporary / "own").write_bytes(b"an application's own")
    shrink(blob_cache.path, 10)
    assert sorted(os.listdir(temporary)) == ["BUCx", "own", "savepointsx"]
    age_everything(monkeypatch)
    shrink(blob_cache.path, 10)
    assert os.listdir(temporary) == ["own"]


def test_what_is_old_and_cannot_be_removed_disturbs_nobody(
    blob_cache: BlobDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    (Path(blob_cache.temp_dir) / "BUCx").write_bytes(b"a blob")
    paths = fill(blob_cache, range(1), 10)
    original = os.remove

    def refuse(path: str) -> None:
        if "BUC" in path:
            raise PermissionError(1, "Operation not permitted", path)
        original(path)

    monkeypatch.setattr(os, "remove", refuse)
    age_everything(monkeypatch)
    shrink(blob_cache.path, 0)
    assert which(paths) == []


def test_a_bucket_that_is_held_can_be_cleared(
    blob_cache: BlobDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    (path,) = fill(blob_cache, range(1), 10)
    bucket = Path(path).parent
    for left, age in ((["0xnew.tmp-"], blobsizes.ABANDONED_AGE), ([], -1.0)):
        monkeypatch.setattr(blobsizes, "ABANDONED_AGE", age)
        (bucket / "0.03ff.blob.dl").write_bytes(b"partial")
        (bucket / "0xnew.tmp-").write_bytes(b"an upload")
        with closing(zc.lockfile.LockFile(str(bucket / ".lock"))):
            clear_bucket(str(bucket))
        assert leftovers(blob_cache) == left
    assert which([path]) == [0]


def test_foreign_entries_do_not_disturb(blob_cache: BlobDirectory) -> None:
    Path(blob_cache.path, "5").write_text("not a bucket")
    Path(blob_cache.path, "readme").mkdir()
    paths = fill(blob_cache, range(1), 10)
    shrink(blob_cache.path, 0)
    assert which(paths) == []


def test_a_second_check_leaves_its_wish_with_the_first(
    blob_cache: BlobDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(blob_cache, range(3), 100)
    original = blobsizes._evict
    calls: list[int] = []

    def evict(directory: str, target: int, *more: Any) -> bool:
        calls.append(target)
        if len(calls) == 1:
            # Another process comes while we are at it.
            assert shrink(directory, 7) is True
        return original(directory, target, *more)

    monkeypatch.setattr(blobsizes, "_evict", evict)
    shrink(blob_cache.path, 100)
    assert calls == [100, 100]
    assert not os.path.exists(os.path.join(blob_cache.path, "check_size.attempt"))


def test_a_cache_is_shrunk_from_outside(blob_cache: BlobDirectory) -> None:
    paths = fill(blob_cache, range(5), 100)
    shrink_cache(blob_cache.path, 250)
    assert which(paths) == [3, 4]


def test_nothing_but_caches_is_shrunk(tmp_path: Path) -> None:
    (tmp_path / ".layout").write_text("bushy")
    with pytest.raises(ConfigurationError, match="its layout is 'bushy'"):
        shrink_cache(str(tmp_path), 0)
    with pytest.raises(ConfigurationError, match="No such file"):
        shrink_cache(str(tmp_path / "nothing"), 0)

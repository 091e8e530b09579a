"""The size of a client's blob directory: what goes when it is too large."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import zc.lockfile
from ZODB.POSException import POSKeyError

from tests.support.blobdirectories import (
    SERIAL,
    leftovers,
    sender,
)
from tests.support.raw import oid_of
from zeolith.client import bloblayout, blobs, blobsizes
from zeolith.client.blobs import BlobDirectory
from zeolith.client.blobsizes import shrink, shrink_cache
from zeolith.errors import ClientStorageError, ConfigurationError


def fill(directory: BlobDirectory, numbers: range, size: int) -> list[str]:
    """Load blobs of *size* bytes each, used in the order of *numbers*; return their paths."""
    paths = []
    for age, number in enumerate(numbers):
        paths.append(directory.load(oid_of(number), SERIAL, sender(directory, b"x" * size)))
        os.utime(paths[-1], (1000 + age, 1000))
    return paths


def which(paths: list[str]) -> list[int]:
    return [number for number, path in enumerate(paths) if os.path.exists(path)]


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
    original = bloblayout.try_lock

    def use_then_lock(path: str) -> Any:
        if path.startswith(os.path.dirname(paths[0])):
            os.utime(paths[0], (9000, 1000))
        return original(path)

    monkeypatch.setattr(blobsizes, "try_lock", use_then_lock)
    shrink(blob_cache.path, 0)
    assert which(paths) == [0]


def test_open_files_are_left_alone(tmp_path: Path) -> None:
    """C: the size check never takes a blob that this process is reading."""
    with closing(BlobDirectory(str(tmp_path / "c"), shared=False, cache_size=100)) as directory:
        with directory.open(oid_of(1), SERIAL, None, sender(directory, b"x" * 1000)) as file:
            assert directory._checker is not None
            directory._checker.join(30)
            assert os.path.exists(directory.filename(oid_of(1), SERIAL))
            assert file.read() == b"x" * 1000
        shrink(directory.path, 0, directory._is_open)
        assert not os.path.exists(directory.filename(oid_of(1), SERIAL))
        del file
        gc.collect()
        assert len(directory._readers) == 0


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

    def evict(directory: str, target: int, *more: Any) -> None:
        calls.append(target)
        if len(calls) == 1:
            # Another process comes while we are at it.
            shrink(directory, 7)
        original(directory, target, *more)

    monkeypatch.setattr(blobsizes, "_evict", evict)
    shrink(blob_cache.path, 100)
    assert calls == [100, 100]
    assert not os.path.exists(os.path.join(blob_cache.path, "check_size.attempt"))


def wait_for_check(directory: BlobDirectory) -> None:
    while (checker := directory._checker) is not None and directory._is_checking:
        checker.join(30)
        assert not checker.is_alive()


def size_of(directory: BlobDirectory) -> int:
    return sum(entry.size for entry in blobsizes._scan(directory.path))


def test_the_size_is_looked_after(tmp_path: Path) -> None:
    with closing(BlobDirectory(str(tmp_path / "c"), shared=False, cache_size=1000)) as directory:
        for number in range(100):
            directory.load(oid_of(number), SERIAL, sender(directory, b"x" * 100))
        wait_for_check(directory)
        assert size_of(directory) <= 1000
        source = tmp_path / "source"
        for number in range(100, 200):
            source.write_bytes(b"y" * 100)
            path = directory.prepare_upload(oid_of(number), str(source), bytes(8))
            directory.committed(oid_of(number), SERIAL, path)
        wait_for_check(directory)
        assert size_of(directory) <= 1000


def test_what_is_there_at_the_start_is_looked_at(blob_cache: BlobDirectory) -> None:
    fill(blob_cache, range(10), 100)
    with closing(BlobDirectory(blob_cache.path, shared=False, cache_size=300)) as directory:
        wait_for_check(directory)
        assert size_of(directory) <= 300


def test_close_waits_for_the_check_and_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = threading.Event()

    def slow(path: str, target: int, is_open: object, is_stopped: Callable[[], bool]) -> None:
        begun.set()
        while not is_stopped():
            os.sched_yield()

    monkeypatch.setattr(blobs, "shrink", slow)
    directory = BlobDirectory(str(tmp_path / "c"), shared=False, cache_size=300)
    assert begun.wait(30)
    checker = directory._checker
    assert checker is not None
    directory.close()
    assert not checker.is_alive()
    directory.close()


def test_a_check_that_fails_is_logged_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*args: object) -> None:
        raise PermissionError("no")

    with monkeypatch.context() as patch:
        patch.setattr(blobs, "shrink", fail)
        directory = BlobDirectory(str(tmp_path / "c"), shared=False, cache_size=300)
        wait_for_check(directory)
    assert "cannot look after the size" in caplog.text
    with closing(directory):
        fill(directory, range(10), 100)
        wait_for_check(directory)
        assert size_of(directory) <= 300


def test_readers_and_eviction_race(tmp_path: Path) -> None:
    """C: whatever is evicted meanwhile, a reader gets the whole blob (RS#219)."""
    with closing(BlobDirectory(str(tmp_path / "c"), shared=False, cache_size=0)) as directory:
        stop = threading.Event()
        wrong: list[object] = []

        def evict() -> None:
            while not stop.is_set():
                shrink(directory.path, 0)

        def use(seed: int) -> None:
            try:
                for turn in range(60):
                    number = (seed + turn) % 4
                    data = b"%d" % number * 500
                    with directory.open(oid_of(number), SERIAL, None, sender(directory, data)) as f:
                        if f.read() != data:
                            wrong.append(number)
            except (OSError, ClientStorageError, POSKeyError) as error:
                wrong.append(error)

        evictor = threading.Thread(target=evict)
        readers = [threading.Thread(target=use, args=(seed,)) for seed in range(4)]
        for thread in [evictor, *readers]:
            thread.start()
        for thread in readers:
            thread.join(60)
        stop.set()
        evictor.join(60)
        assert wrong == []


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

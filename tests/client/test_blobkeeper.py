"""Looking after the size of a blob cache while it is used."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from ZODB.POSException import POSKeyError

from tests.support.blobdirectories import SERIAL, fill, no_fetch, sender, which
from tests.support.raw import oid_of
from zeolith.client import blobkeeper, blobsizes
from zeolith.client.blobleases import LEASE
from zeolith.client.blobs import BlobDirectory
from zeolith.client.blobsizes import shrink
from zeolith.errors import ClientStorageError, ConfigurationError


def cache(path: Path, size: int, check_percent: int = 10) -> closing[BlobDirectory]:
    return closing(
        BlobDirectory(str(path), shared=False, cache_size=size, check_percent=check_percent)
    )


def wait_for_check(directory: BlobDirectory) -> None:
    keeper = directory._keeper
    while (checker := keeper._checker) is not None and keeper._is_checking:
        checker.join(30)
        assert not checker.is_alive()


def size_of(directory: BlobDirectory) -> int:
    return sum(entry.size for entry in blobsizes._scan(directory.path))


def test_the_size_is_looked_after(tmp_path: Path) -> None:
    with cache(tmp_path / "c", 1000) as directory:
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
    with cache(Path(blob_cache.path), 300) as directory:
        wait_for_check(directory)
        assert size_of(directory) <= 300


def test_it_is_looked_at_after_that_percentage_was_added(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    targets: list[int] = []

    def note(path: str, target: int, is_stopped: object) -> bool:
        targets.append(target)
        return True

    monkeypatch.setattr(blobkeeper, "shrink", note)
    for check_percent, expected in ((0, [1000] * 7), (20, [800] * 4), (99, [10] * 1)):
        targets.clear()
        with cache(tmp_path / "c", 1000, check_percent) as directory:
            wait_for_check(directory)  # of what is there at the start
            for number in range(6):
                oid = oid_of(100 * check_percent + number)
                directory.load(oid, SERIAL, sender(directory, b"x" * 100))
                wait_for_check(directory)
        assert targets == expected


def test_the_smallest_of_several_limits_counts(tmp_path: Path) -> None:
    """Two processes, or two storages of one, with one directory."""
    with cache(tmp_path / "c", 100_000) as large, cache(tmp_path / "c", 1000) as small:
        wait_for_check(large)
        wait_for_check(small)
        for number in range(100):
            large.load(oid_of(number), SERIAL, sender(large, b"x" * 100))
        wait_for_check(large)
        assert size_of(large) == 10_000
        small.load(oid_of(1000), SERIAL, sender(small, b"x" * 100))
        wait_for_check(small)
        # What the other one has handed out stays for a while.
        assert size_of(small) <= 1000 + 32 * 100


def test_a_blob_larger_than_the_limit_is_fetched_once(tmp_path: Path) -> None:
    """ZODB asks for its path when it loads the object, and opens it a little later."""
    data = b"x" * 1000
    with cache(tmp_path / "c", 100) as directory:
        path = directory.load(oid_of(1), SERIAL, sender(directory, data))
        wait_for_check(directory)
        with directory.open(oid_of(1), SERIAL, None, no_fetch) as file:
            wait_for_check(directory)
            assert file.read() == data
        # When the next one comes, this one goes.
        directory.load(oid_of(2), SERIAL, sender(directory, data))
        wait_for_check(directory)
        assert not os.path.exists(path)
        assert size_of(directory) == 1000


def test_what_was_in_use_goes_when_the_next_comes(tmp_path: Path) -> None:
    with cache(tmp_path / "c", 1000) as directory:
        wait_for_check(directory)
        files = [
            directory.open(oid_of(number), SERIAL, None, sender(directory, b"x" * 100))
            for number in range(20)
        ]
        wait_for_check(directory)
        assert size_of(directory) == 2000
        for file in files:
            file.close()
        # Less than the tenth of the limit that is waited for as a rule.
        directory.load(oid_of(100), SERIAL, sender(directory, b"x" * 10))
        wait_for_check(directory)
        assert size_of(directory) <= 900


def test_paths_that_were_handed_out_long_ago_do_not_keep_a_cache_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with cache(tmp_path / "c", 1000) as directory:
        paths = [
            directory.load(oid_of(number), SERIAL, sender(directory, b"x" * 100))
            for number in range(5)
        ]
        wait_for_check(directory)
        for path in paths:
            os.utime(path, (1, 1))
        now = time.monotonic()
        monkeypatch.setattr(time, "monotonic", lambda: now + LEASE)
        fill(directory, range(10, 20), 100)
        wait_for_check(directory)
        assert which(paths) == []


def test_close_waits_for_the_check_and_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = threading.Event()

    def slow(path: str, target: int, is_stopped: Callable[[], bool]) -> bool:
        begun.set()
        while not is_stopped():
            os.sched_yield()
        return True

    monkeypatch.setattr(blobkeeper, "shrink", slow)
    with cache(tmp_path / "c", 300) as directory:
        assert begun.wait(30)
        checker = directory._keeper._checker
        assert checker is not None
        directory.close()
        assert not checker.is_alive()


def test_a_check_that_fails_is_logged_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*args: object) -> bool:
        raise PermissionError("no")

    with cache(tmp_path / "c", 300) as directory:
        with monkeypatch.context() as patch:
            patch.setattr(blobkeeper, "shrink", fail)
            directory.load(oid_of(1), SERIAL, sender(directory, b"x" * 100))
            wait_for_check(directory)
        assert "cannot look after the size" in caplog.text
        fill(directory, range(10), 100)
        wait_for_check(directory)
        assert size_of(directory) <= 300


def test_check_percent_is_a_percentage(tmp_path: Path) -> None:
    for check_percent in (100, -1):
        with pytest.raises(ConfigurationError, match="blob_cache_size_check"):
            cache(tmp_path, 10, check_percent)


def test_readers_and_eviction_race(tmp_path: Path) -> None:
    """C: whatever is evicted meanwhile, a reader gets the whole blob (RS#219)."""
    with cache(tmp_path / "c", 0) as directory:
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
                        if f.read() != data or not os.path.exists(f.name):
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

"""Class C of the known failures: one blob cache, several processes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.support.blobdirectories import SERIAL, leftovers, no_fetch, read
from tests.support.cacheprocess import CacheProcess, content
from tests.support.raw import oid_of

from zeolith.client.bloblayout import blob_path
from zeolith.client.blobs import BlobDirectory
from zeolith.client.blobsizes import shrink


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def one(directory: Path) -> Iterator[CacheProcess]:
    with CacheProcess(directory) as process:
        yield process


@pytest.fixture
def other(directory: Path) -> Iterator[CacheProcess]:
    with CacheProcess(directory) as process:
        yield process


def blobs_in(directory: Path) -> list[int]:
    """Return the numbers of the blobs that are there, of the first hundred."""
    return [each for each in range(100) if (directory / blob_path(oid_of(each), SERIAL)).exists()]


def test_c_a_blob_that_another_process_reads_stays(
    one: CacheProcess, other: CacheProcess, directory: Path
) -> None:
    for number in range(3):
        assert one.ask("open", number) == "open"
    assert one.ask("close", 1) == "closed"
    assert other.ask("open", 2) == "open"
    assert other.ask("shrink", 0) == "False"
    assert blobs_in(directory) == [0, 2]
    assert one.ask("close", 2) == "closed"
    other.ask("shrink", 0)
    assert blobs_in(directory) == [0, 2]  # the evictor reads it itself
    assert other.ask("close", 2) == "closed"
    one.kill()
    assert other.ask("shrink", 0) == "True"
    assert blobs_in(directory) == []


def test_c_a_path_that_another_process_was_given_stays_good_for_a_while(
    one: CacheProcess, other: CacheProcess, directory: Path
) -> None:
    path = one.ask("load", 1)
    other.ask("shrink", 0)
    assert read(path) == content(1)
    one.kill()
    other.ask("shrink", 0)
    assert blobs_in(directory) == []


def test_c_readers_and_evictors_race(directory: Path) -> None:
    """RS#219: an empty blob, or none; here two processes read while two evict."""
    with ExitStack() as stack:
        readers, evictors = (
            [stack.enter_context(CacheProcess(directory)) for _ in range(2)] for _ in range(2)
        )
        for evictor in evictors:
            assert evictor.ask("shrink_for_ever") == "begun"
        # Until there was something to race for: more than each of seven blobs once.
        while sum(int(reader.ask("fetches")) for reader in readers) < 30:
            for reader in readers:
                reader.tell("read_often", 100)
            assert [reader.answer() for reader in readers] == ["0 wrong"] * 2
        for evictor in evictors:
            evictor.kill()


def test_c_two_processes_fetch_a_blob_once(one: CacheProcess, other: CacheProcess) -> None:
    assert one.ask("load_slowly", 1) == "half"
    other.tell("load", 1)
    one.tell("go on")
    path = one.answer()
    assert other.answer() == path
    assert other.ask("fetches") == "0"
    assert read(path) == content(1)


def test_c_a_process_that_is_killed_while_it_fetches_leaves_nothing_in_the_way(
    one: CacheProcess, other: CacheProcess, directory: Path
) -> None:
    assert one.ask("load_slowly", 1) == "half"
    assert one.process.poll() is None
    other.tell("load", 1)  # waits for the first one
    one.kill()
    path = other.answer()
    assert read(path) == content(1)
    assert other.ask("fetches") == "1"
    assert sorted(os.listdir(os.path.dirname(path))) == [".lock", os.path.basename(path)]


def test_c_what_a_killed_process_has_left_goes_in_a_check_of_the_size(
    one: CacheProcess, other: CacheProcess, directory: Path
) -> None:
    assert one.ask("load_slowly", 1) == "half"
    assert list(directory.glob("*/*.dl")) != []
    other.ask("shrink", 1000)
    assert list(directory.glob("*/*.dl")) != []  # it is still coming
    one.kill()
    other.ask("shrink", 1000)
    assert list(directory.glob("*/*.dl")) == []


def test_c_a_check_that_was_killed_does_not_keep_others_from_theirs(
    directory: Path, other: CacheProcess
) -> None:
    other.ask("open", 1)
    other.ask("close", 1)
    with CacheProcess(directory) as evictor:
        assert evictor.ask("shrink_for_ever") == "begun"
        while not (directory / "check_size.lock").exists():
            os.sched_yield()
        evictor.kill()
    assert other.ask("open", 2) == "open"
    assert other.ask("close", 2) == "closed"
    assert other.ask("shrink", 0) == "True"
    assert blobs_in(directory) == []


def test_c_each_process_keeps_to_its_own_limit(directory: Path) -> None:
    """The smaller one counts: whoever adds enough looks after all that is there."""
    size = len(content(10))
    with CacheProcess(directory) as free, CacheProcess(directory, 10 * size) as limited:
        assert limited.ask("wait") == "checked"  # what it does at its start
        for number in range(10, 40):
            free.ask("open", number)
            free.ask("close", number)
        assert len(blobs_in(directory)) == 30
        for number in range(40, 42):
            limited.ask("open", number)
            limited.ask("close", number)
        assert limited.ask("wait") == "checked"
        assert len(blobs_in(directory)) <= 10


def test_c_a_cache_is_used_on_by_processes_that_come_later(
    one: CacheProcess, tmp_path: Path
) -> None:
    path = one.ask("load", 1)
    one.kill()
    found = BlobDirectory(str(tmp_path / "cache"), shared=False, cache_size=None)
    try:
        assert found.load(oid_of(1), SERIAL, no_fetch) == path
        assert read(path) == content(1)
        assert leftovers(found) == []
    finally:
        found.close()
    assert shrink(found.path, 0) is True

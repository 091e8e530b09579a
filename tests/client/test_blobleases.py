"""Blobs whose paths were handed out."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.client.conftest import Attach
from tests.support.blobdirectories import SERIAL, sender
from tests.support.raw import oid_of
from zeolith.client.blobleases import LEASE, MOST_LEASES, Leases
from zeolith.client.bloblocks import is_shared
from zeolith.client.blobpartials import PartialFile
from zeolith.client.blobs import BlobDirectory


def is_held(path: str) -> bool:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return is_shared(descriptor)
    finally:
        os.close(descriptor)


@pytest.fixture
def leases() -> Iterator[Leases]:
    with closing(Leases(None)) as found:
        yield found


@pytest.fixture
def make(tmp_path: Path) -> Callable[[int, int], list[str]]:
    def make(number: int, size: int) -> list[str]:
        paths = [tmp_path / f"{each}.blob" for each in range(number)]
        for path in paths:
            path.write_bytes(b"x" * size)
        return [str(path) for path in paths]

    return make


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    return now


def held(paths: list[str]) -> list[int]:
    return [number for number, path in enumerate(paths) if is_held(path)]


def test_what_is_taken_is_held(leases: Leases, make: Callable[[int, int], list[str]]) -> None:
    paths = make(3, 1)
    assert [leases.take(path) for path in paths[:2]] == paths[:2]
    assert held(paths) == [0, 1]
    leases.close()
    assert held(paths) == []


def test_what_is_not_there(leases: Leases, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        leases.take(str(tmp_path / "nothing"))


def test_the_last_ones_are_held(leases: Leases, make: Callable[[int, int], list[str]]) -> None:
    paths = make(MOST_LEASES + 2, 1)
    for path in paths[:MOST_LEASES]:
        leases.take(path)
    leases.take(paths[0])
    for path in paths[MOST_LEASES:]:
        leases.take(path)
    assert held(paths) == [0, *range(3, MOST_LEASES + 2)]


def keep(leases: Leases, path: str, size: int) -> None:
    file = PartialFile(path + ".dl")
    file.write(b"x" * size)
    file.seal(size, 0o444)
    file.rename(path)
    assert leases.keep(file) == path
    file.close()


def test_what_was_just_made_is_held_by_what_made_it(leases: Leases, tmp_path: Path) -> None:
    paths = [str(tmp_path / f"{number}.blob") for number in range(MOST_LEASES + 1)]
    for path in paths:
        keep(leases, path, 10)
    assert held(paths) == list(range(1, MOST_LEASES + 1))
    assert leases._bytes == 10 * MOST_LEASES
    # It is the same to those who ask for it again.
    assert leases.take(paths[1]) == paths[1]
    assert leases._bytes == 10 * MOST_LEASES
    keep(leases, str(tmp_path / "new.blob"), 10)
    assert held(paths) == [1, *range(3, MOST_LEASES + 1)]
    leases.close()
    assert held(paths) == []


def test_what_was_just_made_and_replaced_is_held_anew(leases: Leases, tmp_path: Path) -> None:
    path = str(tmp_path / "x.blob")
    keep(leases, path, 10)
    (tmp_path / "other").write_bytes(b"x" * 10)
    os.replace(tmp_path / "other", path)
    assert not is_held(path)
    leases.take(path)
    assert is_held(path)
    assert leases._bytes == 10


def test_what_was_made_after_the_end_is_not_held(leases: Leases, tmp_path: Path) -> None:
    leases.close()
    keep(leases, str(tmp_path / "x.blob"), 10)
    assert not is_held(str(tmp_path / "x.blob"))


def test_the_last_one_is_held_whatever_its_size(make: Callable[[int, int], list[str]]) -> None:
    paths = make(4, 10)
    with closing(Leases(25)) as leases:
        for path in paths:
            leases.take(path)
        assert held(paths) == [2, 3]
    with closing(Leases(5)) as leases:
        for path in paths:
            leases.take(path)
        assert held(paths) == [3]


def test_they_end(
    leases: Leases, make: Callable[[int, int], list[str]], clock: list[float]
) -> None:
    paths = make(3, 1)
    leases.take(paths[0])
    leases.take(paths[1])
    clock[0] += LEASE - 1
    leases.take(paths[0])
    leases.end_old()
    assert held(paths) == [0, 1]
    clock[0] += 1
    leases.end_old()
    assert held(paths) == [0]
    clock[0] += LEASE
    leases.take(paths[2])
    assert held(paths) == [2]


def test_a_file_that_was_replaced_is_held_anew(
    leases: Leases, make: Callable[[int, int], list[str]]
) -> None:
    """A client of ZEO evicts without asking, and somebody fetches the blob again."""
    paths = make(2, 5)
    leases.take(paths[0])
    os.replace(paths[1], paths[0])
    assert held(paths[:1]) == []
    leases.take(paths[0])
    assert held(paths[:1]) == [0]
    assert leases._bytes == 5
    os.remove(paths[0])
    with pytest.raises(FileNotFoundError):
        leases.take(paths[0])


def test_after_the_end_nothing_is_held(
    leases: Leases, make: Callable[[int, int], list[str]]
) -> None:
    (path,) = make(1, 1)
    leases.close()
    assert leases.take(path) == path
    assert not is_held(path)
    leases.close()


def test_a_child_holds_nothing_of_its_parents(
    leases: Leases, make: Callable[[int, int], list[str]]
) -> None:
    (path,) = make(1, 1)
    leases.take(path)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            leases.forked()
            if is_held(path):  # by the parent, still
                status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert is_held(path)


def test_a_directory_forgets_them_in_a_child(blob_cache: BlobDirectory) -> None:
    path = blob_cache.load(oid_of(1), SERIAL, sender(blob_cache, b"data"))
    assert is_held(path)
    blob_cache.forked()
    assert not is_held(path)


def test_the_parent_lets_go_although_a_child_lives(
    leases: Leases, make: Callable[[int, int], list[str]]
) -> None:
    (path,) = make(1, 1)
    leases.take(path)
    reader, writer = os.pipe()
    ready, done = os.pipe()
    child = os.fork()
    if child == 0:
        leases.forked()
        os.write(done, b"x")
        os.read(reader, 1)
        os._exit(0)
    os.read(ready, 1)
    leases.close()
    assert not is_held(path)
    os.write(writer, b"x")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    for descriptor in (reader, writer, ready, done):
        os.close(descriptor)


def test_a_storage_lets_go_of_them_by_and_by(tmp_path: Path, attach: Attach) -> None:
    """Also one that loads nothing more."""
    storage, _ = attach(blob_dir=str(tmp_path / "cache"))
    blobs = storage._blobs
    assert blobs is not None
    path = blobs.load(oid_of(1), SERIAL, sender(blobs, b"data"))
    storage.tended(storage._link.channel())
    assert is_held(path)
    held = blobs._leases._leases
    held[path].deadline = time.monotonic()
    storage.tended(storage._link.channel())
    assert not is_held(path)

"""Reading the files of other processes: what is read is what they wrote, or nothing."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from zeolith.cache import MINIMUM_SIZE, RingCache, Siblings
from zeolith.cache.home import HEADER_SIZE, CacheHome
from zeolith.cache.siblings import Sibling
from zeolith.protocol.hello import Database
from zeolith.types import NO_TID

DATABASE = Database("identity", 1)
ROOM = 1 << 20


def to_tid(n: int) -> bytes:
    return n.to_bytes(8, "big")


def data_of(n: int) -> bytes:
    return b"%100d" % n


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "app-1.zec")


@pytest.fixture
def other(path: str) -> Iterator[RingCache]:
    """Another process's cache, saved."""
    cache = RingCache(20_000, home=CacheHome(path))
    for n in range(1, 100):
        cache.store(to_tid(n), to_tid(n), None, data_of(n))
    cache.set_last_tid(to_tid(100))
    cache.set_database(DATABASE)
    cache.save()
    yield cache
    cache.close()


def read(sibling: Sibling, n: int) -> bytes | None:
    record = sibling.read(to_tid(n))
    return None if record is None else record[8:-4]


def stored(n: int) -> bytes:
    return to_tid(n) + (24 + 100).to_bytes(4, "big") + data_of(n)


def test_what_it_has_saved(other: RingCache, path: str) -> None:
    (sibling,) = Siblings([path], ROOM).look()
    assert (sibling.as_of, sibling.database) == (to_tid(100), DATABASE)
    assert all(read(sibling, n) == stored(n) for n in range(1, 100))
    assert sibling.read(to_tid(1_000)) is None


def test_what_it_writes_over_is_not_there_any_more(other: RingCache, path: str) -> None:
    (sibling,) = Siblings([path], ROOM).look()
    for n in range(1_000, 1_100):
        other.store(to_tid(n), to_tid(n), None, data_of(n))
    found = [read(sibling, n) for n in range(1, 100)]
    assert all(what in (None, stored(n)) for n, what in enumerate(found, 1))
    assert 5 < found.count(None) < 95


def test_what_lies_there_must_be_of_the_object(other: RingCache, path: str) -> None:
    """Whatever an index says."""
    (sibling,) = Siblings([path], ROOM).look()
    place = sibling._index.get(to_tid(5))
    assert place is not None
    sibling._index.set(to_tid(6), place)
    assert read(sibling, 5) == stored(5)
    assert read(sibling, 6) is None


def test_what_follows_a_clearance_is_another_seed(other: RingCache, path: str) -> None:
    (sibling,) = Siblings([path], ROOM).look()
    other.clear()
    for n in range(1, 100):
        other.store(to_tid(n), to_tid(n), None, data_of(-n))
    assert not any(read(sibling, n) for n in range(1, 100))


def test_the_end_of_its_process_changes_nothing(other: RingCache, path: str) -> None:
    other.close()
    (sibling,) = Siblings([path], ROOM).look()
    assert read(sibling, 5) == stored(5)
    os.unlink(path)
    assert read(sibling, 6) == stored(6)


def test_a_new_snapshot_is_taken_up_and_an_old_one_kept(other: RingCache, path: str) -> None:
    siblings = Siblings([path, path + ".2"], ROOM)
    (before,) = siblings.look()
    assert siblings.look() == [before]
    other.store(to_tid(500), to_tid(101), None, data_of(500))
    other.set_last_tid(to_tid(101))
    other.save()
    with RingCacheAt(path + ".2") as second:
        second.set_last_tid(to_tid(300))
        second.save()
        newest, after = siblings.look()
    assert after is not before
    assert after.as_of == to_tid(101)
    assert after.read(to_tid(500)) is not None
    assert newest.as_of == to_tid(300)
    assert newest.database is None


class RingCacheAt:
    """A cache in a ``with`` statement."""

    def __init__(self, path: str) -> None:
        self._cache = RingCache(MINIMUM_SIZE, home=CacheHome(path))

    def __enter__(self) -> RingCache:
        return self._cache

    def __exit__(self, *_: object) -> None:
        self._cache.close()


def test_what_is_distrusted_comes_back_when_it_is_saved(other: RingCache, path: str) -> None:
    siblings = Siblings([path], ROOM)
    siblings.look()
    siblings.distrust()
    assert siblings.look() == []
    other.set_last_tid(to_tid(101))
    other.save()
    assert len(siblings.look()) == 1


def test_what_was_not_seen_before_is_distrusted_too(
    other: RingCache, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R6: saved between two looks, or not read for want of memory or of descriptors."""
    siblings = Siblings([path], ROOM)
    siblings.distrust()
    assert siblings.look() == []
    with monkeypatch.context() as patch:
        patch.setattr(siblings, "_open", lambda path: -1)
        assert siblings.look() == []
    with RingCacheAt(path + ".2") as larger:
        larger.set_last_tid(to_tid(200))
    siblings._paths = (path, path + ".2")
    monkeypatch.setattr(siblings, "_limit", 0)
    assert siblings.look() == []
    monkeypatch.setattr(siblings, "_limit", ROOM)
    assert [sibling.path for sibling in siblings.look()] == [path + ".2"]


def test_no_file_is_nothing_to_speak_of(path: str, caplog: pytest.LogCaptureFixture) -> None:
    assert Siblings([path], ROOM).look() == []
    Path(path + ".index").write_bytes(b"")
    os.unlink(path + ".index")
    assert not caplog.records


def _not_an_index(path: str) -> None:
    Path(path + ".index").write_bytes(b"important" * 100)


def _another_version(path: str) -> None:
    index = Path(path + ".index")
    index.write_bytes(b"zeoindx9" + index.read_bytes()[8:])


def _no_records(path: str) -> None:
    Path(path).write_bytes(b"something else")


def _a_pipe(path: str) -> None:
    os.unlink(path + ".index")
    os.mkfifo(path + ".index")


def _a_pipe_of_records(path: str) -> None:
    os.unlink(path)
    os.mkfifo(path)


def _a_directory(path: str) -> None:
    os.unlink(path + ".index")
    os.mkdir(path + ".index")


def _a_loop(path: str) -> None:
    os.unlink(path + ".index")
    os.symlink(path + ".index", path + ".index")


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (_not_an_index, "no index of a cache"),
        (_another_version, "no index of a cache"),
        (_no_records, "no cache of Zeolith's, or of another version"),
        (_a_pipe, "no regular file"),
        (_a_pipe_of_records, "no regular file"),
        (_a_directory, "no regular file"),
        (_a_loop, "symbolic links"),
    ],
)
def test_what_cannot_be_read_is_said_once(
    other: RingCache,
    path: str,
    caplog: pytest.LogCaptureFixture,
    spoil: Callable[[str], None],
    problem: str,
) -> None:
    spoil(path)
    siblings = Siblings([path], ROOM)
    for _ in range(3):
        assert siblings.look() == []
    (record,) = caplog.records
    assert path in record.message
    assert problem in record.message


def test_without_permission(
    other: RingCache,
    path: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened = os.open

    def refuse(name: str, *arguments: int) -> int:
        if name == path:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), name)
        return opened(name, *arguments)

    monkeypatch.setattr(os, "open", refuse)
    siblings = Siblings([path], ROOM)
    assert siblings.look() == siblings.look() == []
    (record,) = caplog.records
    assert os.strerror(errno.EACCES) in record.message


def test_a_disk_that_fails_is_not_asked_again(
    other: RingCache,
    path: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (sibling,) = Siblings([path], ROOM).look()

    def fail(*_: object) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", fail)
        assert sibling.read(to_tid(5)) is None
    assert sibling.read(to_tid(5)) is None
    (record,) = caplog.records
    assert os.strerror(errno.EIO) in record.message


def test_their_indexes_have_a_limit(path: str, caplog: pytest.LogCaptureFixture) -> None:
    """R8: those that were saved last come first."""
    paths = [f"{path}.{number}" for number in range(4)]
    for number, name in enumerate(paths):
        with RingCacheAt(name) as cache:
            cache.store(to_tid(1), to_tid(1), None, b"")
            cache.set_last_tid(to_tid(10 + number))
        os.utime(name + ".index", (number, number))
    size = os.path.getsize(paths[0] + ".index")
    siblings = Siblings(paths, 3 * size - 1)
    for _ in range(2):
        assert [sibling.path for sibling in siblings.look()] == [paths[3], paths[2]]
    (record,) = caplog.records
    assert "no memory" in record.message
    # There is room for one that gave way before.
    os.unlink(paths[3] + ".index")
    assert [sibling.path for sibling in siblings.look()] == [paths[2], paths[1]]


@pytest.mark.parametrize("suffix", ["", ".index"])
def test_whatever_is_damaged_the_rest_is_right(other: RingCache, path: str, suffix: str) -> None:
    other.close()
    chance = random.Random(8)
    whole = Path(path + suffix).read_bytes()
    begin = 0 if suffix else HEADER_SIZE
    known = 0
    for _ in range(200):
        damaged = bytearray(whole)
        if chance.random() < 0.3:
            del damaged[chance.randrange(begin, len(damaged)) :]
        else:
            for _ in range(chance.randrange(1, 20)):
                damaged[chance.randrange(begin, len(damaged))] ^= 1 << chance.randrange(8)
        Path(path + suffix).write_bytes(damaged)
        for sibling in Siblings([path], ROOM).look():
            for n in range(1, 100):
                found = read(sibling, n)
                assert found in (None, stored(n))
                known += found is not None
    assert bool(known) is not bool(suffix), "an index is right as a whole, or not at all"


def test_descriptors_are_given_back(other: RingCache, path: str) -> None:
    before = len(os.listdir("/proc/self/fd"))
    siblings = Siblings([path, path + ".2"], ROOM)
    for n in range(20):
        assert len(siblings.look()) == 1
        other.set_last_tid(to_tid(101 + n))
        other.save()
    _not_an_index(path + ".2")
    assert siblings.look()
    assert len(os.listdir("/proc/self/fd")) <= before + 2
    del siblings
    assert len(os.listdir("/proc/self/fd")) == before
    assert other.last_tid() > NO_TID

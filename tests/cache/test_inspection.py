"""Looking at a cache's files: what is said is right, and nobody is disturbed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.caches import OpenCache
from tests.support.waiting import Background
from ZEO.cache import ClientCache as ZeoCache

from zeolith.cache import owners
from zeolith.cache.home import MAGIC, ForeignFile
from zeolith.cache.inspection import Contents, count, is_same, look
from zeolith.cache.owners import Owner, find_owner
from zeolith.cache.records import OVERHEAD
from zeolith.protocol.hello import Database


def to_tid(n: int) -> bytes:
    return n.to_bytes(8, "big")


T1, T2, T3 = map(to_tid, range(1, 4))
DATABASE = Database("some identity", 3)


def contents_of(directory: str) -> dict[str, tuple[bytes, int]]:
    return {
        name: (Path(directory, name).read_bytes(), os.stat(Path(directory, name)).st_mtime_ns)
        for name in sorted(os.listdir(directory))
    }


def test_what_is_there(open_cache: OpenCache, path: str) -> None:
    cache = open_cache()
    for n in range(1, 201):
        cache.store(to_tid(n), T1, None, bytes(n))
    cache.invalidate(to_tid(7), T2)
    cache.store(to_tid(7), T2, None, bytes(1_000))
    cache.set_last_tid(T3)
    cache.set_database(DATABASE)
    capacity = cache.statistics().capacity
    cache.close()
    files = look(path)
    assert files.path == path
    assert files.size == os.path.getsize(path)
    assert files.owner is None
    assert not files.problem
    assert not files.is_new
    assert files.snapshot is not None
    assert files.snapshot.last_tid == T3
    assert files.snapshot.database == DATABASE
    assert count(files.snapshot) == Contents(
        200, 0, 1, sum(range(1, 201)) + 1_000 + 201 * OVERHEAD, 1_000 + OVERHEAD
    )
    assert files.snapshot.rings.capacity == capacity


def test_a_cache_in_use_is_left_alone(open_cache: OpenCache, path: str) -> None:
    cache = open_cache()
    cache.store(T1, T1, None, b"one")
    cache.save()
    cache.store(T2, T1, None, b"two")
    before = contents_of(os.path.dirname(path))
    files = look(path)
    assert files.owner == Owner(os.getpid())
    assert files.snapshot is not None
    assert files.snapshot.revisions == 1
    assert contents_of(os.path.dirname(path)) == before
    assert cache.load_before(T2, T3) == (b"two", T1, None)


def test_in_use_by_another_name_or_without_its_lock_file(
    open_cache: OpenCache, path: str, tmp_path: Path
) -> None:
    cache = open_cache()
    other = tmp_path / "other.zec"
    other.symlink_to(path)
    assert look(str(other)).owner == Owner(os.getpid())
    os.unlink(path + ".lock")
    assert look(path).owner == Owner(os.getpid())
    cache.close()
    assert look(str(other)).owner is None
    assert look(path).owner is None


@pytest.mark.parametrize("suffix", [".index", ".lock"])
def test_nobody_waits_for_what_is_no_file(open_cache: OpenCache, path: str, suffix: str) -> None:
    open_cache().close()
    os.unlink(path + suffix)
    os.mkfifo(path + suffix)
    with pytest.raises(OSError, match="no regular file") as caught:
        Background(lambda: look(path)).result()
    assert caught.value.filename == path + suffix
    if suffix == ".index":
        # A client begins with an empty cache.
        Background(lambda: open_cache().close()).result()


def test_an_index_that_is_too_large_is_not_read(open_cache: OpenCache, path: str) -> None:
    """R8."""
    open_cache().close()
    Path(path + ".index").write_bytes(b"zeoindx2")
    os.truncate(path + ".index", 1 << 40)
    files = look(path)
    assert (files.snapshot, files.problem) == (None, "it is too large for the file of records")


def test_looking_locks_nothing(
    open_cache: OpenCache, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client may start at any moment of it."""
    open_cache().close()
    monkeypatch.setattr("fcntl.flock", None)
    assert look(path).owner is None


def test_a_process_that_was_killed_does_not_use_it(path: str) -> None:
    program = (
        "import os, sys, signal\n"
        "from zeolith.cache import CacheHome, RingCache\n"
        "cache = RingCache(10_000, home=CacheHome(sys.argv[1]))\n"
        "cache.store(bytes(8), bytes(7) + b'1', None, b'data')\n"
        "cache.save()\n"
        "print('there', flush=True)\n"
        "sys.stdin.read()\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", program, path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"there\n"
        files = look(path)
        assert files.owner == Owner(child.pid)
        assert not is_same(files)
        child.kill()
        child.wait()
        assert look(path).owner is None
        assert is_same(look(path))


def test_where_the_system_does_not_tell_the_lock_file_does(
    open_cache: OpenCache, path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owners, "SYSTEM_LOCKS", str(tmp_path / "none"))
    cache = open_cache()
    assert find_owner(path) == Owner(os.getpid())
    cache.close()
    lock = Path(path + ".lock")
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    lock.write_text(f" {child.pid}\n")
    assert find_owner(path) is None
    lock.write_text("?")
    assert find_owner(path) is None
    lock.write_text(" 1\n")
    assert find_owner(path) == Owner(1)
    lock.unlink()
    assert find_owner(path) is None


@pytest.mark.parametrize(
    ("line", "owner"),
    [
        ("1: FLOCK  ADVISORY  WRITE 4711 {device} 0 EOF", Owner(4711)),
        ("1: FLOCK  ADVISORY  WRITE 0 {device} 0 EOF", Owner(99)),
        # Another device in this list than elsewhere: the process tells.
        ("1: FLOCK  ADVISORY  WRITE 99 00:01:{inode} 0 EOF", Owner(99)),
        ("1: FLOCK  ADVISORY  WRITE 4711 00:01:{inode} 0 EOF", None),
        ("1: -> FLOCK  ADVISORY  WRITE 4711 {device} 0 EOF", None),
        ("1: FLOCK  ADVISORY  READ 4711 {device} 0 EOF", None),
        ("1: POSIX  ADVISORY  WRITE 4711 {device} 0 EOF", None),
        ("garbage", None),
        ("", None),
    ],
)
def test_the_list_of_locks(
    line: str, owner: Owner | None, path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = Path(path + ".lock")
    lock.write_text(" 99\n")
    found = lock.stat()
    device = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    locks = tmp_path / "locks"
    locks.write_text(line.format(device=device, inode=found.st_ino) + "\n")
    monkeypatch.setattr(owners, "SYSTEM_LOCKS", str(locks))
    assert find_owner(path) == owner


def test_a_save_meanwhile_is_noticed(open_cache: OpenCache, path: str) -> None:
    open_cache().close()
    files = look(path)
    assert is_same(files)
    cache = open_cache()
    cache.store(T1, T1, None, b"one")
    cache.close()
    assert not is_same(files)
    os.unlink(path + ".index")
    assert not is_same(look(path)._replace(stamp=files.stamp))
    assert is_same(look(path))


def test_without_an_index(open_cache: OpenCache, path: str) -> None:
    cache = open_cache()
    assert look(path).is_new
    cache.store(T1, T1, None, b"one")
    files = look(path)
    assert not files.is_new
    assert (files.snapshot, files.problem) == (None, "")


@pytest.mark.parametrize("cut", [0, 7, 8, 60, -1])
def test_a_damaged_index(open_cache: OpenCache, path: str, cut: int) -> None:
    cache = open_cache()
    cache.store(T1, T1, None, b"one")
    cache.close()
    index = Path(path + ".index")
    index.write_bytes(index.read_bytes()[:cut])
    files = look(path)
    assert files.snapshot is None
    assert files.problem
    assert not files.is_new


def test_an_index_of_another_version(open_cache: OpenCache, path: str) -> None:
    open_cache().close()
    index = Path(path + ".index")
    index.write_bytes(index.read_bytes()[:7] + b"9" + index.read_bytes()[8:])
    assert look(path).problem == "it was written by another version of Zeolith"


def test_a_large_file_in_the_place_of_the_index_is_not_read(
    open_cache: OpenCache, path: str
) -> None:
    open_cache().close()
    with open(path + ".index", "wb") as file:
        file.truncate(1 << 40)
    assert look(path).problem == "it is no index of a cache"


def test_other_files_are_told_apart(tmp_path: Path, open_cache: OpenCache, path: str) -> None:
    def problem_of(name: str) -> str:
        with pytest.raises(ForeignFile) as caught:
            look(str(tmp_path / name))
        return str(caught.value)

    zeo = str(tmp_path / "zeo.zec")
    ZeoCache(zeo, 100_000).close()
    assert f"{zeo}: is a cache of ZEO, which cannot be read here; " in problem_of("zeo.zec")
    cache = open_cache()
    cache.store(T1, T1, None, b"one")
    cache.close()
    assert "is the index of a cache; name the file of records" in problem_of("app-1.zec.index")
    (tmp_path / "text").write_text("hello, is there anybody?")
    assert "is no client cache of Zeolith's" in problem_of("text")
    (tmp_path / "newer").write_bytes(MAGIC.replace(b"1", b"9"))
    assert "or one of another version" in problem_of("newer")
    os.mkfifo(tmp_path / "fifo")
    assert "no regular file" in problem_of("fifo")
    assert "no regular file" in problem_of(".")
    (tmp_path / "empty").touch()
    assert look(str(tmp_path / "empty")).is_new
    with pytest.raises(FileNotFoundError):
        look(str(tmp_path / "none"))
    assert not (tmp_path / "zeo.zec.zeo").exists()

"""The files of a persistent cache: who may have them, and what may stand in their place."""

from __future__ import annotations

import errno
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from zeolith.cache import CacheHome, CacheInUse, RingCache
from zeolith.cache.home import HEADER_SIZE, INDEX_REST, MAGIC
from zeolith.client.cacheplace import open_cache
from zeolith.types import MAX_TID, NO_TID

OID = b"\0" * 7 + b"\7"


def to_tid(n: int) -> bytes:
    return n.to_bytes(8, "big")


T1, T2 = to_tid(1), to_tid(2)


@pytest.fixture
def open_ring(path: str) -> Iterator[Callable[..., RingCache]]:
    opened: list[RingCache] = []

    def open_one(name: str = path, storage: str | None = None) -> RingCache:
        opened.append(RingCache(100_000, home=CacheHome(name, storage)))
        return opened[-1]

    yield open_one
    for cache in opened:
        cache.close()


def fill(cache: RingCache) -> None:
    cache.store(OID, T1, None, b"one")
    cache.set_last_tid(T1)


@pytest.mark.parametrize("how", ["the lock file is removed", "a link", "a link to the directory"])
def test_no_two_owners_by_a_detour(
    open_ring: Callable[..., RingCache], path: str, tmp_path: Path, how: str
) -> None:
    cache = open_ring()
    other = path
    if how == "the lock file is removed":
        os.unlink(path + ".lock")
    elif how == "a link":
        other = str(tmp_path / "link.zec")
        os.symlink(path, other)
    else:
        os.symlink(tmp_path, tmp_path / "directory")
        other = str(tmp_path / "directory" / "app-1.zec")
    with pytest.raises(CacheInUse):
        open_ring(other)
    fill(cache)
    assert cache.load_before(OID, T2) == (b"one", T1, None)


def test_another_process_is_named(open_ring: Callable[..., RingCache], path: str) -> None:
    open_ring()
    code = "import sys; from zeolith.cache import CacheHome; CacheHome(sys.argv[1])"
    run = subprocess.run(
        [sys.executable, "-c", code, path], check=False, capture_output=True, text=True
    )
    assert f"another process uses it (process {os.getpid()})" in run.stderr


def test_files_that_were_removed_meanwhile_are_somebody_elses(
    open_ring: Callable[..., RingCache], path: str, caplog: pytest.LogCaptureFixture
) -> None:
    first = open_ring()
    fill(first)
    for suffix in ("", ".index", ".lock"):
        Path(path + suffix).unlink(missing_ok=True)
    second = open_ring()
    second.set_last_tid(T2)
    second.save()
    before = Path(path + ".index").read_bytes()
    for _ in range(3):
        first.save()
    assert Path(path + ".index").read_bytes() == before
    assert caplog.text.count("cannot be saved") == 1


@pytest.mark.parametrize("length", [0, 1, 20, len(MAGIC) - 1])
def test_a_header_that_was_not_written_to_its_end(
    open_ring: Callable[..., RingCache], path: str, length: int
) -> None:
    Path(path).write_bytes(MAGIC[:length])
    fill(open_ring())
    assert Path(path).read_bytes()[: len(MAGIC)] == MAGIC


def test_the_cache_of_another_storage(
    open_ring: Callable[..., RingCache], caplog: pytest.LogCaptureFixture
) -> None:
    """R6: ZEO's servers do not say whose transactions they tell of."""
    cache = open_ring(storage="1")
    fill(cache)
    cache.close()
    cache = open_ring(storage="1")
    assert cache.load_before(OID, T2) == (b"one", T1, None)
    cache.close()
    cache = open_ring(storage="2")
    assert cache.last_tid() == NO_TID
    assert cache.load_before(OID, T2) is None
    assert "a cache of storage '1', not of '2'" in caplog.text


def test_an_index_that_is_too_large_is_not_read(
    open_ring: Callable[..., RingCache], path: str, caplog: pytest.LogCaptureFixture
) -> None:
    """R8."""
    cache = open_ring()
    fill(cache)
    cache.close()
    os.truncate(path + ".index", 2 * os.path.getsize(path) + INDEX_REST + 1)
    assert open_ring().last_tid() == NO_TID
    assert "too large" in caplog.text


def test_what_was_dropped_does_not_come_back(
    open_ring: Callable[..., RingCache], path: str
) -> None:
    """R6: nobody could tell a client that is killed now that what it had was wrong."""
    cache = open_ring()
    fill(cache)
    cache.save()
    assert os.path.exists(path + ".index")
    cache.clear()
    assert not os.path.exists(path + ".index")


def test_what_was_dropped_and_cannot_be_removed_is_said(
    open_ring: Callable[..., RingCache],
    path: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    cache = open_ring()
    fill(cache)
    cache.save()

    def fail(*args: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", fail)
        patch.setattr(os, "ftruncate", fail)
        cache.clear()
    assert cache.load_before(OID, T2) is None
    assert "remove it before the next start" in caplog.text


def test_nothing_is_saved_in_the_middle_of_a_transaction(
    open_ring: Callable[..., RingCache], path: str
) -> None:
    """R6: were the server restored to the state before it, no tid would tell."""
    cache = open_ring()
    fill(cache)
    cache.save()
    before = Path(path + ".index").read_bytes()
    cache.invalidate(OID, T2)
    cache.save()
    cache.replace(OID, T2, b"two")
    cache.save()
    assert Path(path + ".index").read_bytes() == before
    cache.set_last_tid(T2)
    cache.save()
    assert Path(path + ".index").read_bytes() != before


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EROFS, errno.EACCES])
@pytest.mark.parametrize(
    "call", ["open", "fstat", "ftruncate", "pwrite", "pread", "fsync", "unlink", "replace"]
)
def test_whatever_the_system_refuses_an_application_starts(
    path: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    call: str,
    number: int,
) -> None:
    """Each call in turn fails from its n-th time on, at a first start and at another one."""
    original = getattr(os, call)
    for is_warm in (False, True):
        for allowed in range(4):
            for suffix in ("", ".index", ".lock"):
                Path(path + suffix).unlink(missing_ok=True)
            if is_warm:
                cache = open_cache(path, 100_000, None)
                cache.store(OID, T1, None, b"one")
                cache.set_last_tid(T1)
                cache.close()
            calls = 0

            def fail(*args: object, **keywords: object) -> object:
                nonlocal calls
                calls += 1
                if calls > allowed:  # noqa: B023
                    raise OSError(number, os.strerror(number))
                return original(*args, **keywords)

            size = 100_000 if allowed % 2 else 60_000
            with monkeypatch.context() as patch, caplog.at_level(logging.ERROR):
                patch.setattr(os, call, fail)
                if call == "open":
                    # What makes the temporary file has to work.
                    patch.setattr(os, call, original)
                    patch.setattr("zeolith.cache.home.os.open", fail)
                    patch.setattr("tempfile._os.open", original)
                    if allowed == 0:
                        continue
                cache = open_cache(path, size, None)
                cache.store(OID, T2, None, b"two")
                found = cache.load_before(OID, MAX_TID)
                cache.set_last_tid(T2)
                cache.save()
                cache.close()
            assert found in (None, (b"two", T2, None))
            cache = open_cache(path, size, None)
            found = cache.load_before(OID, MAX_TID)
            expected = {T1: (b"one", T1, None), T2: (b"two", T2, None)}
            assert found is None or found == expected[cache.last_tid()]
            cache.close()
    assert os.path.getsize(path) >= HEADER_SIZE


@pytest.mark.parametrize("step", ["unlink", "fsync"])
def test_r6_what_was_dropped_does_not_come_back_where_its_index_cannot_be_removed(
    open_ring: Callable[..., RingCache], path: str, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """The database was restored from a backup: a process that is killed now leaves nothing of what
    was before."""
    cache = open_ring()
    fill(cache)
    cache.save()
    left = Path(path + ".index").read_bytes()
    real = getattr(os, step)
    failed: list[object] = []

    def fail(*args: object) -> object:
        if not failed:
            failed.append(args)
            raise PermissionError(errno.EPERM, "not permitted")
        return real(*args)

    monkeypatch.setattr(os, step, fail)
    cache.clear()
    assert failed
    records = Path(path).read_bytes()
    cache.close()
    # As after a loss of power: the index is there, or has come back.
    Path(path).write_bytes(records)
    Path(path + ".index").write_bytes(left)
    assert open_ring().load_before(OID, T2) is None

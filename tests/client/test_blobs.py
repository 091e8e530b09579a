"""The client's blob directory, without any server."""

from __future__ import annotations

import gc
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import zc.lockfile
import ZODB.blob
import ZODB.utils
from ZODB.POSException import POSKeyError

from zeolith.client import bloblayout, blobs, blobsizes, download
from zeolith.client.blobs import CHUNK_SIZE, BlobDirectory
from zeolith.client.blobsizes import shrink, shrink_cache
from zeolith.errors import ClientStorageError, ConfigurationError

SERIAL = b"\x03\xff" + bytes(5) + b"\x01"


def oid(number: int) -> bytes:
    return number.to_bytes(8, "big")


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[BlobDirectory]:
    with closing(BlobDirectory(str(tmp_path / "cache"), shared=False, cache_size=None)) as found:
        yield found


def sender(directory: BlobDirectory, data: bytes) -> Callable[[bytes, bytes], None]:
    """Return a fetch function whose server sends *data*."""

    def fetch(oid: bytes, serial: bytes) -> None:
        directory.download_started(oid, serial)
        for start in range(0, len(data), CHUNK_SIZE):
            directory.download_chunk(oid, serial, data[start : start + CHUNK_SIZE])
        directory.download_ended(oid, serial)

    return fetch


def no_fetch(oid: bytes, serial: bytes) -> None:
    raise AssertionError("nothing was to be fetched")


def readable_as_folder(path: str) -> int:
    """The mode that ZODB gives blobs: read-only, and readable to whom the directory is."""
    return 0o400 | os.stat(os.path.dirname(path)).st_mode & 0o444


def read(path: str) -> bytes:
    return Path(path).read_bytes()


def leftovers(directory: BlobDirectory) -> list[str]:
    """Partial and uploaded files."""
    return [
        name
        for _base, _dirs, names in os.walk(directory.path)
        for name in names
        if name.endswith((".dl", ".tmp-"))
    ]


# -- layout ------------------------------------------------------------------------------------


def test_layout_is_zeos(cache: BlobDirectory) -> None:
    path = cache.filename(oid(997 * 5 + 3), SERIAL)
    assert path == os.path.join(os.path.abspath(cache.path), "3", "5.03ff000000000001.blob")
    assert Path(cache.path, ".layout").read_text() == "zeocache"
    assert "zeocache" in ZODB.blob.LAYOUTS
    assert cache.temp_dir == os.path.join(cache.path, "tmp")
    assert os.path.isdir(cache.temp_dir)
    assert isinstance(cache.fshelper, ZODB.blob.FilesystemHelper)


def test_zodbs_table_of_layouts_takes_our_class() -> None:
    layout = bloblayout.CacheLayout()
    assert layout.getBlobFilePath(oid(998), SERIAL) == os.path.join("1", "1.03ff000000000001.blob")
    assert layout.oid_to_path(oid(998)) == "1"


@pytest.mark.parametrize("marker", ["bushy", "lawn", "something"])
def test_a_cache_refuses_a_directory_of_another_layout(tmp_path: Path, marker: str) -> None:
    (tmp_path / ".layout").write_text(marker)
    with pytest.raises(ConfigurationError, match=marker):
        BlobDirectory(str(tmp_path), shared=False, cache_size=None)
    assert os.listdir(tmp_path) == [".layout"]


def test_a_cache_refuses_a_servers_directory_from_before_markers(tmp_path: Path) -> None:
    (tmp_path / "0x01").mkdir()
    with pytest.raises(ConfigurationError, match="server"):
        BlobDirectory(str(tmp_path), shared=False, cache_size=None)


def test_shared_refuses_a_cache(cache: BlobDirectory) -> None:
    with pytest.raises(ConfigurationError, match="cache of a client"):
        BlobDirectory(cache.path, shared=True, cache_size=None)


def test_shared_refuses_an_unknown_layout(tmp_path: Path) -> None:
    (tmp_path / ".layout").write_text("spiral")
    with pytest.raises(ConfigurationError, match="spiral"):
        BlobDirectory(str(tmp_path), shared=True, cache_size=None)


def test_a_file_in_place_of_the_directory_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for shared in (True, False):
        with pytest.raises(ConfigurationError, match="cannot be used"):
            BlobDirectory(str(tmp_path / "file"), shared=shared, cache_size=None)


def test_a_cache_may_be_opened_twice(cache: BlobDirectory) -> None:
    with closing(BlobDirectory(cache.path, shared=False, cache_size=None)) as second:
        cache.load(oid(1), SERIAL, sender(cache, b"data"))
        assert read(second.load(oid(1), SERIAL, no_fetch)) == b"data"


def test_many_clients_may_make_a_directory_at_once(tmp_path: Path) -> None:
    start = threading.Barrier(8)
    made: list[BlobDirectory] = []
    errors: list[BaseException] = []

    def make() -> None:
        start.wait(30)
        try:
            made.append(BlobDirectory(str(tmp_path / "a" / "b"), shared=False, cache_size=None))
        except ConfigurationError as error:
            errors.append(error)

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert errors == []
    assert len(made) == 8
    assert sorted(os.listdir(tmp_path / "a" / "b")) == [".layout", "tmp"]


def test_an_unfinished_marker_is_finished(tmp_path: Path) -> None:
    """A client of ZEO has just created the file and not yet written the name."""
    (tmp_path / ".layout").touch()
    BlobDirectory(str(tmp_path), shared=False, cache_size=None).close()
    assert (tmp_path / ".layout").read_text() == "zeocache"


def test_check_percent_is_a_percentage(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="blob_cache_size_check"):
        BlobDirectory(str(tmp_path), shared=False, cache_size=10, check_percent=100)


# -- loading -----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, CHUNK_SIZE, 3 * CHUNK_SIZE + 1])
def test_load_fetches_once(cache: BlobDirectory, size: int) -> None:
    data = os.urandom(size)
    path = cache.load(oid(1), SERIAL, sender(cache, data))
    assert path == cache.filename(oid(1), SERIAL)
    assert read(path) == data
    assert stat.S_IMODE(os.stat(path).st_mode) == readable_as_folder(path)
    assert cache.load(oid(1), SERIAL, no_fetch) == path
    assert leftovers(cache) == []


def test_load_marks_the_file_as_used(cache: BlobDirectory) -> None:
    path = cache.load(oid(1), SERIAL, sender(cache, b"x"))
    os.utime(path, (1, 2))
    cache.load(oid(1), SERIAL, no_fetch)
    assert os.stat(path).st_atime > 1
    assert os.stat(path).st_mtime == 2


def test_a_blob_that_does_not_exist(cache: BlobDirectory) -> None:
    with pytest.raises(POSKeyError) as caught:
        cache.load(oid(7), SERIAL, lambda oid, serial: None)
    assert caught.value.args[0] == oid(7)


def test_the_servers_error_is_passed_on_and_leaves_nothing(cache: BlobDirectory) -> None:
    def fetch(oid: bytes, serial: bytes) -> None:
        cache.download_started(oid, serial)
        cache.download_chunk(oid, serial, b"part")
        raise ConnectionError

    with pytest.raises(ConnectionError):
        cache.load(oid(1), SERIAL, fetch)
    assert leftovers(cache) == []
    assert read(cache.load(oid(1), SERIAL, sender(cache, b"whole"))) == b"whole"


def test_shared_asks_nobody(tmp_path: Path) -> None:
    with closing(BlobDirectory(str(tmp_path / "b"), shared=True, cache_size=None)) as directory:
        with pytest.raises(POSKeyError):
            directory.load(oid(1), SERIAL, no_fetch)
        with pytest.raises(POSKeyError):
            directory.open(oid(1), SERIAL, None, no_fetch)
        path = Path(directory.filename(oid(1), SERIAL))
        path.parent.mkdir(parents=True)
        path.write_bytes(b"server's")
        assert directory.load(oid(1), SERIAL, no_fetch) == str(path)
        with directory.open(oid(1), SERIAL, None, no_fetch) as file:
            assert file.read() == b"server's"


def test_loads_of_one_blob_collapse(cache: BlobDirectory) -> None:
    begun, go_on = threading.Event(), threading.Event()
    calls: list[bytes] = []

    def fetch(oid: bytes, serial: bytes) -> None:
        calls.append(oid)
        begun.set()
        assert go_on.wait(30)
        sender(cache, b"data")(oid, serial)

    results: list[str] = []
    threads = [
        threading.Thread(target=lambda: results.append(cache.load(oid(1), SERIAL, fetch)))
        for _ in range(5)
    ]
    for thread in threads:
        thread.start()
    assert begun.wait(30)
    go_on.set()
    for thread in threads:
        thread.join(30)
    assert calls == [oid(1)]
    assert results == [cache.filename(oid(1), SERIAL)] * 5


def test_loads_collapse_across_processes(cache: BlobDirectory) -> None:
    """Another process holds the bucket's lock, and adds the file before it lets go."""
    program = """if True:
        import sys
        from zeolith.client.blobs import BlobDirectory
        directory = BlobDirectory(sys.argv[1], shared=False, cache_size=None)
        oid, serial = bytes.fromhex(sys.argv[2]), bytes.fromhex(sys.argv[3])
        def fetch(oid, serial):
            print("begun", flush=True)
            sys.stdin.readline()
            directory.download_started(oid, serial)
            directory.download_chunk(oid, serial, b"theirs")
            directory.download_ended(oid, serial)
        directory.load(oid, serial, fetch)
        directory.close()
    """
    arguments = [sys.executable, "-c", program, cache.path, oid(1).hex(), SERIAL.hex()]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stdout.readline() == b"begun\n"
        results: list[str] = []
        thread = threading.Thread(
            target=lambda: results.append(cache.load(oid(1), SERIAL, no_fetch))
        )
        thread.start()
        child.stdin.write(b"\n")
        child.stdin.close()
        thread.join(60)
    assert child.returncode == 0
    assert [read(path) for path in results] == [b"theirs"]


def test_a_bucket_that_is_never_released(
    cache: BlobDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blobs, "LOCK_TIMEOUT", 0.01)
    directory = cache.fshelper.createPathForOID(oid(1))
    with (
        closing(zc.lockfile.LockFile(os.path.join(directory, ".lock"))),
        pytest.raises(ClientStorageError, match="another process"),
    ):
        cache.load(oid(1), SERIAL, no_fetch)
    assert read(cache.load(oid(1), SERIAL, sender(cache, b"x"))) == b"x"


def test_open_gives_a_plain_file_or_a_blob_file(cache: BlobDirectory) -> None:
    with cache.open(oid(1), SERIAL, None, sender(cache, b"data")) as file:
        assert file.read() == b"data"
    blob = ZODB.blob.Blob()
    with cache.open(oid(1), SERIAL, blob, no_fetch) as file:
        assert isinstance(file, ZODB.blob.BlobFile)
        assert file.read() == b"data"


def test_open_when_the_file_is_evicted_just_before(
    cache: BlobDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C: eviction between finding a blob and opening it; the blob is fetched again."""
    cache.load(oid(1), SERIAL, sender(cache, b"data"))
    original = blobs._open_blob
    attempts: list[str] = []

    def evict_first(path: str, blob: Any) -> Any:
        if not attempts:
            os.remove(path)
        attempts.append(path)
        return original(path, blob)

    monkeypatch.setattr(blobs, "_open_blob", evict_first)
    with cache.open(oid(1), SERIAL, None, sender(cache, b"data")) as file:
        assert file.read() == b"data"
    assert len(attempts) == 3  # gone; under the lock still gone; after the fetch


# -- downloads ---------------------------------------------------------------------------------


def test_two_interleaved_downloads(cache: BlobDirectory) -> None:
    """C: chunks of two blobs in turn on one connection (ZEO#150)."""
    waiting = threading.Barrier(3)
    received = threading.Event()

    def fetch(oid: bytes, serial: bytes) -> None:
        waiting.wait(30)
        assert received.wait(30)

    results: dict[int, str] = {}

    def load(number: int) -> None:
        results[number] = cache.load(oid(number), SERIAL, fetch)

    threads = [threading.Thread(target=load, args=(number,)) for number in (1, 2)]
    for thread in threads:
        thread.start()
    waiting.wait(30)
    for number in (1, 2):
        cache.download_started(oid(number), SERIAL)
    for part in range(3):
        for number in (1, 2):
            cache.download_chunk(oid(number), SERIAL, b"%d%d." % (number, part))
    for number in (2, 1):
        cache.download_ended(oid(number), SERIAL)
    received.set()
    for thread in threads:
        thread.join(30)
    assert {number: read(path) for number, path in results.items()} == {
        1: b"10.11.12.",
        2: b"20.21.22.",
    }


def test_a_broken_connection_removes_partial_files(cache: BlobDirectory) -> None:
    def fetch(oid: bytes, serial: bytes) -> None:
        cache.download_started(oid, serial)
        cache.download_chunk(oid, serial, b"part")
        assert leftovers(cache) != []
        cache.downloads_broken()
        assert leftovers(cache) == []
        cache.download_chunk(oid, serial, b"late")
        cache.download_ended(oid, serial)

    with pytest.raises(POSKeyError):
        cache.load(oid(1), SERIAL, fetch)


def test_a_fetch_may_repeat_itself_after_a_break(cache: BlobDirectory) -> None:
    def fetch(oid: bytes, serial: bytes) -> None:
        cache.download_started(oid, serial)
        cache.download_chunk(oid, serial, b"part")
        cache.downloads_broken()
        sender(cache, b"whole")(oid, serial)

    assert read(cache.load(oid(1), SERIAL, fetch)) == b"whole"


def test_a_stream_that_starts_again_replaces_the_first(cache: BlobDirectory) -> None:
    def fetch(oid: bytes, serial: bytes) -> None:
        cache.download_started(oid, serial)
        cache.download_chunk(oid, serial, b"first")
        sender(cache, b"second")(oid, serial)

    assert read(cache.load(oid(1), SERIAL, fetch)) == b"second"


def test_a_stream_that_nobody_asked_for_is_ignored(cache: BlobDirectory) -> None:
    """R8: a server cannot fill the client's disk."""
    sender(cache, b"unwanted")(oid(1), SERIAL)
    cache.download_chunk(oid(2), SERIAL, b"unwanted")
    cache.download_ended(oid(2), SERIAL)
    assert leftovers(cache) == []
    assert not os.path.exists(cache.filename(oid(1), SERIAL))


def test_a_partial_file_of_a_dead_process_is_replaced(cache: BlobDirectory) -> None:
    directory = cache.fshelper.createPathForOID(oid(1))
    partial = cache.filename(oid(1), SERIAL) + ".dl"
    Path(partial).write_bytes(b"much longer than what comes now")
    assert read(cache.load(oid(1), SERIAL, sender(cache, b"new"))) == b"new"
    assert sorted(os.listdir(directory)) == [".lock", "0.03ff000000000001.blob"]


def test_a_full_disk_is_told_to_who_loads_and_to_nobody_else(
    cache: BlobDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(file: object, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(download, "_write_all", fail)
        with pytest.raises(ClientStorageError, match="cannot keep") as caught:
            cache.load(oid(1), SERIAL, sender(cache, b"data"))
    assert isinstance(caught.value.__cause__, OSError)
    assert leftovers(cache) == []
    assert read(cache.load(oid(1), SERIAL, sender(cache, b"data"))) == b"data"


def test_short_writes_are_completed() -> None:
    class Reluctant:
        def __init__(self) -> None:
            self.data = b""

        def write(self, data: memoryview) -> int:
            self.data += bytes(data[:3])
            return min(3, len(data))

    file: Any = Reluctant()
    download._write_all(file, b"1234567")
    assert file.data == b"1234567"


def test_a_forked_child_leaves_the_parents_download_alone(cache: BlobDirectory) -> None:
    def fetch(oid: bytes, serial: bytes) -> None:
        cache.download_started(oid, serial)
        cache.download_chunk(oid, serial, b"one ")
        child = os.fork()
        if child == 0:
            status = 1
            try:
                cache.forked()
                cache.downloads_broken()
                cache.close()
                status = 0
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        cache.download_chunk(oid, serial, b"two")
        cache.download_ended(oid, serial)

    assert read(cache.load(oid(1), SERIAL, fetch)) == b"one two"


# -- uploads -----------------------------------------------------------------------------------


@pytest.mark.parametrize("is_elsewhere", [False, True])
def test_an_upload_is_taken_sent_and_kept(
    cache: BlobDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_elsewhere: bool
) -> None:
    data = os.urandom(2 * CHUNK_SIZE + 5)
    source = tmp_path / "source"
    source.write_bytes(data)
    if is_elsewhere:
        original = os.rename

        def fail(src: str, dst: str) -> None:
            if src == str(source):
                raise OSError(18, "Invalid cross-device link")
            original(src, dst)

        monkeypatch.setattr(os, "rename", fail)
    path = cache.prepare_upload(oid(1), str(source), bytes(8))
    assert path.endswith(".tmp-")
    assert os.path.dirname(path) == cache.fshelper.getPathForOID(oid(1))
    assert not source.exists()
    parts = list(cache.chunks(path))
    assert [len(part) for part in parts] == [CHUNK_SIZE, CHUNK_SIZE, 5]
    assert b"".join(parts) == data
    cache.committed(oid(1), SERIAL, path)
    assert leftovers(cache) == []
    kept = cache.load(oid(1), SERIAL, no_fetch)
    assert read(kept) == data
    assert stat.S_IMODE(os.stat(kept).st_mode) == readable_as_folder(kept)


def test_an_upload_of_a_missing_file(cache: BlobDirectory, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        cache.prepare_upload(oid(1), str(tmp_path / "nothing"), None)
    assert leftovers(cache) == []


def test_a_failed_copy_leaves_the_callers_file(
    cache: BlobDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"data")

    def fail(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "rename", fail)
    monkeypatch.setattr(ZODB.utils, "cp", fail)
    with pytest.raises(OSError, match="No space"):
        cache.prepare_upload(oid(1), str(source), bytes(8))
    assert source.read_bytes() == b"data"
    assert leftovers(cache) == []


def test_an_aborted_upload_is_discarded(cache: BlobDirectory, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"data")
    path = cache.prepare_upload(oid(1), str(tmp_path / "source"), bytes(8))
    cache.discard(path)
    cache.discard(path)
    assert leftovers(cache) == []


def test_a_commit_is_not_spoilt_by_a_file_that_went_away(
    cache: BlobDirectory, tmp_path: Path
) -> None:
    (tmp_path / "source").write_bytes(b"data")
    path = cache.prepare_upload(oid(1), str(tmp_path / "source"), bytes(8))
    os.remove(path)
    cache.committed(oid(1), SERIAL, path)
    assert read(cache.load(oid(1), SERIAL, sender(cache, b"data"))) == b"data"


def test_a_shared_upload_is_the_servers_to_move(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"data")
    (tmp_path / "source").chmod(0o600)
    with closing(BlobDirectory(str(tmp_path / "b"), shared=True, cache_size=5)) as directory:
        path = directory.prepare_upload(oid(1), str(tmp_path / "source"), bytes(8))
        assert stat.S_IMODE(os.stat(path).st_mode) == readable_as_folder(path)
        directory.committed(oid(1), SERIAL, path)
        assert os.path.exists(path)
        directory.discard(path)
        assert not os.path.exists(path)


# -- size --------------------------------------------------------------------------------------


def fill(directory: BlobDirectory, numbers: range, size: int) -> list[str]:
    """Load blobs of *size* bytes each, used in the order of *numbers*; return their paths."""
    paths = []
    for age, number in enumerate(numbers):
        paths.append(directory.load(oid(number), SERIAL, sender(directory, b"x" * size)))
        os.utime(paths[-1], (1000 + age, 1000))
    return paths


def which(paths: list[str]) -> list[int]:
    return [number for number, path in enumerate(paths) if os.path.exists(path)]


def test_least_recently_used_go_first(cache: BlobDirectory) -> None:
    paths = fill(cache, range(5), 100)
    os.utime(paths[0], (5000, 1000))
    shrink(cache.path, 250)
    assert which(paths) == [0, 4]


def test_nothing_goes_while_the_size_is_right(cache: BlobDirectory) -> None:
    paths = fill(cache, range(5), 100)
    shrink(cache.path, 500)
    assert which(paths) == [0, 1, 2, 3, 4]


def test_a_held_bucket_is_left_alone(cache: BlobDirectory) -> None:
    paths = fill(cache, range(3), 100)
    with closing(zc.lockfile.LockFile(os.path.join(os.path.dirname(paths[0]), ".lock"))):
        shrink(cache.path, 0)
    assert which(paths) == [0]


def test_a_file_used_since_the_scan_is_left_alone(
    cache: BlobDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = fill(cache, range(2), 100)
    original = bloblayout.try_lock

    def use_then_lock(path: str) -> Any:
        if path.startswith(os.path.dirname(paths[0])):
            os.utime(paths[0], (9000, 1000))
        return original(path)

    monkeypatch.setattr(blobsizes, "try_lock", use_then_lock)
    shrink(cache.path, 0)
    assert which(paths) == [0]


def test_open_files_are_left_alone(tmp_path: Path) -> None:
    """C: the size check never takes a blob that this process is reading."""
    with closing(BlobDirectory(str(tmp_path / "c"), shared=False, cache_size=100)) as directory:
        with directory.open(oid(1), SERIAL, None, sender(directory, b"x" * 1000)) as file:
            assert directory._checker is not None
            directory._checker.join(30)
            assert os.path.exists(directory.filename(oid(1), SERIAL))
            assert file.read() == b"x" * 1000
        shrink(directory.path, 0, directory._is_open)
        assert not os.path.exists(directory.filename(oid(1), SERIAL))
        del file
        gc.collect()
        assert len(directory._readers) == 0


def test_what_dead_processes_left_is_removed(cache: BlobDirectory) -> None:
    bucket = Path(cache.fshelper.createPathForOID(oid(1)))
    (bucket / "0.03ff.blob.dl").write_bytes(b"partial")
    (bucket / "0xnew.tmp-").write_bytes(b"an upload")
    shrink(cache.path, 10)
    assert leftovers(cache) == ["0xnew.tmp-"]


def test_an_upload_of_long_ago_is_removed(
    cache: BlobDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = Path(cache.fshelper.createPathForOID(oid(1)))
    (bucket / "0xold.tmp-").write_bytes(b"an upload")
    monkeypatch.setattr(blobsizes, "ABANDONED_AGE", -1.0)
    shrink(cache.path, 10)
    assert leftovers(cache) == []


def test_foreign_entries_do_not_disturb(cache: BlobDirectory) -> None:
    Path(cache.path, "5").write_text("not a bucket")
    Path(cache.path, "readme").mkdir()
    paths = fill(cache, range(1), 10)
    shrink(cache.path, 0)
    assert which(paths) == []


def test_a_second_check_leaves_its_wish_with_the_first(
    cache: BlobDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(cache, range(3), 100)
    original = blobsizes._evict
    calls: list[int] = []

    def evict(directory: str, target: int, *more: Any) -> None:
        calls.append(target)
        if len(calls) == 1:
            # Another process comes while we are at it.
            shrink(directory, 7)
        original(directory, target, *more)

    monkeypatch.setattr(blobsizes, "_evict", evict)
    shrink(cache.path, 100)
    assert calls == [100, 100]
    assert not os.path.exists(os.path.join(cache.path, "check_size.attempt"))


def wait_for_check(directory: BlobDirectory) -> None:
    while (checker := directory._checker) is not None and directory._is_checking:
        checker.join(30)
        assert not checker.is_alive()


def size_of(directory: BlobDirectory) -> int:
    return sum(entry.size for entry in blobsizes._scan(directory.path))


def test_the_size_is_looked_after(tmp_path: Path) -> None:
    with closing(BlobDirectory(str(tmp_path / "c"), shared=False, cache_size=1000)) as directory:
        for number in range(100):
            directory.load(oid(number), SERIAL, sender(directory, b"x" * 100))
        wait_for_check(directory)
        assert size_of(directory) <= 1000
        source = tmp_path / "source"
        for number in range(100, 200):
            source.write_bytes(b"y" * 100)
            path = directory.prepare_upload(oid(number), str(source), bytes(8))
            directory.committed(oid(number), SERIAL, path)
        wait_for_check(directory)
        assert size_of(directory) <= 1000


def test_what_is_there_at_the_start_is_looked_at(cache: BlobDirectory) -> None:
    fill(cache, range(10), 100)
    with closing(BlobDirectory(cache.path, shared=False, cache_size=300)) as directory:
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
                    with directory.open(oid(number), SERIAL, None, sender(directory, data)) as f:
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


def test_a_cache_is_shrunk_from_outside(cache: BlobDirectory) -> None:
    paths = fill(cache, range(5), 100)
    shrink_cache(cache.path, 250)
    assert which(paths) == [3, 4]


def test_nothing_but_caches_is_shrunk(tmp_path: Path) -> None:
    (tmp_path / ".layout").write_text("bushy")
    with pytest.raises(ConfigurationError, match="its layout is 'bushy'"):
        shrink_cache(str(tmp_path), 0)
    with pytest.raises(ConfigurationError, match="No such file"):
        shrink_cache(str(tmp_path / "nothing"), 0)

"""The client's blob directory, without any server: loading blobs and uploading them."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import zc.lockfile
import ZODB.blob
import ZODB.utils
from ZODB.POSException import POSKeyError

from tests.support.blobdirectories import (
    SERIAL,
    leftovers,
    no_fetch,
    read,
    readable_as_folder,
    sender,
)
from tests.support.raw import oid_of
from zeolith.client import bloblocks, blobopening, blobs
from zeolith.client.blobs import CHUNK_SIZE, BlobDirectory
from zeolith.client.blobsizes import shrink
from zeolith.errors import ClientStorageError

# -- loading -----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, CHUNK_SIZE, 3 * CHUNK_SIZE + 1])
def test_load_fetches_once(blob_cache: BlobDirectory, size: int) -> None:
    data = os.urandom(size)
    path = blob_cache.load(oid_of(1), SERIAL, sender(blob_cache, data))
    assert path == blob_cache.filename(oid_of(1), SERIAL)
    assert read(path) == data
    assert stat.S_IMODE(os.stat(path).st_mode) == readable_as_folder(path)
    assert blob_cache.load(oid_of(1), SERIAL, no_fetch) == path
    assert leftovers(blob_cache) == []


def test_load_marks_the_file_as_used(blob_cache: BlobDirectory) -> None:
    path = blob_cache.load(oid_of(1), SERIAL, sender(blob_cache, b"x"))
    os.utime(path, (1, 2))
    blob_cache.load(oid_of(1), SERIAL, no_fetch)
    assert os.stat(path).st_atime > 1
    assert os.stat(path).st_mtime == 2


def test_a_blob_that_does_not_exist(blob_cache: BlobDirectory) -> None:
    with pytest.raises(POSKeyError) as caught:
        blob_cache.load(oid_of(7), SERIAL, lambda oid, serial: None)
    assert caught.value.args[0] == oid_of(7)


def test_the_servers_error_is_passed_on_and_leaves_nothing(blob_cache: BlobDirectory) -> None:
    def fetch(oid: bytes, serial: bytes) -> None:
        blob_cache.download_started(oid, serial)
        blob_cache.download_chunk(oid, serial, b"part")
        raise ConnectionError

    with pytest.raises(ConnectionError):
        blob_cache.load(oid_of(1), SERIAL, fetch)
    assert leftovers(blob_cache) == []
    assert read(blob_cache.load(oid_of(1), SERIAL, sender(blob_cache, b"whole"))) == b"whole"


def test_shared_asks_nobody(tmp_path: Path) -> None:
    with closing(BlobDirectory(str(tmp_path / "b"), shared=True, cache_size=None)) as directory:
        with pytest.raises(POSKeyError):
            directory.load(oid_of(1), SERIAL, no_fetch)
        with pytest.raises(POSKeyError):
            directory.open(oid_of(1), SERIAL, None, no_fetch)
        path = Path(directory.filename(oid_of(1), SERIAL))
        path.parent.mkdir(parents=True)
        path.write_bytes(b"server's")
        assert directory.load(oid_of(1), SERIAL, no_fetch) == str(path)
        with directory.open(oid_of(1), SERIAL, None, no_fetch) as file:
            assert file.read() == b"server's"


def test_loads_of_one_blob_collapse(blob_cache: BlobDirectory) -> None:
    begun, go_on = threading.Event(), threading.Event()
    calls: list[bytes] = []

    def fetch(oid: bytes, serial: bytes) -> None:
        calls.append(oid)
        begun.set()
        assert go_on.wait(30)
        sender(blob_cache, b"data")(oid, serial)

    results: list[str] = []
    threads = [
        threading.Thread(target=lambda: results.append(blob_cache.load(oid_of(1), SERIAL, fetch)))
        for _ in range(5)
    ]
    for thread in threads:
        thread.start()
    assert begun.wait(30)
    go_on.set()
    for thread in threads:
        thread.join(30)
    assert calls == [oid_of(1)]
    assert results == [blob_cache.filename(oid_of(1), SERIAL)] * 5


def test_loads_collapse_across_processes(blob_cache: BlobDirectory) -> None:
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
    arguments = [sys.executable, "-c", program, blob_cache.path, oid_of(1).hex(), SERIAL.hex()]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stdout.readline() == b"begun\n"
        results: list[str] = []
        thread = threading.Thread(
            target=lambda: results.append(blob_cache.load(oid_of(1), SERIAL, no_fetch))
        )
        thread.start()
        child.stdin.write(b"\n")
        child.stdin.close()
        thread.join(60)
    assert child.returncode == 0
    assert [read(path) for path in results] == [b"theirs"]


def test_a_bucket_that_is_never_released(
    blob_cache: BlobDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bloblocks, "LOCK_TIMEOUT", 0.01)
    directory = blob_cache.fshelper.createPathForOID(oid_of(1))
    with (
        closing(zc.lockfile.LockFile(os.path.join(directory, ".lock"))),
        pytest.raises(ClientStorageError, match="another process"),
    ):
        blob_cache.load(oid_of(1), SERIAL, no_fetch)
    assert read(blob_cache.load(oid_of(1), SERIAL, sender(blob_cache, b"x"))) == b"x"


def test_what_cannot_be_opened_is_said_as_it_is(
    blob_cache: BlobDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client of ZEO with the same directory that runs as another user: its files are 0400."""
    path = blob_cache.load(oid_of(1), SERIAL, sender(blob_cache, b"data"))

    def refuse(*args: object) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(blobs, "open_held", refuse)
    with pytest.raises(ClientStorageError, match="Permission denied"):
        blob_cache.open(oid_of(1), SERIAL, None, no_fetch)


def test_a_bucket_that_cannot_be_made(blob_cache: BlobDirectory, tmp_path: Path) -> None:
    """ZODB#309: an AssertionError in getPathForOID."""
    (tmp_path / "source").write_bytes(b"data")
    Path(blob_cache.path, "1").write_text("in place of a directory")
    with pytest.raises(ClientStorageError, match="cannot be used"):
        blob_cache.load(oid_of(1), SERIAL, no_fetch)
    with pytest.raises(ClientStorageError, match="cannot be used"):
        blob_cache.prepare_upload(oid_of(1), str(tmp_path / "source"), None)
    assert (tmp_path / "source").read_bytes() == b"data"


def test_what_dead_processes_left_goes_when_its_bucket_is_used(blob_cache: BlobDirectory) -> None:
    """Also in a cache without a limit, whose size nobody looks after."""
    bucket = Path(blob_cache.fshelper.createPathForOID(oid_of(1)))
    other = Path(blob_cache.fshelper.createPathForOID(oid_of(2)))
    for each in (bucket, other):
        (each / "7.03ff.blob.dl").write_bytes(b"partial")
        (each / "0xnew.tmp-").write_bytes(b"an upload that may still be under way")
    blob_cache.load(oid_of(1), SERIAL, sender(blob_cache, b"data"))
    assert sorted(os.listdir(bucket)) == [".lock", "0.03ff000000000001.blob", "0xnew.tmp-"]
    assert sorted(os.listdir(other)) == ["0xnew.tmp-", "7.03ff.blob.dl"]


@pytest.mark.parametrize("shared", [False, True])
def test_a_relative_path_is_looked_up_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    with closing(BlobDirectory("here", shared=shared, cache_size=None)) as directory:
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        (tmp_path / "source").write_bytes(b"data")
        taken = directory.prepare_upload(oid_of(1), str(tmp_path / "source"), None)
        assert taken.path.startswith(str(tmp_path / "here"))
        assert directory.temp_dir == str(tmp_path / "here" / "tmp")
        directory.discard(taken.path)
        if not shared:
            shrink(directory.path, 0)
        assert os.listdir(tmp_path / "elsewhere") == []


def test_a_cache_that_was_emptied_by_hand_goes_on(
    blob_cache: BlobDirectory, tmp_path: Path
) -> None:
    blob_cache.load(oid_of(1), SERIAL, sender(blob_cache, b"data"))
    shutil.rmtree(blob_cache.path)
    path = blob_cache.load(oid_of(1), SERIAL, sender(blob_cache, b"data"))
    assert read(path) == b"data"
    assert os.path.isdir(blob_cache.temp_dir)
    (tmp_path / "source").write_bytes(b"data")
    shutil.rmtree(blob_cache.path)
    taken = blob_cache.prepare_upload(oid_of(2), str(tmp_path / "source"), None)
    blob_cache.committed(oid_of(2), SERIAL, taken)
    with blob_cache.open(oid_of(2), SERIAL, None, no_fetch) as file:
        assert file.read() == b"data"


def test_open_gives_a_plain_file_or_a_blob_file(blob_cache: BlobDirectory) -> None:
    with blob_cache.open(oid_of(1), SERIAL, None, sender(blob_cache, b"data")) as file:
        assert file.read() == b"data"
    blob = ZODB.blob.Blob()
    with blob_cache.open(oid_of(1), SERIAL, blob, no_fetch) as file:
        assert isinstance(file, ZODB.blob.BlobFile)
        assert file.read() == b"data"


def test_open_when_the_file_is_evicted_just_before(
    blob_cache: BlobDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C: eviction between finding a blob and opening it; the blob is fetched again."""
    blob_cache.load(oid_of(1), SERIAL, sender(blob_cache, b"data"))
    original = blobopening.open_held
    attempts: list[str] = []

    def evict_first(path: str, blob: Any) -> Any:
        if not attempts:
            os.remove(path)
        attempts.append(path)
        return original(path, blob)

    monkeypatch.setattr(blobs, "open_held", evict_first)
    with blob_cache.open(oid_of(1), SERIAL, None, sender(blob_cache, b"data")) as file:
        assert file.read() == b"data"
    assert len(attempts) == 2  # gone; after the fetch


# -- uploads -----------------------------------------------------------------------------------


@pytest.mark.parametrize("is_elsewhere", [False, True])
def test_an_upload_is_taken_sent_and_kept(
    blob_cache: BlobDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_elsewhere: bool
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
    taken = blob_cache.prepare_upload(oid_of(1), str(source), bytes(8))
    path = taken.path
    assert path.endswith(".tmp-")
    assert os.path.dirname(path) == blob_cache.fshelper.getPathForOID(oid_of(1))
    assert not source.exists()
    parts = list(blob_cache.chunks(path))
    assert [len(part) for part in parts] == [CHUNK_SIZE, CHUNK_SIZE, 5]
    assert b"".join(parts) == data
    blob_cache.committed(oid_of(1), SERIAL, taken)
    assert leftovers(blob_cache) == []
    kept = blob_cache.load(oid_of(1), SERIAL, no_fetch)
    assert read(kept) == data
    assert stat.S_IMODE(os.stat(kept).st_mode) == readable_as_folder(kept)


def test_an_upload_of_a_missing_file(blob_cache: BlobDirectory, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        blob_cache.prepare_upload(oid_of(1), str(tmp_path / "nothing"), None)
    assert leftovers(blob_cache) == []


def test_a_failed_copy_leaves_the_callers_file(
    blob_cache: BlobDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"data")

    def fail(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "rename", fail)
    monkeypatch.setattr(ZODB.utils, "cp", fail)
    with pytest.raises(ClientStorageError, match="No space"):
        blob_cache.prepare_upload(oid_of(1), str(source), bytes(8))
    assert source.read_bytes() == b"data"
    assert leftovers(blob_cache) == []


def test_an_aborted_upload_is_discarded(blob_cache: BlobDirectory, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"data")
    taken = blob_cache.prepare_upload(oid_of(1), str(tmp_path / "source"), bytes(8))
    blob_cache.discard(taken.path)
    blob_cache.discard(taken.path)
    assert leftovers(blob_cache) == []


def test_a_commit_is_not_spoilt_by_a_file_that_went_away(
    blob_cache: BlobDirectory, tmp_path: Path
) -> None:
    (tmp_path / "source").write_bytes(b"data")
    taken = blob_cache.prepare_upload(oid_of(1), str(tmp_path / "source"), bytes(8))
    os.remove(taken.path)
    blob_cache.committed(oid_of(1), SERIAL, taken)
    assert read(blob_cache.load(oid_of(1), SERIAL, sender(blob_cache, b"data"))) == b"data"


def test_a_commit_does_not_wait_for_a_long_download(
    blob_cache: BlobDirectory, tmp_path: Path
) -> None:
    """Of another blob in the same bucket, by whatever process; and it keeps its own."""
    (tmp_path / "source").write_bytes(b"data")
    taken = blob_cache.prepare_upload(oid_of(1), str(tmp_path / "source"), None)
    with closing(zc.lockfile.LockFile(os.path.join(os.path.dirname(taken.path), ".lock"))):
        blob_cache.committed(oid_of(1), SERIAL, taken)
    assert leftovers(blob_cache) == []
    assert read(blob_cache.load(oid_of(1), SERIAL, no_fetch)) == b"data"


@pytest.mark.parametrize("is_open", [False, True])
def test_what_a_power_failure_has_cut_off_is_fetched_again(
    blob_cache: BlobDirectory, tmp_path: Path, is_open: bool
) -> None:
    (tmp_path / "source").write_bytes(b"all of it")
    taken = blob_cache.prepare_upload(oid_of(1), str(tmp_path / "source"), None)
    blob_cache.committed(oid_of(1), SERIAL, taken)
    fetched = blob_cache.load(oid_of(2), SERIAL, sender(blob_cache, b"all of it"))
    blob_cache.close()
    # As after a restart of the machine: nobody remembers anything.
    with closing(BlobDirectory(blob_cache.path, shared=False, cache_size=None)) as again:
        for oid, name in ((oid_of(1), again.filename(oid_of(1), SERIAL)), (oid_of(2), fetched)):
            os.chmod(name, 0o600)
            os.truncate(name, 3)
            if is_open:
                with again.open(oid, SERIAL, None, sender(again, b"all of it")) as file:
                    assert file.read() == b"all of it"
            else:
                assert read(again.load(oid, SERIAL, sender(again, b"all of it"))) == b"all of it"
        assert leftovers(again) == []


def test_a_shared_upload_is_the_servers_to_move(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"data")
    (tmp_path / "source").chmod(0o600)
    with closing(BlobDirectory(str(tmp_path / "b"), shared=True, cache_size=5)) as directory:
        taken = directory.prepare_upload(oid_of(1), str(tmp_path / "source"), bytes(8))
        path = taken.path
        assert stat.S_IMODE(os.stat(path).st_mode) == readable_as_folder(path)
        directory.committed(oid_of(1), SERIAL, taken)
        assert os.path.exists(path)
        directory.discard(path)
        assert not os.path.exists(path)

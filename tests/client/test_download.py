"""Blobs on their way into the client's blob directory."""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from ZODB.POSException import POSKeyError

from tests.support.asides import Late
from tests.support.blobdirectories import (
    SERIAL,
    leftovers,
    read,
    sender,
)
from tests.support.raw import oid_of
from zeolith.client import download
from zeolith.client.blobs import BlobDirectory
from zeolith.client.download import Download
from zeolith.errors import ClientStorageError


def test_the_file_is_made_when_the_server_has_been_asked(tmp_path: Path) -> None:
    made = Download(str(tmp_path / "file"))
    made.resume()
    assert os.listdir(tmp_path) == []
    made.open()
    made.open()
    assert os.listdir(tmp_path) == ["file"]
    made.write(b"data")
    made.end()
    assert (made.is_complete, read(made.path)) == (True, b"data")


def test_or_when_its_data_come_first(tmp_path: Path) -> None:
    made = Download(str(tmp_path / "file"))
    made.resume()
    made.write(b"da")
    made.open()
    made.write(b"ta")
    made.end()
    assert (made.is_complete, read(made.path)) == (True, b"data")


def test_or_at_the_end_if_there_are_none(tmp_path: Path) -> None:
    made = Download(str(tmp_path / "file"))
    made.resume("sha256")
    assert made.digest == hashlib.sha256().digest()
    made.end()
    assert (made.is_complete, read(made.path)) == (True, b"")


def test_nothing_is_opened_after_the_end(tmp_path: Path) -> None:
    made = Download(str(tmp_path / "file"))
    made.resume()
    made.drop()
    made.open()
    made.write(b"late")
    assert os.listdir(tmp_path) == []


def test_a_file_that_cannot_be_made_is_noted_once(tmp_path: Path) -> None:
    made = Download(str(tmp_path / "missing" / "file"))
    made.resume()
    made.open()
    error = made.error
    assert isinstance(error, FileNotFoundError)
    made.write(b"data")
    made.end()
    assert (made.error, made.is_complete) == (error, False)


def test_what_a_thread_of_its_own_sums_up_is_all_in_the_checksum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "Aside", Late)
    monkeypatch.setattr(download, "is_worthwhile", lambda algorithm, size: True)
    made = Download(str(tmp_path / "file"))
    made.resume("sha256")
    made.expect(300)
    for part in (b"a" * 100, b"b" * 100, b"c" * 100):
        made.write(part)
    assert made.digest == hashlib.sha256(b"a" * 100 + b"b" * 100 + b"c" * 100).digest()
    made.end()
    assert made.is_complete


def test_two_interleaved_downloads(blob_cache: BlobDirectory) -> None:
    """C: chunks of two blobs in turn on one connection (ZEO#150)."""
    waiting = threading.Barrier(3)
    received = threading.Event()

    def fetch(oid: bytes, serial: bytes) -> None:
        waiting.wait(30)
        assert received.wait(30)

    results: dict[int, str] = {}

    def load(number: int) -> None:
        results[number] = blob_cache.load(oid_of(number), SERIAL, fetch)

    threads = [threading.Thread(target=load, args=(number,)) for number in (1, 2)]
    for thread in threads:
        thread.start()
    waiting.wait(30)
    for number in (1, 2):
        blob_cache.download_started(oid_of(number), SERIAL)
    for part in range(3):
        for number in (1, 2):
            blob_cache.download_chunk(oid_of(number), SERIAL, b"%d%d." % (number, part))
    for number in (2, 1):
        blob_cache.download_ended(oid_of(number), SERIAL)
    received.set()
    for thread in threads:
        thread.join(30)
    assert {number: read(path) for number, path in results.items()} == {
        1: b"10.11.12.",
        2: b"20.21.22.",
    }


def test_a_broken_connection_removes_partial_files(blob_cache: BlobDirectory) -> None:
    def fetch(oid: bytes, serial: bytes) -> None:
        blob_cache.download_started(oid, serial)
        blob_cache.download_chunk(oid, serial, b"part")
        assert leftovers(blob_cache) != []
        blob_cache.downloads_broken()
        assert leftovers(blob_cache) == []
        blob_cache.download_chunk(oid, serial, b"late")
        blob_cache.download_ended(oid, serial)

    with pytest.raises(POSKeyError):
        blob_cache.load(oid_of(1), SERIAL, fetch)


def test_a_fetch_may_repeat_itself_after_a_break(blob_cache: BlobDirectory) -> None:
    def fetch(oid: bytes, serial: bytes) -> None:
        blob_cache.download_started(oid, serial)
        blob_cache.download_chunk(oid, serial, b"part")
        blob_cache.downloads_broken()
        sender(blob_cache, b"whole")(oid, serial)

    assert read(blob_cache.load(oid_of(1), SERIAL, fetch)) == b"whole"


def test_a_stream_that_starts_again_replaces_the_first(blob_cache: BlobDirectory) -> None:
    def fetch(oid: bytes, serial: bytes) -> None:
        blob_cache.download_started(oid, serial)
        blob_cache.download_chunk(oid, serial, b"first")
        sender(blob_cache, b"second")(oid, serial)

    assert read(blob_cache.load(oid_of(1), SERIAL, fetch)) == b"second"


def test_a_stream_that_nobody_asked_for_is_ignored(blob_cache: BlobDirectory) -> None:
    """R8: a server cannot fill the client's disk."""
    sender(blob_cache, b"unwanted")(oid_of(1), SERIAL)
    blob_cache.download_chunk(oid_of(2), SERIAL, b"unwanted")
    blob_cache.download_ended(oid_of(2), SERIAL)
    assert leftovers(blob_cache) == []
    assert not os.path.exists(blob_cache.filename(oid_of(1), SERIAL))


def test_a_partial_file_of_a_dead_process_is_replaced(blob_cache: BlobDirectory) -> None:
    directory = blob_cache.fshelper.createPathForOID(oid_of(1))
    partial = blob_cache.filename(oid_of(1), SERIAL) + ".dl"
    Path(partial).write_bytes(b"much longer than what comes now")
    assert read(blob_cache.load(oid_of(1), SERIAL, sender(blob_cache, b"new"))) == b"new"
    assert sorted(os.listdir(directory)) == [".lock", "0.03ff000000000001.blob"]


def test_a_full_disk_is_told_to_who_loads_and_to_nobody_else(
    blob_cache: BlobDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(file: object, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(download, "_write_all", fail)
        with pytest.raises(ClientStorageError, match="cannot keep") as caught:
            blob_cache.load(oid_of(1), SERIAL, sender(blob_cache, b"data"))
    assert isinstance(caught.value.__cause__, OSError)
    assert leftovers(blob_cache) == []
    assert read(blob_cache.load(oid_of(1), SERIAL, sender(blob_cache, b"data"))) == b"data"


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


def test_a_forked_child_leaves_the_parents_download_alone(blob_cache: BlobDirectory) -> None:
    def fetch(oid: bytes, serial: bytes) -> None:
        blob_cache.download_started(oid, serial)
        blob_cache.download_chunk(oid, serial, b"one ")
        child = os.fork()
        if child == 0:
            status = 1
            try:
                blob_cache.forked()
                blob_cache.downloads_broken()
                blob_cache.close()
                status = 0
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        blob_cache.download_chunk(oid, serial, b"two")
        blob_cache.download_ended(oid, serial)

    assert read(blob_cache.load(oid_of(1), SERIAL, fetch)) == b"one two"


def test_a_download_with_another_checksum_begins_anew(tmp_path: Path) -> None:
    """The one that is wanted is of all bytes."""
    download = Download(str(tmp_path / "blob.dl"))
    assert download.resume("sha256") == 0
    download.write(b"first")
    assert download.resume("sha256") == 5
    assert download.resume(None) == 0
    download.open()
    assert (download.digest, os.path.getsize(download.path)) == (None, 0)
    download.write(b"first")
    assert download.resume("sha256") == 0
    assert download.digest == hashlib.sha256().digest()
    download.drop()


def test_what_was_interrupted_in_between_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who writes may be a thread that loads something else, and be interrupted for that."""
    original = download._write_all

    def write(file: Any, data: Any) -> None:
        original(file, data)
        raise KeyboardInterrupt

    made = Download(str(tmp_path / "blob.dl"))
    assert made.resume() == 0
    made.write(b"first")
    with monkeypatch.context() as patch:
        patch.setattr(download, "_write_all", write)
        with pytest.raises(KeyboardInterrupt):
            made.write(b"second")
    assert made.resume() == 0, "else it would be there twice"
    made.write(b"all")
    assert made.resume() == 3
    made.end()
    assert (tmp_path / "blob.dl").read_bytes() == b"all"

"""R4: a commit is answered after its data and its blobs are on disk."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import pytest
from tests.rules.conftest import Connect, Serve
from tests.support.raw import Z64, RawClient, oid_of
from tests.support.storages import gate
from tests.support.waiting import Background
from ZODB.FileStorage import FileStorage

from zeolith.protocol.messages import TpcFinish

BLOB_RECORD = b"cZODB.blob\nBlob\n."


class Syncs:
    """What has been flushed to disk so far, in order: ``(device, inode, path)``."""

    def __init__(self) -> None:
        self.done: list[tuple[int, int, str]] = []
        self._lock = threading.Lock()

    def note(self, descriptor: int) -> None:
        status = os.fstat(descriptor)
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        with self._lock:
            self.done.append((status.st_dev, status.st_ino, path))

    def last_of(self, path: Path) -> int:
        """Return the number of the last flush of that file (by its inode), -1 if none."""
        status = os.stat(path)
        key = (status.st_dev, status.st_ino)
        return max((n for n, item in enumerate(self.done) if item[:2] == key), default=-1)


@pytest.fixture
def syncs(monkeypatch: pytest.MonkeyPatch) -> Syncs:
    """Watch ``os.fsync`` and ``os.fdatasync``."""
    found = Syncs()
    for name in ("fsync", "fdatasync"):
        original = getattr(os, name)

        def watched(file: object, original: object = original) -> None:
            descriptor = file if isinstance(file, int) else file.fileno()  # type: ignore[attr-defined]
            original(descriptor)  # type: ignore[operator]
            found.note(descriptor)

        monkeypatch.setattr(os, name, watched)
        # FileStorage took the function by name when it was imported.
        if name == "fsync":
            monkeypatch.setattr(sys.modules["ZODB.FileStorage.FileStorage"], "fsync", watched)
    return found


def blob_files(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*.blob"))


def test_r4_every_acknowledged_blob_was_fsynced(
    files: FileStorage, tmp_path: Path, serve: Serve, raw: Connect, syncs: Syncs, loop: str
) -> None:
    """F: ZEO answers without a single fsync of a blob."""
    client = raw(serve(files, loop=loop).address)
    for number in range(1, 6):
        client.begin()
        client.store_blob(oid_of(number), BLOB_RECORD, b"%d" % number * 100_000)
        client.vote()
        client.finish()
        (blob,) = set(blob_files(tmp_path / "blobs" / blob_path(number)))
        at = syncs.last_of(blob)
        data = syncs.last_of(tmp_path / "Data.fs")
        # Blob first: data on disk must not speak of a blob that is not.
        assert 0 <= at < data, syncs.done
        # A file is there after a power failure only if its name is: its directory, and each
        # directory on the way that was made for it.
        folder = blob.parent
        while folder != tmp_path:
            assert 0 <= syncs.last_of(folder) < data, folder
            folder = folder.parent


def blob_path(number: int) -> str:
    """Return the directory that ZODB's bushy layout gives an object's blobs."""
    return "/".join(f"0x{byte:02x}" for byte in oid_of(number))


def test_r4_two_blobs_of_one_transaction(
    files: FileStorage, tmp_path: Path, serve: Serve, raw: Connect, syncs: Syncs
) -> None:
    client = raw(serve(files).address)
    client.begin()
    for number in (1, 2):
        client.store_blob(oid_of(number), BLOB_RECORD, b"blob")
    client.vote()
    client.finish()
    data = syncs.last_of(tmp_path / "Data.fs")
    blobs = blob_files(tmp_path / "blobs")
    assert len(blobs) == 2
    for blob in blobs:
        assert 0 <= syncs.last_of(blob) < data


def test_r4_data_is_fsynced_before_the_reply(
    files: FileStorage, tmp_path: Path, serve: Serve, raw: Connect, syncs: Syncs
) -> None:
    client = raw(serve(files).address)
    client.begin()
    client.store(oid_of(1), b"data")
    client.vote()
    before = len(syncs.done)
    client.finish()
    assert syncs.last_of(tmp_path / "Data.fs") >= before


def test_r4_nobody_hears_of_a_transaction_that_a_crash_may_undo(
    files: FileStorage, serve: Serve, raw: Connect, loop: str
) -> None:
    """While the disk is still writing, neither the committer nor anybody else is told."""
    server = serve(files, loop=loop)
    writer, observer = raw(server.address), raw(server.address)
    first = writer.commit({oid_of(1): (Z64, b"one")})
    observer.ping()
    writer.begin()
    writer.store(oid_of(1), b"two", first)
    writer.vote()
    # The package's name for the class hides the module of the same name.
    module = sys.modules["ZODB.FileStorage.FileStorage"]
    with gate(module, "fsync") as disk:
        finish = writer.ask(TpcFinish(1))
        disk.wait_reached()
        # Whether the observer is answered meanwhile or has to wait is the server's choice.
        ping = Background(observer.ping)
        question = Background(lambda: writer.answer(finish))
        question.join(0.2)
        assert question.is_alive()
        assert observer.invalidations() == [(first, [oid_of(1)])]
        disk.open()
        second = question.result()
        ping.result()
    observer.ping()
    assert observer.invalidations()[-1] == (second, [oid_of(1)])


@pytest.mark.parametrize("what", ["zeolith-upload-", "0x01"], ids=["file", "directory"])
def test_r4_a_failed_fsync_is_not_acknowledged(
    files: FileStorage,
    tmp_path: Path,
    serve: Serve,
    raw: Connect,
    monkeypatch: pytest.MonkeyPatch,
    what: str,
) -> None:
    """A blob that the disk refuses to take fails the commit, before the data is there."""
    from tests.support.raw import fault_of

    server = serve(files)
    client, other = raw(server.address), raw(server.address)
    original = os.fsync

    def fail(descriptor: int) -> None:
        if Path(os.readlink(f"/proc/self/fd/{descriptor}")).name.startswith(what):
            raise OSError(5, "Input/output error")
        original(descriptor)

    client.begin()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        client.store_blob(oid_of(1), BLOB_RECORD, b"blob")
        assert commit_fails(client)
    assert blob_files(tmp_path / "blobs") == []
    assert fault_of(lambda: other.load(oid_of(1))) == "POSKeyError"
    # The lock is free, the storage is in order.
    other.commit({oid_of(2): (Z64, b"two")})
    assert other.load(oid_of(2))[0] == b"two"


def commit_fails(client: RawClient) -> bool:
    from tests.support.raw import Closed, RemoteFault

    try:
        client.vote()
        client.finish()
    except (RemoteFault, Closed):
        return True
    return False


def test_what_a_killed_server_has_left_is_on_disk_before_anybody_sees_it(
    tmp_path: Path, serve: Serve, syncs: Syncs
) -> None:
    """It may have ended between writing a transaction and flushing it: the next one shows that,
    and says that it is committed."""
    path = tmp_path / "Data.fs"
    storage = FileStorage(str(path))
    syncs.done.clear()
    serve(storage)
    assert syncs.last_of(path) >= 0
    # What is recorded beside it is on disk earlier.
    assert syncs.last_of(path) < syncs.last_of(tmp_path / "Data.fs.zeolith")

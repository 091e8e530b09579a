"""``kill -9`` of a server that packs, at each step, with writers at work: nothing is lost."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import transaction
from persistent.TimeStamp import TimeStamp
from tests.support.packing import (
    CHILD_STEPS,
    SERVER_STEPS,
    Contents,
    GatedServer,
    check_database,
    debris,
    resume,
    wait_gone,
)
from tests.support.waiting import Background, promptly, wait_until
from ZODB.blob import Blob, is_blob_record
from ZODB.FileStorage import FileStorage
from ZODB.POSException import ConflictError, StorageError

import zeolith
from zeolith.errors import ClientStorageError

LOCKED = {"list", "finish", *SERVER_STEPS}
"""Steps at which nobody can commit: the commit lock is held, or the server stands still."""


class Writers:
    """Clients that commit, each to an object of its own, and remember what was acknowledged."""

    def __init__(self, address: Any, blob_dir: Path, count: int = 2) -> None:
        self.acknowledged: dict[str, list[int]] = {f"writer{n}": [] for n in range(count)}
        self._address = address
        self._blob_dir = blob_dir
        self._stop = threading.Event()
        self._threads = [
            Background(lambda name=name: self._write(name))  # type: ignore[misc]
            for name in self.acknowledged
        ]

    @property
    def count(self) -> int:
        return sum(map(len, self.acknowledged.values()))

    def _write(self, name: str) -> None:
        manager = transaction.TransactionManager(explicit=False)
        db = zeolith.DB(
            self._address,
            wait_timeout=5,
            blob_dir=str(self._blob_dir / name),
            shared_blob_dir=False,
        )
        try:
            connection = db.open(manager)
            while not self._stop.is_set():
                number = len(self.acknowledged[name])
                try:
                    root = connection.root()
                    if name not in root:
                        root[name] = connection.root().__class__()
                    root[name][number] = Blob(b"%d" % number) if number % 3 else number
                    manager.commit()
                except ConflictError:
                    manager.abort()
                except (ClientStorageError, StorageError):
                    manager.abort()
                    return  # the server was killed
                else:
                    self.acknowledged[name].append(number)
        finally:
            db.close()

    def wait_for(self, more: int) -> None:
        """Wait until so many further commits were acknowledged."""
        target = self.count + more

        def is_there() -> bool:
            for thread in self._threads:
                if not thread.is_alive():
                    thread.result()  # raises what has ended it
                    raise AssertionError("a writer has ended")
            return self.count >= target

        wait_until(is_there, "writers go on")

    def end(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.result()


@contextmanager
def writers(server: GatedServer, directory: Path) -> Iterator[Writers]:
    directory.mkdir()
    found = Writers(server.address, directory)
    try:
        yield found
    finally:
        found._stop.set()


def check_acknowledged(directory: Path, found: Writers) -> None:
    """All that was acknowledged is in the file, blobs too, and at most one commit more."""
    import ZODB

    storage = FileStorage(
        str(directory / "Data.fs"), blob_dir=str(directory / "blobs"), read_only=True
    )
    db = ZODB.DB(storage)
    with db.transaction() as connection:
        root = connection.root()
        for name, numbers in found.acknowledged.items():
            there = set(root[name])
            assert set(numbers) <= there
            assert len(there - set(numbers)) <= 1
            for number, value in root[name].items():
                if isinstance(value, Blob):
                    with value.open() as file:
                        assert file.read() == b"%d" % number
                else:
                    assert value == number
    db.close()


def check_expected(directory: Path, contents: Contents) -> None:
    """What was there before the writers came is there still, but for the root."""
    found = check_database(directory)
    for oid, entry in list(contents.expected.items())[1:]:
        assert found[oid] == entry
    assert any(is_blob_record(data) for data, _ in found.values())


def timestamp(when: float) -> bytes:
    """Return the tid of a time in seconds since the epoch."""
    year, month, day, hour, minute = time.gmtime(when)[:5]
    return bytes(TimeStamp(year, month, day, hour, minute, when % 60).raw())


def ask_to_pack(server: GatedServer, when: float) -> None:
    with closing(zeolith.ClientStorage(server.address)) as storage:
        storage.pack(when, wait=False)


@pytest.fixture
def bed(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[tuple[GatedServer, Contents]]:
    directory = tmp_path / "server"
    contents = Contents(directory)
    server = GatedServer(directory, request.param)
    try:
        server.start_gated()
        yield server, contents
    finally:
        server.kill()


@pytest.mark.parametrize(
    "bed",
    [
        step if step in ("copy", "blob") else pytest.param(step, marks=pytest.mark.long)
        for step in (*CHILD_STEPS, *SERVER_STEPS)
    ],
    indirect=True,
)
def test_a_server_that_is_killed_while_it_packs_loses_nothing(
    bed: tuple[GatedServer, Contents], tmp_path: Path
) -> None:
    server, contents = bed
    with writers(server, tmp_path / "clients") as found:
        found.wait_for(6)
        ask_to_pack(server, contents.end)
        pid = server.wait_reached()
        if server.step not in LOCKED:
            found.wait_for(6)  # commits go on
        server.kill()
        if server.step in SERVER_STEPS:
            # It is the server that had stopped; whom it packs with ends with it.
            assert not os.path.exists(f"/proc/{pid}")
        else:
            resume(pid)
            wait_gone(pid)
        found.end()
    server.start()
    assert debris(server.directory) == []
    assert server.stop() == 0
    check_acknowledged(server.directory, found)
    check_expected(server.directory, contents)
    # And it can be packed.
    server.start()
    with closing(zeolith.ClientStorage(server.address)) as storage:
        storage.pack(contents.end, wait=True)
    assert server.stop() == 0
    assert debris(server.directory) == []
    check_acknowledged(server.directory, found)
    check_expected(server.directory, contents)
    assert server.tracebacks() == []
    check_no_orphans(server.directory, contents)


def check_no_orphans(directory: Path, contents: Contents) -> None:
    """There is no blob file that no record belongs to, of what was there to be packed.

    (A commit that was cut off after its vote leaves one, pack or no pack.)
    """
    end = timestamp(contents.end)
    storage = FileStorage(
        str(directory / "Data.fs"), blob_dir=str(directory / "blobs"), read_only=True
    )
    try:
        for oid, path in storage.fshelper.listOIDs():
            for name in os.listdir(path):
                _, tid = storage.fshelper.splitBlobFilename(os.path.join(path, name))
                if tid < end:
                    assert storage.loadSerial(oid, tid)
    finally:
        storage.close()


@pytest.mark.parametrize("bed", ["scan", "copy", "list"], indirect=True)
def test_a_server_goes_on_without_its_packing_process(
    bed: tuple[GatedServer, Contents], tmp_path: Path
) -> None:
    server, contents = bed
    with writers(server, tmp_path / "clients") as found:
        found.wait_for(6)
        with closing(zeolith.ClientStorage(server.address)) as storage:
            pack = Background(lambda: storage.pack(contents.end, wait=True))
            os.kill(server.wait_reached(), signal.SIGKILL)
            with pytest.raises(StorageError, match="ended by signal 9; nothing has changed"):
                pack.result()
            assert debris(server.directory) == []
            found.wait_for(6)
            assert not (server.directory / "Data.fs.old").exists()
            storage.pack(contents.end, wait=True)
            assert (server.directory / "Data.fs.old").exists()
        found.wait_for(6)
        found.end()
    assert server.stop() == 0
    check_acknowledged(server.directory, found)
    check_expected(server.directory, contents)
    assert debris(server.directory) == []


@pytest.mark.parametrize("bed", ["scan", "copy", "list"], indirect=True)
def test_a_server_that_is_stopped_while_it_packs_ends_in_order(
    bed: tuple[GatedServer, Contents], tmp_path: Path
) -> None:
    server, contents = bed
    ask_to_pack(server, contents.end)
    pid = server.wait_reached()
    with promptly(10.0):
        assert server.stop() == 0
    wait_gone(pid)
    assert debris(server.directory) == []
    assert check_database(server.directory) == contents.expected


@pytest.mark.parametrize("bed", ["never"], indirect=True)
def test_commits_go_on_through_many_packs(
    bed: tuple[GatedServer, Contents], tmp_path: Path
) -> None:
    server, contents = bed
    with writers(server, tmp_path / "clients") as found:
        with closing(zeolith.ClientStorage(server.address)) as storage:
            for _ in range(4):
                found.wait_for(10)
                storage.pack(time.time(), wait=True)
        found.wait_for(10)
        found.end()
    assert server.stop() == 0
    check_acknowledged(server.directory, found)
    check_expected(server.directory, contents)
    check_no_orphans(server.directory, contents)
    assert server.tracebacks() == []

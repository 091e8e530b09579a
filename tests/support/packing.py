"""Databases with something to pack, and packs that stop where a test wants them to."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import transaction
import ZODB
from persistent.mapping import PersistentMapping
from tests.support.processes import (
    ServerProcess,
    child_environment,
    is_listening,
    is_running,
)
from tests.support.waiting import DEADLINE, wait_until
from ZODB.blob import Blob
from ZODB.Connection import TransactionMetaData
from ZODB.FileStorage import FileStorage
from ZODB.utils import maxtid, z64

from zeolith.server import packprocess
from zeolith.server.filepacker import FilePacker

_GATE = """
import os, signal, sys

def reach(name, step, mark):
    # Only once, or the next pack would stop there, too.
    if name == step and not os.path.exists(mark):
        with open(mark + ".new", "w") as file:
            file.write(str(os.getpid()))
        os.rename(mark + ".new", mark)
        os.kill(os.getpid(), signal.SIGSTOP)

def gate(owner, method, name, step, mark):
    original = getattr(owner, method)
    def gated(*args, **kw):
        # The file of the database's identity is replaced, too.
        if not str(args[:1]).endswith(".zeolith.new',)"):
            reach(name, step, mark)
        return original(*args, **kw)
    setattr(owner, method, gated)
"""

GATED_CHILD = (
    _GATE
    + """
from zeolith.server import packchild
step, mark, descriptor = sys.argv[1:]
for owner, method, name in (
    (packchild, "_work", "start"),
    (packchild.WatchedGC, "buildPackIndex", "scan"),
    (packchild.WatchedGC, "findReachableFromFuture", "look-ahead"),
    (packchild.Packer, "copyToPacktime", "copy"),
    (packchild.Packer, "writePackedDataRecord", "record"),
    (packchild.Packer, "copyOne", "follow"),
    (packchild, "_finish_list", "list"),
    (packchild, "serialize_entries", "finish"),
):
    gate(owner, method, name, step, mark)
sys.exit(packchild.main(int(descriptor)))
"""
)
"""A packing process that stops itself at a step; its arguments: step, file that is then there, and
the descriptor that the server adds."""

CHILD_STEPS = ("start", "scan", "look-ahead", "copy", "record", "follow", "list", "finish")
"""In order; during the last two nobody can commit."""

_GATED_SERVER = (
    _GATE
    + """
from zeolith.server import filepacker, packblobs, packprocess
child, step, mark, *arguments = sys.argv[1:]
packprocess._PROGRAM = ("-c", child, step, mark)
# However little there is to be copied: not while commits have to wait.
filepacker._SMALL = 0
for owner, method, name in (
    (filepacker.FilePacker, "_swap", "swap"),
    (filepacker, "_link", "link"),
    (filepacker.os, "replace", "replace"),
    (filepacker, "sync_directory", "replaced"),
    (filepacker, "remove_blobs", "blobs"),
    (packblobs, "_prune", "blob"),
    (packblobs, "_keep_others", "others"),
    (filepacker.FileStorage, "_save_index", "index"),
):
    gate(owner, method, name, step, mark)
from zeolith.cli.main import run
sys.argv = ["zeolith", "serve", *arguments]
run()
"""
)

SERVER_STEPS = ("swap", "link", "replace", "replaced", "blobs", "blob", "others", "index")


class GatedServer(ServerProcess):
    """A server that stops itself, or its packing process, at a step of its first pack.

    :param step: one of :data:`CHILD_STEPS` and :data:`SERVER_STEPS`.
    :ivar mark: a file that is there when the step is reached; it holds the id of the process that
        has stopped itself.
    """

    def __init__(self, directory: Path, step: str) -> None:
        super().__init__(directory)
        self.step = step
        self.mark = directory / "mark"

    def start_gated(self) -> None:
        """Start the server that stops; :meth:`start` starts one that does not."""
        assert self.process is None
        # A new database, or a lost index, would bring the server to the step of that name.
        assert (self.directory / "Data.fs.index").exists()
        arguments = [GATED_CHILD, self.step, str(self.mark), *self._arguments]
        with open(self.directory / "log", "ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _GATED_SERVER, *arguments],
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=child_environment(),
            )
        wait_until(lambda: is_listening(self.address), "the server listens")

    def wait_reached(self) -> int:
        """Wait until the step is reached; return the id of the process that has stopped."""
        wait_until(self.mark.exists, f"the pack reaches {self.step!r}")
        return int(self.mark.read_text())


def debris(directory: Path) -> list[str]:
    """Return the names of what an orderly pack does not leave."""
    names = {"Data.fs.pack", "blobs/.removed"}
    return [name for name in sorted(names) if (directory / name).exists()]


class Contents:
    """A database with blobs that has something of everything to pack.

    :param directory: where ``Data.fs`` and ``blobs`` are made.
    :ivar middle: a time in the midst of its history, in seconds since the epoch.
    :ivar end: a time after its history.
    """

    def __init__(self, directory: Path, steps: int = 120, blobs: bool = True) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._chance = random.Random(7)
        self._has_blobs = blobs
        storage = FileStorage(
            str(directory / "Data.fs"), blob_dir=str(directory / "blobs") if blobs else None
        )
        db = ZODB.DB(storage)
        connection = db.open()
        root = connection.root()
        root["kept"] = PersistentMapping()
        transaction.commit()
        for number in range(steps):
            if number == steps // 2:
                self.middle = _later(storage)
            self._change(db, root["kept"], number)
        transaction.abort()
        self.end = _later(storage)
        self.expected = snapshot(storage)
        connection.close()
        db.close()

    def _change(self, db: Any, kept: Any, number: int) -> None:
        key = self._chance.randrange(12)
        kind = self._chance.random()
        if self._has_blobs and kind < 0.3:
            kept[key] = Blob(b"blob %d" % number)
        elif self._has_blobs and kind < 0.45 and isinstance(kept.get(key), Blob):
            with kept[key].open("w") as file:
                file.write(b"again %d" % number)
        elif kind < 0.6 and key in kept:
            del kept[key]
        elif kind < 0.75 and number > 5:
            log = db.undoLog(0, 4)
            db.undo(self._chance.choice(log)["id"])
        else:
            kept[key] = PersistentMapping(inner=PersistentMapping(number=number))
        try:
            transaction.commit()
        except Exception:  # noqa: BLE001 - what cannot be undone, or lies on it, is left out
            transaction.abort()


def _later(storage: Any) -> float:
    """Return a time after the storage's last transaction, and before any that comes."""
    last = storage.lastTransaction()
    from ZODB.TimeStamp import TimeStamp

    when = float(TimeStamp(last).timeTime()) + 0.002
    wait_until(lambda: time.time() > when + 0.002)
    return when


def snapshot(storage: Any) -> dict[bytes, tuple[bytes, bytes]]:
    """Return data and tid of every current object that the root leads to, by its id."""
    from ZODB.serialize import referencesf

    found: dict[bytes, tuple[bytes, bytes]] = {}
    left = [z64]
    while left:
        oid = left.pop()
        if oid not in found:
            found[oid] = ZODB.utils.load_current(storage, oid)
            left += referencesf(found[oid][0])
    return found


def check_database(directory: Path) -> dict[bytes, tuple[bytes, bytes]]:
    """Open the database, whose server has ended, and read all of it; return the :func:`snapshot`.

    :raises AssertionError: a blob is missing, or a record is damaged.
    """
    blob_dir = directory / "blobs"
    storage = FileStorage(
        str(directory / "Data.fs"),
        blob_dir=str(blob_dir) if blob_dir.exists() else None,
        read_only=True,
    )
    try:
        found = snapshot(storage)
        for record in storage.iterator():
            for _ in record:
                pass
        for oid, (data, tid) in found.items():
            if ZODB.blob.is_blob_record(data):
                assert Path(storage.loadBlob(oid, tid)).stat().st_size
    finally:
        storage.close()
    return found


def open_storage(directory: Path, **options: Any) -> Any:
    if (directory / "blobs").exists():
        options.setdefault("blob_dir", str(directory / "blobs"))
    return FileStorage(str(directory / "Data.fs"), **options)


@contextmanager
def packed_aside(directory: Path, **options: Any) -> Iterator[tuple[Any, FilePacker]]:
    with closing(open_storage(directory, **options)) as storage:
        yield storage, FilePacker(storage, lambda phase, done, total: None)


def files_of(directory: Path) -> dict[str, bytes]:
    """Return what is in every file, but for those that belong to a process."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.suffix not in (".lock", ".tmp", ".index")
    }


def commit(storage: Any, oid: bytes, data: bytes) -> bytes:
    meta = TransactionMetaData()
    storage.tpc_begin(meta)
    tid = storage.loadBefore(oid, maxtid)[1] if oid in storage._index else z64
    storage.store(oid, tid, data, "", meta)
    storage.tpc_vote(meta)
    found: bytes = storage.tpc_finish(meta)
    return found


def stop_at(monkeypatch: pytest.MonkeyPatch, step: str, mark: Path) -> None:
    """Have the packing process stop itself at *step*."""
    monkeypatch.setattr(packprocess, "_PROGRAM", ("-c", GATED_CHILD, step, str(mark)))


def wait_stopped(mark: Path) -> int:
    wait_until(mark.exists, "the packing process stops")
    return int(mark.read_text())


def resume(pid: int) -> None:
    """Let a process that has stopped itself go on."""
    os.kill(pid, signal.SIGCONT)


def wait_gone(pid: int) -> None:
    """Wait until the process has ended."""
    wait_until(lambda: not is_running(pid), f"process {pid} ends", DEADLINE)

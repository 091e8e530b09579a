"""R6: after a long absence nothing is loaded again that has not changed.

What changed is told from the server's memory, else from its storage; else each object is verified.
Where it is told, the objects that an application holds stay as well.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import transaction
import ZODB
from persistent.mapping import PersistentMapping
from tests.rules.conftest import Database, Open
from tests.support.histories import Z64
from tests.support.processes import free_port, running_server
from tests.support.raw import oid_of
from tests.support.waiting import wait_until
from ZODB.Connection import TransactionMetaData
from ZODB.FileStorage import FileStorage

OBJECTS = 500
CHANGED = 40
"""The objects that are changed in the absence, again and again."""

QUEUE: dict[str, Any] = {}
STORAGE = {"invalidation_queue_size": 50}
NOTHING = {"invalidation_queue_size": 50, "invalidation_age": 0.0}


def write(storage: FileStorage, count: int) -> dict[bytes, bytes]:
    """Commit *count* transactions of one object each; return the last of each object."""
    serials: dict[bytes, bytes] = {}
    for number in range(count):
        oid = oid_of(number % CHANGED)
        serial = serials.get(oid) or storage.load(oid)[1]
        meta = TransactionMetaData()
        storage.tpc_begin(meta)
        storage.store(oid, serial, b"changed", "", meta)
        storage.tpc_vote(meta)
        serials[oid] = storage.tpc_finish(meta)
    return serials


def make_objects(storage: FileStorage) -> None:
    meta = TransactionMetaData()
    storage.tpc_begin(meta)
    for number in range(OBJECTS):
        storage.store(oid_of(number), Z64, b"data", "", meta)
    storage.tpc_vote(meta)
    storage.tpc_finish(meta)


@pytest.mark.parametrize(
    ("count", "options", "is_told"),
    [
        (300, QUEUE, True),
        (300, STORAGE, True),
        (300, NOTHING, False),
        (50_000, QUEUE, True),
        (50_000, NOTHING, False),
    ],
    ids=["queue", "storage", "verified", "50,000 by default", "50,000 verified"],
)
def test_r6_what_has_not_changed_is_not_loaded_again(
    tmp_path: Path,
    client: Open,
    monkeypatch: pytest.MonkeyPatch,
    count: int,
    options: dict[str, Any],
    is_told: bool,
) -> None:
    monkeypatch.setattr(sys.modules[FileStorage.__module__], "fsync", lambda descriptor: None)
    path, address = str(tmp_path / "Data.fs"), ("127.0.0.1", free_port())
    storage = FileStorage(path)
    make_objects(storage)
    with running_server(storage, address=address, **options):
        reader: Any = client(address, min_disconnect_poll=0.01, max_disconnect_poll=0.05)
        for number in range(OBJECTS):
            reader.load(oid_of(number))
    wait_until(lambda: not reader.is_connected())
    database = Database(reader)
    storage = FileStorage(path)
    serials = write(storage, count)
    last_tid = storage.lastTransaction()
    with running_server(storage, address=address, **options) as server:
        wait_until(reader.is_connected)
        assert reader.lastTransaction() == last_tid
        wait_until(lambda: len(reader._cache.suspects) == 0)
        loads = server.status()["1"]["loads"]
        for number in range(OBJECTS):
            oid = oid_of(number)
            data, serial = reader.load(oid)
            if oid in serials:
                assert (data, serial) == (b"changed", serials[oid])
            else:
                assert data == b"data"
        assert server.status()["1"]["loads"] - loads == CHANGED
    assert database.told == ([(last_tid, sorted(serials))] if is_told else ["all"])


@pytest.mark.parametrize(
    ("options", "ghosts"), [(QUEUE, 5), (STORAGE, 5), (NOTHING, 50)], ids=["queue", "storage", "no"]
)
def test_r6_an_application_keeps_its_objects_where_the_changes_are_known(
    tmp_path: Path, client: Open, options: dict[str, Any], ghosts: int
) -> None:
    path, address = str(tmp_path / "Data.fs"), ("127.0.0.1", free_port())
    serve: Callable[[], Any] = lambda: running_server(  # noqa: E731 - it is called twice
        FileStorage(path), address=address, **options
    )
    with ExitStack() as stack:
        with serve():
            reader = client(address, min_disconnect_poll=0.01, max_disconnect_poll=0.05)
            db = ZODB.DB(reader)
            stack.callback(db.close)
            manager = transaction.TransactionManager()
            connection = db.open(manager)
            held = [PersistentMapping({"value": 0}) for _ in range(50)]
            connection.root()["held"] = dict(enumerate(held))
            manager.commit()
        wait_until(lambda: not reader.is_connected())
        other = ZODB.DB(FileStorage(path))
        for _ in range(20):
            for number in range(5):
                with other.transaction() as writing:
                    writing.root()["held"][number]["value"] += 1
        other.close()
        with serve():
            wait_until(reader.is_connected)
            manager.begin()
            assert sum(found._p_changed is None for found in held) == ghosts
            assert sum(found["value"] for found in held) == 5 * 20
            manager.abort()
            connection.close()

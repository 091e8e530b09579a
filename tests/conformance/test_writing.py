"""Undo, history, deletion and conflict resolution, seen by several clients."""

from __future__ import annotations

import time
from typing import Any

import pytest
import transaction
import ZEO.Exceptions
from BTrees.Length import Length
from tests.conformance.site import DISCONNECTED, FILE, MAPPING, Site
from tests.support.waiting import Background
from ZODB.Connection import TransactionMetaData
from ZODB.POSException import ConflictError, POSKeyError, StorageTransactionError, UndoError
from ZODB.utils import maxtid


def _commit(database: Any, value: object, user: str = "", note: str = "") -> None:
    with database.transaction(note) as connection:
        connection.root.x = value
        if user:
            connection.transaction_manager.get().setUser(user)


def test_undo_is_seen_by_all(site: Site) -> None:
    server = site.serve()
    one, other = (site.database(server.address) for _ in range(2))
    for value in (1, 2, 3):
        _commit(one, value, "writer", f"made {value}")
    site.catch_up(other, one)
    with other.transaction() as connection:
        assert connection.root.x == 3
    log = one.undoLog(0, 10)
    assert [item["description"] for item in log[:3]] == ["made 3", "made 2", "made 1"]
    assert log[0]["user_name"] == "/ writer"
    manager = transaction.TransactionManager()
    with manager:
        one.undoMultiple([item["id"] for item in log[:2]], manager.get())
    site.catch_up(other, one)
    for database in (one, other):
        with database.transaction() as connection:
            assert connection.root.x == 1


def test_an_undo_that_conflicts(site: Site) -> None:
    server = site.serve()
    database = site.database(server.address)
    for value in (1, 2, 3):
        _commit(database, value)
    manager = transaction.TransactionManager()
    database.undo(database.undoLog(0, 10)[1]["id"], manager.get())
    with pytest.raises(UndoError):
        manager.commit()
    manager.abort()
    _commit(database, 4)


def test_undo_info_by_specification(site: Site) -> None:
    database = site.database(site.serve().address)
    for user in ("a", "b", "a"):
        _commit(database, user, user, f"by {user}")
    storage = database.storage
    found = storage.undoInfo(0, -20, {"user_name": b"/ a"})
    assert [item["description"] for item in found] == [b"by a", b"by a"]
    assert storage.undoInfo(0, 1) == storage.undoInfo()[:1]
    assert len(storage.undoLog(0, 2)) == 2


def test_history(site: Site) -> None:
    database = site.database(site.serve().address)
    for value in (1, 2, 3):
        _commit(database, value, "writer", f"made {value}")
    history = database.storage.history(bytes(8), 3)
    assert [item["description"] for item in history] == [b"made 3", b"made 2", b"made 1"]
    assert history[0]["tid"] == database.storage.lastTransaction()
    assert {item["user_name"] for item in history} == {b"/ writer"}


def test_a_pack_leaves_the_present(site: Site) -> None:
    server = site.serve()
    database = site.database(server.address)
    for value in range(10):
        _commit(database, value)
    database.pack(time.time() + 1)
    assert len(list(database.storage.iterator())) < 10
    with site.database(server.address).transaction() as connection:
        assert connection.root.x == 9


def test_a_deleted_object_is_gone_for_all(site: Site) -> None:
    server = site.serve(FILE.replace("</", " pack-gc false\n</"))
    one, other = (site.database(server.address) for _ in range(2))
    with one.transaction() as connection:
        connection.root.x = connection.root().__class__()
    with one.transaction() as connection:
        oid, serial = connection.root.x._p_oid, connection.root.x._p_serial
        del connection.root.x
    site.catch_up(other, one)
    assert other.storage.loadBefore(oid, maxtid)[1] == serial
    storage = one.storage
    meta = TransactionMetaData()
    storage.tpc_begin(meta)
    storage.deleteObject(oid, serial, meta)
    storage.tpc_vote(meta)
    tid = storage.tpc_finish(meta)
    with pytest.raises(POSKeyError):
        storage.loadBefore(oid, maxtid)
    # A server of ZEO's does not tell others which objects were deleted: they go on seeing what
    # their caches hold.
    if site.pairing.server == "zeolith":
        site.catch_up(other, one)
        assert other.storage.lastTransaction() == tid
        with pytest.raises(POSKeyError):
            other.storage.loadBefore(oid, maxtid)


@pytest.mark.parametrize(
    ("config", "is_client"),
    # A mapping storage resolves no conflicts itself.
    [(FILE, False), (FILE, True), (MAPPING, True)],
    ids=["file-server", "file-client", "mapping-client"],
)
def test_counters_lose_no_count(site: Site, config: str, is_client: bool) -> None:
    server = site.serve(config, client_conflict_resolution=is_client)
    database = site.database(server.address)
    with database.transaction() as connection:
        connection.root.count = Length()
    database.close()
    databases = [site.database(server.address) for _ in range(3)]

    # Resolution gives up when the object changes at each of its attempts.
    beaten: tuple[type[Exception], ...] = (ConflictError,)
    if is_client and site.pairing.client == "zeo":
        # ZEO's client tries to finish even then, and is refused.
        beaten += (StorageTransactionError, ZEO.Exceptions.ServerException, *DISCONNECTED)

    def work(database: Any) -> None:
        manager = transaction.TransactionManager()
        connection = database.open(manager)
        done = 0
        while done < 20:
            manager.begin()
            connection.root.count.change(1)
            try:
                manager.commit()
                done += 1
            except beaten:
                manager.abort()
        connection.close()

    def start(database: Any) -> Background:
        return Background(lambda: work(database))

    for worker in [start(database) for database in databases]:
        worker.result()
    with site.database(server.address).transaction() as connection:
        assert connection.root.count() == 60

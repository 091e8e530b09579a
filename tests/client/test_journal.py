"""A transaction whose connection breaks during an upload is said again on the next one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from ZODB.Connection import TransactionMetaData
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage
from ZODB.POSException import ConflictError, ReadConflictError, StorageTransactionError

from zeolith.cache import RingCache
from zeolith.client import committer, journal
from zeolith.client.journal import Journal, SentBlob
from zeolith.client.storage import ClientStorage
from zeolith.client.transaction import Transaction
from zeolith.errors import ClientDisconnected
from zeolith.protocol.messages import Store, Vote
from zeolith.protocol.streamrequests import AttachBlob, StreamData
from zeolith.types import MAX_TID

from ..support.processes import running_server
from ..support.proxy import Action, Passing, Proxy
from ..support.raw import oid_of
from .conftest import Open
from .test_transfers import leftovers, of_stream

DATA = os.urandom(3_000_000)


@pytest.fixture
def storage(proxy: Proxy, client: Open, tmp_path: Path) -> ClientStorage:
    return client(proxy.address, blob_dir=str(tmp_path / "client"))


def begin(storage: ClientStorage) -> TransactionMetaData:
    meta = TransactionMetaData("user", "about", {"key": "value"})
    storage.tpc_begin(meta)
    return meta


def store_blob(storage: ClientStorage, tmp_path: Path, number: int, meta: Any) -> None:
    path = tmp_path / f"new-{number}"
    path.write_bytes(DATA)
    storage.storeBlob(oid_of(number), None, b"with a blob", str(path), "", meta)


def commit_record(storage: ClientStorage, number: int, data: bytes, serial: Any = None) -> bytes:
    meta = TransactionMetaData()
    storage.tpc_begin(meta)
    storage.store(oid_of(number), serial, data, "", meta)
    storage.tpc_vote(meta)
    return storage.tpc_finish(meta)


def cut_once(proxy: Proxy, cls: type[Any], before: Callable[[], object] = lambda: None) -> None:
    """Have the next connection cut off at the third message of that class, or its first."""
    seen = {"messages": 0, "cuts": 0}

    def rule(passing: Passing) -> Action:
        if of_stream(passing, cls) is None or seen["cuts"]:
            return Action.PASS
        seen["messages"] += 1
        if cls is StreamData and seen["messages"] % 3:
            return Action.PASS
        seen["cuts"] += 1
        before()
        return Action.CUT

    proxy.rule = rule


@pytest.mark.parametrize("cls", [StreamData, AttachBlob, Store])
def test_everything_is_said_again(
    proxy: Proxy, storage: ClientStorage, tmp_path: Path, files: FileStorage, cls: type[Any]
) -> None:
    first = commit_record(storage, 9, b"read only")
    cut_once(proxy, cls)
    meta = begin(storage)
    storage.store(oid_of(1), None, b"plain", "", meta)
    storage.checkCurrentSerialInTransaction(oid_of(9), first, meta)
    store_blob(storage, tmp_path, 2, meta)
    storage.store(oid_of(3), None, b"behind it", "", meta)
    store_blob(storage, tmp_path, 4, meta)
    assert storage.tpc_vote(meta) is None
    tid = storage.tpc_finish(meta)
    assert len(proxy.links) == 2
    assert [files.load(oid_of(number))[:2] for number in (1, 2, 3, 4)] == [
        (b"plain", tid),
        (b"with a blob", tid),
        (b"behind it", tid),
        (b"with a blob", tid),
    ]
    for number in (2, 4):
        assert Path(files.loadBlob(oid_of(number), tid)).read_bytes() == DATA
    (description,) = files.undoLog(0, 1)
    assert (description["user_name"], description["key"]) == (b"user", "value")
    assert leftovers(tmp_path / "client") == []
    assert storage.load(oid_of(1)) == (b"plain", tid)


def test_what_others_commit_meanwhile_is_a_conflict(
    server: Any, proxy: Proxy, storage: ClientStorage, client: Open, tmp_path: Path
) -> None:
    """R5: the vote looks at what was changed as it would have done."""
    other = client(server.address)
    before = commit_record(storage, 1, b"one")
    cut_once(proxy, StreamData, lambda: commit_record(other, 1, b"two", before))
    meta = begin(storage)
    storage.store(oid_of(1), before, b"three", "", meta)
    store_blob(storage, tmp_path, 2, meta)
    with pytest.raises(ConflictError):
        storage.tpc_vote(meta)
    storage.tpc_abort(meta)
    assert len(proxy.links) == 2
    assert storage.load(oid_of(1))[0] == b"two"


def test_what_was_only_read_is_looked_at_too(
    server: Any, proxy: Proxy, storage: ClientStorage, client: Open, tmp_path: Path
) -> None:
    other = client(server.address)
    before = commit_record(storage, 1, b"one")
    cut_once(proxy, StreamData, lambda: commit_record(other, 1, b"two", before))
    meta = begin(storage)
    storage.checkCurrentSerialInTransaction(oid_of(1), before, meta)
    store_blob(storage, tmp_path, 2, meta)
    with pytest.raises(ReadConflictError):
        storage.tpc_vote(meta)
    storage.tpc_abort(meta)


def test_an_upload_that_gets_no_further_is_given_up(
    proxy: Proxy, storage: ClientStorage, tmp_path: Path
) -> None:
    proxy.rule = lambda passing: (
        Action.PASS if of_stream(passing, StreamData) is None else Action.CUT
    )
    meta = begin(storage)
    with pytest.raises(ClientDisconnected):
        store_blob(storage, tmp_path, 1, meta)
    storage.tpc_abort(meta)
    assert len(proxy.links) <= journal.MAX_RESUMPTIONS + 2
    assert leftovers(tmp_path / "client") == []


def test_a_server_that_is_gone_is_not_waited_for_long(
    proxy: Proxy, storage: ClientStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(committer, "RESUMPTION_TIME", 0.2)

    def refuse() -> None:
        proxy.is_refusing = True

    cut_once(proxy, StreamData, refuse)
    meta = begin(storage)
    with pytest.raises(ClientDisconnected):
        store_blob(storage, tmp_path, 1, meta)
    storage.tpc_abort(meta)


def test_more_than_is_kept_is_not_said_again(
    proxy: Proxy, storage: ClientStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R8."""
    monkeypatch.setattr(journal, "JOURNAL_MARK", 10_000)
    monkeypatch.setattr(journal, "JOURNAL_SHARE", 100)
    cut_once(proxy, StreamData)
    meta = begin(storage)
    storage.store(oid_of(1), None, bytes(10_001), "", meta)
    with pytest.raises(ClientDisconnected):
        store_blob(storage, tmp_path, 2, meta)
    storage.tpc_abort(meta)


def test_a_transaction_without_blobs_ends_with_its_connection(
    proxy: Proxy, storage: ClientStorage
) -> None:
    cut_once(proxy, Store)
    meta = begin(storage)
    storage.store(oid_of(1), None, b"data", "", meta)
    with pytest.raises(ClientDisconnected):
        storage.tpc_vote(meta)
    storage.tpc_abort(meta)


def test_another_database_gets_nothing_of_it(
    server: Any, proxy: Proxy, client: Open, tmp_path: Path, stack: ExitStack
) -> None:
    other_files = FileStorage(str(tmp_path / "Other.fs"), blob_dir=str(tmp_path / "others"))
    other = stack.enter_context(running_server(other_files))
    storage = client(proxy.address, blob_dir=str(tmp_path / "client"))

    def exchange() -> None:
        proxy.target = other.address

    cut_once(proxy, StreamData, exchange)
    meta = begin(storage)
    with pytest.raises(ClientDisconnected):
        store_blob(storage, tmp_path, 1, meta)
    storage.tpc_abort(meta)
    assert len(other_files) == 0


def test_a_server_that_was_started_anew_gets_nothing_of_it(
    tmp_path: Path, client: Open, stack: ExitStack
) -> None:
    """It gives out again the ids of the new objects in it."""

    def start() -> Any:
        files = FileStorage(str(tmp_path / "Data.fs"), blob_dir=str(tmp_path / "blobs"))
        return stack.enter_context(ExitStack()), files

    running, files = start()
    server = running.enter_context(running_server(files))
    proxy = stack.enter_context(Proxy(server.address))
    storage = client(proxy.address, blob_dir=str(tmp_path / "client"))
    commit_record(storage, 1, b"data")
    meta = begin(storage)
    oid = storage.new_oid()
    storage.store(oid, None, b"new", "", meta)
    running.close()
    running, files = start()
    server = running.enter_context(running_server(files))
    proxy.target = server.address
    with pytest.raises(ClientDisconnected):
        store_blob(storage, tmp_path, 2, meta)
    storage.tpc_abort(meta)
    assert storage.new_oid() <= oid


def test_a_server_that_has_given_the_ids_to_others_gets_nothing_of_it(
    tmp_path: Path, client: Open, stack: ExitStack
) -> None:
    """What it gives out next comes after all that we had; what we had is another client's."""

    def start() -> tuple[Any, ExitStack]:
        files = FileStorage(str(tmp_path / "Data.fs"), blob_dir=str(tmp_path / "blobs"))
        running = stack.enter_context(ExitStack())
        return running.enter_context(running_server(files)), running

    server, running = start()
    proxy = stack.enter_context(Proxy(server.address))
    storage = client(proxy.address, blob_dir=str(tmp_path / "client"))
    commit_record(storage, 1, b"data")
    meta = begin(storage)
    oid = storage.new_oid()
    storage.store(oid, None, b"new", "", meta)
    store_blob(storage, tmp_path, 2, meta)
    running.close()
    server, running = start()
    other = client(server.address)
    assert oid in {other.new_oid() for _ in range(100)}
    proxy.target = server.address
    with pytest.raises(ClientDisconnected):
        storage.tpc_vote(meta)
    storage.tpc_abort(meta)


def test_what_it_keeps() -> None:
    kept = Journal(None, " ", lambda: kept.size)
    first = Store(oid_of(1), None, b"data", 1)
    blob = SentBlob(oid_of(2), None, b"data", "path")
    kept.note(first)
    kept.note(blob)
    assert (kept.entries, kept.is_complete) == ([first, blob], True)
    kept.note(Store(oid_of(1), None, bytes(journal.JOURNAL_MARK), 1))
    assert (kept.entries, kept.is_complete) == ([], False)
    kept.note(first)
    assert kept.entries == []


def test_a_database_without_identity_gets_nothing(
    client: Open, tmp_path: Path, stack: ExitStack
) -> None:
    """What it is cannot be told."""
    from ZODB.blob import BlobStorage

    files = BlobStorage(str(tmp_path / "blobs"), MappingStorage())
    server = stack.enter_context(running_server(files))
    proxy = stack.enter_context(Proxy(server.address))
    storage = client(proxy.address, blob_dir=str(tmp_path / "client"))
    assert storage._link.channel().database is not None, "in memory it has one, too"
    storage._link.channel().database = None
    cut_once(proxy, StreamData)
    meta = begin(storage)
    with pytest.raises(ClientDisconnected):
        store_blob(storage, tmp_path, 1, meta)
    storage.tpc_abort(meta)


def test_ids_that_were_given_again_meanwhile_end_it(
    tmp_path: Path, client: Open, stack: ExitStack
) -> None:
    """One of them may be that of a new object which is in it already."""

    def start() -> tuple[ExitStack, Any]:
        running = stack.enter_context(ExitStack())
        files = FileStorage(str(tmp_path / "Data.fs"), blob_dir=str(tmp_path / "blobs"))
        return running, running.enter_context(running_server(files))

    running, server = start()
    proxy = stack.enter_context(Proxy(server.address))
    storage = client(proxy.address, blob_dir=str(tmp_path / "client"))
    meta = begin(storage)
    oid = storage.new_oid()
    storage.store(oid, None, b"new", "", meta)
    store_blob(storage, tmp_path, 2, meta)
    running.close()
    running, server = start()
    proxy.target = server.address
    storage.ping()
    assert storage.new_oid() == oid, "nothing is given out again"
    with pytest.raises(ClientDisconnected):
        storage.store(oid, None, b"another", "", meta)
    storage.tpc_abort(meta)


@pytest.mark.parametrize("is_waited_for", [False, True])
def test_a_database_restored_from_a_backup_gets_nothing_of_it(
    tmp_path: Path, client: Open, stack: ExitStack, is_waited_for: bool
) -> None:
    """R6: what it was made from may be lost, and not all of that is looked at by the vote."""
    place, backup = tmp_path / "database", tmp_path / "backup"
    place.mkdir()

    def start() -> tuple[ExitStack, Any]:
        running = stack.enter_context(ExitStack())
        files = FileStorage(str(place / "Data.fs"), blob_dir=str(place / "blobs"))
        return running, running.enter_context(running_server(files))

    running, server = start()
    proxy = stack.enter_context(Proxy(server.address))
    storage = client(proxy.address, blob_dir=str(tmp_path / "client"))
    commit_record(storage, 1, b"one")
    shutil.copytree(place, backup)
    (backup / "Data.fs.lock").unlink(missing_ok=True)
    lost = commit_record(storage, 2, b"two")
    database = storage._link.channel().database
    meta = begin(storage)
    storage.store(oid_of(3), None, b"made from two", "", meta)
    store_blob(storage, tmp_path, 4, meta)

    def restore() -> None:
        running.close()
        shutil.rmtree(place)
        shutil.copytree(backup, place)
        _, server = start()
        proxy.target = server.address

    if is_waited_for:
        cut_once(proxy, Vote, restore)
    else:
        restore()
        storage.ping()
        # Others go on, to where it had been and beyond.
        assert commit_record(client(proxy.target), 5, b"five") > lost
        storage.ping()
    with pytest.raises(ClientDisconnected):
        storage.tpc_vote(meta)
    storage.tpc_abort(meta)
    assert storage._link.channel().database == database, "the epoch tells it"


def test_a_step_that_failed_is_not_left_out(
    proxy: Proxy, storage: ClientStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R5: whoever goes on nevertheless must not commit the rest."""
    monkeypatch.setattr(committer, "RESUMPTION_TIME", 0.2)

    def refuse() -> None:
        proxy.is_refusing = True

    meta = begin(storage)
    store_blob(storage, tmp_path, 1, meta)
    cut_once(proxy, StreamData, refuse)
    with pytest.raises(ClientDisconnected):
        store_blob(storage, tmp_path, 2, meta)
    proxy.is_refusing = False
    storage.ping()
    with pytest.raises(ClientDisconnected):
        storage.tpc_vote(meta)
    storage.tpc_abort(meta)


def test_a_part_of_it_cannot_be_voted_on(
    proxy: Proxy, storage: ClientStorage, tmp_path: Path, files: FileStorage
) -> None:
    """R5: a blob that was sent has vanished when it is to be sent again."""

    def lose() -> None:
        for path in (tmp_path / "client").rglob("*.tmp-"):
            path.unlink()

    meta = begin(storage)
    storage.store(oid_of(1), None, b"plain", "", meta)
    store_blob(storage, tmp_path, 2, meta)
    cut_once(proxy, Store, lose)
    storage.store(oid_of(3), None, b"behind it", "", meta)
    with pytest.raises(FileNotFoundError):
        storage.tpc_vote(meta)
    with pytest.raises(StorageTransactionError):
        storage.tpc_vote(meta)
    storage.tpc_abort(meta)
    assert len(files) == 0
    commit_record(storage, 1, b"the next one")


def test_a_record_that_was_resolved_before_is_forgotten() -> None:
    """R6: said again, the transaction may meet another conflict, or none."""
    cache = RingCache(10_000)
    transaction = Transaction(None, 1, lambda: 0)
    transaction.stored(oid_of(1), b"sent")
    transaction.resolved_here(oid_of(1), b"resolved")
    transaction.unresolved()
    transaction.update(cache, oid_of(5))
    found = cache.load_before(oid_of(1), MAX_TID)
    cache.close()
    assert (transaction.resolved, found) == ([], None)


def test_conflicts_are_resolved_again(
    files: FileStorage, client: Open, tmp_path: Path, stack: ExitStack
) -> None:
    server = stack.enter_context(running_server(files, client_conflict_resolution=True))
    proxy = stack.enter_context(Proxy(server.address))
    storage = client(proxy.address, blob_dir=str(tmp_path / "client"))
    first = commit_record(storage, 1, b"one")
    commit_record(storage, 1, b"two", first)
    given: list[bytes] = []

    def resolve(oid: bytes, committed: bytes, read: bytes, data: bytes) -> bytes:
        given.append(data)
        return b"resolved"

    storage.tryToResolveConflict = resolve
    meta = begin(storage)
    storage.store(oid_of(1), first, b"three", "", meta)
    store_blob(storage, tmp_path, 2, meta)
    votes: list[object] = []

    def rule(passing: Passing) -> Action:
        if of_stream(passing, Vote) is None:
            return Action.PASS
        votes.append(passing)
        return Action.CUT if len(votes) == 2 else Action.PASS

    proxy.rule = rule
    assert storage.tpc_vote(meta) == [oid_of(1)]
    tid = storage.tpc_finish(meta)
    assert (given, len(votes)) == ([b"three", b"three"], 4)
    assert files.load(oid_of(1))[:2] == storage.load(oid_of(1)) == (b"resolved", tid)

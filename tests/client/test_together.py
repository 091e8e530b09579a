"""Several transactions of one client storage in progress at once, from threads of one process."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import transaction
import ZODB
from BTrees.Length import Length
from persistent.mapping import PersistentMapping
from ZODB.blob import Blob
from ZODB.Connection import TransactionMetaData
from ZODB.FileStorage import FileStorage
from ZODB.POSException import ConflictError, StorageTransactionError

from zeolith.client import channel as channel_module
from zeolith.client import committer as committer_module
from zeolith.client import journal as journal_module
from zeolith.client import outgoing as outgoing_module
from zeolith.client import streams as streams_module
from zeolith.client import transaction as transaction_module
from zeolith.client import transfers as transfers_module
from zeolith.client.storage import ClientStorage
from zeolith.client.transfers import RESUMABLE_SIZE
from zeolith.errors import ClientDisconnected, ObjectTooLarge
from zeolith.protocol.greeting import Greeting
from zeolith.protocol.limits import DEFAULT_LIMITS, FIRST_UPLOAD, STREAM_WINDOW
from zeolith.protocol.streamrequests import StreamCredit, StreamData, StreamEnd

from ..support.interrupts import interrupted_at
from ..support.processes import running_server
from ..support.proxy import DOWN, Action, Passing, Proxy
from ..support.raw import oid_of
from ..support.waiting import Background, promptly, wait_until
from .conftest import Open
from .test_transfers import leftovers, of_stream

LARGE = os.urandom(3 * STREAM_WINDOW + 77)
SMALL = os.urandom(50_000)


@pytest.fixture
def storage(proxy: Proxy, client: Open, tmp_path: Path) -> ClientStorage:
    return client(proxy.address, blob_dir=str(tmp_path / "client"))


@pytest.fixture
def db(storage: ClientStorage, stack: ExitStack) -> ZODB.DB:
    found = ZODB.DB(storage)
    stack.callback(found.close)
    return found


def write(db: ZODB.DB, key: str, value: object) -> None:
    """Commit a change of the root, a blob if *value* is bytes; in a thread of its own."""
    manager = transaction.TransactionManager()
    connection = db.open(manager)
    try:
        while True:
            root = connection.root()
            root[key] = Blob(value) if isinstance(value, bytes) else PersistentMapping(x=value)
            try:
                manager.commit()
            except ConflictError:
                manager.abort()
            else:
                return
    finally:
        manager.abort()
        connection.close()


def read(db: ZODB.DB, key: str) -> Any:
    with db.transaction() as connection:
        value = connection.root()[key]
        if isinstance(value, Blob):
            with value.open() as file:
                return file.read()
        return value["x"]


def hold_credit(passing: Passing) -> Action:
    """Uploads get as far as their first credit goes, and no further."""
    is_credit = passing.direction is DOWN and of_stream(passing, StreamCredit) is not None
    return Action.HOLD if is_credit else Action.PASS


def begin(storage: ClientStorage) -> TransactionMetaData:
    meta = TransactionMetaData()
    storage.tpc_begin(meta)
    return meta


def store_blob(
    storage: ClientStorage, tmp_path: Path, number: int, meta: Any, data: bytes = LARGE
) -> None:
    path = tmp_path / f"new-{number}"
    path.write_bytes(data)
    storage.storeBlob(oid_of(number), None, b"with a blob", str(path), "", meta)


def finish(storage: ClientStorage, meta: Any) -> bytes:
    storage.tpc_vote(meta)
    return storage.tpc_finish(meta)


def uploads_at(files: FileStorage) -> list[str]:
    return [name for name in os.listdir(files.temporaryDirectory()) if "upload" in name]


def test_others_commit_while_one_uploads(server: Any, proxy: Proxy, db: ZODB.DB) -> None:
    proxy.rule = hold_credit
    uploading = Background(lambda: write(db, "large", LARGE))
    proxy.wait_held(1)
    with promptly(10):
        write(db, "plain", 1)
        write(db, "small blob", SMALL)
        write(db, "plain", 2)
    assert uploading.is_alive()
    assert read(db, "plain") == 2
    assert read(db, "small blob") == SMALL
    proxy.release()
    uploading.result()
    with ExitStack() as stack:
        # Of another client: what the server has.
        other = ZODB.DB(ClientStorage(server.address, blob_dir=db.storage.fshelper.base_dir + "2"))
        stack.callback(other.close)
        assert read(other, "large") == LARGE
        assert read(other, "plain") == 2
        assert read(other, "small blob") == SMALL
    assert len(proxy.links) == 1


def test_two_uploads_interleave(proxy: Proxy, storage: ClientStorage, tmp_path: Path) -> None:
    def upload(number: int) -> bytes:
        meta = begin(storage)
        store_blob(storage, tmp_path, number, meta, LARGE[number:])
        return finish(storage, meta)

    proxy.rule = hold_credit
    threads = [Background(partial(upload, number)) for number in (1, 2)]
    proxy.wait_held(2)
    wait_until(lambda: set(numbers_of(proxy, StreamData)) == {FIRST_UPLOAD, FIRST_UPLOAD + 1})
    proxy.release()
    tids = [thread.result() for thread in threads]
    assert sorted(numbers_of(proxy, StreamEnd)) == [FIRST_UPLOAD, FIRST_UPLOAD + 1]
    for number, tid in zip((1, 2), tids, strict=True):
        assert isinstance(tid, bytes)
        path = storage.loadBlob(oid_of(number), tid)
        assert Path(path).read_bytes() == LARGE[number:]


def numbers_of(proxy: Proxy, cls: type[Any]) -> list[int]:
    """Return the numbers of the streams that messages of that class were about, in order."""
    found = [of_stream(passing, cls) for passing in proxy.frames()]
    return [request.stream for request in found if request is not None]


def test_more_than_the_server_takes_wait(
    files: FileStorage, client: Open, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zeolith.server.lobby.MAX_TRANSACTIONS", 2)
    server = stack.enter_context(running_server(files))
    storage = client(server.address)
    first, second, third = begin(storage), begin(storage), TransactionMetaData()
    assert storage.tpc_transaction() is second
    beginning = Background(lambda: storage.tpc_begin(third))
    wait_until(lambda: storage._committer._turns._waiting)
    storage.tpc_abort(first)
    beginning.result()
    assert storage.tpc_transaction() is third
    with pytest.raises(StorageTransactionError, match="not a transaction being committed"):
        storage.tpc_vote(first)
    for number, meta in ((1, third), (2, second)):
        storage.store(oid_of(number), None, b"x", "", meta)
        finish(storage, meta)
    assert storage.tpc_transaction() is None
    assert len(files) == 2


def test_in_zeos_protocol_one_waits_for_the_other(
    server: Any, client: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Greeting, "version", None)
    storage = client(server.address)
    first, second = begin(storage), TransactionMetaData()
    beginning = Background(lambda: storage.tpc_begin(second))
    wait_until(lambda: storage._committer._turns._waiting)
    storage.tpc_abort(first)
    beginning.result()
    storage.tpc_abort(second)


@pytest.mark.parametrize("is_shared", [False, True])
def test_each_has_its_own_blobs(
    server: Any, client: Open, files: FileStorage, tmp_path: Path, is_shared: bool
) -> None:
    path = str(tmp_path / ("blobs" if is_shared else "client"))
    storage = client(server.address, blob_dir=path, shared_blob_dir=is_shared)
    metas = [begin(storage) for _ in range(3)]
    for number, meta in enumerate(metas):
        store_blob(storage, tmp_path, number, meta, b"%d" % number)
    storage.tpc_abort(metas[1])
    # What the others have sent is still there, what this one has is gone.
    wait_until(lambda: len(uploads_at(files)) == (0 if is_shared else 2))
    tids = [finish(storage, meta) for meta in (metas[2], metas[0])]
    for number, tid in zip((2, 0), tids, strict=True):
        assert Path(files.loadBlob(oid_of(number), tid)).read_bytes() == b"%d" % number
    assert len(files) == 2
    assert uploads_at(files) == []
    assert leftovers(Path(path)) == []


def test_a_break_while_several_upload(
    proxy: Proxy, storage: ClientStorage, files: FileStorage, tmp_path: Path
) -> None:
    """Each goes on with its own transaction on the next connection."""

    def upload(number: int) -> bytes:
        meta = begin(storage)
        storage.store(oid_of(number), None, b"plain", "", meta)
        store_blob(storage, tmp_path, 10 + number, meta, LARGE[number:])
        return finish(storage, meta)

    proxy.rule = hold_credit
    numbers = (1, 2, 3)
    threads = [Background(partial(upload, number)) for number in numbers]
    proxy.wait_held(3)
    proxy.held.clear()
    proxy.rule = lambda passing: Action.PASS
    proxy.cut()
    for number, thread in zip(numbers, threads, strict=True):
        tid = thread.result()
        assert isinstance(tid, bytes)
        assert files.load(oid_of(number))[:2] == (b"plain", tid)
        assert Path(files.loadBlob(oid_of(10 + number), tid)).read_bytes() == LARGE[number:]
    assert len(proxy.links) == 2
    wait_until(lambda: uploads_at(files) == [])
    assert leftovers(tmp_path / "client") == []


def test_closing_ends_all(
    proxy: Proxy, storage: ClientStorage, files: FileStorage, tmp_path: Path
) -> None:
    proxy.rule = hold_credit

    def upload() -> None:
        meta = begin(storage)
        try:
            store_blob(storage, tmp_path, 1, meta)
        finally:
            storage.tpc_abort(meta)

    uploading = Background(upload)
    proxy.wait_held(1)
    other = begin(storage)
    storage.close()
    with pytest.raises(ClientDisconnected):
        uploading.result()
    with pytest.raises(ClientDisconnected):
        storage.tpc_vote(other)
    storage.tpc_abort(other)
    assert storage.tpc_transaction() is None
    wait_until(lambda: uploads_at(files) == [])
    assert leftovers(tmp_path / "client") == []


def test_threads_that_change_one_object(server: Any, client: Open) -> None:
    """R2, R3, R5: nobody's change is lost, and each sees its own."""
    db = ZODB.DB(client(server.address))
    with db.transaction() as connection:
        connection.root()["count"] = PersistentMapping(x=0)

    def count() -> None:
        manager = transaction.TransactionManager()
        connection = db.open(manager)
        done = 0
        while done < 25:
            manager.begin()
            counter = connection.root()["count"]
            before = counter["x"]
            counter["x"] = before + 1
            try:
                manager.commit()
            except ConflictError:
                manager.abort()
                continue
            done += 1
            manager.begin()
            assert counter["x"] > before
        connection.close()

    threads = [Background(count) for _ in range(4)]
    for thread in threads:
        thread.result()
    assert read(db, "count") == 100
    db.close()


def test_r8_what_the_client_keeps_is_bounded_for_all_together(
    storage: ClientStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has its share; what goes beyond that is there once."""
    for module, name in ((transaction_module, "KEEP"), (journal_module, "JOURNAL")):
        monkeypatch.setattr(module, f"{name}_MARK", 10_000)
        monkeypatch.setattr(module, f"{name}_SHARE", 2_000)
    metas = [begin(storage) for _ in range(4)]
    found = list(storage._committer._begun.values())
    journals = [each.journal for each in found if each.journal is not None]
    for number, meta in enumerate(metas):
        for part in range(8):
            storage.store(oid_of(10 * number + part), None, bytes(1000), "", meta)
    assert 10_000 - 1000 <= sum(each.kept for each in found) <= 10_000 + 4 * 2_000
    assert all(each.kept >= 2_000 for each in found)
    assert sum(journal.size for journal in journals) <= 10_000 + 4 * 2_000
    assert [journal.is_complete for journal in journals] == [True, False, False, False]
    for meta in metas:
        finish(storage, meta)
    # What was not kept is loaded.
    for number in range(len(metas)):
        assert storage.load(oid_of(10 * number + 7))[0] == bytes(1000)
    # With the others gone there is room again.
    meta = begin(storage)
    for part in range(8):
        storage.store(oid_of(50 + part), None, bytes(1000), "", meta)
    (alone,) = storage._committer._begun.values()
    assert alone.kept == 8000
    assert alone.journal is not None
    assert alone.journal.is_complete
    storage.tpc_abort(meta)


@pytest.mark.parametrize("here", [False, True])
def test_threads_that_change_one_object_resolve_each_conflict_once(
    files: FileStorage, client: Open, stack: ExitStack, here: bool
) -> None:
    """However many they are, and wherever it is done: nobody meets the same one again and again."""
    many = 2 * committer_module.MAX_VOTES
    server = stack.enter_context(running_server(files, client_conflict_resolution=here))
    db = ZODB.DB(client(server.address), pool_size=many)
    stack.callback(db.close)
    with db.transaction() as connection:
        connection.root()["count"] = Length()
    have_read = threading.Barrier(many)

    def count() -> None:
        with db.transaction() as connection:
            connection.root()["count"].change(1)
            have_read.wait()

    threads = [Background(count) for _ in range(many)]
    for thread in threads:
        thread.result()
    with db.transaction() as connection:
        assert connection.root()["count"].value == many
    if here:
        assert server._services["1"].stats.conflicts < many


@pytest.mark.parametrize("last", [ClientStorage.tpc_finish, ClientStorage.tpc_abort])
def test_r7_an_interrupt_at_any_step_of_the_end_leaves_no_lock(
    server: Any, client: Open, last: Callable[[ClientStorage, Any], object]
) -> None:
    """Whatever had been sent: others do not wait for the time limit of the commit lock."""
    storage = client(server.address)
    publisher = server._services["1"].publisher
    step = survived = 0
    is_reached = True
    while is_reached:
        step += 1
        other, meta = begin(storage), begin(storage)
        storage.store(oid_of(step), None, b"x", "", meta)
        storage.tpc_vote(meta)
        channel = storage._link.channel()
        is_reached = interrupted_at(
            step, partial(last, storage, meta), [committer_module, channel_module]
        )
        storage.tpc_abort(meta)  # as ZODB's connections do
        storage.ping()
        if channel.is_broken:
            wait_until(lambda: len(publisher.subscribers) == 1)
        else:
            survived += 1
        (session,) = publisher.subscribers
        transactions = session.transactions
        # What is being committed ends by itself.
        wait_until(lambda found=transactions: len(found) < 2, f"step {step}")  # type: ignore[misc]
        storage.tpc_abort(other)
    assert step >= survived > 10


def test_r7_a_conflict_that_cannot_be_resolved_here_holds_up_nobody(
    files: FileStorage, client: Open, stack: ExitStack
) -> None:
    """Also before its transaction is aborted."""
    server = stack.enter_context(running_server(files, client_conflict_resolution=True))
    storage = client(server.address)
    one, two, three = (begin(storage) for _ in range(3))
    for meta in (one, two):
        storage.store(oid_of(1), None, b"x", "", meta)
    storage.store(oid_of(2), None, b"x", "", three)
    finish(storage, one)
    with pytest.raises(ConflictError):
        storage.tpc_vote(two)
    third = Background(partial(finish, storage, three))
    third.result()
    storage.tpc_abort(two)
    assert storage.lastTransaction() == files.lastTransaction()


def test_r7_threads_that_commit_to_two_databases_do_not_wait_in_a_circle(
    tmp_path: Path, client: Open, stack: ExitStack
) -> None:
    """Whatever they have sent to which of them before the vote."""
    stores = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        files = FileStorage(str(tmp_path / name / "Data.fs"), blob_dir=str(tmp_path / name / "b"))
        server = stack.enter_context(running_server(files))
        stores.append(client(server.address, blob_dir=str(tmp_path / name / "c")))

    def steps(number: int, stored: tuple[int, int]) -> list[Callable[[], object]]:
        """A two-phase commit, step by step: first so many bytes here, then there."""
        metas = [TransactionMetaData(), TransactionMetaData()]
        both = list(zip(stores, metas, strict=True))

        def store() -> None:
            for (storage, meta), size in zip(both, stored, strict=True):
                storage.store(oid_of(number), None, bytes(size), "", meta)
                store_blob(storage, tmp_path, 100 + number, meta, bytes(size))

        def all_of(step: Callable[[ClientStorage, Any], object]) -> None:
            for storage, meta in both:
                step(storage, meta)

        return [
            partial(all_of, ClientStorage.tpc_begin),
            store,
            partial(all_of, ClientStorage.tpc_vote),
            partial(all_of, ClientStorage.tpc_finish),
        ]

    one, two = steps(1, (10, 1_000_000)), steps(2, (1_000_000, 10))
    with promptly(20):
        for step in (*one[:2], *two, *one[2:]):
            Background(step).result()  # by another thread each time, as far as that matters


def test_a_thread_that_dies_leaves_nothing(
    server: Any, storage: ClientStorage, files: FileStorage, tmp_path: Path
) -> None:
    """Who aborts what it had begun, as ZODB's connections do, may be anybody."""
    held: list[TransactionMetaData] = []

    def die() -> None:
        held.append(begin(storage))
        store_blob(storage, tmp_path, 1, held[0])
        raise SystemExit

    with pytest.raises(SystemExit):
        Background(die).result()
    other = begin(storage)
    storage.store(oid_of(2), None, b"x", "", other)
    finish(storage, other)
    storage.tpc_abort(held[0])
    wait_until(lambda: uploads_at(files) == [])
    assert leftovers(tmp_path / "client") == []
    assert storage.tpc_transaction() is None


# Between opening a file and being able to close it, too.
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
@pytest.mark.parametrize("size", [0, 100, RESUMABLE_SIZE + 1])
def test_an_interrupt_at_any_step_of_an_upload_leaves_nothing_at_the_server(
    server: Any, client: Open, files: FileStorage, tmp_path: Path, size: int
) -> None:
    """Although another transaction is in progress all the time.  An interrupt in the middle of a
    message ends the connection, and all that was on it."""
    storage = client(server.address, blob_dir=str(tmp_path / "client"))
    service = server._services["1"]
    modules = [committer_module, streams_module, outgoing_module, transfers_module]
    step = survived = 0
    is_reached = True
    while is_reached:
        step += 1
        other, meta = begin(storage), begin(storage)
        channel = storage._link.channel()
        storing = partial(store_blob, storage, tmp_path, 1, meta, bytes(size))
        is_reached = interrupted_at(step, storing, modules)
        storage.ping()
        if channel.is_broken:
            wait_until(lambda: len(service.publisher.subscribers) == 1)
        else:
            survived += 1
        # What is there is the transaction's, or goes now.
        (session,) = service.publisher.subscribers
        assert len(session.incoming) == 0, step
        storage.tpc_abort(meta)
        wait_until(lambda: len(uploads_at(files)) == len(service.parking))
        storage.tpc_abort(other)
    assert step >= survived > 20


def test_a_blob_whose_record_is_too_large_goes_at_once(
    files: FileStorage, client: Open, tmp_path: Path, stack: ExitStack
) -> None:
    limits = replace(DEFAULT_LIMITS, max_message_size=100_000)
    server = stack.enter_context(running_server(files, limits=limits))
    storage = client(server.address, blob_dir=str(tmp_path / "client"))
    path = tmp_path / "new"
    path.write_bytes(b"blob")
    other, meta = begin(storage), begin(storage)
    with pytest.raises(ObjectTooLarge):
        storage.storeBlob(oid_of(1), None, bytes(100_000), str(path), "", meta)
    storage.ping()
    (connection,) = server._lobby.connections
    assert len(connection.session.incoming) == 0
    for each in (meta, other):
        storage.tpc_abort(each)


def test_a_thread_may_have_several(storage: ClientStorage, files: FileStorage) -> None:
    """It waited for itself for ever before."""
    assert threading.current_thread() is threading.main_thread()
    first, second = begin(storage), begin(storage)
    for number, meta in ((1, first), (2, second)):
        storage.store(oid_of(number), None, b"x", "", meta)
    with pytest.raises(StorageTransactionError, match="Duplicate"):
        storage.tpc_begin(first)
    assert finish(storage, second) < finish(storage, first)
    assert storage.lastTransaction() == files.lastTransaction()

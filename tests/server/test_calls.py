"""Every call of the protocol, over real sockets."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.server.conftest import Connect, Serve
from tests.support.raw import Z64, Closed, RawClient, RemoteFault, oid_of
from tests.support.waiting import wait_until
from ZODB.Connection import TransactionMetaData
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage

from zeolith.protocol import messages as m
from zeolith.protocol.greeting import Coding
from zeolith.types import MAX_TID

STATUS_KEYS = [
    "connections", "loads", "stores", "commits", "aborts", "active_txns", "lock_time",
    "conflicts", "conflicts_resolved", "start", "waiting", "timeout-thread-is-alive",
    "last-transaction",
]  # fmt: skip


@pytest.fixture
def client(files: FileStorage, serve: Serve, raw: Connect, loop: str, coding: Coding) -> RawClient:
    """A client of a FileStorage with blobs."""
    return raw(serve(files, loop=loop).address, coding=coding)


def infos(client: RawClient) -> list[dict[str, Any]]:
    return [
        message.request.info
        for message in client.inbox
        if isinstance(message, m.Notice) and isinstance(message.request, m.Info)
    ]


# -- reading -----------------------------------------------------------------------------------


def test_loading(client: RawClient) -> None:
    first = client.commit({oid_of(1): (Z64, b"one")})
    second = client.commit({oid_of(1): (first, b"two" * 1000)})
    assert client.load(oid_of(1)) == (b"two" * 1000, second, None)
    assert client.load(oid_of(1), second) == (b"one", first, second)
    assert client.load(oid_of(1), first) is None
    with pytest.raises(RemoteFault) as caught:
        client.load(oid_of(2))
    assert caught.value.name == "ZODB.POSException.POSKeyError"
    if client.is_zeo:
        # A loadBefore with any other message id is the same call.
        msgid = client.next_id()
        client.send((msgid, m.LoadBefore(oid_of(1), MAX_TID)))
        assert client.answer(msgid) == (b"two" * 1000, second, None)
    assert client.call(m.LoadSerial(oid_of(1), first)) == b"one"
    with pytest.raises(RemoteFault, match="POSKeyError"):
        client.call(m.LoadSerial(oid_of(1), b"9" * 8))
    assert client.call(m.GetTid(oid_of(1))) == second
    assert client.call(m.LastTransaction()) == second


def test_many_requests_in_one_write(client: RawClient) -> None:
    tid = client.commit({oid_of(n): (Z64, b"%d" % n) for n in range(1, 50)})
    keys = [m.LoadBefore(oid_of(n), MAX_TID) for n in range(1, 50)]
    assert client.peer.codec is not None
    ping = client.next_id()
    client.socket.sendall(
        b"".join(client.peer.codec.load_before(*key) for key in keys)
        + client.encode((ping, m.Ping()))
    )
    client.answer(ping)
    # Fast loads are answered in the order of the requests.
    replies = [message for message in client.inbox[-50:] if isinstance(message, m.Reply)]
    assert [reply.msgid for reply in replies] == [*map(tuple, keys), ping]
    assert [reply.value[:2] for reply in replies[:-1]] == [(b"%d" % n, tid) for n in range(1, 50)]


def test_information(client: RawClient, files: FileStorage) -> None:
    client.commit({oid_of(1): (Z64, b"x")})
    info = client.call(m.GetInfo())
    assert list(info) == [
        "length", "size", "name", "supportsUndo", "supports_record_iternext", "interfaces",
    ]  # fmt: skip
    assert (info["length"], info["size"]) == (1, files.getSize())
    assert info["name"] == files.getName()
    assert info["supportsUndo"] is info["supports_record_iternext"] is True
    assert ("ZODB.interfaces", "IStorageUndoable") in map(tuple, info["interfaces"])


def test_status(client: RawClient) -> None:
    tid = client.commit({oid_of(1): (Z64, b"x")})
    client.load(oid_of(1))
    status = client.call(m.ServerStatus())
    assert list(status) == STATUS_KEYS
    assert time.strptime(status.pop("start"))
    assert status == {
        "connections": 1,
        "loads": 1,
        "stores": 1,
        "commits": 1,
        "aborts": 0,
        "active_txns": 0,
        "lock_time": None,
        "conflicts": 0,
        "conflicts_resolved": 0,
        "waiting": 0,
        "timeout-thread-is-alive": True,
        "last-transaction": tid.hex(),
    }
    client.begin()
    client.vote()
    status = client.call(m.ServerStatus())
    assert status["active_txns"] == 1
    assert time.time() - 60 < status["lock_time"] <= time.time()


def test_status_without_a_time_limit(mapping: MappingStorage, serve: Serve, raw: Connect) -> None:
    client = raw(serve(mapping, transaction_timeout=None).address)
    assert client.call(m.ServerStatus())["timeout-thread-is-alive"] == "stub"


def test_history(client: RawClient) -> None:
    first = client.commit({oid_of(1): (Z64, b"one")})
    second = client.commit({oid_of(1): (first, b"two")})
    (entry,) = client.call(m.History(oid_of(1)))
    assert (entry["tid"], entry["size"]) == (second, 3)
    assert [entry["tid"] for entry in client.call(m.History(oid_of(1), 10))] == [second, first]
    with pytest.raises(RemoteFault, match="POSKeyError"):
        client.call(m.History(oid_of(2), 1))
    with pytest.raises(RemoteFault, match="TypeError"):
        client.call(m.History(17, 1))  # type: ignore[arg-type]


def test_all_records(client: RawClient) -> None:
    tid = client.commit({oid_of(n): (Z64, b"%d" % n) for n in (1, 2)})
    assert client.call(m.RecordIternext()) == (oid_of(1), tid, b"1", oid_of(2))
    assert client.call(m.RecordIternext(oid_of(2))) == (oid_of(2), tid, b"2", None)


def test_what_changed(client: RawClient) -> None:
    tids = [client.commit({oid_of(n): (Z64, b"x")}) for n in (1, 2, 3)]
    tid, oids = client.call(m.GetInvalidations(tids[0]))
    assert (tid, sorted(oids)) == (tids[2], [oid_of(2), oid_of(3)])
    tid, oids = client.call(m.GetInvalidations(tids[2]))
    assert (tid, list(oids)) == (tids[2], [])


def test_undo(client: RawClient) -> None:
    first = client.commit({oid_of(1): (Z64, b"one")})
    client.commit({oid_of(1): (first, b"two")})
    entries = client.call(m.UndoLog(0, -10))
    assert len(entries) == 2
    assert list(client.call(m.UndoInfo(0, -10, {"user_name": b"nobody"}))) == []
    assert len(client.call(m.UndoInfo(0, 1))) == 1
    client.begin()
    client.send(m.Undo(entries[0]["id"], 1))
    assert list(client.vote()) == [oid_of(1)]
    client.finish()
    assert client.load(oid_of(1))[0] == b"one"
    client.begin()
    client.send(m.Undo(b"bm9uc2Vuc2U=", 1))
    with pytest.raises(RemoteFault, match="UndoError"):
        client.vote()


def test_a_storage_without_undo(mapping: MappingStorage, serve: Serve, raw: Connect) -> None:
    client = raw(serve(mapping).address)
    assert client.call(m.UndoLog(0, -10)) == ()
    assert client.call(m.UndoInfo(0, -10)) == ()
    with pytest.raises(RemoteFault, match=r"Unsupported.*record_iternext"):
        client.call(m.RecordIternext())


def test_iterating(client: RawClient) -> None:
    tids = [client.commit({oid_of(n): (Z64, b"%d" % n)}) for n in (1, 2)]
    number = client.call(m.IteratorStart())
    found = []
    # Asked for at once: the answers still are in order.
    asked = [client.ask(m.IteratorNext(number)) for _ in range(2)]
    for msgid in asked:
        tid, status, user, description, extension = client.answer(msgid)
        empty: Any = {} if client.is_zeo else b""
        assert (status, user, description, extension) == (" ", b"", b"", empty)
        found.append(tid)
    assert found == tids
    records = client.call(m.IteratorRecordStart(number, tids[1]))
    assert client.call(m.IteratorRecordNext(records)) == (oid_of(2), tids[1], b"2", None)
    assert client.call(m.IteratorRecordNext(records)) is None
    assert client.call(m.IteratorNext(number)) is None
    with pytest.raises(RemoteFault, match="KeyError"):
        client.call(m.IteratorNext(number))
    number = client.call(m.IteratorStart(tids[1], None))
    client.send(m.IteratorGc([number, 999]))
    with pytest.raises(RemoteFault, match="KeyError"):
        client.call(m.IteratorNext(number))


def test_packing(client: RawClient, files: FileStorage, raw: Connect, serve: Serve) -> None:
    first = client.commit({bytes(8): (Z64, b"\x80\x03}q\x00.}q\x01.")})
    client.commit({bytes(8): (first, b"\x80\x03}q\x00.}q\x02.")})
    client.inbox.clear()
    before = files.getSize()
    assert client.call(m.Pack(time.time() + 1)) is None
    assert files.getSize() < before
    client.ping()
    assert infos(client)[-1] == {"length": 1, "size": files.getSize()}
    assert client.call(m.Pack(time.time(), False)) is None


# -- committing --------------------------------------------------------------------------------


def test_the_committer_gets_the_size_before_the_answer(client: RawClient, raw: Connect) -> None:
    client.begin()
    client.store(oid_of(1), b"x")
    assert not client.vote()
    msgid = client.ask(m.TpcFinish(1))
    tid = client.answer(msgid)
    notice, reply = client.inbox[-2:]
    assert isinstance(notice, m.Notice)
    assert isinstance(notice.request, m.Info)
    assert notice.request.info["length"] == 1
    assert reply == m.Reply(msgid, tid)


def test_others_are_told_of_everything(
    files: FileStorage, serve: Serve, raw: Connect, coding: Coding
) -> None:
    """Restored and deleted objects too, which ZEO forgets; and of empty transactions."""
    server = serve(files)
    one, two = raw(server.address), raw(server.address, coding=coding)
    tids = [one.commit({oid_of(1): (Z64, b"x"), oid_of(2): (Z64, b"y")}), one.commit({})]
    one.begin()
    one.send(m.Restore(oid_of(3), tids[1], b"z", None, 1), m.DeleteObject(oid_of(1), tids[0], 1))
    one.vote()
    tids.append(one.finish())
    two.ping()
    assert two.invalidations() == [
        (tids[0], [oid_of(1), oid_of(2)]),
        (tids[1], []),
        (tids[2], [oid_of(3), oid_of(1)]),
    ]
    assert one.invalidations() == []
    assert infos(two) == []


def test_new_object_ids(client: RawClient) -> None:
    oids = [oid for n in (1, 100, 1000, 0, -5) for oid in client.call(m.NewOids(n))]
    assert len(oids) == len(set(oids)) == 1 + 100 + 100 + 1 + 1
    assert len(client.call(m.NewOids())) == 100


def test_calls_instead_of_notices(client: RawClient) -> None:
    """Nearly all may be either; a call gets an answer."""
    assert client.call(m.SetClientLabel("x")) is None
    assert client.call(m.TpcBegin(1, b"", b"", {}, None, " ")) is None
    assert client.call(m.Store(oid_of(1), Z64, b"x", 1)) is None
    assert not client.vote()
    first = client.finish()
    assert client.call(m.TpcBegin(2, b"", b"", {}, None, " ")) is None
    assert client.call(m.CheckCurrentSerial(oid_of(1), first, 2)) is None
    assert client.call(m.TpcAbort(2)) is None
    client.begin(3)
    client.send(m.TpcAbort(3))
    assert client.call(m.ServerStatus())["aborts"] == 2


def test_conflicts(client: RawClient) -> None:
    first = client.commit({oid_of(1): (Z64, b"one")})
    second = client.commit({oid_of(1): (first, b"two")})
    client.begin()
    client.store(oid_of(1), b"three", first)
    with pytest.raises(RemoteFault) as caught:
        client.vote()
    assert caught.value.name == "ZODB.POSException.ConflictError"
    assert caught.value.details["oid"] == oid_of(1)
    assert tuple(caught.value.details["serials"]) == (second, first)
    # The transaction is over; aborting it is legal all the same.
    assert client.call(m.TpcAbort(1)) is None
    status = client.call(m.ServerStatus())
    assert (status["conflicts"], status["active_txns"], status["lock_time"]) == (1, 0, None)
    client.begin()
    client.send(m.CheckCurrentSerial(oid_of(1), first, 1))
    with pytest.raises(RemoteFault, match="ReadConflictError"):
        client.vote()
    client.commit({oid_of(1): (second, b"four")})


def test_conflicts_resolved_by_the_client(
    files: FileStorage, serve: Serve, raw: Connect, coding: Coding
) -> None:
    server = serve(files, client_conflict_resolution=True)
    client, other = raw(server.address, coding=coding), raw(server.address)
    first = client.commit({oid_of(1): (Z64, b"one")})
    second = client.commit({oid_of(1): (first, b"two")})
    client.begin()
    client.store(oid_of(1), b"three", first)
    client.store(oid_of(2), b"new")
    (conflict,) = client.vote()
    assert conflict["oid"] == oid_of(1)
    assert tuple(conflict["serials"]) == (second, first)
    assert conflict["data"] == b"three"
    # The lock is free while the client thinks.
    other.commit({oid_of(3): (Z64, b"x")})
    client.store(oid_of(1), b"resolved", second)
    assert not client.vote()
    client.finish()
    assert client.load(oid_of(1))[0] == b"resolved"
    assert client.load(oid_of(2))[0] == b"new"
    client.begin()
    client.store(oid_of(1), b"four", first)
    assert len(client.vote()) == 1
    assert client.call(m.TpcAbort(1)) is None
    assert client.call(m.ServerStatus())["active_txns"] == 0


def test_a_large_transaction(files: FileStorage, serve: Serve, raw: Connect, loop: str) -> None:
    client = raw(serve(files, loop=loop, commit_memory=10_000).address)
    tid = client.commit({oid_of(n): (Z64, bytes([n]) * 3000) for n in range(1, 100)})
    for n in (1, 50, 99):
        assert client.load(oid_of(n)) == (bytes([n]) * 3000, tid, None)


def test_a_transaction_that_is_too_large(
    mapping: MappingStorage, serve: Serve, raw: Connect
) -> None:
    client = raw(serve(mapping, max_transaction_size=10_000).address)
    client.begin()
    for n in range(1, 20):
        client.store(oid_of(n), bytes(1000))
    with pytest.raises(RemoteFault, match="TransactionTooLargeError"):
        client.vote()
    client.commit({oid_of(1): (Z64, b"x")})


def test_extension_data_that_is_refused(client: RawClient) -> None:
    client.send(m.TpcBegin(1, b"", b"", b"cos\nsystem\n(S'true'\ntR.", None, " "))
    client.store(oid_of(1), b"x")
    with pytest.raises(RemoteFault, match="extension data"):
        client.vote()
    client.commit({oid_of(1): (Z64, b"x")})


# -- rights ------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_server", [False, True])
def test_read_only(files: FileStorage, serve: Serve, raw: Connect, is_server: bool) -> None:
    server = serve(files, read_only=is_server)
    if is_server:
        undecided = raw(server.address, None)
        with pytest.raises(RemoteFault, match="ReadOnlyError"):
            undecided.call(m.Register("1", False))
        # The same connection may ask for less.
        assert undecided.call(m.Register("1", True)) == Z64
    reader = raw(server.address, read_only=True)
    for request in (
        m.NewOids(),
        m.TpcBegin(1, b"", b"", {}, None, " "),
        m.Store(oid_of(1), Z64, b"x", 1),
        m.Vote(1),
        m.TpcFinish(1),
    ):
        with pytest.raises(RemoteFault, match="ReadOnlyError"):
            reader.call(request)
    assert reader.call(m.TpcAbort(1)) is None
    # As a notice, the first one has no answer: its error is the vote's.
    reader.begin()
    reader.store(oid_of(1), b"x")
    with pytest.raises(RemoteFault, match="ReadOnlyError"):
        reader.vote()
    assert reader.call(m.Pack(time.time())) is None


def test_unknown_storages_are_refused_by_name(
    mapping: MappingStorage, serve: Serve, raw: Connect
) -> None:
    server = serve({"main": mapping, "other": MappingStorage()})
    client = raw(server.address, None)
    with pytest.raises(RemoteFault) as caught:
        client.call(m.Register("1", False))
    assert caught.value.name == "builtins.ValueError"
    assert "unknown storage: '1'" in str(caught.value)
    assert "'main', 'other'" in str(caught.value)
    assert client.call(m.Register("main", False)) == Z64


def test_storages_do_not_meet(mapping: MappingStorage, serve: Serve, raw: Connect) -> None:
    server = serve({"main": mapping, "other": MappingStorage()})
    one, two = raw(server.address, "main"), raw(server.address, "other")
    one.commit({oid_of(1): (Z64, b"x")})
    two.ping()
    assert two.invalidations() == []
    assert {name: status["commits"] for name, status in server.status().items()} == {
        "main": 1,
        "other": 0,
    }


# -- out of order ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "request_",
    [
        m.Store(oid_of(1), Z64, b"x", 5),
        m.DeleteObject(oid_of(1), Z64, 5),
        m.CheckCurrentSerial(oid_of(1), Z64, 5),
        m.Restore(oid_of(1), Z64, b"x", None, 5),
        m.Undo(b"x", 5),
        m.StoreBlobShared(oid_of(1), Z64, b"x", "a.tmp", 5),
        m.Vote(5),
        m.TpcFinish(5),
    ],
    ids=lambda request: type(request).__name__,
)
@pytest.mark.parametrize("other", [False, True])
def test_without_a_transaction(client: RawClient, request_: Any, other: bool) -> None:
    if other:
        client.begin(4)
    with pytest.raises(RemoteFault) as caught:
        client.call(request_)
    assert caught.value.name == "ZODB.POSException.StorageTransactionError"
    client.ping()
    if not isinstance(request_, (m.Vote, m.TpcFinish)):
        # There is nobody to tell.
        client.send(request_)
        with pytest.raises(Closed):
            client.ping()


def test_beginning_twice(client: RawClient) -> None:
    client.begin(1)
    # The same one again is harmless.
    assert client.call(m.TpcBegin(1, b"", b"", {}, None, " ")) is None
    with pytest.raises(RemoteFault, match="StorageTransactionError"):
        client.call(m.TpcBegin(2, b"", b"", {}, None, " "))
    client.store(oid_of(1), b"x", txn=1)
    client.vote(1)
    client.finish(1)


def test_finishing_without_a_vote(client: RawClient) -> None:
    client.begin()
    client.store(oid_of(1), b"x")
    with pytest.raises(RemoteFault, match=r"StorageTransactionError.*vote"):
        client.call(m.TpcFinish(1))
    client.vote()
    client.finish()


def test_voting_twice(client: RawClient) -> None:
    client.begin()
    client.vote()
    with pytest.raises(RemoteFault, match=r"StorageTransactionError.*voted"):
        client.vote()
    with pytest.raises(RemoteFault, match="StorageTransactionError"):
        client.call(m.Store(oid_of(1), Z64, b"x", 1))
    client.finish()


@pytest.mark.parametrize(
    "request_",
    [m.StoreBlobChunk(b"x"), m.StoreBlobEnd(oid_of(1), Z64, b"x", 1)],
    ids=lambda request: type(request).__name__,
)
def test_pieces_of_no_blob(client: RawClient, request_: Any) -> None:
    client.begin()
    with pytest.raises(RemoteFault, match="IllegalMessage"):
        client.call(request_)


def test_a_blob_within_a_blob(client: RawClient) -> None:
    client.begin()
    client.send(m.StoreBlobStart())
    with pytest.raises(RemoteFault, match="IllegalMessage"):
        client.call(m.StoreBlobStart())


# -- blobs -------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 59000, 59001, 1_000_000])
def test_blobs_there_and_back(client: RawClient, size: int, files: FileStorage) -> None:
    data = bytes(range(256)) * (size // 256 + 1)
    data = data[:size]
    client.begin()
    client.store_blob(oid_of(1), b"record", data)
    client.vote()
    tid = client.finish()
    assert Path(files.loadBlob(oid_of(1), tid)).read_bytes() == data
    del client.inbox[:]
    client.taken = 0
    # Two at once: one comes after the other.
    msgids = [client.ask(m.SendBlob(oid_of(1), tid)) for _ in range(2)]
    for msgid in msgids:
        assert client.answer(msgid) is None
    for _ in range(2):
        notice = client.next()
        assert isinstance(notice, m.Notice)
        assert notice.request == m.ReceiveBlobStart(oid_of(1), tid)
        received = b""
        while isinstance(notice := client.next(), m.Notice) and isinstance(
            notice.request, m.ReceiveBlobChunk
        ):
            assert 0 < len(notice.request.chunk) <= 59000
            received += notice.request.chunk
        assert received == data
        assert notice == m.Notice(m.ReceiveBlobStop(oid_of(1), tid))
        assert isinstance(client.next(), m.Reply)
    assert list(Path(files.temporaryDirectory()).iterdir()) == []


def test_blobs_that_are_not_there(client: RawClient) -> None:
    with pytest.raises(RemoteFault, match="POSKeyError"):
        client.call(m.SendBlob(oid_of(1), Z64))


def test_a_storage_without_blobs(mapping: MappingStorage, serve: Serve, raw: Connect) -> None:
    client = raw(serve(mapping).address)
    with pytest.raises(RemoteFault, match=r"Unsupported.*blobs"):
        client.call(m.SendBlob(oid_of(1), Z64))
    client.begin()
    client.store_blob(oid_of(1), b"record", b"blob")
    with pytest.raises(RemoteFault, match=r"Unsupported.*blobs"):
        client.vote()


def test_shared_blobs(client: RawClient, files: FileStorage) -> None:
    directory = Path(files.fshelper.getPathForOID(oid_of(1), create=True))
    (directory / "new.tmp").write_bytes(b"shared")
    client.begin()
    client.send(m.StoreBlobShared(oid_of(1), Z64, b"record", "new.tmp", 1))
    client.vote()
    tid = client.finish()
    assert Path(files.loadBlob(oid_of(1), tid)).read_bytes() == b"shared"
    client.begin()
    client.send(m.StoreBlobShared(oid_of(1), tid, b"record", "gone.tmp", 1))
    with pytest.raises(RemoteFault, match="share"):
        client.vote()


@pytest.mark.parametrize("how", ["abort", "close", "close in the middle"])
def test_c_temporary_files_are_removed(
    client: RawClient, files: FileStorage, raw: Connect, how: str
) -> None:
    temporary = Path(files.temporaryDirectory())
    client.begin()
    client.store_blob(oid_of(1), b"record", b"x" * 100_000)
    if how == "close in the middle":
        client.send(m.StoreBlobStart(), m.StoreBlobChunk(b"x" * 1000))
    client.ping()
    if how == "abort":
        client.call(m.TpcAbort(1))
    else:
        client.close()
    wait_until(lambda: not list(temporary.iterdir()), "the temporary files are gone")


# -- other -------------------------------------------------------------------------------------


def test_labels_are_in_the_log(
    mapping: MappingStorage, serve: Serve, raw: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    client = raw(serve(mapping).address)
    client.call(m.SetClientLabel("app one\nINFO forged"))
    client.send(m.Store(oid_of(1), Z64, b"x", 1))
    client.wait_closed()
    (record,) = [record for record in caplog.records if "closed" in record.getMessage()]
    port = client.peer and record.getMessage().split("127.0.0.1:")[1][:5]
    assert f"(app one?INFO forged 127.0.0.1:{port}" in record.getMessage()


def test_heartbeats_are_taken(client: RawClient) -> None:
    assert client.peer.codec is not None
    client.socket.sendall(client.peer.codec.heartbeat())
    client.ping()
    assert all(isinstance(message, m.Reply) for message in client.inbox)


def test_missed_transactions_are_found_by_age(
    files: FileStorage, serve: Serve, raw: Connect, loop: str
) -> None:
    """The queue is too short, the storage knows."""
    server = serve(files, loop=loop, invalidation_queue_size=1, invalidation_age=600)
    client = raw(server.address)
    tids = [client.commit({oid_of(n): (Z64, b"x")}) for n in range(1, 5)]
    tid, oids = client.call(m.GetInvalidations(tids[0]))
    assert (tid, sorted(oids)) == (tids[3], [oid_of(2), oid_of(3), oid_of(4)])
    # Too old: January 1900.
    assert client.call(m.GetInvalidations(bytes(7) + b"\1")) is None


def test_missed_transactions_that_nobody_knows(
    mapping: MappingStorage, serve: Serve, raw: Connect
) -> None:
    client = raw(serve(mapping, invalidation_queue_size=1).address)
    tids = [client.commit({oid_of(n): (Z64, b"x")}) for n in range(1, 5)]
    assert client.call(m.GetInvalidations(tids[0])) is None
    assert client.call(m.GetInvalidations(tids[2])) == (tids[3], [oid_of(4)])


def test_a_restarted_server_remembers(tmp_path: Path, serve: Serve, raw: Connect) -> None:
    """The queue is filled from the storage."""
    path = str(tmp_path / "Data.fs")
    with closing(FileStorage(path)) as storage:
        tids = _commit_directly(storage, 4)
    client = raw(serve(FileStorage(path)).address)
    tid, oids = client.call(m.GetInvalidations(tids[1]))
    assert (tid, sorted(oids)) == (tids[3], [oid_of(3), oid_of(4)])


def _commit_directly(storage: FileStorage, count: int) -> list[bytes]:
    tids = []
    for number in range(1, count + 1):
        meta = TransactionMetaData()
        storage.tpc_begin(meta)
        storage.store(oid_of(number), Z64, b"x", "", meta)
        storage.tpc_vote(meta)
        tids.append(storage.tpc_finish(meta))
    return tids

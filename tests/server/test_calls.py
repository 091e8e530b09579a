"""The calls that read, and what else a session is asked, over real sockets."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.server.conftest import Connect, Serve
from tests.support.raw import Z64, RawClient, RemoteFault, oid_of
from ZODB.Connection import TransactionMetaData
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage

from zeolith.protocol import messages as m
from zeolith.types import MAX_TID

STATUS_KEYS = [
    "connections", "loads", "stores", "commits", "aborts", "active_txns", "lock_time",
    "conflicts", "conflicts_resolved", "start", "waiting", "timeout-thread-is-alive",
    "last-transaction",
]  # fmt: skip


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
    assert client.infos()[-1] == {"length": 1, "size": files.getSize()}
    assert client.call(m.Pack(time.time(), False)) is None


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
    client = raw(serve(mapping, invalidation_queue_size=1, invalidation_age=None).address)
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

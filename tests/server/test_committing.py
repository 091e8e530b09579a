"""The calls of a transaction, in order and out of order, over real sockets."""

from __future__ import annotations

from typing import Any

import pytest
from tests.server.conftest import Connect, Serve
from tests.support.raw import Z64, Closed, RawClient, RemoteFault, oid_of
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage

from zeolith.protocol import messages as m
from zeolith.protocol.greeting import Coding

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
    assert two.infos() == []


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

"""R3: lastTransaction() never shows what the database has not been told of."""

from __future__ import annotations

import threading

from tests.rules.conftest import Attach, Connect, Database, Open, Serve, tid_of
from tests.support.raw import Z64, FakeServer, oid_of
from tests.support.waiting import Background, wait_until
from ZODB.Connection import TransactionMetaData
from ZODB.MappingStorage import MappingStorage

from zeolith.protocol.messages import GetInfo, GetInvalidations, InvalidateTransaction, Register

X = oid_of(7)


def test_r3_the_database_is_told_first(attach: Attach) -> None:
    """A row 2 (ZEO#166)."""
    storage, server = attach()
    database = Database(storage)
    shown: list[bytes] = []
    database.on_invalidate = lambda tid: shown.append(storage.lastTransaction())
    for number in (2, 3, 4):
        server.notify(InvalidateTransaction(tid_of(number), [X]))
    wait_until(lambda: storage.lastTransaction() == tid_of(4))
    assert shown == [tid_of(1), tid_of(2), tid_of(3)]
    assert database.told == [(tid_of(n), [X]) for n in (2, 3, 4)]


def test_r3_other_threads_see_it_last_too(attach: Attach) -> None:
    """While the database is being told, whoever asks gets the transaction before, or waits."""
    storage, server = attach()
    database = Database(storage)
    telling, told = threading.Event(), threading.Event()

    def hold(tid: bytes) -> None:
        telling.set()
        assert told.wait(20)

    database.on_invalidate = hold
    server.notify(InvalidateTransaction(tid_of(2), [X]))
    assert telling.wait(20)
    asking = Background(storage.lastTransaction)
    asking.join(0.1)
    answered_early = not asking.is_alive()
    told.set()
    if answered_early:
        assert asking.result() == tid_of(1)
    wait_until(lambda: storage.lastTransaction() == tid_of(2))


def test_r3_our_own_commit_shows_with_its_callback(
    mapping: MappingStorage, serve: Serve, client: Open
) -> None:
    """The callback of tpc_finish is where the database learns of our own transactions."""
    storage = client(serve(mapping).address)
    before = storage.lastTransaction()
    meta = TransactionMetaData()
    storage.tpc_begin(meta)
    storage.store(X, Z64, b"data", "", meta)
    storage.tpc_vote(meta)
    early: list[object] = []

    def callback(tid: bytes) -> None:
        asking = Background(storage.lastTransaction)
        asking.join(0.1)
        if not asking.is_alive():
            early.append(asking.result())

    tid = storage.tpc_finish(meta, callback)
    assert early in ([], [before])
    assert storage.lastTransaction() == tid


def test_r3_it_never_goes_back_while_the_cache_is_dropped(
    fake: FakeServer, attach: Attach, client: Open
) -> None:
    """After an absence that the server cannot explain."""
    storage, server = attach()
    server.notify(InvalidateTransaction(tid_of(5), [X]))
    wait_until(lambda: storage.lastTransaction() == tid_of(5))
    database = Database(storage)
    asking: list[Background] = []

    def ask() -> None:
        asking.append(Background(storage.lastTransaction))
        asking[0].join(0.1)

    database.on_drop = ask
    server.close()
    again = fake.accept()
    again.greet()
    again.reply(again.expect(Register), tid_of(9))
    again.peer.registered()
    again.reply(again.expect(GetInvalidations), None)
    again.reply(again.expect(GetInfo), {"length": 0, "size": 0, "interfaces": ()})
    wait_until(storage.is_connected)
    assert storage.lastTransaction() == tid_of(9)
    assert database.told == ["all"]
    assert asking[0].result() in (tid_of(5), tid_of(9))


def test_r3_the_last_transaction_of_a_new_client_is_the_servers(
    mapping: MappingStorage, serve: Serve, raw: Connect, client: Open
) -> None:
    server = serve(mapping)
    tid = raw(server.address).commit({X: (Z64, b"data")})
    assert client(server.address).lastTransaction() == tid

"""R3: lastTransaction() never shows what the database has not been told of."""

from __future__ import annotations

import itertools
import threading
from typing import Any

import pytest
from tests.rules.conftest import Attach, Connect, Database, Open, Serve, tid_of
from tests.support.raw import Z64, FakeServer, oid_of
from tests.support.storages import gate, hook
from tests.support.waiting import Background, wait_until
from ZODB.Connection import TransactionMetaData
from ZODB.MappingStorage import MappingStorage
from ZODB.mvccadapter import MVCCAdapter

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


@pytest.mark.parametrize("is_dropped", [False, True], ids=["verified", "dropped"])
def test_r3_it_waits_while_the_database_is_told(
    fake: FakeServer, attach: Attach, is_dropped: bool
) -> None:
    """After an absence that the server cannot explain."""
    storage, server = attach(drop_cache_rather_verify=is_dropped)
    server.notify(InvalidateTransaction(tid_of(5), [X]))
    wait_until(lambda: storage.lastTransaction() == tid_of(5))
    database = Database(storage)
    asking: list[Background] = []
    waits: list[bool] = []

    def ask() -> None:
        asking.append(Background(storage.lastTransaction))
        asking[0].join(0.1)
        waits.append(asking[0].is_alive())

    database.on_drop = ask
    server.close()
    come_back(fake, tid_of(9), is_dropped)
    wait_until(storage.is_connected)
    assert storage.lastTransaction() == tid_of(9)
    assert database.told == ["all"]
    # Neither what was before, nor that nothing is known.
    assert waits == [True]
    assert asking[0].result() == tid_of(9)


def come_back(fake: FakeServer, tid: bytes, is_dropped: bool) -> None:
    """Admit a client that was away for longer than anybody remembers."""
    again = fake.accept()
    again.greet()
    again.reply(again.expect(Register), tid)
    again.peer.registered()
    if not is_dropped:
        again.reply(again.expect(GetInvalidations), None)
    again.reply(again.expect(GetInfo), {"length": 0, "size": 0, "interfaces": ()})


@pytest.mark.parametrize("told", range(4))
@pytest.mark.parametrize("is_dropped", [False, True], ids=["verified", "dropped"])
def test_r3_a_connection_that_is_opened_while_the_database_is_told(
    fake: FakeServer, attach: Attach, is_dropped: bool, told: int
) -> None:
    """A (ZODB#290, #307): it has asked for the last transaction before, and looks at what changed
    when the database has been told a part. Whatever it holds of the old transaction must be
    dropped when it comes to the new one."""
    storage, server = attach(drop_cache_rather_verify=is_dropped)
    server.notify(InvalidateTransaction(tid_of(5), [X]))
    wait_until(lambda: storage.lastTransaction() == tid_of(5))
    connection = MVCCAdapter(storage).new_instance()
    assert connection.poll_invalidations() == []
    heard = itertools.count()
    looked: list[tuple[Any, bytes]] = []

    def look() -> None:
        looked.append((connection.poll_invalidations(), connection._start))

    with gate(storage, "lastTransaction", after=True) as asked:
        opening = Background(look)
        asked.wait_reached()

        def hear(*args: object) -> None:
            if next(heard) == told:
                asked.open()
                opening.result()

        with (
            hook(connection, "_invalidateCache", before=hear),
            hook(connection, "_invalidate", before=hear),
        ):
            server.close()
            come_back(fake, tid_of(9), is_dropped)
            wait_until(storage.is_connected)
        asked.open()
        opening.result()
    look()
    (first, start), (second, _) = looked
    # It holds nothing that it had before the absence, and nothing that it loaded before its end.
    assert (first is None and start > tid_of(9)) or second is None
    # Nor does it look at the new transaction with what it had before.
    assert first is None or start <= tid_of(9)


def test_r3_the_last_transaction_of_a_new_client_is_the_servers(
    mapping: MappingStorage, serve: Serve, raw: Connect, client: Open
) -> None:
    server = serve(mapping)
    tid = raw(server.address).commit({X: (Z64, b"data")})
    assert client(server.address).lastTransaction() == tid

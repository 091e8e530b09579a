"""R6: after a break the client proves its cache is current, or drops it."""

from __future__ import annotations

import logging
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import ZODB
import ZODB.event
from tests.rules.conftest import Attach, Connect, Database, Open, tid_of
from tests.support.processes import ServerProcess, running_server
from tests.support.proxy import Proxy
from tests.support.raw import Z64, FakeConnection, FakeServer, RawClient, fault_of, oid_of
from tests.support.waiting import Background, promptly, wait_until
from ZODB.Connection import TransactionMetaData
from ZODB.FileStorage import FileStorage
from ZODB.POSException import POSKeyError

from zeolith.cache import RingCache
from zeolith.client.events import StaleCache
from zeolith.errors import ClientDisconnected, ServerBehindCache
from zeolith.protocol.additions import VerifyMany
from zeolith.protocol.messages import (
    Call,
    GetInfo,
    GetInvalidations,
    InvalidateTransaction,
    LoadBefore,
    Ping,
    Register,
    Vote,
)
from zeolith.types import MAX_TID

X, Y = oid_of(7), oid_of(8)
INFO = {"length": 0, "size": 0, "interfaces": ()}


def load(storage: Any, server: FakeConnection, oid: bytes, data: bytes, tid: bytes) -> None:
    """Have the client load a current revision."""
    loading = Background(lambda: storage.loadBefore(oid, MAX_TID))
    server.reply(server.expect(LoadBefore), (data, tid, None))
    assert loading.result() == (data, tid, None)


def readmit(fake: FakeServer, tid: bytes) -> FakeConnection:
    """Accept and register the client again."""
    again = fake.accept()
    again.greet()
    again.reply(again.expect(Register), tid)
    again.peer.registered()
    return again


def cached(storage: Any, oid: bytes) -> Any:
    return storage._cache.load_before(oid, MAX_TID)


def test_r6_what_was_missed_is_asked_for_and_applied(fake: FakeServer, attach: Attach) -> None:
    storage, server = attach()
    load(storage, server, X, b"x", tid_of(1))
    load(storage, server, Y, b"y", tid_of(1))
    database = Database(storage)
    server.close()
    again = readmit(fake, tid_of(5))
    question = again.expect(GetInvalidations)
    assert question.request.tid == tid_of(1)
    assert not storage.is_connected()
    again.reply(question, (tid_of(5), [X]))
    again.reply(again.expect(GetInfo), INFO)
    wait_until(storage.is_connected)
    assert database.told == [(tid_of(5), [X])]
    assert cached(storage, X) is None
    assert cached(storage, Y) == (b"y", tid_of(1), None)
    assert storage.lastTransaction() == tid_of(5)


def test_r6_a_server_that_has_forgotten_costs_the_cache(
    fake: FakeServer, attach: Attach, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, server = attach()
    load(storage, server, X, b"x", tid_of(1))
    database = Database(storage)
    events: list[Any] = []
    monkeypatch.setattr(ZODB.event, "notify", events.append)
    server.close()
    again = readmit(fake, tid_of(5))
    again.reply(again.expect(GetInvalidations), None)
    again.reply(again.expect(GetInfo), INFO)
    again.fault(again.expect(VerifyMany), "ZODB.POSException.Unsupported", ("getTid",))
    wait_until(lambda: len(storage._cache) == 0)
    assert database.told == ["all"]
    assert cached(storage, X) is None
    assert [type(event) for event in events] == [StaleCache]
    assert events[0].storage is storage


def test_r6_invalidations_during_verification_are_applied_after_it(
    fake: FakeServer, attach: Attach
) -> None:
    """A (ZEO#191): they arrive between the registration and the end of the verification."""
    storage, server = attach()
    load(storage, server, X, b"x", tid_of(1))
    load(storage, server, Y, b"y", tid_of(1))
    database = Database(storage)
    server.close()
    again = readmit(fake, tid_of(5))
    question = again.expect(GetInvalidations)
    again.send(
        again.notice_bytes(InvalidateTransaction(tid_of(6), [Y])),
        again.reply_bytes(question, (tid_of(6), [X, Y])),
        again.notice_bytes(InvalidateTransaction(tid_of(7), [X])),
    )
    again.reply(again.expect(GetInfo), INFO)
    wait_until(lambda: storage.lastTransaction() == tid_of(7))
    assert database.told == [(tid_of(6), [X, Y]), (tid_of(7), [X])]
    assert cached(storage, X) is None
    assert cached(storage, Y) is None


def test_r6_a_new_client_needs_no_verification(attach: Attach) -> None:
    storage, server = attach()
    assert not any(
        isinstance(getattr(message, "request", None), GetInvalidations) for message in server.inbox
    )
    assert storage.lastTransaction() == tid_of(1)


def test_r6_the_same_last_transaction_needs_no_question(fake: FakeServer, attach: Attach) -> None:
    storage, server = attach()
    load(storage, server, X, b"x", tid_of(1))
    server.reset()
    again = readmit(fake, tid_of(1))
    again.reply(again.next_call(), INFO)
    last = again.inbox[-1]
    assert isinstance(last, Call)
    assert isinstance(last.request, GetInfo)
    wait_until(storage.is_connected)
    assert cached(storage, X) == (b"x", tid_of(1), None)


def test_r6_a_break_during_the_verification_starts_it_anew(
    fake: FakeServer, attach: Attach
) -> None:
    storage, server = attach()
    load(storage, server, X, b"x", tid_of(1))
    server.close()
    for _ in range(3):
        half = readmit(fake, tid_of(5))
        half.expect(GetInvalidations)
        half.reset()
    again = readmit(fake, tid_of(5))
    question = again.expect(GetInvalidations)
    assert question.request.tid == tid_of(1)
    again.reply(question, (tid_of(5), [X]))
    again.reply(again.expect(GetInfo), INFO)
    wait_until(storage.is_connected)
    assert cached(storage, X) is None


def test_r6_a_load_in_flight_is_repeated_after_the_verification(
    fake: FakeServer, attach: Attach
) -> None:
    storage, server = attach()
    loading = Background(lambda: storage.loadBefore(X, MAX_TID))
    server.expect(LoadBefore)
    server.close()
    again = readmit(fake, tid_of(1))
    again.reply(again.expect(GetInfo), INFO)
    again.reply(again.expect(LoadBefore), (b"x", tid_of(1), None))
    assert loading.result() == (b"x", tid_of(1), None)


def test_r6_an_answer_of_the_old_connection_never_enters_the_verified_cache(
    fake: FakeServer, attach: Attach, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader that is still busy with what the lost connection had delivered holds up the next
    connection, not the other way round."""
    stored, go_on = threading.Event(), threading.Event()
    store = RingCache.store

    def slow_store(cache: RingCache, oid: bytes, *rest: Any) -> None:
        if oid == X:
            stored.set()
            assert go_on.wait(20)
        store(cache, oid, *rest)

    monkeypatch.setattr(RingCache, "store", slow_store)
    storage, server = attach()
    loading = Background(lambda: storage.loadBefore(X, MAX_TID))
    server.reply(server.expect(LoadBefore), (b"old", tid_of(1), None))
    assert stored.wait(20)
    storage._link.channel().close(ConnectionError("cut by the test"))
    verifying = Background(lambda: verify_with(fake, tid_of(5), [X]))
    verifying.join(0.3)
    go_on.set()
    loading.result()
    verifying.result()
    wait_until(storage.is_connected)
    assert cached(storage, X) is None


def verify_with(fake: FakeServer, tid: bytes, oids: list[bytes]) -> None:
    again = readmit(fake, tid)
    again.reply(again.expect(GetInvalidations), (tid, oids))
    again.reply(again.expect(GetInfo), INFO)


# -- a restored backup -------------------------------------------------------------------------


def test_r6_a_restored_backup_is_recognised_and_the_cache_dropped(
    fake: FakeServer, attach: Attach, caplog: pytest.LogCaptureFixture
) -> None:
    """A (ZEO#142), F: ZEO's client stays out until somebody deletes its cache file."""
    storage, server = attach()
    server.notify(InvalidateTransaction(tid_of(9), [X]))
    load(storage, server, X, b"newer than the backup", tid_of(9))
    database = Database(storage)
    server.close()
    again = readmit(fake, tid_of(4))
    again.reply(again.expect(GetInfo), INFO)
    wait_until(storage.is_connected)
    assert cached(storage, X) is None
    assert database.told == ["all"]
    assert storage.lastTransaction() == tid_of(4)
    (warning,) = [r for r in caplog.records if "backup" in r.getMessage()]
    assert warning.levelno >= logging.WARNING
    assert tid_of(4).hex() in warning.getMessage()
    assert tid_of(9).hex() in warning.getMessage()


def test_r6_a_restored_backup_may_be_made_an_error(fake: FakeServer, attach: Attach) -> None:
    storage, server = attach(database_behind="refuse", wait_timeout=20)
    server.notify(InvalidateTransaction(tid_of(9), [X]))
    load(storage, server, X, b"newer than the backup", tid_of(9))
    server.close()
    readmit(fake, tid_of(4))
    with promptly(10), pytest.raises(ServerBehindCache) as caught:
        storage.ping()
    assert caught.value.server_tid == tid_of(4)
    assert caught.value.cache_tid == tid_of(9)
    # And it recovers by itself when the right database is back.
    again = readmit(fake, tid_of(9))
    again.reply(again.expect(GetInfo), INFO)
    wait_until(storage.is_connected)
    assert cached(storage, X) == (b"newer than the backup", tid_of(9), None)


def test_r6_a_real_restore(tmp_path: Path, client: Open) -> None:
    """The whole way: an older copy of the database takes the place of the present one."""
    proxy_target = ("127.0.0.1", 1)
    with ExitStack() as stack:
        proxy = stack.enter_context(Proxy(proxy_target))

        def open_files() -> FileStorage:
            return FileStorage(str(tmp_path / "Data.fs"))

        with running_server(open_files()) as server, RawClient(server.address) as writer:
            first = writer.commit({X: (Z64, b"one")})
        backup = (tmp_path / "Data.fs").read_bytes()
        with running_server(open_files()) as server, RawClient(server.address) as writer:
            proxy.target = server.address
            storage = client(proxy.address)
            second = writer.commit({X: (first, b"two")})
            wait_until(lambda: storage.lastTransaction() == second)
            assert storage.load(X) == (b"two", second)
        (tmp_path / "Data.fs").write_bytes(backup)
        (tmp_path / "Data.fs.index").unlink()
        with running_server(open_files()) as server:
            proxy.target = server.address
            storage.ping()
            assert storage.load(X) == (b"one", first)
            assert storage.lastTransaction() == first
            with RawClient(server.address) as writer:
                third = writer.commit({X: (first, b"three")})
            wait_until(lambda: storage.lastTransaction() == third)
            assert storage.load(X) == (b"three", third)


# -- a real server that restarts ---------------------------------------------------------------


@pytest.mark.parametrize("missed", [1, 5])
def test_r6_changes_made_while_the_client_was_away(
    tmp_path: Path, client: Open, missed: int
) -> None:
    """Few enough for the server's memory, and too many: either way nothing stale is served."""

    def serve() -> Any:
        return running_server(
            FileStorage(str(tmp_path / "Data.fs")), invalidation_queue_size=2, invalidation_age=None
        )

    with Proxy(("127.0.0.1", 1)) as proxy:
        with serve() as server, RawClient(server.address) as writer:
            proxy.target = server.address
            tid = writer.commit({X: (Z64, b"0"), Y: (Z64, b"y")})
            storage = client(proxy.address)
            assert storage.load(X)[0] == b"0"
            assert storage.load(Y)[0] == b"y"
            proxy.target = ("127.0.0.1", 1)
            proxy.cut()
            wait_until(lambda: not storage.is_connected())
            for number in range(missed):
                tid = writer.commit({X: (tid, b"%d" % (number + 1))})
        with serve() as server:
            proxy.target = server.address
            storage.ping()
            assert storage.load(X) == (b"%d" % missed, tid)
            assert storage.load(Y)[0] == b"y"
            assert storage.lastTransaction() == tid


def test_r6_a_client_reconnects_again_and_again(tmp_path: Path, client: Open) -> None:
    """B (ZEO#226): one release of ZEO stopped trying."""
    with ServerProcess(tmp_path / "server") as server:
        storage = client(server.address)
        tid = Z64
        for turn in range(4):
            with RawClient(server.address) as writer:
                tid = writer.commit({X: (tid, b"%d" % turn)})
            assert wait_until(lambda: storage.load(X))[0] in (b"%d" % turn, b"%d" % (turn - 1))
            storage.ping()
            assert storage.load(X) == (b"%d" % turn, tid)
            server.kill()
            wait_until(lambda: not storage.is_connected())
            server.start()
            storage.ping()


def test_r6_a_commit_is_never_repeated(fake: FakeServer, attach: Attach) -> None:
    """A transaction that was begun on a connection ends with it."""
    storage, server = attach()
    meta = TransactionMetaData()
    storage.tpc_begin(meta)
    storage.store(X, Z64, b"data", "", meta)
    voting = Background(lambda: storage.tpc_vote(meta))
    while not isinstance(getattr(server.next(), "request", None), Vote):
        pass
    server.reset()
    with promptly(5), pytest.raises(ClientDisconnected):
        voting.result()
    again = readmit(fake, tid_of(1))
    again.reply(again.expect(GetInfo), INFO)
    wait_until(storage.is_connected)
    with pytest.raises(ClientDisconnected):
        storage.store(X, Z64, b"more", "", meta)
    with promptly(5):
        storage.tpc_abort(meta)
    pinging = Background(storage.ping)
    call = again.next_call()
    assert call.request == Ping(), "something of the old transaction arrived"
    again.reply(call, None)
    pinging.result()


def test_r6_reading_from_the_cache_goes_on_without_a_server(
    fake: FakeServer, attach: Attach
) -> None:
    storage, server = attach(wait_timeout=0.2)
    load(storage, server, X, b"x", tid_of(1))
    server.close()
    fake.close()
    wait_until(lambda: not storage.is_connected())
    assert storage.loadBefore(X, MAX_TID) == (b"x", tid_of(1), None)
    with promptly(5), pytest.raises(ClientDisconnected):
        storage.loadBefore(Y, MAX_TID)


def finds(client: RawClient, oid: bytes) -> str:
    """Return the error that loading an object gives."""
    return fault_of(lambda: client.load(oid))


def test_r6_two_addresses_and_one_wins(client: Open, raw: Connect) -> None:
    """A (ZEO#191): both are tried at once; exactly one connection is used."""
    from ZODB.MappingStorage import MappingStorage

    with ExitStack() as stack:
        servers = [stack.enter_context(running_server(MappingStorage())) for _ in range(2)]
        for turn in range(10):
            storage = client([server.address for server in servers])
            meta = TransactionMetaData()
            storage.tpc_begin(meta)
            storage.store(oid_of(turn + 1), Z64, b"data", "", meta)
            storage.tpc_vote(meta)
            storage.tpc_finish(meta)
            assert storage.load(oid_of(turn + 1))[0] == b"data"
            found = [finds(raw(server.address), oid_of(turn + 1)) for server in servers]
            assert sorted(found) == ["POSKeyError", "no error"]
            with pytest.raises(POSKeyError):
                storage.load(oid_of(99))

"""Class B of the known failures: commits that hang, locks that stay, clients that give up."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import transaction
import ZODB
from persistent.mapping import PersistentMapping
from tests.rules.conftest import Attach, Connect, Open, Serve, tid_of
from tests.support.processes import ServerProcess, free_port, is_listening, running_server
from tests.support.proxy import DOWN, UP, Action, Direction, Passing, Proxy
from tests.support.raw import (
    Z64,
    Closed,
    FakeServer,
    RawClient,
    RemoteFault,
    fault_of,
    oid_of,
)
from tests.support.storages import hook
from tests.support.waiting import Background, promptly, wait_until
from transaction.interfaces import TransientError
from ZODB.Connection import TransactionMetaData
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage
from ZODB.POSException import ConflictError, ReadOnlyError

from zeolith import ClientStorage
from zeolith.client import connector, link
from zeolith.client.connector import Connector
from zeolith.errors import ClientDisconnected, NotCommitted, OutcomeUnknown, ServerRefused
from zeolith.protocol.greeting import Greeting
from zeolith.protocol.messages import (
    LoadBefore,
    SendBlob,
    Store,
    TpcAbort,
    TpcBegin,
    Vote,
)
from zeolith.types import MAX_TID

RECORD = b"cZODB.blob\nBlob\n."


def commit(storage: Any, oid: bytes, data: bytes, serial: bytes = Z64) -> bytes:
    """Commit one object through a storage."""
    meta = TransactionMetaData()
    storage.tpc_begin(meta)
    storage.store(oid, serial, data, "", meta)
    storage.tpc_vote(meta)
    tid: bytes = storage.tpc_finish(meta)
    return tid


# -- errors in the storage ---------------------------------------------------------------------


@pytest.mark.parametrize("method", ["tpc_begin", "store", "tpc_vote"])
def test_b_an_error_while_committing_frees_the_lock(
    mapping: MappingStorage, serve: Serve, raw: Connect, loop: str, method: str
) -> None:
    """lp 374737."""

    def fail(*_args: Any, **_kw: Any) -> None:
        raise OSError(28, "No space left on device")

    server = serve(mapping, loop=loop)
    unlucky, other = raw(server.address), raw(server.address)
    unlucky.begin()
    unlucky.store(oid_of(1), b"x")
    with hook(mapping, method, before=fail), promptly(10):
        try:
            unlucky.vote()
            unlucky.finish()
        except (RemoteFault, Closed):
            pass
        else:
            pytest.fail("the error was not reported")
    with promptly(10):
        other.commit({oid_of(2): (Z64, b"x")})
    assert fault_of(lambda: other.load(oid_of(1))) == "POSKeyError"


def test_b_an_error_in_the_last_phase_is_told_and_nobody_hangs(
    mapping: MappingStorage, serve: Serve, raw: Connect, loop: str
) -> None:
    """Nobody can know what is on disk then: the server ends rather than guess, and says so."""

    def fail(*_args: Any, **_kw: Any) -> None:
        raise OSError(28, "No space left on device")

    server = serve(mapping, loop=loop)
    unlucky, other = raw(server.address), raw(server.address)
    unlucky.begin()
    unlucky.store(oid_of(1), b"x")
    unlucky.vote()
    other.begin()
    waiting = other.ask(Vote(1))
    with hook(mapping, "tpc_finish", before=fail), promptly(10):
        with pytest.raises((RemoteFault, Closed)):
            unlucky.finish()
        with pytest.raises(Closed):
            other.answer(waiting)
        other.wait_closed()
        wait_until(lambda: not is_listening(server.address))


def test_b_a_conflict_of_blobs_does_not_stop_commits(
    files: FileStorage, serve: Serve, raw: Connect, loop: str
) -> None:
    """3.9.1: a conflict while committing blobs."""
    server = serve(files, loop=loop)
    one, two = raw(server.address), raw(server.address)
    one.begin()
    one.store_blob(oid_of(1), RECORD, b"first")
    one.vote()
    first = one.finish()
    for client, data in ((one, b"one"), (two, b"two")):
        client.begin()
        client.store_blob(oid_of(1), RECORD, data * 1000, first)
    one.vote()
    waiting = two.ask(Vote(1))
    second = one.finish()
    assert fault_of(lambda: two.answer(waiting)) == "ConflictError"
    with promptly(10):
        two.send(TpcAbort(1))
        two.begin()
        two.store_blob(oid_of(1), RECORD, b"two", second)
        two.vote()
        third = two.finish()
    assert one.load(oid_of(1))[1] == third
    assert blob(one, oid_of(1), second) == b"one" * 1000
    assert blob(one, oid_of(1), third) == b"two"


def blob(client: RawClient, oid: bytes, tid: bytes) -> bytes:
    """Return a blob as the server sends it."""
    from zeolith.protocol.messages import Notice, ReceiveBlobChunk

    at = len(client.inbox)
    client.call(SendBlob(oid, tid))
    return b"".join(
        message.request.chunk
        for message in client.inbox[at:]
        if isinstance(message, Notice) and isinstance(message.request, ReceiveBlobChunk)
    )


def test_b_a_conflict_frees_the_lock_and_names_the_object(
    mapping: MappingStorage, serve: Serve, raw: Connect, client: Open
) -> None:
    server = serve(mapping)
    first = raw(server.address).commit({oid_of(1): (Z64, b"one")})
    storage = client(server.address)
    assert storage.load(oid_of(1)) == (b"one", first)
    raw(server.address).commit({oid_of(1): (first, b"two")})
    meta = TransactionMetaData()
    storage.tpc_begin(meta)
    storage.store(oid_of(1), first, b"three", "", meta)
    with pytest.raises(ConflictError) as caught:
        storage.tpc_vote(meta)
    assert caught.value.oid == oid_of(1)
    storage.tpc_abort(meta)
    with promptly(5):
        raw(server.address).commit({oid_of(2): (Z64, b"x")})


def test_b_a_conflict_evicts_what_caused_it(attach: Attach) -> None:
    """A (3.9.6): holding on to the stale entry would repeat the conflict for ever."""
    storage, server = attach()
    loading = Background(lambda: storage.loadBefore(oid_of(1), MAX_TID))
    server.reply(server.expect(LoadBefore), (b"stale", tid_of(1), None))
    loading.result()
    meta = TransactionMetaData()
    storage.tpc_begin(meta)
    storage.store(oid_of(1), tid_of(1), b"mine", "", meta)
    voting = Background(lambda: storage.tpc_vote(meta))
    server.expect(TpcBegin)
    server.expect(Store)
    server.fault(
        server.expect(Vote),
        "ZODB.POSException.ConflictError",
        {"oid": oid_of(1), "serials": (tid_of(2), tid_of(1)), "message": "conflict"},
    )
    with pytest.raises(ConflictError):
        voting.result()
    aborting = Background(lambda: storage.tpc_abort(meta))
    server.reply(server.expect(TpcAbort), None)
    aborting.result()
    again = Background(lambda: storage.loadBefore(oid_of(1), MAX_TID))
    server.reply(server.expect(LoadBefore), (b"fresh", tid_of(2), None))
    assert again.result() == (b"fresh", tid_of(2), None)


# -- locks in the client -----------------------------------------------------------------------


def test_b_a_begin_that_fails_leaves_the_client_usable(
    mapping: MappingStorage, serve: Serve, client: Open
) -> None:
    """ZEO#1: the commit lock of the client stayed taken."""
    server = serve(mapping, read_only=True)
    storage = client(server.address, read_only_fallback=True)
    for _ in range(3):
        with promptly(5), pytest.raises(ReadOnlyError):
            storage.tpc_begin(TransactionMetaData())


def test_b_a_begin_without_a_server_leaves_the_client_usable(
    fake: FakeServer, attach: Attach
) -> None:
    storage, server = attach(wait_timeout=0.05)
    server.close()
    wait_until(lambda: not storage.is_connected())
    for _ in range(3):
        with promptly(5), pytest.raises(ClientDisconnected):
            storage.tpc_begin(TransactionMetaData())


def test_b_threads_commit_in_turn(mapping: MappingStorage, serve: Serve, client: Open) -> None:
    storage = client(serve(mapping).address)

    def work(number: int) -> None:
        tid = Z64
        for turn in range(20):
            tid = commit(storage, oid_of(number), b"%d" % turn, tid)

    threads = [Background(lambda number=n: work(number)) for n in range(1, 6)]  # type: ignore[misc]
    for thread in threads:
        thread.result()
    assert [storage.load(oid_of(n))[0] for n in range(1, 6)] == [b"19"] * 5


# -- breaks in the middle of a commit ----------------------------------------------------------


def commit_with_blob(storage: Any, directory: Path) -> tuple[bytes, bytes]:
    """Commit one new object and one new blob; return their oids."""
    plain, with_blob = storage.new_oid(), storage.new_oid()
    meta = TransactionMetaData()
    storage.tpc_begin(meta)
    try:
        storage.store(plain, Z64, with_blob, "", meta)
        source = directory.parent / "source"
        source.write_bytes(b"blob" * 20000)
        storage.storeBlob(with_blob, Z64, RECORD, str(source), "", meta)
        storage.tpc_vote(meta)
        storage.tpc_finish(meta)
    except BaseException:
        with promptly(5):
            storage.tpc_abort(meta)
        raise
    return plain, with_blob


@pytest.fixture(params=["own", "M5"])
def is_own(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether clients and servers speak Zeolith's own protocol, not ZEO's."""
    if request.param == "M5":
        monkeypatch.setattr(Greeting, "version", None)
    return bool(request.param == "own")


@pytest.mark.parametrize("comes_back", [True, False])
@pytest.mark.parametrize("action", [Action.CUT, Action.CUT_WITHIN, Action.CUT_AFTER])
def test_b_a_break_at_every_message_of_a_commit(
    files: FileStorage,
    tmp_path: Path,
    serve: Serve,
    action: Action,
    comes_back: bool,
    is_own: bool,
) -> None:
    """F: commit() and abort() return at once, whether or not the server comes back, and what was
    committed is whole.

    In Zeolith's own protocol a commit of which tpc_finish was sent waits for a server that knows
    what became of it.
    """
    server = serve(files)
    if is_own:
        upload = [("stream_data", 0), ("stream_data", 1), ("stream_end", 0), ("attach_blob", 0)]
    else:
        upload = [("Start", 0), ("Chunk", 0), ("Chunk", 1), ("End", 0)]
        upload = [("storeBlob" + name, nth) for name, nth in upload]
    steps = [("tpc_begin", 0), ("storea", 0), ("storea", 1), *upload, ("vote", 0)]
    places = [(UP, name, nth) for name, nth in steps]
    voted = (DOWN, ".reply", 0)
    finishing = [(UP, "tpc_finish", 0), (DOWN, "info", 0), (DOWN, ".reply", 1)]
    # After it the client may have sent tpc_finish before it saw the cut.
    (finishing if action is Action.CUT_AFTER else places).append(voted)
    if comes_back or not is_own:
        places += finishing
    blobs = tmp_path / "client"
    with Proxy(server.address) as proxy, ExitStack() as stack:
        storage = ClientStorage(proxy.address, blob_dir=str(blobs), wait_timeout=20)
        stack.callback(storage.close)
        commit_with_blob(storage, blobs)
        for direction, name, nth in places:
            # Oids are asked for in batches: that call shall not be one of those counted.
            storage.new_oid(), storage.new_oid()
            link = proxy.links[-1]
            rule = Breaker(direction, name, nth, action, proxy, comes_back)
            proxy.rule = rule
            is_acknowledged = False
            caught: type[BaseException] | None = None
            with promptly(6):
                try:
                    written = commit_with_blob(storage, blobs)
                    is_acknowledged = True
                except (ClientDisconnected, OutcomeUnknown) as error:
                    caught = type(error)
            assert rule.is_done, f"no {name} passed"
            assert link.is_cut.wait(10)
            is_finishing = (direction, name, nth) in finishing
            if is_finishing and (direction, name, nth) == voted:
                pass
            elif is_finishing and is_own:
                is_whole = name != "tpc_finish" or action is Action.CUT_AFTER
                assert caught is (None if is_whole else NotCommitted), name
            elif is_finishing:
                # An acknowledgement needs the last reply to have come through.
                is_last = name == ".reply" and action is Action.CUT_AFTER
                assert caught is (None if is_last else OutcomeUnknown), name
            else:
                assert caught is not None
                assert issubclass(caught, ClientDisconnected)
                assert caught is not NotCommitted
            proxy.is_refusing = False
            proxy.rule = lambda passing: Action.PASS
            # Answered on a new connection: the old one is cut.
            storage.ping()
            if is_acknowledged:
                assert storage.load(written[0])[0] == written[1]
        check_whole(server.address)
        # Nothing is held any more.
        with promptly(5):
            commit_with_blob(storage, blobs)
        assert not list(blobs.rglob("*.tmp-"))


class Breaker:
    """The rule that cuts at the nth frame of a name."""

    def __init__(
        self,
        direction: Direction,
        name: str,
        nth: int,
        action: Action,
        proxy: Proxy,
        comes_back: bool,
    ) -> None:
        self._what = direction, name
        self._left = nth
        self._action = action
        self._proxy = proxy
        self._comes_back = comes_back
        self.is_done = False

    def __call__(self, passing: Passing) -> Action:
        if self.is_done or (passing.direction, passing.name) != self._what:
            return Action.PASS
        if self._left:
            self._left -= 1
            return Action.PASS
        self.is_done = True
        self._proxy.is_refusing = not self._comes_back
        return self._action


def check_whole(address: Any) -> None:
    """Every object that names a blob is there with its blob."""
    from zeolith.protocol.messages import RecordIternext

    with RawClient(address) as client:
        following: Any = None
        while True:
            _oid, _tid, data, following = client.call(RecordIternext(following))
            if data != RECORD:
                _, tid, _ = client.load(data)
                assert blob(client, data, tid) == b"blob" * 20000
            if following is None:
                return


def test_b_transaction_commit_returns_at_once_when_the_server_goes(
    tmp_path: Path, client: Open, is_own: bool
) -> None:
    """F: with ZODB on top: commit() raises, abort() works, and later commits succeed.

    In Zeolith's own protocol as soon as the server is back and can be asked.
    """
    with ServerProcess(tmp_path / "server") as server, Proxy(server.address) as proxy:
        db = ZODB.DB(client(proxy.address, wait_timeout=25))
        try:
            manager = transaction.TransactionManager()
            connection = db.open(manager)
            for name in ("vote", "tpc_finish"):
                connection.root()[name] = PersistentMapping()
                comes_back = is_own and name == "tpc_finish"
                proxy.rule = Breaker(UP, name, 0, Action.CUT, proxy, comes_back)
                with promptly(6):
                    with pytest.raises((ClientDisconnected, OutcomeUnknown)) as caught:
                        manager.commit()
                    manager.abort()
                assert isinstance(caught.value, NotCommitted) is comes_back
                assert isinstance(caught.value, TransientError) is (is_own or name == "vote")
                proxy.is_refusing = False
                proxy.rule = lambda passing: Action.PASS
                wait_until(db.storage.is_connected)
                manager.begin()
                connection.root()["again " + name] = 1
                manager.commit()
            assert sorted(connection.root()) == ["again tpc_finish", "again vote"]
            connection.close()
        finally:
            db.close()


# -- servers that are not there, or say nothing ------------------------------------------------


def test_b_a_server_that_accepts_and_never_speaks(
    fake: FakeServer, mapping: MappingStorage, serve: Serve, client: Open
) -> None:
    """ZEO 6.2: the heartbeat raises AttributeError."""
    with promptly(10), pytest.raises(ClientDisconnected):
        client(fake.address, wait_timeout=0.3)
    # Beside a server that does speak it costs nothing.
    server = serve(mapping)
    with promptly(10):
        storage = client([fake.address, server.address])
        commit(storage, oid_of(1), b"x")
    storage.close()
    with promptly(10):
        waiting = client(fake.address, wait=False, wait_timeout=0.1)
        with pytest.raises(ClientDisconnected):
            waiting.ping()
        waiting.close()


def test_b_a_server_that_greets_and_then_says_nothing(fake: FakeServer, client: Open) -> None:
    opening = Background(lambda: client(fake.address, wait_timeout=0.5))
    connection = fake.accept()
    connection.greet()
    with promptly(10), pytest.raises(ClientDisconnected):
        opening.result()


@pytest.mark.parametrize("greets", [False, True])
def test_b_a_server_that_recovers_from_saying_nothing(
    fake: FakeServer, client: Open, monkeypatch: pytest.MonkeyPatch, greets: bool
) -> None:
    """An attempt that leads nowhere is given up and made again."""
    monkeypatch.setattr(connector, "GREETING_TIMEOUT", 0.1)
    monkeypatch.setattr(link, "ATTEMPT_TIMEOUT", 0.1)
    opening = Background(lambda: client(fake.address))
    silent = fake.accept()
    if greets:
        silent.greet()
    with promptly(10):
        fake.accept().admit(tid_of(1))
        opening.result()


def test_b_something_that_is_no_server(client: Open, fake: FakeServer) -> None:
    opening = Background(lambda: client(fake.address, wait_timeout=60))
    connection = fake.accept()
    connection.socket.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    with promptly(10), pytest.raises(ServerRefused, match="not a ZEO server"):
        opening.result()


@pytest.mark.parametrize("family", ["tcp", "unix"])
def test_b_the_client_may_start_before_the_server(
    mapping: MappingStorage, serve: Serve, client: Open, tmp_path: Path, family: str
) -> None:
    """ZEO#226."""
    address: Any = ("127.0.0.1", free_port()) if family == "tcp" else str(tmp_path / "socket")
    opening = Background(lambda: client(address, min_disconnect_poll=0.01, max_disconnect_poll=0.1))
    lazy = client(address, wait=False, min_disconnect_poll=0.01, max_disconnect_poll=0.1)
    assert not lazy.is_connected()
    opening.join(0.2)
    assert opening.is_alive()
    serve(mapping, address=address)
    storage: Any = opening.result()
    commit(storage, oid_of(1), b"x")
    assert lazy.load(oid_of(1))[0] == b"x"


def test_b_a_connection_thread_that_fails_does_not_hang_the_constructor(
    client: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """d083834b: the thread died before its loop ran, and everybody waited for it."""

    def fail(*_args: Any, **_kw: Any) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr(Connector, "connect", fail)
    with promptly(10), pytest.raises(ClientDisconnected, match="a defect"):
        client(("127.0.0.1", free_port()), wait_timeout=0.3)


def test_b_closing_frees_who_waits(fake: FakeServer, attach: Attach) -> None:
    storage, server = attach()
    waiting = [
        Background(lambda: storage.loadBefore(oid_of(1), MAX_TID)),
        Background(lambda: storage.loadBefore(oid_of(2), MAX_TID)),
        Background(storage.ping),
    ]
    for _ in range(3):
        server.next()
    with promptly(5):
        storage.close()
        for thread in waiting:
            with pytest.raises(ClientDisconnected):
                thread.result()
    with promptly(5), pytest.raises(ClientDisconnected):
        storage.loadBefore(oid_of(3), MAX_TID)
    storage.close()


def test_b_closing_while_connecting(fake: FakeServer, client: Open) -> None:
    storage = client(fake.address, wait=False)
    fake.accept()
    with promptly(5):
        storage.close()


def test_b_a_lost_connection_says_why(
    fake: FakeServer, attach: Attach, caplog: pytest.LogCaptureFixture
) -> None:
    """ZEO#165: cancelled futures hid the cause."""
    caplog.set_level(logging.INFO)
    storage, server = attach(wait_timeout=0.2)
    loading = Background(lambda: storage.loadBefore(oid_of(1), MAX_TID))
    server.expect(LoadBefore)
    server.close()
    fake.close()
    with pytest.raises(ClientDisconnected, match=r"refused|reset|closed"):
        loading.result()
    assert "disconnected from" in caplog.text


# -- flow control ------------------------------------------------------------------------------


def test_b_large_messages_both_ways_at_once(
    files: FileStorage, serve: Serve, client: Open, raw: Connect, tmp_path: Path, loop: str
) -> None:
    """ZEO#195, #217: `write paused` was never resumed, one message was lost."""
    server = serve(files, loop=loop, output_mark=1 << 16)
    storage = client(server.address, blob_dir=str(tmp_path / "client"), cache_size=1 << 20)
    numbers = range(1, 7)
    for number in numbers:
        commit(storage, oid_of(number), bytes([number]) * 1_000_000)

    def read() -> None:
        for _turn in range(3):
            for number in numbers:
                data, _ = storage.load(oid_of(number))
                assert data == bytes([number]) * 1_000_000

    def upload(number: int) -> None:
        meta = TransactionMetaData()
        source = tmp_path / f"source{number}"
        source.write_bytes(bytes([number]) * 5_000_000)
        storage.tpc_begin(meta)
        storage.storeBlob(oid_of(100 + number), Z64, RECORD, str(source), "", meta)
        storage.tpc_vote(meta)
        tid = storage.tpc_finish(meta)
        Path(storage.loadBlob(oid_of(100 + number), tid)).unlink()
        path = storage.loadBlob(oid_of(100 + number), tid)
        assert Path(path).read_bytes() == bytes([number]) * 5_000_000

    threads = [Background(read) for _ in range(3)]
    threads += [Background(lambda number=n: upload(number)) for n in range(3)]  # type: ignore[misc]
    for thread in threads:
        thread.result(60)


def test_b_undo_information_over_the_network(
    files: FileStorage, serve: Serve, client: Open
) -> None:
    """CMFPlone#2175: undoInfo disconnected the client."""
    storage = client(serve(files).address)
    db = ZODB.DB(storage)
    try:
        with db.transaction("a note") as connection:
            connection.root()["key"] = 1
        found = storage.undoInfo(0, -20, {"description": b"a note"})
        assert [item["description"] for item in found] == [b"a note"]
        assert len(db.undoLog(0, 10)) == 2
        assert storage.undoLog(0, -20, lambda item: b"a note" in item["description"]) == found
        db.undo(found[0]["id"])
        transaction.commit()
        with db.transaction() as connection:
            assert "key" not in connection.root()
        assert storage.is_connected()
    finally:
        transaction.abort()
        db.close()


# -- read-only servers -------------------------------------------------------------------------


def test_b_read_only_fallback_and_upgrade(tmp_path: Path, client: Open) -> None:
    port = free_port()
    writable = ("127.0.0.1", port)
    path = str(tmp_path / "Data.fs")
    FileStorage(path).close()
    with running_server(FileStorage(path, read_only=True), read_only=True) as reader:
        storage = client(
            [writable, reader.address],
            read_only_fallback=True,
            min_disconnect_poll=0.01,
            max_disconnect_poll=0.05,
        )
        assert storage.isReadOnly()
        with pytest.raises(ReadOnlyError):
            storage.tpc_begin(TransactionMetaData())
        with running_server(MappingStorage(), address=writable):
            wait_until(lambda: not storage.isReadOnly(), "the writable server is taken")
            commit(storage, oid_of(1), b"x")
            assert storage.load(oid_of(1))[0] == b"x"
        wait_until(storage.isReadOnly, "back to the fallback")


def test_b_a_writable_client_does_not_take_a_read_only_server(
    mapping: MappingStorage, serve: Serve, client: Open
) -> None:
    server = serve(mapping, read_only=True)
    with promptly(10), pytest.raises((ReadOnlyError, ClientDisconnected)):
        client(server.address, wait_timeout=0.5)


def test_b_a_read_only_client_of_a_writable_server(
    mapping: MappingStorage, serve: Serve, client: Open, raw: Connect
) -> None:
    server = serve(mapping)
    storage = client(server.address, read_only=True)
    assert storage.isReadOnly()
    with pytest.raises(ReadOnlyError):
        storage.tpc_begin(TransactionMetaData())
    watching = raw(server.address, read_only=True)
    watching.begin()
    assert fault_of(watching.vote) == "ReadOnlyError"

"""Connecting, verifying, losing and finding servers, over real sockets."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from ZODB.POSException import ReadOnlyError

from zeolith.client.states import State
from zeolith.client.storage import ClientStorage
from zeolith.errors import (
    ClientDisconnected,
    ConfigurationError,
    OtherDatabase,
    ServerBehindCache,
    ServerRefused,
    UnknownVersion,
)
from zeolith.protocol.framing import frame
from zeolith.protocol.hello import Database as Identity
from zeolith.protocol.hello import serialize_refusal
from zeolith.protocol.messages import (
    GetInvalidations,
    InvalidateTransaction,
    LoadBefore,
    Register,
    SetClientLabel,
)

from .scripted import ScriptedServer, tid

OID, OTHER = tid(1), tid(2)


class Database:
    """Stands for ZODB's DB: writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.changed = threading.Condition()

    def invalidate(self, tid: bytes, oids: list[bytes]) -> None:
        with self.changed:
            self.told.append((tid, sorted(oids)))
            self.changed.notify_all()

    def invalidateCache(self) -> None:  # noqa: N802 - ZODB's name
        with self.changed:
            self.told.append("everything")
            self.changed.notify_all()

    def untransform_record_data(self, data: bytes) -> bytes:
        return data

    transform_record_data = untransform_record_data

    def wait_for(self, *told: Any) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: self.told == list(told), 10), self.told

    def wait_for_everything(self, tid: bytes) -> None:
        """Wait until all is said to have changed, twice, and in between up to when."""
        self.wait_for("everything", (tid, []), "everything")


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    server = ScriptedServer()
    yield server
    server.close()


@pytest.fixture
def second_server() -> Iterator[ScriptedServer]:
    server = ScriptedServer()
    yield server
    server.close()


@pytest.fixture
def connect(server: ScriptedServer) -> Iterator[Callable[..., ClientStorage]]:
    storages: list[ClientStorage] = []

    def connect(addr: Any = None, **options: Any) -> ClientStorage:
        options.setdefault("wait_timeout", 10)
        options.setdefault("min_disconnect_poll", 0.01)
        storage = ClientStorage(addr or server.address, **options)
        storages.append(storage)
        return storage

    yield connect
    for storage in storages:
        storage.close()


def registered(storage: ClientStorage) -> Database:
    database = Database()
    storage.registerDB(database)
    return database


def wait_for_state(storage: ClientStorage, *states: State) -> None:
    link = storage._link
    with link._changed:
        assert link._changed.wait_for(lambda: link.state in states, 10), link.state


def next_request(server: ScriptedServer, kind: type) -> Any:
    while True:
        request = server.requests.get(timeout=10)
        if isinstance(request, kind):
            return request


def test_a_new_client_starts_at_the_servers_last_transaction(server: Any, connect: Any) -> None:
    storage = connect()
    assert storage.lastTransaction() == tid(10)
    assert storage.is_connected()
    assert storage.getName().endswith("(connected)")
    assert (len(storage), storage.getSize()) == (1, 2)
    assert storage.sortKey() == f"1:{server.address}"


def test_the_label_is_told(server: Any, connect: Any) -> None:
    connect(client_label="web 1")
    assert next_request(server, SetClientLabel).label == "web 1"


def test_invalidations_are_applied_without_any_call_rule_r3(server: Any, connect: Any) -> None:
    storage = connect()
    database = registered(storage)
    server.objects[OID] = (b"old", tid(5), None)
    assert storage.load(OID) == (b"old", tid(5))
    server.objects[OID] = (b"new", tid(11), None)
    server.invalidate(11, OID)
    database.wait_for((tid(11), [OID]))
    # The cache was told before the database was.
    assert storage.load(OID) == (b"new", tid(11))
    storage.ping()
    assert storage.lastTransaction() == tid(11)


def test_invalidations_that_arrive_while_verifying_are_kept_in_order(
    server: Any, connect: Any
) -> None:
    server.before_get_info = [
        InvalidateTransaction(tid(11), [OID]),
        InvalidateTransaction(tid(12), [OTHER]),
    ]
    storage = connect()
    assert storage.lastTransaction() == tid(12)


def test_after_a_break_what_was_missed_is_applied_and_the_rest_kept_rule_r6(
    server: Any, connect: Any
) -> None:
    storage = connect()
    database = registered(storage)
    server.objects = {OID: (b"a", tid(5), None), OTHER: (b"b", tid(5), None)}
    storage.load(OID)
    storage.load(OTHER)
    server.last_tid, server.missed = tid(13), (tid(13), [OID])
    server.objects[OID] = (b"new", tid(13), None)
    server.before_get_info = [
        InvalidateTransaction(tid(12), [OTHER]),  # older than the answer: known already
    ]
    server.drop_connections()
    database.wait_for((tid(13), [OID]))
    assert storage.load(OID) == (b"new", tid(13))
    while not server.requests.empty():
        server.requests.get()
    assert storage.load(OTHER) == (b"b", tid(5))
    assert server.requests.empty()
    assert storage.lastTransaction() == tid(13)


def test_a_cache_whose_gaps_are_not_known_is_dropped_rule_r6(server: Any, connect: Any) -> None:
    storage = connect()
    database = registered(storage)
    server.objects = {OID: (b"a", tid(5), None)}
    storage.load(OID)
    server.last_tid, server.missed = tid(13), None
    server.objects[OID] = (b"new", tid(13), None)
    server.drop_connections()
    database.wait_for_everything(tid(13))
    assert storage.load(OID) == (b"new", tid(13))


def test_drop_cache_rather_verify_does_not_ask(server: Any, connect: Any) -> None:
    storage = connect(drop_cache_rather_verify=True)
    database = registered(storage)
    server.last_tid, server.missed = tid(13), (tid(13), [OID])
    server.drop_connections()
    database.wait_for_everything(tid(13))


def test_an_unchanged_server_keeps_everything(server: Any, connect: Any) -> None:
    storage = connect()
    database = registered(storage)
    server.objects = {OID: (b"a", tid(5), None)}
    storage.load(OID)
    server.drop_connections()
    storage.ping()
    assert database.told == []
    assert storage.load(OID) == (b"a", tid(5))


def test_a_restored_database_drops_the_cache_with_a_warning_that_names_both_tids_rule_r6(
    server: Any, connect: Any, caplog: pytest.LogCaptureFixture
) -> None:
    storage = connect()
    database = registered(storage)
    server.objects = {OID: (b"future", tid(9), None)}
    storage.load(OID)
    server.last_tid = tid(8)
    server.objects = {OID: (b"restored", tid(7), None)}
    server.drop_connections()
    database.wait_for_everything(tid(8))
    assert storage.load(OID) == (b"restored", tid(7))
    assert storage.lastTransaction() == tid(8)
    warning = next(r.getMessage() for r in caplog.records if "restored" in r.getMessage())
    assert tid(8).hex() in warning
    assert tid(10).hex() in warning


def test_a_restored_database_can_be_refused(server: Any, connect: Any) -> None:
    storage = connect(database_behind="refuse")
    server.last_tid = tid(8)
    server.drop_connections()
    wait_for_state(storage, State.CONNECTING)
    with pytest.raises(ServerBehindCache) as caught:
        storage.ping()
    assert (caught.value.server_tid, caught.value.cache_tid) == (tid(8), tid(10))


# -- which database it is ----------------------------------------------------------------------


def prepared(server: Any, connect: Any, **options: Any) -> tuple[ClientStorage, Database]:
    """Return a client that has seen one object of database A."""
    server.database = Identity("A", 1)
    storage = connect(**options)
    database = registered(storage)
    server.objects = {OID: (b"of A", tid(9), None)}
    assert storage.load(OID) == (b"of A", tid(9))
    return storage, database


@pytest.mark.parametrize("last", [8, 10, 12])
def test_another_database_drops_the_cache_with_a_warning_that_names_both(
    server: Any, connect: Any, caplog: pytest.LogCaptureFixture, last: int
) -> None:
    """Whatever its transactions are called: those of the same name are others."""
    storage, database = prepared(server, connect)
    server.database = Identity("B", 1)
    server.last_tid, server.missed = tid(last), (tid(last), [])
    server.objects = {OID: (b"of B", tid(7), None)}
    server.drop_connections()
    database.wait_for_everything(tid(last))
    assert storage.load(OID) == (b"of B", tid(7))
    assert storage.lastTransaction() == tid(last)
    (warning,) = [r.getMessage() for r in caplog.records if "dropping" in r.getMessage()]
    assert "database is B" in warning
    assert "database A" in warning


def test_another_database_can_be_refused(server: Any, connect: Any) -> None:
    storage, _ = prepared(server, connect, database_behind="refuse")
    server.database = Identity("B", 1)
    server.drop_connections()
    wait_for_state(storage, State.CONNECTING)
    with pytest.raises(OtherDatabase, match=r"database is B.*database A") as caught:
        storage.ping()
    assert (caught.value.found, caught.value.known) == ("B", "A")


@pytest.mark.parametrize("last", [10, 12])
def test_another_epoch_drops_the_cache(
    server: Any, connect: Any, caplog: pytest.LogCaptureFixture, last: int
) -> None:
    """Restored, and grown since: the transactions alone do not tell."""
    storage, database = prepared(server, connect)
    server.database = Identity("A", 2)
    server.last_tid, server.missed = tid(last), (tid(last), [])
    server.objects = {OID: (b"restored", tid(7), None)}
    server.drop_connections()
    database.wait_for_everything(tid(last))
    assert storage.load(OID) == (b"restored", tid(7))
    assert "its epoch is 2, and was 1" in caplog.text


@pytest.mark.parametrize("later", [("A", 1), None])
def test_the_same_database_or_none_that_is_named_is_verified_by_transactions(
    server: Any, connect: Any, later: tuple[str, int] | None
) -> None:
    storage, database = prepared(server, connect)
    server.database = None if later is None else Identity(*later)
    server.last_tid, server.missed = tid(12), (tid(12), [])
    server.objects = {}
    server.drop_connections()
    assert next_request(server, GetInvalidations) == GetInvalidations(tid(10))
    wait_for_state(storage, State.READY)
    assert storage.load(OID) == (b"of A", tid(9))
    assert "everything" not in database.told


def test_loads_in_flight_are_made_again_after_a_break(
    server: Any, connect: Any, background: Any
) -> None:
    storage = connect()
    server.holding = True
    server.objects = {OID: (b"a", tid(5), None)}
    loads = [background(storage.load, OID) for _ in range(3)]
    assert next_request(server, LoadBefore).oid == OID
    server.holding = False
    server.drop_connections()
    assert [load.result() for load in loads] == [(b"a", tid(5))] * 3


def test_calls_wait_for_a_server_no_longer_than_wait_timeout(server: Any, connect: Any) -> None:
    storage = connect(wait_timeout=0.2)
    server.close()
    wait_for_state(storage, State.CONNECTING)
    with pytest.raises(ClientDisconnected, match=str(server.address[1])):
        storage.load(OID)


def test_an_unknown_storage_is_refused_at_once(connect: Any) -> None:
    with pytest.raises(ServerRefused, match="unknown storage: 'nope'"):
        connect(storage="nope", wait_timeout=60)


def test_a_peer_that_is_no_zeo_server_is_refused_at_once(connect: Any, background: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def talk() -> None:
            for _ in range(1):
                sock, _ = listener.accept()
                with sock:
                    sock.sendall(b"\0\0\0\4SSH-")

        talking = background(talk)
        with pytest.raises(ServerRefused, match="ZEO protocol 5"):
            connect(listener.getsockname(), wait_timeout=60)
        talking.result()


def test_a_server_that_will_not_have_our_version_is_refused_at_once(
    connect: Any, background: Any
) -> None:
    """What it says in the place of its hello reaches whoever waits."""
    refusal = frame(serialize_refusal(UnknownVersion(1, (7, 8))))

    def talk(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.sendall(frame(b"M5 zeolith 1"))
            assert connection.recv(1000)
            connection.sendall(refusal)
            while connection.recv(1000):
                pass

    with socket.create_server(("127.0.0.1", 0)) as listener:
        talking = background(talk, listener)
        with pytest.raises(ServerRefused, match=r"wants version 1 .* speaks 7, 8"):
            connect(listener.getsockname(), min_disconnect_poll=60, max_disconnect_poll=60)
        talking.result()


def test_without_wait_a_server_may_come_later(connect: Any, server: Any) -> None:
    address = server.address
    server.close()
    storage = connect(address, wait=False, wait_timeout=0.1)
    with pytest.raises(ClientDisconnected):
        storage.ping()
    later = ScriptedServer()
    try:
        storage.new_addr(later.address)
        storage._link.wait(10)
        assert storage.is_connected()
        assert storage.sortKey() == f"1:{later.address}"
    finally:
        later.close()


def test_close_ends_waiting_calls(connect: Any, server: Any, background: Any) -> None:
    storage = connect()
    server.holding = True
    load = background(storage.load, OID)
    next_request(server, LoadBefore)
    storage.close()
    with pytest.raises(ClientDisconnected):
        load.result()
    with pytest.raises(ClientDisconnected):
        storage.load(OID)
    storage.close()


def test_close_does_not_wait_for_a_peer_that_never_speaks(
    connect: Any, server: Any, background: Any
) -> None:
    server.greets = False
    storage = connect(wait=False)
    while not server._connections:
        pass
    background(storage.close).result()


def test_a_read_only_server_is_no_server_for_a_writer(server: Any, connect: Any) -> None:
    server.is_read_only = True
    with pytest.raises(ClientDisconnected, match="read-only"):
        connect(wait_timeout=0.2)


def test_a_read_only_client_raises_read_only_errors(server: Any, connect: Any) -> None:
    server.is_read_only = True
    storage = connect(read_only=True)
    assert storage.isReadOnly()
    for call in (storage.new_oid, lambda: storage.tpc_begin(object())):
        with pytest.raises(ReadOnlyError):
            call()


def test_a_fallback_is_left_for_a_writable_server(server: Any, connect: Any) -> None:
    server.is_read_only = True
    storage = connect(read_only_fallback=True)
    assert storage.isReadOnly()
    assert storage._link.state is State.FALLBACK
    assert [next_request(server, Register).read_only for _ in range(2)] == [False, True]
    server.is_read_only = False
    wait_for_state(storage, State.READY)
    assert not storage.isReadOnly()


def test_of_several_servers_the_writable_one_is_taken(
    server: Any, second_server: Any, connect: Any
) -> None:
    server.is_read_only = True
    storage = connect([server.address, second_server.address], read_only_fallback=True)
    assert not storage.isReadOnly()
    assert storage.sortKey() == f"1:{second_server.address}"


def test_another_server_takes_over(server: Any, second_server: Any, connect: Any) -> None:
    storage = connect([server.address, second_server.address])
    first, other = server, second_server
    if storage.sortKey() != f"1:{server.address}":
        first, other = other, first
    first.close()
    storage.ping()
    assert storage.sortKey() == f"1:{other.address}"


def test_a_late_invalidation_of_a_zeo_server_is_applied(server: Any, connect: Any) -> None:
    storage = connect()
    database = registered(storage)
    server.objects[OID] = (b"old", tid(5), None)
    storage.load(OID)
    server.objects[OID] = (b"new", tid(9), None)
    server.invalidate(9, OID)
    database.wait_for((tid(10), [OID]))
    assert storage.load(OID) == (b"new", tid(9))
    assert storage.lastTransaction() == tid(10)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"addr": object()}, "addr"),
        ({"addr": []}, "addr"),
        ({"addr": ("host", 70000)}, "addr"),
        ({"storage": ""}, "storage"),
        ({"wait_timeout": -1}, "wait_timeout"),
        ({"read_only": True, "read_only_fallback": True}, "read_only_fallback"),
        ({"ssl": "yes"}, "ssl"),
        ({"ssl_server_hostname": "db"}, "ssl_server_hostname"),
        ({"min_disconnect_poll": 9, "max_disconnect_poll": 3}, "min_disconnect_poll"),
        ({"database_behind": "panic"}, "database_behind"),
        ({"cache": "path.zec", "client": "zeo1"}, "client"),
        ({"client": "no/name"}, "client"),
        ({"cache": object(), "var": "/tmp"}, "var"),
        ({"cache_size": "20MB"}, "cache_size"),
        ({"shared_blob_dir": True}, "shared_blob_dir"),
        ({"blob_cache_size": 1000}, "blob_cache_size"),
        ({"disconnect_poll": 1}, "disconnect_poll"),
        ({"username": "me"}, "username"),
        ({"password": "secret"}, "password"),
        ({"realm": "ZEO"}, "realm"),
        ({"credentials": "x"}, "credentials"),
        ({"debug": True}, "debug"),
    ],
)
def test_a_keyword_that_cannot_be_used_is_refused_by_name(
    options: dict[str, Any], named: str
) -> None:
    options.setdefault("addr", 8100)
    with pytest.raises(ConfigurationError) as caught:
        ClientStorage(**options, wait=False)
    assert caught.value.option == named
    assert "secret" not in str(caught.value)

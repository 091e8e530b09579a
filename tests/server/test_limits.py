"""R8: each limit holds at its edge, and is counted where it is reached."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path
from typing import Any

import pytest
import trustme
from tests.support.raw import Closed, RawClient, connect, fault_of, oid_of
from tests.support.waiting import Background, promptly, wait_until
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage

from zeolith import ClientStorage
from zeolith.admin.asking import Target
from zeolith.admin.status import fetch_status
from zeolith.admin.statustext import render_status
from zeolith.errors import ClientDisconnected, PickleRefused, ServerFull
from zeolith.protocol.framing import frame
from zeolith.protocol.greeting import Coding
from zeolith.protocol.limits import DEFAULT_LIMITS, FIRST_UPLOAD, Limits
from zeolith.protocol.messages import IteratorStart, Notice, SetClientLabel, StoreBlobShared
from zeolith.protocol.streamrequests import StreamCancel, StreamData
from zeolith.server import crowd
from zeolith.server.monitor import make_report
from zeolith.server.tally import Limit

RECORD = b"cZODB.blob\nBlob\n."


def reached(server: Any) -> dict[str, int]:
    """Return the limits that the server's status counts, without those that were not reached."""
    found = fetch_status(Target(server.address)).server
    assert found is not None
    return {name: count for name, count in found["limits"].items() if count}


def test_the_status_tells_all(serve: Any, mapping: MappingStorage) -> None:
    server = serve(mapping, max_connections=100)
    status = fetch_status(Target(server.address))
    assert status.server is not None
    assert status.server["limits"] == {limit.value: 0 for limit in Limit}
    assert status.server["max_connections"] == 100
    assert "limits reached" not in render_status(status, connections=False)
    status.server["limits"]["blob_size"] = 3
    assert "limits reached  3 blob size\n" in render_status(status, connections=False)


# -- connections ---------------------------------------------------------------------------------


@pytest.mark.parametrize("option", ["max_connections", "max_connections_per_address"])
def test_connections(
    serve: Any,
    raw: Any,
    mapping: MappingStorage,
    loop: str,
    option: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Those that have registered keep their places, however long they have them.
    monkeypatch.setattr(crowd, "PATIENCE", 0.0)
    server = serve(mapping, loop=loop, **{option: 3})
    clients = [raw(server.address) for _ in range(3)]
    with promptly(5), pytest.raises(ServerFull):
        RawClient(server.address)
    for client in clients:
        client.ping()
    clients[0].close()
    wait_until(lambda: is_let_in(server.address))
    clients[1].close()
    name = option.removeprefix("max_")
    wait_until(lambda: is_let_in(server.address))
    assert reached(server)[name] >= 1
    assert "Limits reached: " in make_report(server._lobby)


def is_let_in(address: Any, tls: ssl.SSLContext | None = None) -> bool:
    try:
        RawClient(address, tls=tls).close()
    except (ServerFull, ConnectionError, ssl.SSLError, Closed):
        return False
    return True


def test_a_client_that_finds_no_room_tries_again(
    serve: Any, raw: Any, mapping: MappingStorage
) -> None:
    """And says why, if asked meanwhile."""
    server = serve(mapping, max_connections=1)
    first = raw(server.address)
    storage = ClientStorage(
        server.address, wait=False, wait_timeout=0.2, min_disconnect_poll=0.01,
        max_disconnect_poll=0.05,
    )  # fmt: skip
    try:
        wait_until(lambda: "as many connections as it takes" in why_not(storage))
        first.close()
        wait_until(storage.is_connected)
    finally:
        storage.close()


def test_a_client_that_waits_goes_on_waiting_for_room(
    serve: Any, raw: Any, mapping: MappingStorage
) -> None:
    server = serve(mapping, max_connections=1)
    first = raw(server.address)
    opening = Background(lambda: ClientStorage(server.address, wait_timeout=20))
    wait_until(lambda: server._lobby.tally[Limit.CONNECTIONS] > 0)
    first.close()
    storage = opening.result()
    assert isinstance(storage, ClientStorage)
    storage.close()


def why_not(storage: ClientStorage) -> str:
    """Return what the client says of a server that it does not reach."""
    with pytest.raises(ClientDisconnected) as caught:
        storage.loadBefore(oid_of(1), b"\x7f" + bytes(7))
    return str(caught.value)


def test_silent_connections_make_room(serve: Any, mapping: MappingStorage) -> None:
    """As soon as they had their time: nobody is kept out by those that say nothing."""
    server = serve(mapping, max_connections=3)
    silent = [connect(server.address) for _ in range(3)]
    for sock in silent:
        assert sock.recv(100)
    with promptly(10):
        wait_until(lambda: is_let_in(server.address))
    with promptly(5):
        assert read_to_end(silent[0])
    for sock in silent:
        sock.close()
    assert reached(server)["connections"] >= 1


def read_to_end(sock: socket.socket) -> bool:
    try:
        while sock.recv(1000):
            pass
    except ConnectionError:
        pass
    return True


def test_connections_over_a_unix_socket(serve: Any, raw: Any, tmp_path: Path) -> None:
    server = serve(
        MappingStorage(), address=str(tmp_path / "s"), max_connections_per_address=1,
        max_connections=3,
    )  # fmt: skip
    for _ in range(3):
        raw(server.address).ping()
    with pytest.raises(ServerFull):
        RawClient(server.address)


@pytest.fixture
def tls() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Of a server, and of a client."""
    authority = trustme.CA()
    ours, theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("localhost").configure_cert(ours)
    authority.configure_trust(theirs)
    return ours, theirs


def test_connections_count_from_before_their_handshake(
    serve: Any, raw: Any, mapping: MappingStorage, loop: str, tls: Any
) -> None:
    ours, theirs = tls
    server = serve(mapping, loop=loop, ssl=ours, max_connections=2)
    places = server._lobby.crowd
    silent = [connect(server.address) for _ in range(2)]
    wait_until(lambda: places.count == 2)
    with connect(server.address) as third, promptly(5):
        assert third_is_closed(third)
    # After their time they make room.
    with promptly(10):
        wait_until(lambda: is_let_in(server.address, theirs))
    for sock in silent:
        sock.close()
    wait_until(lambda: places.count == 0)
    # Whatever becomes of a handshake, its place is given back.
    for said in (b"", b"\x16\x03\x01\x02\x00\x01", b"GET / HTTP/1.0\r\n\r\n", frame(b"Z5")):
        for _ in range(3):
            with connect(server.address) as sock:
                sock.sendall(said)
        # Who is let in now has come after them.
        wait_until(lambda: is_let_in(server.address, theirs))
        wait_until(lambda: places.count == 0)
    for _ in range(2):
        raw(server.address, tls=theirs).ping()
    assert places.count == 2


def third_is_closed(sock: socket.socket) -> bool:
    """Return whether nothing is said, not even in plain text, and the connection ends."""
    try:
        return sock.recv(100) == b""
    except ConnectionError:
        return True


def test_who_does_not_register_in_time(serve: Any, mapping: MappingStorage) -> None:
    server = serve(mapping, register_timeout=0.1)
    with connect(server.address) as silent, promptly(10):
        read_to_end(silent)
    assert reached(server) == {"register_timeout": 1}


# -- what is said --------------------------------------------------------------------------------


def test_messages(serve: Any, raw: Any, mapping: MappingStorage) -> None:
    limits = Limits(max_message_size=100_000)
    server = serve(mapping, limits=limits)
    client = raw(server.address)
    client.socket.sendall((100_001).to_bytes(4, "big"))
    with promptly(10):
        client.wait_closed()
    client = raw(server.address)
    data = bytes(100_000 - 100)
    client.commit({oid_of(1): (bytes(8), data)})
    assert client.load(oid_of(1))[0] == data
    assert reached(server) == {"message_size": 1}


def test_messages_that_do_not_arrive(serve: Any, raw: Any, mapping: MappingStorage) -> None:
    size = DEFAULT_LIMITS.max_message_size
    server = serve(mapping, incoming_limit=size)
    clients = [raw(server.address) for _ in range(2)]
    server.status()
    lobby = server._lobby
    part = bytes(1 << 20)
    clients[0].socket.sendall(size.to_bytes(4, "big") + part)
    wait_until(lambda: lobby.incoming > len(part))
    # What more would cost a quarter of a gigabyte here.
    lobby.incoming += size - len(part)
    clients[1].socket.sendall(size.to_bytes(4, "big") + part)
    with promptly(10):
        clients[0].wait_closed()
    wait_until(lambda: reached(server).get("incoming", 0) >= 1)


def test_outstanding_calls(serve: Any, raw: Any, files: FileStorage) -> None:
    server = serve(files, max_outstanding=1)
    client = raw(server.address)
    client.call(IteratorStart(None, None))
    assert reached(server)["outstanding_calls"] == 1


@pytest.mark.parametrize("coding", [Coding.PICKLE, Coding.OWN])
def test_iterators(serve: Any, raw: Any, files: FileStorage, coding: Coding) -> None:
    server = serve(files, max_iterators=2)
    client = raw(server.address, coding=coding)
    for _ in range(2):
        client.call(IteratorStart(None, None))
    assert fault_of(lambda: client.call(IteratorStart(None, None))) == "StorageError"
    assert reached(server) == {"iterators": 1}


def test_lines_of_the_log(
    serve: Any, mapping: MappingStorage, caplog: pytest.LogCaptureFixture
) -> None:
    """Also those of registered clients, with labels."""
    server = serve(mapping, peer_log_lines=10)
    for _ in range(20):
        with RawClient(server.address) as client:
            client.send(SetClientLabel("chatterbox"))
            client.socket.sendall(frame(b"nonsense"))
            client.wait_closed()
    about = [record for record in caplog.records if "chatterbox" in record.getMessage()]
    assert 0 < len(about) <= 10
    assert reached(server)["log_lines"] >= 10


# -- transactions --------------------------------------------------------------------------------


@pytest.mark.parametrize("excess", [0, 1])
def test_the_size_of_a_transaction(
    serve: Any, raw: Any, mapping: MappingStorage, excess: int
) -> None:
    server = serve(mapping, max_transaction_size=10_300)
    client = raw(server.address)
    client.begin()
    client.store(oid_of(1), bytes(10_000 + excess))
    fault = fault_of(client.vote)
    assert fault == ("TransactionTooLargeError" if excess else "no error")
    assert reached(server) == ({"transaction_size": 1} if excess else {})


@pytest.mark.parametrize("excess", [0, 1])
def test_the_size_of_a_blob(
    serve: Any, raw: Any, files: FileStorage, tmp_path: Path, excess: int
) -> None:
    size = 100_000
    server = serve(files, max_blob_size=size)
    client = raw(server.address)
    client.begin()
    client.store_blob(oid_of(1), RECORD, bytes(size + excess))
    if not excess:
        client.vote()
        client.finish()
        assert reached(server) == {}
        return
    assert fault_of(client.vote) == "TransactionTooLargeError"
    assert reached(server) == {"blob_size": 1}
    client.ping()
    # What had arrived is gone.
    wait_until(lambda: not [*(tmp_path / "blobs").rglob("zeolith-upload-*")])


@pytest.mark.parametrize("excess", [0, 1])
def test_the_size_of_a_blob_on_a_stream(
    serve: Any, files: FileStorage, tmp_path: Path, excess: int
) -> None:
    """With a real client, which is to understand the refusal."""
    import transaction
    import ZODB
    from ZODB.blob import Blob
    from ZODB.POSException import TransactionTooLargeError

    size = 1_000_000
    server = serve(files, max_blob_size=size)
    storage = ClientStorage(server.address, blob_dir=str(tmp_path / "cache"))
    db = ZODB.DB(storage)
    try:
        with db.transaction() as connection:
            connection.root()["x"] = 1
        manager = transaction.TransactionManager()
        connection = db.open(manager)
        connection.root()["blob"] = Blob(bytes(size + excess))
        if excess:
            with pytest.raises(TransactionTooLargeError, match="max-blob-size"):
                manager.commit()
            manager.abort()
        else:
            manager.commit()
        connection.root()["x"] = 2
        manager.commit()
        connection.close()
        assert reached(server) == ({"blob_size": 1} if excess else {})
    finally:
        db.close()


def test_an_upload_that_is_too_large_is_cut_off(
    serve: Any, raw: Any, files: FileStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of what is too much is written."""
    monkeypatch.setattr("zeolith.server.uploads.SHORT", 0)  # none waits for its end
    server = serve(files, max_blob_size=1000)
    client = raw(server.address, coding=Coding.OWN)
    client.send(StreamData(FIRST_UPLOAD, bytes(1000)), StreamData(FIRST_UPLOAD, bytes(5000)))
    client.ping()
    said = [message.request for message in client.inbox if isinstance(message, Notice)]
    assert StreamCancel(FIRST_UPLOAD) in said
    blobs = tmp_path / "blobs"
    wait_until(lambda: [each.stat().st_size for each in blobs.rglob("zeolith-upload-*")] == [1000])
    assert reached(server) == {"blob_size": 1}
    # An upload behind it has its turn after it: nothing more was on its way.
    client.send(StreamData(FIRST_UPLOAD + 1, b"x"))
    wait_until(lambda: len([*blobs.rglob("zeolith-upload-*")]) == 2)
    assert sum(each.stat().st_size for each in blobs.rglob("zeolith-upload-*")) <= 1001


@pytest.mark.parametrize("excess", [0, 1])
def test_the_size_of_a_shared_blob(serve: Any, raw: Any, files: FileStorage, excess: int) -> None:
    size = 1000
    server = serve(files, max_blob_size=size)
    client = raw(server.address)
    directory = Path(files.fshelper.getPathForOID(oid_of(1), create=True))
    (directory / "x.tmp").write_bytes(bytes(size + excess))
    client.begin()
    client.store(oid_of(1), RECORD)
    client.send(StoreBlobShared(oid_of(1), bytes(8), RECORD, "x.tmp", 1))
    assert fault_of(client.vote) == ("TransactionTooLargeError" if excess else "no error")
    assert reached(server) == ({"blob_size": 1} if excess else {})


# -- codings -------------------------------------------------------------------------------------


def test_without_pickle(serve: Any, raw: Any, mapping: MappingStorage, loop: str) -> None:
    server = serve(mapping, loop=loop, pickle=False)
    for coding in (Coding.MSGPACK, Coding.OWN):
        client = raw(server.address, coding=coding)
        assert client.greeting.coding is Coding.MSGPACK
        client.commit({oid_of(coding is Coding.OWN): (bytes(8), b"x")})
    with RawClient(server.address, None) as insists, promptly(10):
        insists.wait_closed()
    with RawClient(server.address, None) as eager, promptly(10):
        # Not a byte behind its choice is looked at.
        eager.socket.sendall(frame(b"cos\nsystem\n(S'true'\ntR."))
        eager.wait_closed()
    wait_until(lambda: reached(server).get("pickle") == 2)


def test_why_pickle_is_refused() -> None:
    assert "pickle false" in str(PickleRefused())

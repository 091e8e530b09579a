"""Starting, listening and ending."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.server.conftest import Connect, Serve
from tests.support.raw import Z64, Closed, RemoteFault, connect, oid_of
from tests.support.storages import gate, hook
from tests.support.waiting import DEADLINE, Background, promptly, wait_until
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage

from zeolith.errors import ConfigurationError
from zeolith.protocol import messages as m
from zeolith.protocol.framing import frame
from zeolith.protocol.greeting import Coding, serialize_greeting
from zeolith.server import Server, ServerOptions, start_in_thread

LOOPBACK = ("127.0.0.1", 0)


class Closing(MappingStorage):
    """A storage that says whether it was closed."""

    closed = 0

    def close(self) -> None:
        self.closed += 1
        super().close()


def test_stopping_closes_everything(raw: Connect, loop: Any) -> None:
    storages = {"one": Closing(), "two": Closing()}
    server = Server(storages, ServerOptions(address=LOOPBACK, loop=loop))
    statuses: list[int] = []
    listening = threading.Event()
    thread = threading.Thread(
        target=lambda: statuses.append(server.run(lambda address: listening.set()))
    )
    thread.start()
    assert listening.wait(DEADLINE)
    clients = [raw(server.address, name) for name in storages] + [raw(server.address, None)]
    with promptly():
        server.stop()
        server.stop()
        thread.join()
    assert statuses == [0]
    for client in clients:
        client.wait_closed()
    assert [storage.closed for storage in storages.values()] == [1, 1]
    with pytest.raises(OSError, match="refused"):
        connect(server.address)
    with pytest.raises(RuntimeError, match="once"):
        server.run()


def test_stopped_before_it_runs(loop: Any) -> None:
    storage = Closing()
    server = Server({"1": storage}, ServerOptions(address=LOOPBACK, loop=loop))
    server.stop()
    with promptly():
        assert server.run() == 0
    assert storage.closed == 1


def test_nothing_before_it_listens() -> None:
    server = Server({"1": MappingStorage()}, ServerOptions(address=LOOPBACK))
    for question in (lambda: server.address, server.status):
        with pytest.raises(RuntimeError, match="listen"):
            question()
    server.stop()
    server.run()


def test_nothing_to_serve() -> None:
    with pytest.raises(ConfigurationError, match="storages"):
        Server({}, ServerOptions(address=LOOPBACK))


@pytest.mark.parametrize(
    "option",
    [
        {"transaction_timeout": -1},
        {"invalidation_queue_size": -1},
        {"register_timeout": 0},
        {"loop": "twisted"},
        {"loads": "somewhere"},
        {"conflict_resolution": "elsewhere"},
        {"conflict_resolution": "worker", "client_conflict_resolution": True},
        {"conflict_resolution_timeout": 0.0},
        {"conflict_resolution_timeout": 1.0, "conflict_resolution": "off"},
        {"conflict_resolution_timeout": 1.0, "client_conflict_resolution": True},
        {"conflict_resolution_memory": 1000},
        {"conflict_resolution_memory": 1 << 30, "conflict_resolution": "in-process"},
    ],
    ids=lambda option: next(iter(option)),
)
def test_r9_options_that_make_no_sense(option: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(option))):
        ServerOptions(address=LOOPBACK, **option)


def test_start_in_thread_reports_failures(loop: Any) -> None:
    with socket.create_server(LOOPBACK) as taken:
        storage = Closing()
        server = Server({"1": storage}, ServerOptions(address=taken.getsockname(), loop=loop))
        with pytest.raises(ConfigurationError, match="in use"):
            start_in_thread(server)
    assert storage.closed == 1


# -- addresses ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "message"),
    [
        (("no.such.host.invalid", 0), "not a known host"),
        (("192.0.2.1", 0), "no address of this machine"),
        ("/no/such/directory/socket", "No such file"),
    ],
)
def test_addresses_that_cannot_be_used(address: Any, message: str) -> None:
    server = Server({"1": MappingStorage()}, ServerOptions(address=address))
    with pytest.raises(ConfigurationError, match=message):
        server.run()


def test_all_interfaces(serve: Serve, raw: Connect, mapping: MappingStorage, loop: str) -> None:
    server = serve(mapping, address=("", 0), loop=loop)
    _, port = server.address
    raw(("127.0.0.1", port)).ping()
    if socket.has_dualstack_ipv6():
        with socket.create_connection(("::1", port), DEADLINE) as sock:
            assert sock.recv(4) == frame(serialize_greeting(Coding.PICKLE))[:4]


def test_a_host_name(serve: Serve, raw: Connect, mapping: MappingStorage) -> None:
    server = serve(mapping, address=("localhost", 0))
    raw(server.address).ping()


def test_unix_sockets(
    serve: Serve, raw: Connect, mapping: MappingStorage, tmp_path: Path, loop: str
) -> None:
    path = str(tmp_path / "socket")
    server = serve(mapping, address=path, loop=loop)
    assert server.address == path
    client = raw(path)
    client.commit({oid_of(1): (Z64, b"x")})
    client.close()
    server.stop()
    wait_until(lambda: not os.path.exists(path), "the socket file is removed")


def test_a_stale_unix_socket_is_taken_over(
    serve: Serve, raw: Connect, mapping: MappingStorage, tmp_path: Path, loop: str
) -> None:
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(path)
    server = serve(mapping, address=path, loop=loop)
    raw(server.address).ping()


def test_a_unix_socket_in_use(serve: Serve, mapping: MappingStorage, tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    serve(mapping, address=path)
    other = Server({"1": MappingStorage()}, ServerOptions(address=path))
    with pytest.raises(ConfigurationError, match="in use by another server"):
        other.run()
    connect(path).close()


def test_a_file_in_place_of_the_socket(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    path.write_text("precious")
    server = Server({"1": MappingStorage()}, ServerOptions(address=str(path)))
    with pytest.raises(ConfigurationError, match="not a socket"):
        server.run()
    assert path.read_text() == "precious"


# -- the first moments of a connection ---------------------------------------------------------


def test_status_probe(serve: Serve, mapping: MappingStorage, loop: str) -> None:
    server = serve({"main": mapping, "other": MappingStorage()}, loop=loop)
    with connect(server.address) as sock:
        sock.sendall(b"\0\0\0\x04ruok")
        data = b""
        while chunk := sock.recv(10_000):
            data += chunk
    greeting = serialize_greeting(Coding.PICKLE)
    assert data.startswith(frame(greeting))
    answer = data[4 + len(greeting) :]
    assert int.from_bytes(answer[:4], "big") == len(answer) - 4
    status = json.loads(answer[4:])
    assert list(status) == ["main", "other"]
    assert status["main"]["timeout-thread-is-alive"] is True
    assert status == server.status()


@pytest.mark.parametrize(("msgpack", "letter"), [(False, b"Z"), (True, b"M")])
def test_the_coding_that_is_proposed(
    serve: Serve, mapping: MappingStorage, msgpack: bool, letter: bytes
) -> None:
    server = serve(mapping, msgpack=msgpack)
    with connect(server.address) as sock:
        assert sock.recv(100)[4:6] == letter + b"5"


@pytest.mark.parametrize("hello", [b"", b"\0\0\0\x02Z5"])
def test_r8_clients_that_do_not_register_are_closed(
    serve: Serve,
    mapping: MappingStorage,
    hello: bytes,
    loop: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    server = serve(mapping, register_timeout=0.1, loop=loop)
    with connect(server.address) as sock, promptly():
        sock.sendall(hello)
        try:
            while sock.recv(100):
                pass
        except ConnectionResetError:
            pass
    assert "not registered within 0.1 s" in caplog.text


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\0\0\0\x02Z4",
        b"\0\0\0\x05Z3101",
        b"\0\0\0\x02Z5\0\0\0\x04junk",
        b"\0\0\0\x02Z5\xff\xff\xff\xff",
    ],
)
def test_nonsense_is_one_line_in_the_log(
    serve: Serve,
    mapping: MappingStorage,
    raw: Connect,
    sent: bytes,
    loop: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    server = serve(mapping, loop=loop)
    bystander = raw(server.address)
    with connect(server.address) as sock:
        port = sock.getsockname()[1]
        sock.sendall(sent)
        while sock.recv(100):
            pass
    bystander.ping()
    (record,) = [record for record in caplog.records if record.levelname != "INFO"]
    assert record.levelname == "WARNING"
    assert f"127.0.0.1:{port}" in record.getMessage()
    assert record.exc_info is None


# -- ends under way ----------------------------------------------------------------------------


def test_r4_a_commit_being_written_gets_its_answer(
    files: FileStorage, serve: Serve, raw: Connect, loop: str, tmp_path: Path
) -> None:
    server = serve(files, loop=loop)
    client = raw(server.address)
    client.begin()
    client.store(oid_of(1), b"x")
    client.vote()
    with gate(files, "tpc_finish") as finishing:
        finish = client.ask(m.TpcFinish(1))
        finishing.wait_reached()
        server.stop()
        wait_until(lambda: not _listens(server.address), "the server listens no more")
        finishing.open()
        tid = client.answer(finish)
    client.wait_closed()
    wait_until(lambda: _closed(files), "the storage is closed")
    with closing(FileStorage(str(tmp_path / "Data.fs"), read_only=True)) as again:
        assert again.lastTransaction() == tid


def _listens(address: Any) -> bool:
    try:
        connect(address).close()
    except OSError:
        return False
    return True


def _closed(storage: FileStorage) -> bool:
    return bool(storage._file.closed)


def test_r7_whoever_holds_the_lock_does_not_hold_up_the_end(
    serve: Serve, raw: Connect, mapping: MappingStorage, loop: str
) -> None:
    server = serve(mapping, loop=loop)
    holder, waiter = raw(server.address), raw(server.address)
    for client in (holder, waiter):
        client.begin()
    holder.vote()
    waiter.ask(m.Vote(1))
    holder.ping()
    with promptly(4):
        server.stop()
        holder.wait_closed()
        with pytest.raises(Closed):
            waiter.receive()
        # Connections are closed before their transactions are given up, on the commit thread.
        wait_until(lambda: mapping._transaction is None, "the transaction is given up")


def test_d_a_pack_is_not_cut_off_while_it_replaces_the_file(
    files: FileStorage, serve: Serve, raw: Connect, tmp_path: Path
) -> None:
    """Between the two renames there is no database file."""
    server = serve(files)
    client = raw(server.address)
    serial = client.commit({bytes(8): (Z64, b"\x80\x03}q\x00.}q\x01.")})
    client.commit({bytes(8): (serial, b"\x80\x03}q\x00.}q\x02.")})
    with gate(files, "_initIndex") as replacing:
        client.ask(m.Pack(time.time() + 1))
        replacing.wait_reached()
        server.stop()
        client.wait_closed()
        assert not _closed(files)
        replacing.open()
        wait_until(lambda: _closed(files), "the storage is closed")
    assert (tmp_path / "Data.fs").exists()


def test_a_storage_that_fails_while_committing_ends_the_server(
    files: FileStorage, raw: Connect, loop: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """FileStorage closes itself then; nobody can know what is on disk."""
    server = Server({"1": files}, ServerOptions(address=LOOPBACK, loop=loop))
    listening = threading.Event()
    run = Background(lambda: server.run(lambda address: listening.set()))
    assert listening.wait(DEADLINE)
    client, other = raw(server.address), raw(server.address)

    def fail(tid: bytes) -> None:
        raise OSError("disk on fire")

    client.begin()
    client.store(oid_of(1), b"x")
    client.vote()
    with hook(files, "_finish_finish", before=fail), promptly():
        with pytest.raises(RemoteFault, match="disk on fire"):
            client.finish()
        other.wait_closed()
        assert run.result() == 1
    # Nobody was told of a transaction that may not exist.
    assert other.invalidations() == []
    critical = [record for record in caplog.records if record.levelname == "CRITICAL"]
    assert any("unknown" in record.getMessage() for record in critical)


def test_a_storage_that_lost_its_own_server_does_not_end_ours(
    serve: Serve, raw: Connect, mapping: MappingStorage
) -> None:
    """Its failure says nothing about our disk."""
    from zeolith.errors import ClientDisconnected

    server = serve(mapping)
    client, other = raw(server.address), raw(server.address)

    def fail(*args: Any) -> None:
        raise ClientDisconnected("the other server has gone")

    client.begin()
    client.store(oid_of(1), b"x")
    client.vote()
    with hook(mapping, "tpc_finish", before=fail), pytest.raises(RemoteFault, match="has gone"):
        client.finish()
    tid = other.commit({oid_of(1): (Z64, b"y")})
    client.ping()
    assert client.invalidations() == [(tid, [oid_of(1)])]

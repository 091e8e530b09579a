"""The text report of ``monitor-address``."""

from __future__ import annotations

import logging
import re
import socket
from pathlib import Path
from typing import Any

import pytest
import trustme
from tests.support.processes import free_port, is_listening
from tests.support.raw import connect, fault_of, oid_of
from tests.support.storages import gate
from tests.support.tlscontexts import client_context, server_context
from tests.support.waiting import Background, promptly, wait_until
from ZODB.MappingStorage import MappingStorage
from ZODB.tests.MinPO import MinPO
from ZODB.tests.StorageTestBase import zodb_pickle

from zeolith.errors import ConfigurationError
from zeolith.protocol.messages import GetInvalidations, Store
from zeolith.server import monitor

KEYS = [
    "Server started",
    "Clients",
    "Clients verifying",
    "Active transactions",
    "Commits",
    "Aborts",
    "Loads",
    "Stores",
    "Conflicts",
    "Conflicts resolved",
]


def monitored(serve: Any, storages: Any, **options: Any) -> Any:
    """Start a server with a monitor at a port of its own."""
    return serve(storages, monitor_address=("127.0.0.1", 0), **options)


def address_of(server: Any) -> Any:
    return server._lobby.monitor_address


def read(address: Any) -> str:
    """Return all that is sent until the connection ends."""
    with connect(address) as sock, sock.makefile("rb") as stream:
        return stream.read().decode()


def values(report: str) -> dict[str, dict[str, str]]:
    """Return the report's values, by storage."""
    found: dict[str, dict[str, str]] = {}
    for line in report.splitlines()[3:]:
        if line:
            key, value = line.split(": ", 1)
            if key == "Storage":
                current = found[value] = {}
            else:
                current[key] = value
    return found


def test_report(serve: Any, raw: Any, mapping: MappingStorage, loop: str) -> None:
    server = monitored(serve, {"1": mapping, "two": MappingStorage()}, loop=loop)
    client, other = raw(server.address), raw(server.address)
    record = zodb_pickle(MinPO(1))
    client.commit({oid_of(1): (bytes(8), record), oid_of(2): (bytes(8), record)})
    client.load(oid_of(1))
    other.begin()
    other.send(Store(oid_of(1), bytes(8), record, 1))
    assert fault_of(other.vote) == "ConflictError"
    client.begin()
    client.ping()
    report = read(address_of(server))
    assert report.startswith("ZEO monitor server version ")
    assert re.match(r"\w+ \w+ +\d+ \d+:\d\d:\d\d \d{4}$", report.splitlines()[1])
    told = values(report)
    assert list(told) == ["1", "two"]
    assert list(told["1"]) == list(told["two"]) == KEYS
    assert told["1"] == {
        "Server started": server.status()["1"]["start"],
        "Clients": "2",
        "Clients verifying": "0",
        "Active transactions": "1",
        "Commits": "1",
        "Aborts": "0",
        "Loads": "1",
        "Stores": "3",
        "Conflicts": "1",
        "Conflicts resolved": "0",
    }
    assert told["two"]["Clients"] == "0"


def test_who_holds_the_lock_and_who_verifies(
    serve: Any, raw: Any, mapping: MappingStorage, loop: str
) -> None:
    server = monitored(serve, mapping, loop=loop, invalidation_age=1e6, invalidation_queue_size=0)
    writer, returning = raw(server.address), raw(server.address)
    first = writer.commit({oid_of(1): (bytes(8), b"x")})
    writer.commit({oid_of(1): (first, b"y")})
    writer.begin()
    writer.vote()
    with gate(mapping, "iterator") as stop:
        verification = returning.ask(GetInvalidations(first))
        stop.wait_reached()
        told = values(read(address_of(server)))["1"]
        assert told["Clients verifying"] == "1"
        assert told["Commit lock held for"] == "0"
        stop.open()
        returning.answer(verification)
    assert values(read(address_of(server)))["1"]["Clients verifying"] == "0"


def test_a_unix_socket(serve: Any, mapping: MappingStorage, tmp_path: Path, loop: str) -> None:
    path = tmp_path / "monitor.sock"
    server = serve(mapping, monitor_address=str(path), loop=loop)
    assert "Storage: 1" in read(str(path))
    server.stop()
    wait_until(lambda: not path.exists())


def test_no_monitor_unless_asked_for(serve: Any, mapping: MappingStorage) -> None:
    assert address_of(serve(mapping)) is None


def test_the_report_is_written_while_a_commit_is(
    serve: Any, raw: Any, mapping: MappingStorage
) -> None:
    server = monitored(serve, mapping)
    client = raw(server.address)
    client.begin()
    client.vote()
    with gate(mapping, "tpc_finish") as stop:
        finish = Background(client.finish)
        stop.wait_reached()
        with promptly():
            assert "Commit lock held for: " in read(address_of(server))
        stop.open()
        finish.result()


def test_reading_leaves_no_noise(
    serve: Any, mapping: MappingStorage, caplog: pytest.LogCaptureFixture, loop: str
) -> None:
    server = monitored(serve, mapping, loop=loop)
    caplog.clear()
    read(address_of(server))
    connect(address_of(server)).close()
    with connect(address_of(server)) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
    read(address_of(server))
    assert [record for record in caplog.records if record.levelno > logging.DEBUG] == []


def test_r8_many_who_do_not_read(
    serve: Any, raw: Any, mapping: MappingStorage, monkeypatch: pytest.MonkeyPatch, loop: str
) -> None:
    """However many come, a few are served at a time, and none for long."""
    monkeypatch.setattr(monitor, "MOST_READERS", 4)
    monkeypatch.setattr(monitor, "PATIENCE", 600.0)
    # More than the buffers of a loopback connection take.
    monkeypatch.setattr(monitor, "make_report", lambda lobby: "x" * 30_000_000)
    server = monitored(serve, mapping, loop=loop)
    good = raw(server.address)
    opened = []
    try:
        for _ in range(20):
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect(address_of(server))
            opened.append(sock)
        with promptly():
            good.ping()
        # The oldest have been cut off: what they can still read ends before the report does.
        for sock in opened[:16]:
            sock.settimeout(30)
            size = 0
            try:
                while data := sock.recv(1 << 20):
                    size += len(data)
            except ConnectionError:
                pass
            assert size < 30_000_000
    finally:
        for sock in opened:
            sock.close()


def test_r7_a_reader_that_takes_its_time_is_cut_off(
    serve: Any, mapping: MappingStorage, monkeypatch: pytest.MonkeyPatch, loop: str
) -> None:
    monkeypatch.setattr(monitor, "PATIENCE", 0.2)
    monkeypatch.setattr(monitor, "make_report", lambda lobby: "x" * 30_000_000)
    ended = []
    lost = monitor.MonitorConnection.connection_lost

    def note(self: Any, exc: Exception | None) -> None:
        ended.append(self)
        lost(self, exc)

    monkeypatch.setattr(monitor.MonitorConnection, "connection_lost", note)
    server = monitored(serve, mapping, loop=loop)
    with connect(address_of(server)):
        wait_until(lambda: ended)


def test_the_end_of_the_server_is_the_end_of_its_readers(
    serve: Any, mapping: MappingStorage, monkeypatch: pytest.MonkeyPatch, loop: str
) -> None:
    monkeypatch.setattr(monitor, "make_report", lambda lobby: "x" * 30_000_000)
    server = monitored(serve, mapping, loop=loop)
    address = address_of(server)
    with connect(address) as sock, promptly():
        server.stop()
        wait_until(lambda: not is_listening(address))
        try:
            while sock.recv(1 << 20):
                pass
        except ConnectionError:
            pass


def test_r9_with_tls_the_monitor_demands_it_too(
    serve: Any, mapping: MappingStorage, tmp_path: Path, loop: str
) -> None:
    authority = trustme.CA()
    paths = [str(tmp_path / name) for name in ("ca.pem", "server.pem", "client.pem")]
    authority.cert_pem.write_to_path(paths[0])
    for path, name in zip(paths[1:], ("localhost", "ann@example.org")):
        authority.issue_cert(name).private_key_and_cert_chain_pem.write_to_path(path)
    server = monitored(
        serve,
        mapping,
        loop=loop,
        ssl=server_context(paths[1], paths[0]),
        register_timeout=0.5,
    )
    with connect(address_of(server)) as sock:
        assert b"Storage" not in sock.recv(1000)
    context = client_context(paths[2], paths[0])
    with (
        connect(address_of(server)) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as sock,
        sock.makefile("rb") as stream,
    ):
        assert b"Storage: 1" in stream.read()


def test_an_address_in_use(serve: Any, loop: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        where = taken.getsockname()[:2]
        with pytest.raises(ConfigurationError, match=f"monitor-address: .*{where[1]} is in use"):
            serve(MappingStorage(), monitor_address=where, loop=loop)


def test_the_servers_own_address(serve: Any) -> None:
    port = free_port()
    address = ("127.0.0.1", port)
    with pytest.raises(ConfigurationError, match="monitor-address"):
        serve(MappingStorage(), address=address, monitor_address=address)
    assert not is_listening(address)

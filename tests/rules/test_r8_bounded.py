"""R8: memory is bounded on both sides, whatever the peer does."""

from __future__ import annotations

import logging
import socket
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.rules.conftest import Connect, Serve, tid_of
from tests.support.processes import ServerProcess
from tests.support.raw import Z64, RawClient, connect, fault_of, oid_of
from tests.support.rawstreams import RawStreams
from tests.support.waiting import promptly, wait_until
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage

from zeolith.protocol.greeting import Coding
from zeolith.protocol.limits import (
    DEFAULT_LIMITS,
    FIRST_UPLOAD,
    MAX_STREAMS,
    STREAM_WINDOW,
)
from zeolith.protocol.messages import (
    IteratorStart,
    LoadBefore,
    Ping,
    SendBlob,
    ServerStatus,
)
from zeolith.protocol.streamrequests import OpenBlob, OpenIteration
from zeolith.types import MAX_TID

MIB = 1 << 20


@pytest.fixture
def server(tmp_path: Path) -> ServerProcess:
    return ServerProcess(tmp_path / "server")


def read_to_end(sock: socket.socket) -> None:
    """Read until the other side has closed, gently or not."""
    with suppress(ConnectionError):
        while sock.recv(1000):
            pass


def fill(address: tuple[str, int], count: int, size: int) -> None:
    with RawClient(address) as client:
        for number in range(1, count + 1):
            client.commit({oid_of(number): (Z64, bytes(size))})


def test_r8_unread_replies_do_not_pile_up(server: ServerProcess) -> None:
    """F: 400 unread loads of 1 MB grow ZEO's server by 430 MB."""
    with server:
        fill(server.address, 4, MIB)
        before = server.memory()
        with RawClient(server.address, receive_buffer=4096) as greedy:
            assert greedy.peer.codec is not None
            greedy.socket.settimeout(0.5)
            requests = [
                greedy.peer.codec.load_before(oid_of(turn % 4 + 1), MAX_TID[:6] + turn.to_bytes(2))
                for turn in range(400)
            ]
            try:
                for request in requests:
                    greedy.socket.sendall(request)
            except (TimeoutError, ConnectionError):
                pass  # The server reads no more from him, or has closed: both will do.
            with RawClient(server.address) as other, promptly(5):
                for _ in range(50):
                    other.ping()
                    assert other.load(oid_of(1))[2] is None
            assert server.memory() - before < 60 * MIB


def test_r8_unread_streams_do_not_pile_up(server: ServerProcess) -> None:
    """Blobs, and a record of 2 MB in many iterations."""
    with server:
        with RawClient(server.address, coding=Coding.OWN) as client:
            streams = RawStreams(client)
            client.begin()
            for number in range(8):
                streams.upload(FIRST_UPLOAD + number, bytes(STREAM_WINDOW))
                streams.attach(FIRST_UPLOAD + number, oid_of(number + 1), STREAM_WINDOW)
            client.vote()
            tid = client.finish()
            large = client.commit({oid_of(100): (Z64, bytes(2 * MIB))})
        before = server.memory()
        with RawClient(server.address, coding=Coding.OWN, receive_buffer=65536) as greedy:
            for number in range(MAX_STREAMS):
                greedy.ask(OpenBlob(number, oid_of(number % 8 + 1), tid, 0, STREAM_WINDOW))
            for number in range(MAX_STREAMS, MAX_STREAMS + 192):
                greedy.ask(OpenIteration(number, large, None, 1000))
            with RawClient(server.address) as other, promptly(10):
                for _ in range(50):
                    other.ping()
            # Each has come to the record, and is told its beginning.
            found = RawStreams(greedy)
            for number in range(MAX_STREAMS, MAX_STREAMS + 192):
                found.read_until(number, 1000)
            assert server.memory() - before < 160 * MIB


def test_r8_a_slow_reader_gets_everything(
    files: FileStorage, serve: Serve, raw: Connect, loop: str
) -> None:
    """Waiting for a slow client is not losing its answers (ZEO: `write paused` for ever)."""
    server = serve(files, loop=loop, output_mark=1 << 16)
    writer = raw(server.address)
    data = {oid_of(n): bytes([n]) * MIB for n in range(1, 5)}
    for oid, record in data.items():
        writer.commit({oid: (Z64, record)})
    slow = raw(server.address, receive_buffer=65536)
    asked = [slow.ask(LoadBefore(oid, bytes([0x7F - n]) * 8)) for n in range(6) for oid in data]
    ping = slow.next_id()
    slow.send((ping, Ping()))
    for msgid in asked:
        assert slow.answer(msgid)[0] == data[msgid[0]]
    slow.answer(ping)


def test_r8_unread_invalidations_end_the_connection(
    mapping: MappingStorage,
    serve: Serve,
    raw: Connect,
    loop: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What a client did not ask for can only be bounded by letting the client go."""
    caplog.set_level(logging.INFO)
    told: list[Any] = []
    # A storage that changes by itself, as one that is a client of another server does.
    mapping.registerDB = told.append
    server = serve(mapping, loop=loop, output_limit=256 * 1024)
    writer = raw(server.address)
    stuck = raw(server.address, receive_buffer=4096)
    oids = [oid_of(number) for number in range(20_000)]
    for number in range(60):
        told[0].invalidate(tid_of(number), oids)
        writer.ping()
    wait_until(lambda: writer.call(ServerStatus())["connections"] == 1)
    host, port = stuck.socket.getsockname()
    assert any(
        record.levelno >= logging.WARNING and f"{host}:{port}" in record.getMessage()
        for record in caplog.records
    )


@pytest.mark.parametrize("is_registered", [False, True])
@pytest.mark.parametrize("announced", [0xFFFFFFFF, DEFAULT_LIMITS.max_message_size + 1])
def test_r8_a_huge_frame_is_refused_before_it_is_read(
    mapping: MappingStorage, serve: Serve, raw: Connect, is_registered: bool, announced: int
) -> None:
    """F: ZEO buffers up to 4 GiB, before registration too."""
    server = serve(mapping)
    bystander = raw(server.address)
    client = raw(server.address, "1" if is_registered else None)
    client.socket.sendall(announced.to_bytes(4, "big") + b"some")
    with promptly(5):
        client.wait_closed()
    bystander.ping()


def test_r8_incomplete_messages_are_bounded_over_all_connections(
    mapping: MappingStorage, serve: Serve, raw: Connect, caplog: pytest.LogCaptureFixture, loop: str
) -> None:
    """Each connection may send messages of 256 MB, but not all of them at the same time."""
    limits = replace(DEFAULT_LIMITS, max_message_size=4 * MIB)
    server = serve(mapping, loop=loop, limits=limits, incoming_limit=4 * MIB)
    first, second, third = (raw(server.address) for _ in range(3))
    bystander = raw(server.address)
    announced = (4 * MIB).to_bytes(4, "big")
    first.socket.sendall(announced + bytes(5 * MIB // 2))
    second.socket.sendall(announced + bytes(MIB))
    third.socket.sendall(announced + bytes(MIB))
    with promptly(20):
        first.wait_closed()
    assert "share is the largest" in caplog.text
    # There is room again, and what was taken back is not counted twice.
    for _ in range(3):
        another = raw(server.address)
        another.socket.sendall(announced + bytes(3 * MIB // 2))
        another.socket.close()
        wait_until(lambda: server.status()["1"]["connections"] == 3)
    bystander.commit({oid_of(1): (Z64, bytes(MIB))})
    assert caplog.text.count("share is the largest") == 1


def test_r8_a_huge_frame_before_the_greeting_is_refused(
    mapping: MappingStorage, serve: Serve
) -> None:
    """Nobody needs more than a few bytes to say which protocol he speaks."""
    server = serve(mapping)
    with connect(server.address) as sock:
        sock.sendall((1 << 16).to_bytes(4, "big") + bytes(100))
        with promptly(5):
            read_to_end(sock)


def test_r8_a_large_transaction_is_not_kept_in_memory(server: ServerProcess) -> None:
    """60 MB of stores without a vote: they wait in a file."""
    with server, RawClient(server.address) as client:
        client.ping()
        before = server.memory()
        client.begin()
        for number in range(1, 61):
            client.store(oid_of(number), bytes(MIB))
        client.ping()
        assert server.memory() - before < 30 * MIB
        client.vote()
        client.finish()
        assert client.load(oid_of(60))[0] == bytes(MIB)
        assert server.memory() - before < 60 * MIB


def test_r8_a_large_blob_is_not_kept_in_memory(server: ServerProcess) -> None:
    with server, RawClient(server.address) as client:
        client.ping()
        before = server.memory()
        client.begin()
        client.store_blob(oid_of(1), b"cZODB.blob\nBlob\n.", bytes(100 * MIB))
        client.vote()
        tid = client.finish()
        assert server.memory() - before < 50 * MIB
        client.inbox.clear()
        client.taken = 0
        client.call(SendBlob(oid_of(1), tid))
        assert server.memory() - before < 50 * MIB


def test_r8_unregistered_connections_are_closed(mapping: MappingStorage, serve: Serve) -> None:
    """Who connects and says nothing does not keep a place for ever."""
    server = serve(mapping, register_timeout=0.2)
    with connect(server.address) as silent, promptly(10):
        read_to_end(silent)
    with RawClient(server.address, None) as half, promptly(10):
        half.wait_closed()


def test_r8_iterators_are_bounded(files: FileStorage, serve: Serve, raw: Connect) -> None:

    server = serve(files, max_iterators=5)
    client = raw(server.address)
    for _ in range(5):
        client.call(IteratorStart(None, None))
    assert fault_of(lambda: client.call(IteratorStart(None, None))) != "no error"
    client.ping()


def test_r8_a_connection_storm_leaves_nothing_behind(server: ServerProcess) -> None:
    """B (lp 135108): fast connects and disconnects; the server goes on accepting."""
    import psutil

    with server:
        with RawClient(server.address) as client:
            # What the server opens once, at its first load or commit, is open before we count.
            client.commit({oid_of(1): (Z64, b"x")})
        assert server.process is not None
        process = psutil.Process(server.process.pid)
        before = process.num_fds()
        for turn in range(300):
            sock = connect(server.address)
            if turn % 3 == 1:
                sock.sendall(b"\0\0\0\2Z5")
            elif turn % 3 == 2:
                sock.sendall(b"\0\0\0\2Z")
            sock.close()
        with RawClient(server.address) as client:
            client.commit({oid_of(2): (Z64, b"x")})
        wait_until(lambda: process.num_fds() <= before, "connections are forgotten")

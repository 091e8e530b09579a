"""R8: a thousand idle connections, and a thousand that never say hello, against a real server."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.support.processes import ServerProcess
from tests.support.raw import Z64, RawClient, connect, oid_of
from tests.support.waiting import promptly, wait_until

from zeolith.admin.asking import Target
from zeolith.admin.status import fetch_status
from zeolith.errors import ServerFull
from zeolith.protocol.framing import frame
from zeolith.protocol.greeting import Coding
from zeolith.protocol.messages import Register
from zeolith.protocol.peers import ClientPeer

COUNT = 1000
KIB = 1024

MOST_SILENT = 12 * KIB
"""Bytes of one connection that has said nothing; measured are 3 KB."""

MOST_IDLE = 24 * KIB
"""Bytes of one that has registered; measured are 4 to 5 KB."""


@pytest.fixture(params=["uvloop", "asyncio"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ServerProcess]:
    limits = ("--limit", "max-connections-per-address=3000", "--limit", "register-timeout=1h")
    with ServerProcess(tmp_path, "--loop", request.param, *limits) as found:
        with RawClient(found.address) as client:
            client.commit({oid_of(1): (Z64, b"precious")})
        yield found


def registration() -> bytes:
    """Return all that a client says until it is idle."""
    peer = ClientPeer()
    peer.receive(frame(b"M5 zeolith 1"))
    hello = peer.hello(Coding.OWN)
    assert peer.codec is not None
    return hello + peer.codec.call(1, Register("1", False))


def open_many(stack: ExitStack, server: ServerProcess, said: bytes) -> list[socket.socket]:
    """Open connections that are greeted, and say *said*."""
    found = []
    for _ in range(COUNT):
        sock = stack.enter_context(connect(server.address))
        assert sock.recv(100)
        if said:
            sock.sendall(said)
        found.append(sock)
    return found


def test_r8_thousands_of_connections_cost_little_memory_and_no_service(
    server: ServerProcess,
) -> None:
    with ExitStack() as stack:
        before = server.memory()
        open_many(stack, server, b"")
        silent = server.memory()
        assert silent - before < COUNT * MOST_SILENT
        idle = open_many(stack, server, registration())
        for sock in idle:
            while len(sock.recv(1 << 16)) < 10:
                pass
        assert server.memory() - silent < COUNT * MOST_IDLE
        with promptly(10), RawClient(server.address) as client:
            for number in range(2, 102):
                client.commit({oid_of(number): (Z64, b"x")})
                assert client.load(oid_of(1))[0] == b"precious"
        wait_until(lambda: connections(server) == 2 * COUNT)
        status = fetch_status(Target(server.address))
        assert status.server is not None
        # So many have registered that not all have a line.
        reached = {name for name, count in status.server["limits"].items() if count}
        assert reached <= {"log_lines"}
    wait_until(lambda: connections(server) == 0)


def connections(server: ServerProcess) -> int:
    found = fetch_status(Target(server.address)).server
    assert found is not None
    count: int = found["connections"]
    return count


def test_r8_a_crowd_that_says_nothing_keeps_nobody_out(tmp_path: Path) -> None:
    """More than there may be, and more of one address than there may be, for as long as we look."""
    limits = ("--limit", "max-connections=200", "--limit", "max-connections-per-address=100")
    with ServerProcess(tmp_path, *limits) as server, ExitStack() as stack:
        for _ in range(400):
            stack.enter_context(connect(server.address))
        with promptly(20):
            wait_until(lambda: is_served(server))
        log = server.log()
        assert "turned away: its address has 100 connections" in log
        assert log.count("turned away") <= 10
        assert not server.tracebacks()


def is_served(server: ServerProcess) -> bool:
    try:
        with RawClient(server.address) as client:
            client.ping()
    except ServerFull:
        return False
    return True

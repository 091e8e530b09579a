"""Who speaks what with whom: a test for each row of the table in ``docs/protocol.md``.

Clients and servers are whole ones, on sockets; the other side is one of theirs, or plays one that
is older or newer than ours.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
import ZEO
from tests.support.processes import running_server
from tests.support.raw import FakeServer, connect
from tests.support.waiting import DEADLINE
from ZODB.MappingStorage import MappingStorage

from zeolith import ClientStorage
from zeolith.protocol.framing import frame
from zeolith.protocol.greeting import Coding
from zeolith.protocol.hello import parse_introduction
from zeolith.protocol.limits import DEFAULT_LIMITS

DOCUMENT = Path(__file__).parents[2] / "docs" / "protocol.md"

ROWS = {
    ("Zeolith", "Zeolith, a common version in the greeting"): (
        "the newest common version",
        "test_a_common_version",
    ),
    ("Zeolith", "Zeolith with the marker only, or without a common version"): (
        "msgpack, `M5`",
        "test_no_common_version",
    ),
    ("Zeolith", "ZEO 5 or 6"): ("what the server proposes", "test_a_server_of_zeo"),
    ("ZEO 5 or 6", "Zeolith"): (
        "what the server proposes: the marker and what follows are invisible",
        "test_a_client_of_zeo",
    ),
    ("any, with a hello of a version that the server does not speak", "Zeolith"): (
        "nothing: refusal",
        "test_a_hello_of_an_unknown_version",
    ),
}
"""Client and server → what they speak, and the test of it."""


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as found:
        yield found


def test_the_table_has_a_test_for_each_row() -> None:
    text = DOCUMENT.read_text().partition("| client | server | they speak |\n")[2]
    rows = re.findall(r"^\| (.*?) \| (.*?) \| (.*?) \|$", text.partition("\n\n")[0], re.M)
    found = {(client, server): what for client, server, what in rows if client != "---"}
    assert found == {row: what for row, (what, _) in ROWS.items()}
    for _, name in ROWS.values():
        assert callable(globals()[name])


def answer_to(stack: ExitStack, greeting: bytes) -> bytes:
    """Return the payload with which our client answers a server that greets with *greeting*."""
    fake = stack.enter_context(FakeServer())
    storage = ClientStorage(fake.address, wait=False)
    stack.callback(storage.close)
    sock = fake.accept().socket
    sock.sendall(frame(greeting))
    head = take(sock, 4)
    return take(sock, int.from_bytes(head, "big"))


def take(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = sock.recv(size - len(data))
        assert part
        data += part
    return data


@pytest.mark.parametrize(
    "greeting",
    [b"M5 zeolith 1", b"Z5 zeolith 1", b"M5 zeolith 1,2", b"M5 zeolith 65535,1 and more to come"],
)
def test_a_common_version(stack: ExitStack, greeting: bytes) -> None:
    hello = answer_to(stack, greeting)
    assert parse_introduction(hello, DEFAULT_LIMITS).version == 1


def test_a_common_version_with_our_server(stack: ExitStack) -> None:
    server = stack.enter_context(running_server(MappingStorage()))
    storage = ClientStorage(server.address)
    stack.callback(storage.close)
    assert storage._link.channel().speaks_own
    assert storage.lastTransaction() == bytes(8)


@pytest.mark.parametrize(
    "greeting",
    [b"M5 zeolith", b"Z5 zeolith", b"M5 zeolith 2", b"Z5 zeolith 2,3", b"M5 zeolith one"],
)
def test_no_common_version(stack: ExitStack, greeting: bytes) -> None:
    assert answer_to(stack, greeting) == b"M5"


@pytest.mark.parametrize("greeting", [b"Z5", b"M5", b"Z6", b"M51"])
def test_a_server_of_zeo(stack: ExitStack, greeting: bytes) -> None:
    """The latter two are of versions to come: the client says which it speaks."""
    assert answer_to(stack, greeting) == greeting[:1] + b"5"


@pytest.mark.parametrize("coding", [Coding.PICKLE, Coding.MSGPACK])
def test_a_client_of_zeo(stack: ExitStack, coding: Coding) -> None:
    server = stack.enter_context(running_server(MappingStorage(), msgpack=coding is Coding.MSGPACK))
    storage: Any = ZEO.client(server.address)
    stack.callback(storage.close)
    assert storage._server.client.protocol.protocol_version == coding.value + b"5"
    assert storage.lastTransaction() == bytes(8)


@pytest.mark.parametrize("answer", [b"Z5", b"M5"])
def test_a_client_of_zeo_may_choose_the_other(stack: ExitStack, answer: bytes) -> None:
    server = stack.enter_context(running_server(MappingStorage()))
    with connect(server.address) as sock:
        sock.settimeout(DEADLINE)
        register = {
            b"Z5": b"\x80\x03(K\x01\x89X\x08\0\0\0registerX\x01\0\0\x001\x89\x86t.",
            b"M5": b"\x94\x01\xc2\xa8register\x92\xa11\xc2",
        }[answer]
        sock.sendall(frame(answer) + frame(register))
        take(sock, int.from_bytes(take(sock, 4), "big"))
        reply = take(sock, int.from_bytes(take(sock, 4), "big"))
        assert reply[:1] == {b"Z5": b"\x80", b"M5": b"\x94"}[answer]
        assert bytes(8) in reply


@pytest.mark.parametrize("version", [0, 2, 65_535])
def test_a_hello_of_an_unknown_version(stack: ExitStack, version: int) -> None:
    """Whatever is behind the version, which only a server that knows it could read."""
    server = stack.enter_context(running_server(MappingStorage()))
    with connect(server.address) as sock:
        sock.settimeout(DEADLINE)
        sock.sendall(frame(b"zhello" + version.to_bytes(2, "big") + b"\xc1 whatever") + b"more")
        take(sock, int.from_bytes(take(sock, 4), "big"))
        refusal = take(sock, int.from_bytes(take(sock, 4), "big"))
        assert refusal.startswith(b"zhello\0\0")
        assert f"version {version} ".encode() in refusal
        with suppress(ConnectionResetError):
            assert sock.recv(1) == b""

"""The two wires, over real sockets: what arrives in pieces, ends, or is not what it should be."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.support.keyupdates import Sealer
from tests.support.memory import resident
from tests.support.waiting import Background, promptly
from zeolith.client.wire import PlainWire, TlsWire, open_socket

VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


@pytest.fixture(scope="module")
def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """The client's, and the server's."""
    authority = trustme.CA()
    client = ssl.create_default_context()
    authority.configure_trust(client)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("db.example").configure_cert(server)
    return client, server


class TlsEnd:
    """The server's end: it says exactly which bytes go over the network when."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext) -> None:
        self.socket = sock
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._in, self._out, server_side=True)

    def handshake(self, first: bytes = b"") -> None:
        """Shake hands; send *first* in the same write as the last message of the hand-shake."""
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                self._send(self._out.read())
                self._in.write(self.socket.recv(1 << 16))
            else:
                break
        self._send(self.encrypt(first))

    def _send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def encrypt(self, data: bytes) -> bytes:
        """Return the records for *data*, with whatever else is to be sent."""
        if data:
            self.tls.write(data)
        return self._out.read()

    def end(self) -> bytes:
        """Return the record that announces the end."""
        with suppress(ssl.SSLWantReadError):
            self.tls.unwrap()
        return self._out.read()

    def receive(self, size: int) -> bytes:
        """Return *size* bytes from the client."""
        data = b""
        while len(data) < size:
            try:
                data += self.tls.read(1 << 16)
            except ssl.SSLWantReadError:
                self._in.write(self.socket.recv(1 << 16))
        return data


Dial = Callable[..., tuple[TlsWire, TlsEnd]]


@pytest.fixture
def dial(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> Iterator[Dial]:
    """Make a TLS connection: ``dial(version, first)``."""
    client, server = contexts
    opened: list[Any] = []

    def connect(version: ssl.TLSVersion, first: bytes = b"") -> tuple[TlsWire, TlsEnd]:
        ours, theirs = socket.socketpair()
        for sock in (ours, theirs):
            sock.settimeout(20)
        server.maximum_version = version
        end = TlsEnd(theirs, server)
        opened.extend((ours, theirs))
        shaking = Background(lambda: end.handshake(first))
        wire = TlsWire(ours, client, "db.example")
        shaking.result()
        return wire, end

    yield connect
    server.maximum_version = ssl.TLSVersion.MAXIMUM_SUPPORTED
    for sock in opened:
        sock.close()


@pytest.mark.parametrize("version", VERSIONS)
def test_tls_carries_both_ways(dial: Dial, version: ssl.TLSVersion) -> None:
    wire, end = dial(version)
    assert end.tls.version() == version.name.replace("_", ".")
    big = bytes(range(256)) * 4000
    sending = Background(lambda: wire.send(big))
    assert end.receive(len(big)) == big
    sending.result()
    answering = Background(lambda: end.socket.sendall(end.encrypt(big)))
    received = b""
    while len(received) < len(big):
        received += wire.receive()
    assert received == big
    answering.result()


@pytest.mark.parametrize("version", VERSIONS)
def test_tls_what_comes_with_the_handshake_is_not_lost(dial: Dial, version: ssl.TLSVersion) -> None:
    """A server greets unasked."""
    wire, _ = dial(version, b"greeting")
    assert wire.receive() == b"greeting"
    assert not wire.is_readable(0)


def test_tls_all_records_that_have_arrived_are_taken_at_once(dial: Dial) -> None:
    """Or what lies decrypted would wait, because the socket shows nothing to read."""
    wire, end = dial(ssl.TLSVersion.TLSv1_3)
    end.socket.sendall(b"".join(end.encrypt(b"%d" % number) for number in range(9)))
    assert wire.is_readable(10)
    assert wire.receive() == b"012345678"
    assert not wire.is_readable(0)


def test_tls_a_record_may_arrive_in_pieces(dial: Dial) -> None:
    wire, end = dial(ssl.TLSVersion.TLSv1_3)
    record = end.encrypt(b"whole")
    end.socket.sendall(record[:7])
    receiving = Background(wire.receive)
    receiving.join(0.05)
    assert receiving.is_alive()
    # Others may send meanwhile.
    wire.send(b"request")
    assert end.receive(7) == b"request"
    end.socket.sendall(record[7:])
    assert receiving.result() == b"whole"


@pytest.mark.parametrize("is_announced", [True, False])
def test_tls_the_end_comes_after_what_was_sent_before_it(dial: Dial, is_announced: bool) -> None:
    wire, end = dial(ssl.TLSVersion.TLSv1_3)
    last = end.encrypt(b"last words")
    end.socket.sendall(last + end.end() if is_announced else last)
    end.socket.shutdown(socket.SHUT_WR)
    assert wire.receive() == b"last words"
    for _ in range(2):
        assert wire.receive() == b""


def test_tls_damage_is_an_error_of_the_connection(dial: Dial) -> None:
    wire, end = dial(ssl.TLSVersion.TLSv1_3)
    record = bytearray(end.encrypt(b"data"))
    record[-1] ^= 1
    end.socket.sendall(record)
    with pytest.raises(OSError, match=r"(?i)decryption|mac"):
        wire.receive()


def test_r8_what_was_sent_over_tls_keeps_no_memory(dial: Dial) -> None:
    """The TLS layer's own buffers grow to the largest message and never shrink."""
    wire, end = dial(ssl.TLSVersion.TLSv1_3)
    size, space = 30_000_000, bytearray(1 << 20)

    def drain() -> None:
        left = size
        while left > 0:
            left -= end.socket.recv_into(space)

    before = resident()
    draining = Background(drain)
    wire.send(bytes(size))
    draining.result()
    assert resident() - before < 10_000_000


@pytest.fixture
def sealed(
    dial: Dial, contexts: tuple[ssl.SSLContext, ssl.SSLContext], tmp_path: Path
) -> Iterator[tuple[TlsWire, socket.socket, Sealer]]:
    """A connection, the server's socket, and what encrypts in the server's place."""
    client, server = contexts
    tickets, server.num_tickets = server.num_tickets, 0
    client.keylog_filename = str(tmp_path / "keys")
    try:
        wire, end = dial(ssl.TLSVersion.TLSv1_3)
        yield wire, end.socket, Sealer(tmp_path / "keys", "SERVER")
    finally:
        client.keylog_filename = None  # type: ignore[assignment]
        server.num_tickets = tickets


def test_tls_updates_of_keys(sealed: tuple[TlsWire, socket.socket, Sealer]) -> None:
    wire, sock, sealer = sealed
    for _ in range(10):
        # Far more than any server does.
        sock.sendall(b"".join(sealer.update_keys() for _ in range(50)) + sealer.say(b"and now?"))
        assert wire.receive() == b"and now?"


def test_r8_a_server_that_does_nothing_but_update_keys(
    sealed: tuple[TlsWire, socket.socket, Sealer],
) -> None:
    """The answers to them wait for the next message to it."""
    wire, sock, sealer = sealed
    sock.sendall(b"".join(sealer.update_keys() for _ in range(500)))
    with pytest.raises(ConnectionAbortedError, match="keys of TLS"):
        wire.receive()


def test_tls_abort_ends_a_waiting_receive_and_sends_fail(dial: Dial) -> None:
    wire, _ = dial(ssl.TLSVersion.TLSv1_3)
    receiving = Background(wire.receive)
    wire.abort()
    with promptly(5):
        assert receiving.result() == b""
    with pytest.raises(OSError, match=r"(?i)pipe|eof"):
        wire.send(b"x" * 1_000_000)


def test_tls_a_server_that_leaves_during_the_handshake(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext],
) -> None:
    ours, theirs = socket.socketpair()
    with closing(ours), closing(theirs):
        theirs.shutdown(socket.SHUT_WR)
        with pytest.raises(ConnectionResetError, match="TLS hand-shake"):
            TlsWire(ours, contexts[0], "db.example")


def test_tls_a_server_is_told_why_its_certificate_is_refused(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext],
) -> None:
    ours, theirs = socket.socketpair()
    with closing(ours), closing(theirs):
        shaking = Background(TlsEnd(theirs, contexts[1]).handshake)
        with pytest.raises(ssl.SSLCertVerificationError):
            TlsWire(ours, contexts[0], "other.example")
        with pytest.raises(ssl.SSLError, match=r"(?i)alert"):
            shaking.result()


# -- connecting --------------------------------------------------------------------------------


def test_a_unix_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        made: list[socket.socket] = []
        with open_socket(path, 5, made.append) as sock:
            assert made == [sock]
            assert PlainWire(sock).peer_name == path


def test_a_socket_over_tcp_sends_at_once_and_notices_a_dead_peer() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        open_socket(("", listener.getsockname()[1]), 5, lambda sock: None, 40.0) as sock,
    ):
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        for name, value in (
            ("TCP_KEEPIDLE", 20),
            ("TCP_KEEPINTVL", 5),
            ("TCP_KEEPCNT", 4),
            ("TCP_USER_TIMEOUT", 40_000),
        ):
            if hasattr(socket, name):
                assert sock.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) == value
        assert PlainWire(sock).peer_name == listener.getsockname()


def test_a_client_that_waits_for_ever_leaves_it_to_the_system() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        open_socket(("", listener.getsockname()[1]), 5, lambda sock: None) as sock,
    ):
        assert not sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


def test_the_failure_of_the_last_address_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
    made: list[socket.socket] = []
    with pytest.raises(ConnectionRefusedError):
        open_socket(address, 5, made.append)
    assert [sock.fileno() for sock in made] == [-1]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kw: [])
    with pytest.raises(OSError, match="has no address"):
        open_socket(("nowhere", 1), 5, made.append)


def test_a_closed_wire_is_readable_and_reading_tells_why() -> None:
    ours, theirs = socket.socketpair()
    with closing(theirs):
        wire = PlainWire(ours)
        assert not wire.is_readable(0)
        wire.close()
        # Whoever watches it must not wait for ever.
        assert wire.is_readable(None)
        with pytest.raises(OSError, match="descriptor"):
            wire.receive()
        wire.abort()


@pytest.mark.parametrize("taken", [0, 3, 9, 12, 109, 111, 113])
def test_what_the_system_does_not_take_at_once_is_sent_behind_it(taken: int) -> None:
    """The head of a message or what belongs to it, in the order of the bytes."""
    head, data = b"123456789", bytes(range(100))

    class Socket:
        """Takes so many bytes of what it is given together."""

        arrived = b""
        recv = None

        def getpeername(self) -> str:
            return "path"

        def sendmsg(self, parts: list[Any]) -> int:
            self.arrived += b"".join(parts)[:taken]
            return taken

        def sendall(self, rest: Any) -> None:
            self.arrived += bytes(rest)

    sock: Any = Socket()
    PlainWire(sock).send_parts(head, memoryview(data), b"tail")
    assert sock.arrived == head + data + b"tail"

"""The transport of a connection with TLS, on a plain one that tells what it was asked."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from typing import Any

import pytest
import trustme
from tests.support.keyupdates import Sealer
from tests.support.memory import resident

from zeolith.server.tlstransport import Handshake, TlsTransport


class Plain:
    """A transport of the loop's."""

    def __init__(self) -> None:
        self.sent = b""
        self.calls: list[str] = []
        self._is_closing = False

    def write(self, data: bytes) -> None:
        assert not self._is_closing
        self.sent += data

    def close(self) -> None:
        self.calls.append("close")
        self._is_closing = True

    def abort(self) -> None:
        self.calls.append("abort")
        self._is_closing = True

    def is_closing(self) -> bool:
        return self._is_closing

    def pause_reading(self) -> None:
        self.calls.append("pause_reading")

    def resume_reading(self) -> None:
        self.calls.append("resume_reading")

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self.calls.append(f"limits {high} {low}")

    def get_write_buffer_size(self) -> int:
        return len(self.sent)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"peername": ("127.0.0.1", 1)}.get(name, default)


class Talker(asyncio.Protocol):
    """Notes what happens to it."""

    def __init__(self) -> None:
        self.received: list[bytes] = []
        self.events: list[str] = []
        self.lost: Exception | None = None
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.events.append("made")

    def data_received(self, data: bytes) -> None:
        self.received.append(data)

    def pause_writing(self) -> None:
        self.events.append("paused")

    def resume_writing(self) -> None:
        self.events.append("resumed")

    def connection_lost(self, exc: Exception | None) -> None:
        self.events.append("lost")
        self.lost = exc


class Client:
    """The other side.

    :ivar tls: its TLS layer.
    """

    def __init__(self, context: ssl.SSLContext) -> None:
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname="localhost")

    def say(self, data: bytes) -> bytes:
        """Return *data* encrypted."""
        self.tls.write(data)
        return self.outgoing.read()

    def hear(self, plain: Plain) -> bytes:
        """Return what has been sent over *plain*."""
        self.incoming.write(plain.sent)
        plain.sent = b""
        heard = b""
        try:
            while part := self.tls.read(100_000):
                heard += part
        except ssl.SSLWantReadError:
            return heard
        return heard + b"<end>"


@pytest.fixture(params=[ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def ends(request: Any, tmp_path: Path) -> tuple[Handshake, Client]:
    """Both sides, after the handshake."""
    authority = trustme.CA()
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("localhost").configure_cert(server)
    authority.configure_trust(client)
    client.maximum_version = request.param
    client.keylog_filename = str(tmp_path / "keys")
    handshake, other = Handshake(server), Client(client)
    for _ in range(4):
        for end, source, target in (
            (other.tls, other.outgoing, handshake.incoming),
            (handshake.tls, handshake.outgoing, other.incoming),
        ):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                pass
            target.write(source.read())
    return handshake, other


@pytest.fixture
def scene(ends: tuple[Handshake, Client]) -> tuple[TlsTransport, Plain, Talker, Client]:
    handshake, client = ends
    plain, talker = Plain(), Talker()
    transport = TlsTransport(handshake, talker)
    transport.connection_made(plain)
    return transport, plain, talker, client


Scene = tuple[TlsTransport, Plain, Talker, Client]


def test_it_is_passed_on_both_ways(scene: Scene) -> None:
    transport, plain, talker, client = scene
    assert talker.events == ["made"]
    assert talker.transport is transport
    said = client.say(b"hello")
    # Whatever pieces it comes in.
    for byte in said:
        transport.data_received(bytes([byte]))
    assert talker.received == [b"hello"]
    transport.write(b"good day")
    transport.write(b"")
    assert client.hear(plain) == b"good day"


def test_all_that_has_come_is_passed_on_at_once(scene: Scene) -> None:
    transport, _, talker, client = scene
    data = bytes(range(256)) * 1000
    transport.data_received(client.say(b"one") + client.say(data) + client.say(b"end"))
    assert talker.received == [b"one" + data + b"end"]


def test_what_came_with_the_handshake_is_not_lost(ends: tuple[Handshake, Client]) -> None:
    handshake, client = ends
    handshake.incoming.write(client.say(b"early"))
    talker = Talker()
    TlsTransport(handshake, talker).connection_made(Plain())
    assert talker.events == ["made"]
    assert talker.received == [b"early"]


def test_the_plain_transport_does_the_rest(scene: Scene) -> None:
    transport, plain, talker, client = scene
    transport.pause_reading()
    transport.resume_reading()
    transport.set_write_buffer_limits(high=5)
    assert plain.calls == ["pause_reading", "resume_reading", "limits 5 None"]
    transport.write(b"12345")
    assert transport.get_write_buffer_size() > 5
    assert client.hear(plain) == b"12345"
    transport.pause_writing()
    transport.resume_writing()
    assert talker.events == ["made", "paused", "resumed"]
    assert transport.get_extra_info("peername") == ("127.0.0.1", 1)
    assert transport.get_extra_info("socket") is None
    assert transport.get_extra_info("peercert") is None
    assert transport.get_extra_info("ssl_object").version() == client.tls.version()


def test_closing_tells_the_peer(scene: Scene) -> None:
    transport, plain, talker, client = scene
    transport.write(b"last")
    transport.close()
    transport.close()
    assert plain.calls == ["close"]
    assert transport.is_closing()
    transport.write(b"too late")
    assert client.hear(plain) == b"last<end>"
    transport.connection_lost(None)
    assert (talker.events[-1], talker.lost) == ("lost", None)


def test_the_peer_says_that_nothing_more_will_come(scene: Scene) -> None:
    transport, plain, talker, client = scene
    said = client.say(b"bye")
    with pytest.raises(ssl.SSLWantReadError):
        client.tls.unwrap()
    transport.data_received(said + client.outgoing.read())
    assert talker.received == [b"bye"]
    assert plain.calls == ["close"]


def test_aborting_says_nothing(scene: Scene) -> None:
    transport, plain, _, _ = scene
    plain.sent = b""
    transport.abort()
    transport.write(b"too late")
    assert (plain.calls, plain.sent) == (["abort"], b"")
    assert transport.is_closing()


def test_what_was_tampered_with_ends_the_connection(scene: Scene) -> None:
    transport, plain, talker, client = scene
    good, bad = client.say(b"good"), bytearray(client.say(b"bad"))
    bad[-1] ^= 1
    transport.data_received(good + bytes(bad))
    assert talker.received == [b"good"]
    assert plain.calls == ["abort"]
    transport.connection_lost(None)
    assert isinstance(talker.lost, ssl.SSLError)


@pytest.mark.parametrize(
    "garbage", [b"\x17\x03\x03\xff\xff", b"\x15\x03\x03\x00\x02\x02\x28", b"GET /"]
)
def test_what_came_before_garbage_has_no_answer(scene: Scene, garbage: bytes) -> None:
    """To answer must not raise: it is not the connection's fault, and would fill the log."""
    transport, plain, talker, client = scene

    def answer(data: bytes) -> None:
        talker.received.append(data)
        transport.write(b"answer")

    talker.data_received = answer  # type: ignore[method-assign]
    said = client.say(b"good")
    transport.data_received(said + garbage)
    assert talker.received == [b"good"]
    assert plain.calls == ["abort"]
    transport.connection_lost(None)
    assert isinstance(talker.lost, ssl.SSLError)


@pytest.mark.parametrize("size", [64 * 1024, 64 * 1024 + 1, 1_000_003])
def test_large_messages(scene: Scene, size: int) -> None:
    transport, plain, talker, client = scene
    data = (bytes(range(251)) * (size // 251 + 1))[:size]
    transport.write(data)
    assert client.hear(plain) == data
    transport.data_received(client.say(data))
    assert talker.received == [data]


def test_r8_what_was_sent_keeps_no_memory(scene: Scene) -> None:
    """The TLS layer's own buffers grow to the largest message and never shrink."""
    transport, plain, *_ = scene
    before = resident()
    transport.write(bytes(30_000_000))
    plain.sent = b""
    assert resident() - before < 10_000_000


ONLY_1_3 = pytest.mark.parametrize("ends", [ssl.TLSVersion.TLSv1_3], indirect=True)


@ONLY_1_3
def test_updates_of_keys(scene: Scene, tmp_path: Path) -> None:
    transport, plain, talker, client = scene
    sealer = Sealer(tmp_path / "keys", "CLIENT")
    for _ in range(10):
        # Far more than any peer does.
        transport.data_received(b"".join(sealer.update_keys() for _ in range(50)))
        transport.data_received(sealer.say(b"and now?"))
        transport.write(b"go on")
        assert client.hear(plain) == b"go on"
    assert talker.received == [b"and now?"] * 10
    assert plain.calls == []


@ONLY_1_3
def test_r8_a_peer_that_does_nothing_but_update_keys(scene: Scene, tmp_path: Path) -> None:
    """Each update is answered, and whoever takes no answers would have us collect them."""
    transport, plain, talker, _ = scene
    sealer = Sealer(tmp_path / "keys", "CLIENT")
    for _ in range(500):
        if not plain.is_closing():
            transport.data_received(sealer.update_keys())
    assert plain.calls == ["abort"]
    assert len(plain.sent) < 10_000
    transport.connection_lost(None)
    assert "keys of TLS" in str(talker.lost)

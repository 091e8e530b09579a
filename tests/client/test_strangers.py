"""What is at the address, but is no server for this client: said at once, and what to do."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import trustme

import zeolith
from tests.support.raw import FakeServer
from tests.support.waiting import Background, promptly, wait_until
from zeolith.client.connector import format_address
from zeolith.client.strangers import describe_plain, describe_violation, is_lasting
from zeolith.errors import (
    ClientDisconnected,
    FrameTooLarge,
    IllegalMessage,
    ServerRefused,
)

from .conftest import Open
from .scripted import tid

Serve = Callable[..., tuple[str, int]]

PATIENT = 60
"""Seconds of ``wait_timeout`` that no test here waits for."""


@pytest.fixture
def serve(stack: ExitStack) -> Serve:
    """Listen, and have a function speak on each connection; return the address."""

    def start(speak: Callable[[socket.socket], object]) -> tuple[str, int]:
        listener = socket.create_server(("127.0.0.1", 0))

        def run() -> None:
            connections = []
            with ExitStack() as ended:
                while True:
                    try:
                        sock, _ = listener.accept()
                    except OSError:
                        return
                    connections.append(ended.enter_context(sock))
                    try:
                        speak(sock)
                    except OSError:
                        pass  # the client has gone, or did not like it

        thread = threading.Thread(target=run, daemon=True)
        thread.start()

        def stop() -> None:
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()
            thread.join(10)

        stack.callback(stop)
        address: tuple[str, int] = listener.getsockname()
        return address

    return start


def say(banner: bytes) -> Callable[[socket.socket], object]:
    return lambda sock: sock.sendall(banner)


ALERT = bytes.fromhex("15030300020228")
"""What a TLS server may send to somebody who does not speak TLS."""


# -- plain text --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("banner", "hint"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "not a ZEO server: it speaks HTTP"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "not a ZEO server: it speaks SSH"),
        (b"220 mail.example.com ESMTP\r\n", r"not a ZEO server: it begins with b'220 '"),
        (b"\xff\xff\xff\xff", r"not a ZEO server: it begins with b'\\xff"),
        (ALERT, "speaks TLS, and this client plain text: give ssl"),
        (b"\0\0\0\2Z4", "not that of a server speaking ZEO protocol 5"),
        (b"\0\0\0\5hello", "not that of a server speaking ZEO protocol 5"),
    ],
    ids=["HTTP", "SSH", "SMTP", "binary", "TLS", "Z4", "hello"],
)
def test_what_greets_otherwise_is_refused_at_once(
    serve: Serve, client: Open, banner: bytes, hint: str
) -> None:
    with promptly(10), pytest.raises(ServerRefused, match=hint):
        client(serve(say(banner)), wait_timeout=PATIENT)


@pytest.mark.parametrize("said", [b"", b"HT", b"\0\0\0\2Z"], ids=["nothing", "two", "most"])
def test_a_server_that_is_away_for_a_moment_is_waited_for(
    fake: FakeServer, client: Open, said: bytes
) -> None:
    """So looks a load balancer whose server is being restarted."""
    opening = Background(lambda: client(fake.address, wait_timeout=PATIENT))
    for _ in range(3):
        connection = fake.accept()
        connection.socket.sendall(said)
        connection.close()
    fake.accept().admit(tid(1))
    storage: Any = opening.result()
    assert storage.is_connected()


def test_a_stranger_that_is_replaced_by_a_server_is_forgotten(
    fake: FakeServer, client: Open
) -> None:
    storage = client(fake.address, wait=False, wait_timeout=PATIENT)
    connection = fake.accept()
    connection.socket.sendall(b"HTTP/1.1 503 Service Unavailable\r\n\r\n")
    wait_until(lambda: isinstance(storage._link._failure, ServerRefused))
    fake.accept().admit(tid(1))
    wait_until(storage.is_connected)


@pytest.mark.parametrize("has_failed", [False, True])
def test_who_gives_up_waiting_for_a_greeting_learns_that_there_was_none(
    fake: FakeServer, client: Open, has_failed: bool
) -> None:
    storage = client(fake.address, wait=False)
    if has_failed:
        fake.accept().close()
    fake.accept()
    wait_until(storage._link._connector.awaited)
    with pytest.raises(ClientDisconnected) as caught:
        storage.server_status(timeout=0)
    assert not isinstance(caught.value, ServerRefused)
    text = str(caught.value)
    where = format_address(fake.address)
    assert f"{where} is connected, but there is no greeting: does it expect TLS?" in text
    assert ("last failure: " in text) == has_failed


def test_who_gives_up_waiting_for_admission_learns_that_there_was_none(
    fake: FakeServer, client: Open
) -> None:
    storage = client(fake.address, wait=False)
    fake.accept().greet()
    wait_until(lambda: "has greeted" in storage._link._connector.awaited())
    with pytest.raises(ClientDisconnected, match="has greeted, but does not admit this client"):
        storage.server_status(timeout=0)


def test_nothing_is_awaited_once_there_is_a_server(fake: FakeServer, client: Open) -> None:
    opening = Background(lambda: client(fake.address))
    fake.accept().admit(tid(1))
    storage: Any = opening.result()
    assert storage._link._connector.awaited() == ""


# -- TLS ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def context(authority: trustme.CA) -> ssl.SSLContext:
    """A client's, without a certificate."""
    found = ssl.create_default_context()
    authority.configure_trust(found)
    return found


@pytest.fixture
def server_context(authority: trustme.CA) -> ssl.SSLContext:
    found = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(found)
    return found


@pytest.fixture
def plain_server() -> Iterator[Any]:
    address, stop = zeolith.server()
    yield address
    stop()


def shake_hands(context: ssl.SSLContext) -> Callable[[socket.socket], object]:
    """Return what a TLS server does at the beginning; it says nothing after that."""

    def speak(sock: socket.socket) -> None:
        sock.settimeout(20)
        # Of its own, so that the connection outlives it.
        with context.wrap_socket(sock.dup(), server_side=True):
            pass

    return speak


def test_a_tls_client_at_a_plain_server_is_told_at_once(
    plain_server: Any, client: Open, context: ssl.SSLContext
) -> None:
    with promptly(10), pytest.raises(ServerRefused, match="speaks plain text: leave out ssl"):
        client(plain_server, ssl=context, wait_timeout=PATIENT)


@pytest.mark.parametrize(
    ("banner", "hint"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "speaks HTTP; does it speak plain text"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "speaks SSH"),
        (b"220 mail.example.com ESMTP\r\n", "begins with b'220 '"),
        (b"\0", "does not speak TLS"),
        (ALERT, "does it want a certificate"),
    ],
    ids=["HTTP", "SSH", "SMTP", "one byte", "alert"],
)
def test_what_answers_otherwise_is_refused_at_once(
    serve: Serve, client: Open, context: ssl.SSLContext, banner: bytes, hint: str
) -> None:
    with promptly(10), pytest.raises(ServerRefused, match=hint):
        client(serve(say(banner)), ssl=context, wait_timeout=PATIENT)


def test_a_server_that_ends_the_hand_shake_is_waited_for(
    fake: FakeServer, client: Open, context: ssl.SSLContext
) -> None:
    storage = client(fake.address, ssl=context, wait=False)
    for _ in range(3):
        fake.accept().close()
    wait_until(lambda: storage._link._failure)
    assert not isinstance(storage._link._failure, ServerRefused)


def test_who_gives_up_waiting_for_the_hand_shake_learns_that(
    fake: FakeServer, client: Open, context: ssl.SSLContext
) -> None:
    storage = client(fake.address, ssl=context, wait=False)
    fake.accept()
    wait_until(storage._link._connector.awaited)
    with pytest.raises(ClientDisconnected, match=r"no answer to the TLS .* plain text\?"):
        storage.server_status(timeout=0)


def test_an_attempt_without_a_hand_shake_ends_and_says_so(
    fake: FakeServer, client: Open, context: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zeolith.client.connector.CONNECT_TIMEOUT", 0.1)
    storage = client(fake.address, ssl=context, wait=False)
    fake.accept()
    failure = wait_until(lambda: storage._link._failure)
    assert isinstance(failure, TimeoutError)
    assert "does not answer the TLS hand-shake; does it speak plain text?" in str(failure)


def test_a_plain_client_at_a_tls_server_learns_why(
    serve: Serve, client: Open, server_context: ssl.SSLContext
) -> None:
    storage = client(serve(shake_hands(server_context)), wait=False)
    wait_until(storage._link._connector.awaited)
    with pytest.raises(ClientDisconnected, match=r"no greeting: does it expect TLS\?"):
        storage.server_status(timeout=0)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_client_without_the_certificate_that_is_demanded_is_told_at_once(
    serve: Serve,
    client: Open,
    context: ssl.SSLContext,
    server_context: ssl.SSLContext,
    authority: trustme.CA,
    version: ssl.TLSVersion,
) -> None:
    server_context.maximum_version = version
    server_context.verify_mode = ssl.CERT_REQUIRED
    authority.configure_trust(server_context)
    address = serve(shake_hands(server_context))
    with promptly(10), pytest.raises(ServerRefused, match="does it want a certificate"):
        client(address, ssl=context, wait_timeout=PATIENT)


def test_a_server_without_a_version_that_we_speak_is_told_at_once(
    serve: Serve, client: Open, context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    server_context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    address = serve(shake_hands(server_context))
    with promptly(10), pytest.raises(ServerRefused, match=r"(?i)version"):
        client(address, ssl=context, wait_timeout=PATIENT)


# -- by themselves -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reason", "lasts"),
    [
        ("WRONG_VERSION_NUMBER", True),
        ("UNSUPPORTED_PROTOCOL", True),
        ("TLSV13_ALERT_CERTIFICATE_REQUIRED", True),
        ("TLSV1_ALERT_UNKNOWN_CA", True),
        ("SSLV3_ALERT_HANDSHAKE_FAILURE", True),
        ("TLSV1_ALERT_INTERNAL_ERROR", False),
        ("TLSV1_ALERT_USER_CANCELLED", False),
        ("UNEXPECTED_EOF_WHILE_READING", False),
        (None, False),
    ],
)
def test_which_failures_of_tls_last(reason: str | None, lasts: bool) -> None:
    error = ssl.SSLError(1, "an error")
    error.reason = reason  # type: ignore[assignment]
    assert is_lasting(error) == lasts


def test_a_certificate_that_is_refused_lasts() -> None:
    assert is_lasting(ssl.SSLCertVerificationError(1, "certificate verify failed"))


@pytest.mark.parametrize("first", [0x14, 0x15, 0x16, 0x17])
def test_what_tls_begins_with(first: int) -> None:
    for data in (bytes([first]), bytes([first, 3]), bytes([first, 3, 3, 0, 2])):
        assert describe_plain(data) is None
    assert describe_plain(bytes([first, 4])) is not None


def test_what_other_things_begin_with() -> None:
    for greeting in (b"\0\0\0\2Z5", b"\0\0\0\nM5 zeolith"):
        assert "leave out ssl" in str(describe_plain(greeting))
    for other in (b"\0\0\0", b"\0\0\0\2", b"\0\0\0\2X5", b"\0\0\1\2Z5"):
        assert "does it speak plain text?" in str(describe_plain(other))


def test_violations_are_described_by_what_came() -> None:
    too_large = FrameTooLarge(int.from_bytes(b"HTTP", "big"), 64)
    assert describe_violation(too_large) == "it is not a ZEO server: it speaks HTTP"
    assert describe_violation(IllegalMessage("why")) == "it is not a ZEO server: why"

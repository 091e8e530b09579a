"""Handshakes that do not come to an end."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
import trustme
from tests.support.raw import RawClient, connect
from tests.support.waiting import Background, wait_until
from ZODB.MappingStorage import MappingStorage

from zeolith.credentials import FixedCredentials
from zeolith.server import tlsaccepting
from zeolith.server.crowd import Crowd
from zeolith.server.limitedlog import LimitedLog
from zeolith.server.loops import new_event_loop
from zeolith.server.tally import Limit, Tally
from zeolith.server.tlsaccepting import TlsAcceptor


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def context(authority: trustme.CA) -> ssl.SSLContext:
    """Of the server."""
    found = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(found)
    return found


@pytest.fixture
def trusting(authority: trustme.CA) -> ssl.SSLContext:
    """Of a client."""
    found = ssl.create_default_context()
    authority.configure_trust(found)
    return found


def is_closed(sock: socket.socket) -> bool:
    try:
        return sock.recv(1) == b""
    except ConnectionResetError:
        return True


@pytest.mark.parametrize("is_unix", [False, True])
def test_a_handshake_in_progress_ends_with_the_server(
    mapping: MappingStorage,
    loop: Any,
    context: ssl.SSLContext,
    trusting: ssl.SSLContext,
    is_unix: bool,
) -> None:
    """The peer is told, and no socket is left to the garbage collector."""
    from zeolith.server import Server, ServerOptions, start_in_thread

    with tempfile.TemporaryDirectory() as directory:
        address: Any = str(Path(directory) / "sock") if is_unix else ("127.0.0.1", 0)
        server = Server({"1": mapping}, ServerOptions(address=address, loop=loop, ssl=context))
        stop = start_in_thread(server)
        try:
            pending = [connect(server.address) for _ in range(3)]
            # One has said something, and whoever comes later is served.
            pending[1].sendall(b"\x16\x03\x01\x02\x00\x01")
            with RawClient(server.address, tls=trusting) as client:
                client.ping()
        finally:
            stop()
        for sock in pending:
            with closing(sock):
                assert is_closed(sock)


class Listener:
    """A listening socket that fails as it is told.

    :ivar failures: what the next accepts raise.
    """

    def __init__(self) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.socket.setblocking(False)
        self.failures: list[OSError] = []
        self.tries = 0

    def fileno(self) -> int:
        return self.socket.fileno()

    def accept(self) -> Any:
        self.tries += 1
        if self.failures:
            raise self.failures.pop(0)
        return self.socket.accept()


def make_acceptor(
    loop: asyncio.AbstractEventLoop,
    listener: Any,
    factory: Callable[[], asyncio.Protocol],
    context: ssl.SSLContext,
) -> TlsAcceptor:
    tally = Tally()
    crowd = Crowd(loop.time, 10, 10, tally, LimitedLog(loop, logging.getLogger(__name__), "tests"))
    return TlsAcceptor(
        loop, listener, lambda _: factory(), FixedCredentials(context), 30, crowd, tally
    )


class Greeter(asyncio.Protocol):
    def connection_made(self, transport: Any) -> None:
        transport.write(b"hello")
        transport.close()


@pytest.fixture
def listener() -> Iterator[Listener]:
    found = Listener()
    yield found
    found.socket.close()


@pytest.fixture
def event_loop(loop: Any) -> Iterator[asyncio.AbstractEventLoop]:
    found = new_event_loop(loop)
    yield found
    found.close()


def turn(event_loop: asyncio.AbstractEventLoop) -> bool:
    """Let the loop see to what is there, and to what comes in a moment."""
    event_loop.run_until_complete(asyncio.sleep(0.01))
    return True


def test_a_handshake_that_has_not_begun(
    listener: Listener, event_loop: asyncio.AbstractEventLoop, context: ssl.SSLContext
) -> None:
    acceptor = make_acceptor(event_loop, listener, Greeter, context)
    with closing(connect(listener.socket.getsockname())) as sock:
        sock.settimeout(10)
        # By hand: on the loop, one step would be made before anything else could happen.
        wait_until(lambda: acceptor._accept() or acceptor._handshakes)  # type: ignore[func-returns-value]
        acceptor.close()
        turn(event_loop)
        assert is_closed(sock)
    assert not acceptor._handshakes


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENOBUFS])
def test_a_system_without_room_is_tried_again(
    listener: Listener,
    event_loop: asyncio.AbstractEventLoop,
    context: ssl.SSLContext,
    trusting: ssl.SSLContext,
    number: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(tlsaccepting, "_PAUSE", 0.05)
    listener.failures = [OSError(number, "no room"), ConnectionAbortedError()]
    acceptor = make_acceptor(event_loop, listener, Greeter, context)

    def talk() -> bytes:
        plain = connect(listener.socket.getsockname())
        with trusting.wrap_socket(plain, server_hostname="localhost") as sock:
            return sock.recv(10)

    talking = event_loop.run_in_executor(None, talk)
    assert event_loop.run_until_complete(asyncio.wait_for(talking, 20)) == b"hello"
    assert caplog.text.count("no connection can be accepted: no room") == 1
    # In the pause nobody was asked; it is not a loop that turns in vain.
    assert listener.tries < 10
    listener.failures = [OSError(number, "no room")]
    acceptor._accept()
    pause = acceptor._timer
    assert pause is not None
    acceptor.close()  # in the middle of the pause
    assert pause.cancelled()
    turn(event_loop)
    assert listener.failures == []


def test_a_handshake_that_fails(
    listener: Listener,
    event_loop: asyncio.AbstractEventLoop,
    context: ssl.SSLContext,
    trusting: ssl.SSLContext,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Nothing is left; a defect of ours is told from what peers do."""
    caplog.set_level(logging.DEBUG, "zeolith")
    event_loop.set_exception_handler(lambda *args: None)

    def factory() -> asyncio.Protocol:
        raise RuntimeError("defect")

    def speak_http() -> None:
        with closing(connect(listener.socket.getsockname())) as sock:
            sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
            while sock.recv(100):
                pass

    def shake_hands() -> None:
        with (
            connect(listener.socket.getsockname()) as plain,
            trusting.wrap_socket(plain, server_hostname="localhost") as sock,
        ):
            assert is_closed(sock)

    for make, speak, message in (
        (Greeter, speak_http, "no TLS connection"),
        (factory, shake_hands, "error while a connection was accepted"),
    ):
        acceptor = make_acceptor(event_loop, listener, make, context)
        talk = Background(speak)
        wait_until(lambda text=message: turn(event_loop) and text in caplog.text)  # type: ignore[misc]
        wait_until(lambda found=acceptor: turn(event_loop) and not found._handshakes)  # type: ignore[misc]
        talk.result()
        acceptor.close()
        turn(event_loop)


@pytest.mark.parametrize("shows_certificate", [True, False])
def test_r9_who_resumes_a_session_needs_a_valid_certificate(
    listener: Listener,
    event_loop: asyncio.AbstractEventLoop,
    authority: trustme.CA,
    context: ssl.SSLContext,
    trusting: ssl.SSLContext,
    shows_certificate: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """OpenSSL does not look at it again, and with TLS 1.2 keeps sessions whatever it is told."""
    trusting.maximum_version = ssl.TLSVersion.TLSv1_2
    if shows_certificate:
        context.verify_mode = ssl.CERT_REQUIRED
        authority.configure_trust(context)
        authority.issue_cert("client").configure_cert(trusting)
    acceptor = make_acceptor(event_loop, listener, Greeter, context)
    sessions: list[ssl.SSLSession | None] = [None]

    def talk() -> tuple[bytes, bool | None]:
        plain = connect(listener.socket.getsockname())
        with trusting.wrap_socket(plain, server_hostname="localhost", session=sessions[-1]) as sock:
            sessions.append(sock.session)
            with suppress(ConnectionError):
                return sock.recv(10), sock.session_reused
            return b"", sock.session_reused

    def say() -> tuple[bytes, bool | None]:
        talking = event_loop.run_in_executor(None, talk)
        return event_loop.run_until_complete(asyncio.wait_for(talking, 20))

    assert say() == (b"hello", False)
    assert say() == (b"hello", True)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 2000 * 365 * 86400)
    assert say() == (b"" if shows_certificate else b"hello", True)
    assert ("its certificate has expired meanwhile" in caplog.text) is shows_certificate
    acceptor.close()
    turn(event_loop)


def talk_plainly(address: Any, trusting: ssl.SSLContext) -> None:
    with closing(connect(address)) as sock:
        sock.sendall(b"\0\0\0\2Z5")
        sock.recv(1)


def show_no_certificate(address: Any, trusting: ssl.SSLContext) -> None:
    with (
        closing(connect(address)) as plain,
        trusting.wrap_socket(plain, server_hostname="localhost") as sock,
    ):
        sock.recv(1)


def show_a_stranger_s_certificate(address: Any, trusting: ssl.SSLContext) -> None:
    trustme.CA().issue_cert("stranger").configure_cert(trusting)
    show_no_certificate(address, trusting)


def trust_nobody(address: Any, trusting: ssl.SSLContext) -> None:
    show_no_certificate(address, ssl.create_default_context())


def say_nothing(address: Any, trusting: ssl.SSLContext) -> None:
    with closing(connect(address)) as sock:
        sock.settimeout(20)
        sock.recv(1)


def leave(address: Any, trusting: ssl.SSLContext) -> None:
    connect(address).close()


@pytest.mark.parametrize(
    ("act", "reason"),
    [
        (talk_plainly, "it does not use TLS"),
        (show_no_certificate, "it shows no certificate"),
        (show_a_stranger_s_certificate, "its certificate is not admitted: unable to get local"),
        (trust_nobody, "it does not trust our certificate"),
        (say_nothing, "no TLS handshake within 0.2 s"),
        (leave, None),
    ],
)
def test_a_refusal_is_one_line_with_peer_and_reason(
    mapping: MappingStorage,
    loop: Any,
    authority: trustme.CA,
    context: ssl.SSLContext,
    trusting: ssl.SSLContext,
    act: Callable[[Any, ssl.SSLContext], None],
    reason: str | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    from zeolith.server import Server, ServerOptions, start_in_thread

    context.verify_mode = ssl.CERT_REQUIRED
    authority.configure_trust(context)
    options = ServerOptions(
        address=("127.0.0.1", 0),
        loop=loop,
        ssl=context,
        register_timeout=0.2 if act is say_nothing else 30,
    )
    caplog.set_level(logging.DEBUG, "zeolith.server")
    server = Server({"1": mapping}, options)
    stop = start_in_thread(server)
    try:
        with suppress(OSError):
            act(server.address, trusting)
        wait_until(lambda: "no TLS connection" in caplog.text)
    finally:
        stop()
    loud = [record for record in caplog.records if record.levelno >= logging.WARNING]
    if reason is None:
        assert loud == []  # a probe: see the debug line
    else:
        (record,) = loud
        assert server._lobby is not None
        late = server._lobby.tally[Limit.REGISTER_TIMEOUT]
        assert late == (1 if act is say_nothing else 0)
        assert record.getMessage().startswith("(127.0.0.1:")
        assert reason in record.getMessage()


def test_the_client_names_the_host_it_wants(
    mapping: MappingStorage, loop: Any, authority: trustme.CA, trusting: ssl.SSLContext
) -> None:
    """SNI, by which a proxy or a server with several certificates chooses."""
    import zeolith
    from zeolith.server import Server, ServerOptions, start_in_thread

    first, second = (ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) for _ in range(2))
    authority.issue_cert("localhost", "127.0.0.1").configure_cert(first)
    authority.issue_cert("db.example.org").configure_cert(second)
    asked: list[str | None] = []

    def choose(sock: Any, name: str | None, context: ssl.SSLContext) -> None:
        asked.append(name)
        if name == "db.example.org":
            sock.context = second

    first.sni_callback = choose
    server = Server({"1": mapping}, ServerOptions(address=("127.0.0.1", 0), loop=loop, ssl=first))
    stop = start_in_thread(server)
    try:
        address = ("localhost", server.address[1])
        for hostname in (None, "db.example.org"):
            zeolith.ClientStorage(address, ssl=trusting, ssl_server_hostname=hostname).close()
        zeolith.ClientStorage(server.address, ssl=trusting).close()
    finally:
        stop()
    # An IP address is no name.
    assert asked == ["localhost", "db.example.org", None]

"""Certificates of a client: renewed while it runs, and refused without a word."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from ZODB.MappingStorage import MappingStorage

import zeolith
from tests.support.certificates import DAY, Certificates
from tests.support.processes import running_server
from tests.support.waiting import Background, promptly, wait_until
from zeolith.admin.asking import Target
from zeolith.admin.status import fetch_status
from zeolith.client.certificates import refusal_without_reason
from zeolith.config.tls import TlsSettings
from zeolith.errors import CertificateProblem, CertificateRefused, ServerRefused


@pytest.fixture
def ours(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path)


def test_a_renewed_certificate_is_shown_at_the_next_connection(
    ours: Certificates, tmp_path: Path
) -> None:
    settings = TlsSettings(certificate=ours.issue("server", "127.0.0.1"), authenticate=ours.root)
    current = tmp_path / "current.pem"
    shutil.copy(ours.issue("first"), current)
    credentials = zeolith.tls(str(current), ours.root)
    with running_server(MappingStorage(), ssl=settings.server_context()) as server:
        administrator = zeolith.tls(ours.issue("admin"), ours.root).context

        def users() -> list[str]:
            found = fetch_status(Target(server.address, administrator), connections=9)
            assert found.connections is not None
            return [connection["user"] for connection in found.connections]

        storage = zeolith.ClientStorage(server.address, ssl=credentials)
        try:
            assert users() == ["first.example"]
            fresh = tmp_path / "fresh.pem"
            shutil.copy(ours.issue("second"), fresh)
            os.replace(fresh, current)
            storage._link.channel().wire.abort()
            wait_until(lambda: users() == ["second.example"])
        finally:
            storage.close()


class Mute:
    """A TLS server that ends each connection by a reset, in the middle of the handshake."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.address = self._socket.getsockname()
        self.met = 0
        self._thread = Background(self._run)

    def _run(self) -> None:
        while True:
            try:
                sock, _ = self._socket.accept()
            except OSError:
                return
            with sock:
                self.met += 1
                incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
                tls = self._context.wrap_bio(incoming, outgoing, server_side=True)
                incoming.write(sock.recv(1 << 16))
                with pytest.raises(ssl.SSLWantReadError):
                    tls.do_handshake()
                sock.sendall(outgoing.read())
                assert sock.recv(1)
                # With something unread, and at once.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.result()


@pytest.fixture
def mute(ours: Certificates) -> Iterator[Mute]:
    context = TlsSettings(
        certificate=ours.issue("server", "127.0.0.1"), authenticate=ours.root
    ).server_context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    found = Mute(context)
    yield found
    found.close()


def test_a_server_that_says_nothing_refuses_in_the_end(mute: Mute, ours: Certificates) -> None:
    with promptly(15), pytest.raises(CertificateRefused) as caught:
        zeolith.ClientStorage(
            mute.address, ssl=zeolith.tls(authenticate=ours.root), wait_timeout=100
        )
    assert mute.met >= 3
    assert caught.value.whose == "client"
    assert caught.value.problem is CertificateProblem.OTHER
    assert "see the server's log" in str(caught.value)


def test_one_silent_end_is_not_yet_a_refusal(mute: Mute, ours: Certificates) -> None:
    """A server that is being stopped looks like that."""
    storage = zeolith.ClientStorage(
        mute.address, ssl=zeolith.tls(authenticate=ours.root), wait=False, min_disconnect_poll=60
    )
    try:
        failure = wait_until(lambda: storage._link._failure)
        assert not isinstance(failure, ServerRefused)
        assert isinstance(failure, ConnectionError)
    finally:
        storage.close()


def test_what_the_client_knows_of_its_own_certificate(ours: Certificates) -> None:
    good, bad = (
        zeolith.tls(ours.issue(name, start=-9 * DAY, end=end), ours.root)
        for name, end in (("good", DAY), ("bad", -DAY))
    )
    assert refusal_without_reason("db:1", good).problem is CertificateProblem.OTHER
    found = refusal_without_reason("db:1", bad)
    assert found.problem is CertificateProblem.EXPIRED
    assert str(found).startswith("db:1 does not accept this client's certificate: it expired on 20")


def test_the_error_can_be_copied() -> None:
    from copy import copy

    error = CertificateRefused("db:1", "why", "client", CertificateProblem.REVOKED)
    twin = copy(error)
    assert (twin.whose, twin.problem, str(twin)) == (
        "client",
        CertificateProblem.REVOKED,
        str(error),
    )

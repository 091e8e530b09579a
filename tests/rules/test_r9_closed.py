"""R9: with TLS configured nothing is reachable before it succeeds, and no option is ignored."""

from __future__ import annotations

import ssl
from typing import Any, NamedTuple

import pytest
import trustme
from tests.rules.conftest import Connect, Open, Serve
from tests.rules.ordering import eight_writers
from tests.support.raw import Z64, RawClient, connect, oid_of
from tests.support.waiting import Background, promptly, wait_until
from ZODB.Connection import TransactionMetaData
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage

from zeolith.errors import ClientDisconnected, ConfigurationError, ServerRefused
from zeolith.server.options import ServerOptions


class Contexts(NamedTuple):
    """TLS contexts of one site.

    :ivar stranger: a client whose certificate another authority has made.
    :ivar anonymous: a client without a certificate.
    """

    server: ssl.SSLContext
    client: ssl.SSLContext
    stranger: ssl.SSLContext
    anonymous: ssl.SSLContext


@pytest.fixture(scope="module")
def tls() -> Contexts:
    site, elsewhere = trustme.CA(), trustme.CA()

    def client_context(authority: trustme.CA | None) -> ssl.SSLContext:
        context = ssl.create_default_context()
        site.configure_trust(context)
        if authority is not None:
            authority.issue_cert("client").configure_cert(context)
        return context

    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    site.issue_cert("localhost").configure_cert(server)
    site.configure_trust(server)
    server.verify_mode = ssl.CERT_REQUIRED
    return Contexts(server, client_context(site), client_context(elsewhere), client_context(None))


def test_r9_a_plain_client_learns_nothing(
    mapping: MappingStorage, serve: Serve, tls: Contexts, loop: str
) -> None:
    server = serve(mapping, loop=loop, ssl=tls.server, register_timeout=1)
    for data in (b"", b"\0\0\0\2Z5", b"\0\0\0\4ruok", b"\0" * 1000):
        with connect(server.address) as sock, promptly(10):
            sock.sendall(data)
            said = b""
            try:
                while part := sock.recv(1000):
                    said += part
            except ConnectionError:
                pass
            # At most an alert of the TLS layer; neither greeting nor status.
            assert b"Z5" not in said
            assert b"{" not in said


def first_words(address: Any, context: ssl.SSLContext) -> bytes:
    """Return what a server says to a client that shows the certificate of *context*."""
    try:
        # The handshake may seem to succeed on this side; reading tells.
        with (
            connect(address) as sock,
            context.wrap_socket(sock, server_hostname="localhost") as encrypted,
        ):
            return encrypted.recv(100)
    except (ssl.SSLError, ConnectionError):
        return b""


@pytest.mark.parametrize("who", ["stranger", "anonymous"])
def test_r9_a_certificate_is_needed(
    mapping: MappingStorage, serve: Serve, client: Open, tls: Contexts, loop: str, who: str
) -> None:
    server = serve(mapping, loop=loop, ssl=tls.server)
    context = getattr(tls, who)
    assert first_words(server.address, context) == b""
    assert first_words(server.address, tls.client) != b""
    with promptly(10), pytest.raises((ClientDisconnected, ServerRefused)):
        client(server.address, ssl=context, ssl_server_hostname="localhost", wait_timeout=0.5)


def test_r9_the_server_is_checked_too(
    mapping: MappingStorage, serve: Serve, client: Open, tls: Contexts
) -> None:
    server = serve(mapping, ssl=tls.server)
    with promptly(10), pytest.raises((ClientDisconnected, ServerRefused)):
        client(server.address, ssl=tls.client, ssl_server_hostname="example.org", wait_timeout=0.5)


def test_r9_a_tls_client_on_a_plain_port(
    mapping: MappingStorage, serve: Serve, client: Open, tls: Contexts
) -> None:
    server = serve(mapping)
    with promptly(10), pytest.raises((ClientDisconnected, ServerRefused)):
        client(server.address, ssl=tls.client, ssl_server_hostname="localhost", wait_timeout=0.5)


def test_r9_a_plain_client_on_a_tls_port_is_told(
    mapping: MappingStorage, serve: Serve, client: Open, tls: Contexts
) -> None:
    """F: ZEO's client raises AttributeError in its heartbeat."""
    server = serve(mapping, ssl=tls.server)
    with promptly(10), pytest.raises(ClientDisconnected):
        client(server.address, wait_timeout=0.5)


def test_r9_everything_works_behind_tls(
    files: FileStorage, serve: Serve, client: Open, tls: Contexts, tmp_path: Any, loop: str
) -> None:
    server = serve(files, loop=loop, ssl=tls.server)
    one, two = (
        client(
            server.address,
            ssl=tls.client,
            ssl_server_hostname="localhost",
            blob_dir=str(tmp_path / name),
        )
        for name in ("one", "two")
    )
    data = bytes(range(256)) * 8000
    (tmp_path / "source").write_bytes(data)
    meta = TransactionMetaData()
    one.tpc_begin(meta)
    one.store(oid_of(1), Z64, data, "", meta)
    one.storeBlob(oid_of(2), Z64, b"cZODB.blob\nBlob\n.", str(tmp_path / "source"), "", meta)
    one.tpc_vote(meta)
    tid = one.tpc_finish(meta)
    wait_until(lambda: two.lastTransaction() == tid)
    assert two.load(oid_of(1)) == (data, tid)
    with open(two.loadBlob(oid_of(2), tid), "rb") as file:
        assert file.read() == data
    loads = [
        Background(lambda n=n: [two.loadBefore(oid_of(1), bytes([127 - n]) * 8) for _ in range(20)])  # type: ignore[misc]
        for n in range(4)
    ]
    for load in loads:
        load.result()


def test_r9_order_holds_behind_tls(
    files: FileStorage, serve: Serve, raw: Connect, tls: Contexts, loop: str
) -> None:
    """R1 on the encrypted path."""
    server = serve(files, loop=loop, ssl=tls.server)

    def raw_tls(address: Any) -> RawClient:
        return raw(address, tls=tls.client)

    eight_writers(server, raw_tls)


@pytest.mark.parametrize(
    "keywords",
    [
        {"ssl": True},
        {"ssl_server_hostname": "localhost"},
        {"username": "u"},
        {"password": "p"},
        {"realm": "r"},
        {"credentials": ("u", "p")},
        {"disconnect_poll": 5},
        {"shared_blob_dir": True},
        {"blob_cache_size": 5},
        {"database_behind": "perhaps"},
        {"read_only": True, "read_only_fallback": True},
    ],
)
def test_r9_a_client_keyword_that_would_be_ignored_is_an_error(keywords: dict[str, Any]) -> None:
    import zeolith

    with promptly(5), pytest.raises(ConfigurationError) as caught:
        zeolith.ClientStorage(("127.0.0.1", 1), wait=False, **keywords)
    assert caught.value.option in keywords


@pytest.mark.parametrize(
    "options",
    [{"loop": "twisted"}, {"transaction_timeout": -1.0}, {"output_limit": 0}, {"loads": "x"}],
)
def test_r9_a_server_option_that_makes_no_sense_is_an_error(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        ServerOptions(address=("127.0.0.1", 0), **options)

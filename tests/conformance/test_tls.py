"""TLS with certificates on both sides, between every pairing."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import NamedTuple

import pytest
import trustme
from tests.conformance.site import BLOBS, DISCONNECTED, Site
from ZODB.blob import Blob


class Authority(NamedTuple):
    """Files of one certificate authority and of what it has signed."""

    root: str
    server: dict[str, str]
    client: tuple[str, str]


def _make(name: str, directory: Path) -> Authority:
    authority = trustme.CA(organization_name=name)
    root = directory / f"{name}.pem"
    authority.cert_pem.write_to_path(str(root))
    paths = {}
    for role, identity in (("server", "db.example"), ("client", "client.example")):
        issued = authority.issue_cert("127.0.0.1", identity)
        chain, key = directory / f"{name}-{role}.pem", directory / f"{name}-{role}.key"
        with open(chain, "wb") as file:
            for blob in issued.cert_chain_pems:
                file.write(blob.bytes())
        issued.private_key_pem.write_to_path(str(key))
        paths[role] = str(chain), str(key)
    certificate, key_path = paths["server"]
    return Authority(
        str(root),
        {"certificate": certificate, "key": key_path, "authenticate": str(root)},
        paths["client"],
    )


@pytest.fixture(scope="module")
def authorities(tmp_path_factory: pytest.TempPathFactory) -> tuple[Authority, Authority]:
    """The one that everybody trusts, and a stranger."""
    directory = tmp_path_factory.mktemp("certificates")
    return _make("ours", directory), _make("stranger", directory)


def _context(trusted: Authority, own: Authority | None) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=trusted.root)
    if own is not None:
        context.load_cert_chain(*own.client)
    return context


def test_a_session_through_tls(site: Site, authorities: tuple[Authority, Authority]) -> None:
    ours, _ = authorities
    server = site.serve(BLOBS, ssl=ours.server)
    one, other = (
        site.database(server.address, ssl=_context(ours, ours), **site.blob_options(False))
        for _ in range(2)
    )
    big = "x" * 3_000_000
    with one.transaction() as connection:
        connection.root.big = big
        connection.root.blob = Blob(b"blob" * 100_000)
    site.catch_up(other, one)
    with other.transaction() as connection:
        assert connection.root.big == big
        with connection.root.blob.open() as file:
            assert file.read() == b"blob" * 100_000


def test_the_servers_name_may_be_given(
    site: Site, authorities: tuple[Authority, Authority]
) -> None:
    ours, _ = authorities
    server = site.serve(ssl=ours.server)
    options = {"ssl": _context(ours, ours)}
    client = site.client(server.address, ssl_server_hostname="db.example", **options)
    assert client.is_connected()
    with pytest.raises(DISCONNECTED):
        site.client(server.address, ssl_server_hostname="other.example", wait_timeout=1, **options)


@pytest.mark.parametrize("fault", ["no certificate", "unknown client", "unknown server", "plain"])
def test_who_cannot_be_trusted_gets_nothing(
    site: Site, authorities: tuple[Authority, Authority], fault: str
) -> None:
    ours, stranger = authorities
    server = site.serve(ssl=ours.server)
    contexts = {
        "no certificate": _context(ours, None),
        "unknown client": _context(ours, stranger),
        "unknown server": _context(stranger, ours),
        "plain": None,
    }
    with pytest.raises(DISCONNECTED):
        site.client(server.address, ssl=contexts[fault], wait_timeout=1)
    # The server is none the worse for it.
    assert site.client(server.address, ssl=_context(ours, ours)).is_connected()

"""Certificates that are not accepted: a typed error at once, whoever's server it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID
from tests.support.certificates import DAY, Certificates
from tests.support.hosts import Hosts, Kind
from tests.support.waiting import promptly, wait_until

import zeolith
from zeolith.admin.authority import Authority
from zeolith.errors import CertificateProblem, CertificateRefused, ServerRefused

HOST = "127.0.0.1"


class Party(NamedTuple):
    """How one side is set up.

    :ivar certificate: what it shows.
    :ivar authenticate: whom it trusts.
    """

    certificate: str | None
    authenticate: str


class Case(NamedTuple):
    """One thing that is wrong.

    :ivar whose: whose certificate it is.
    :ivar problem: what the client says of it.
    :ivar text: part of what it says.
    :ivar log: part of what a Zeolith server logs.
    """

    whose: str
    problem: CertificateProblem
    text: str
    log: str


P = CertificateProblem

CASES = {
    "server-expired": Case("server", P.EXPIRED, "renew it at the server", "has expired"),
    "server-early": Case("server", P.NOT_YET_VALID, "compare the clocks", "not trust"),
    "server-foreign": Case("server", P.FOREIGN, "nobody whom this client trusts", "not trust"),
    "server-mismatch": Case("server", P.MISMATCH, "'127.0.0.1'; connect by a name", "the name"),
    "server-revoked": Case("server", P.REVOKED, "revoked", "has been revoked"),
    "server-unlisted": Case("server", P.REVOCATION_UNKNOWN, "no revocation list", "not trust"),
    "server-stale-list": Case(
        "server", P.REVOCATION_UNKNOWN, "list of its authority has expired", "has expired"
    ),
    "server-unfit": Case("server", P.UNFIT, "not meant for servers", "not one for servers"),
    "client-expired": Case("client", P.EXPIRED, "it expired on 20", "certificate has expired"),
    "client-early": Case("client", P.OTHER, "see the server's log", "not yet valid"),
    "client-foreign": Case("client", P.FOREIGN, "nobody whom the server trusts", "local issuer"),
    "client-missing": Case("client", P.MISSING, "there is none", "shows no certificate"),
    "client-revoked": Case("client", P.REVOKED, "it has been revoked", "certificate revoked"),
    "client-unfit": Case("client", P.UNFIT, "not meant for clients", "purpose"),
}


class Scene:
    """Certificates of a site, and of strangers."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.ours = Certificates(directory)
        self.strange = Certificates(directory, "strange")
        self.good_server = self.ours.issue("server", HOST)
        self.good_client = self.ours.issue("client")

    def joined(self, name: str, *paths: str) -> str:
        """Return a file with the contents of *paths*."""
        target = self.directory / name
        target.write_bytes(b"".join(Path(path).read_bytes() for path in paths))
        return str(target)

    def single(self, name: str, make: Callable[[Authority], bytes]) -> tuple[str, str]:
        """Return the files of an authority of the command's kind, and of what it signed."""
        authority = Authority.make(name)
        root, own = self.directory / f"{name}-ca.pem", self.directory / f"{name}.pem"
        root.write_bytes(authority.pem)
        own.write_bytes(make(authority))
        return str(root), str(own)

    def set_up(self, case: str) -> tuple[Party, Party]:
        """Return the server and the client of a case."""
        root = self.ours.root
        server, client = Party(self.good_server, root), Party(self.good_client, root)
        make = getattr(self, case.replace("-", "_"))
        found: tuple[Party, Party] = make(server, client)
        return found

    def server_expired(self, server: Party, client: Party) -> tuple[Party, Party]:
        return Party(self.ours.issue("late", HOST, start=-3 * DAY, end=-DAY), server[1]), client

    def server_early(self, server: Party, client: Party) -> tuple[Party, Party]:
        return Party(self.ours.issue("early", HOST, start=DAY), server[1]), client

    def server_foreign(self, server: Party, client: Party) -> tuple[Party, Party]:
        return Party(self.strange.issue("server", HOST), server[1]), client

    def server_mismatch(self, server: Party, client: Party) -> tuple[Party, Party]:
        return Party(self.ours.issue("other", "db.example"), server[1]), client

    def server_revoked(self, server: Party, client: Party) -> tuple[Party, Party]:
        revoked = self.ours.revoke([self.good_server])
        return server, Party(client[0], self.joined("r.pem", client[1], revoked))

    def server_unlisted(self, server: Party, client: Party) -> tuple[Party, Party]:
        other = self.strange.revoke([])
        return server, Party(client[0], self.joined("u.pem", client[1], other))

    def server_stale_list(self, server: Party, client: Party) -> tuple[Party, Party]:
        stale = self.ours.revoke([], next_update=-DAY, serial=2)
        return server, Party(client[0], self.joined("s.pem", client[1], stale))

    def server_unfit(self, server: Party, client: Party) -> tuple[Party, Party]:
        root, own = self.single("unfit", lambda authority: authority.issue_client("app"))
        return Party(own, server[1]), Party(client[0], root)

    def client_expired(self, server: Party, client: Party) -> tuple[Party, Party]:
        return server, Party(self.ours.issue("gone", start=-3 * DAY, end=-DAY), client[1])

    def client_early(self, server: Party, client: Party) -> tuple[Party, Party]:
        return server, Party(self.ours.issue("soon", start=DAY), client[1])

    def client_foreign(self, server: Party, client: Party) -> tuple[Party, Party]:
        return server, Party(self.strange.issue("client"), client[1])

    def client_missing(self, server: Party, client: Party) -> tuple[Party, Party]:
        return server, Party(None, client[1])

    def client_revoked(self, server: Party, client: Party) -> tuple[Party, Party]:
        revoked = self.ours.revoke([self.good_client], serial=3)
        return Party(server[0], self.joined("c.pem", server[1], revoked)), client

    def client_unfit(self, server: Party, client: Party) -> tuple[Party, Party]:
        # Of the command's kind, but for servers alone: what public authorities sign.
        root, own = self.single("for-servers", issue_for_servers_only)
        return Party(server[0], root), Party(own, client[1])


def issue_for_servers_only(authority: Authority) -> bytes:
    return authority._issue("db.example", [], [ExtendedKeyUsageOID.SERVER_AUTH], 10)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return Scene(tmp_path_factory.mktemp("certificates"))


@pytest.mark.parametrize("version", ["1.2", "1.3"])
@pytest.mark.parametrize("kind", ["zeolith", "zeo"])
@pytest.mark.parametrize("name", CASES)
def test_what_is_wrong_is_said_at_once(
    hosts: Hosts, scene: Scene, name: str, kind: Kind, version: str
) -> None:
    case = CASES[name]
    server, client = scene.set_up(name)
    assert server.certificate is not None
    settings: dict[str, Any] = {
        "certificate": server.certificate,
        "key": None,
        "authenticate": server.authenticate,
    }
    running = hosts.start(kind, {"1": "<mappingstorage/>"}, ssl=settings)
    try:
        credentials: Any = zeolith.tls(client.certificate, client.authenticate)
        if version == "1.2":
            credentials.context.maximum_version = credentials.context.minimum_version
        with promptly(15), pytest.raises(ServerRefused) as caught:
            zeolith.ClientStorage(running.address, ssl=credentials, wait_timeout=100)
        error = caught.value
        address = "{}:{}".format(*running.address)
        assert error.server == address
        if kind == "zeo" and case.whose == "client":
            # ZEO's servers say nothing: what is known is what the client knows of itself.
            assert isinstance(error, CertificateRefused)
            assert error.whose == "client"
            assert error.problem is (P.EXPIRED if name == "client-expired" else P.OTHER)
        elif (name, version) == ("client-missing", "1.2"):
            # That version has no words for it.
            assert "does it want a certificate" in str(error)
        else:
            assert isinstance(error, CertificateRefused)
            assert (error.whose, error.problem) == (case.whose, case.problem)
            assert address in str(error)
            assert case.text in str(error)
        if kind == "zeolith":
            wait_until(lambda: any(case.log in r.text for r in running.records()))
            [line] = [r for r in running.records() if "no TLS connection" in r.text]
            assert line.level == "WARNING"
            assert "127.0.0.1:" in line.text
    finally:
        running.stop()

"""Certificates that are renewed while the server runs."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.certificates import DAY, Certificates
from tests.support.raw import Closed, RawClient
from tests.support.tlscontexts import client_context
from tests.support.waiting import wait_until
from ZODB.MappingStorage import MappingStorage

from zeolith.config.credentials import FileCredentials
from zeolith.config.tls import TlsSettings
from zeolith.server import Server, ServerOptions, renewal, start_in_thread


class _Keeper(logging.Handler):
    """Keeps what is logged.

    pytest's has one list while fixtures are made and another one for the test; what another thread
    logs in between is in none.
    """

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())


class Site:
    """A server whose certificate is in *path*.

    :ivar said: what the server has logged.
    """

    def __init__(self, ours: Certificates, path: Path, address: Any, said: list[str]) -> None:
        self.said = said
        self.ours = ours
        self.path = path
        self.address = address
        self.client = client_context(ours.issue("client"), ours.root)

    def put(self, source: str) -> None:
        fresh = self.path.with_suffix(".new")
        shutil.copy(source, fresh)
        os.replace(fresh, self.path)

    def serial(self) -> str:
        """Return the number of the certificate that a new connection is shown."""
        with (
            socket.create_connection(self.address, 10) as plain,
            self.client.wrap_socket(plain, server_hostname="127.0.0.1") as sock,
        ):
            found: Any = sock.getpeercert()
            return str(found["serialNumber"])


@pytest.fixture
def site(
    tmp_path: Path, mapping: MappingStorage, loop: Any, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Site]:
    monkeypatch.setattr(renewal, "LOOK", 0.02)
    ours = Certificates(tmp_path)
    path = tmp_path / "current.pem"
    shutil.copy(ours.issue("first", "127.0.0.1", "localhost", end=20 * DAY), path)
    credentials = FileCredentials.of_server(
        TlsSettings(certificate=str(path), authenticate=ours.root)
    )
    options = ServerOptions(address=("127.0.0.1", 0), loop=loop, ssl=credentials)
    server = Server({"1": mapping}, options)
    keeper, logger = _Keeper(), logging.getLogger("zeolith")
    logger.addHandler(keeper)
    stop = start_in_thread(server)
    yield Site(ours, path, server.address, keeper.said)
    stop()
    logger.removeHandler(keeper)


def test_new_connections_get_the_new_certificate_and_old_ones_go_on(site: Site) -> None:
    before = site.serial()
    with RawClient(site.address, tls=site.client) as client:
        site.put(site.ours.issue("second", "127.0.0.1", "localhost"))
        wait_until(lambda: site.serial() != before)
        client.ping()


def test_a_broken_file_changes_nothing_until_it_is_mended(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    before = site.serial()
    site.path.write_text("half of a file")
    wait_until(lambda: "those read before stay in use" in caplog.text)
    assert site.serial() == before
    site.put(site.ours.issue("second", "127.0.0.1", "localhost"))
    wait_until(lambda: site.serial() != before)


def test_who_is_not_trusted_any_more_stays_out(site: Site, tmp_path: Path) -> None:
    with RawClient(site.address, tls=site.client) as client:
        client.ping()
    other = Certificates(tmp_path, "other")
    fresh = tmp_path / "fresh.pem"
    shutil.copy(other.root, fresh)
    os.replace(fresh, site.ours.root)

    def is_out() -> bool:
        try:
            with RawClient(site.address, tls=site.client) as client:
                client.ping()
        except (ssl.SSLError, ConnectionError, Closed):
            return True
        return False

    wait_until(is_out)


def test_a_certificate_that_ends_soon_is_warned_of_and_shown(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    from zeolith.admin.asking import Target
    from zeolith.admin.status import fetch_status

    wait_until(lambda: any("current.pem expires on " in text for text in site.said))
    site.path.write_text("half of a file")
    wait_until(lambda: "those read before stay in use" in caplog.text)
    server = fetch_status(Target(site.address, site.client)).server
    assert server is not None
    end = os.path.getmtime(site.path) + 20 * 86400
    assert abs(server["certificate"]["expires"] - end) < 600
    assert str(site.path) in server["certificate"]["trouble"]


def test_a_defect_in_looking_does_not_end_it(
    mapping: MappingStorage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:  # fmt: skip
    monkeypatch.setattr(renewal, "LOOK", 0.01)
    ours = Certificates(tmp_path)
    credentials = FileCredentials.of_server(
        TlsSettings(certificate=ours.issue("server"), authenticate=ours.root)
    )
    looks: list[None] = []

    def fail() -> None:
        looks.append(None)
        raise RuntimeError("defect")

    monkeypatch.setattr(credentials, "refresh", fail)
    options = ServerOptions(address=("127.0.0.1", 0), ssl=credentials)
    stop = start_in_thread(Server({"1": mapping}, options))
    try:
        wait_until(lambda: len(looks) > 2)
    finally:
        stop()
    seen = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert seen
    assert "looking for renewed certificates failed" in seen[0].getMessage()


def test_r9_what_is_no_tls_is_refused() -> None:
    from zeolith.errors import ConfigurationError

    nonsense: Any = "yes"
    with pytest.raises(ConfigurationError, match="ssl: str is no SSL context"):
        ServerOptions(address=("127.0.0.1", 0), ssl=nonsense)

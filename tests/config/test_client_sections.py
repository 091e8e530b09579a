"""Client storages in configurations, and a server that serves another server's storage."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import transaction
import trustme
import ZODB.blob
import ZODB.config
from tests.support.processes import child_environment, free_port, is_listening
from tests.support.waiting import wait_until
from ZODB.POSException import ReadOnlyError

import zeolith
from zeolith.config.address import format_address
from zeolith.config.client import Client
from zeolith.config.server import parse_server_config
from zeolith.errors import ConfigurationError

NO_ZEO = (
    "import sys; sys.modules['ZEO'] = None; "  # an import of it fails
    "from zeolith.cli.main import run; run()"
)

DEMO = """
<demostorage>
  <zeoclient>
    server localhost:{port}
  </zeoclient>
  <mappingstorage changes>
  </mappingstorage>
</demostorage>
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """The address of a server."""
    address, stop = zeolith.server(path=str(tmp_path / "Data.fs"))
    yield format_address(address)
    stop()


def client_of(section: str) -> Client:
    """Return what *section* is to a server."""
    (opener,) = parse_server_config(f"<zeo>\naddress 0\n</zeo>\n{section}").storages
    assert isinstance(opener, Client)
    return opener


def refusal(section: str) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        client_of(section)
    return caught.value


# -- in an application ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["zeolith", "clientstorage"])
def test_in_zodbs_configuration(server: str, kind: str) -> None:
    text = f"%import zeolith\n<zodb>\n<{kind}>\nserver {server}\nwait-timeout 5\n</{kind}>\n</zodb>"
    db = ZODB.config.databaseFromString(text)
    try:
        with db.transaction() as connection:
            connection.root()["here"] = 1
    finally:
        db.close()
    storage = ZODB.config.storageFromString(
        f"%import zeolith\n<{kind}>\nserver {server}\nread-only true\nname mine\n</{kind}>"
    )
    try:
        assert isinstance(storage, zeolith.ClientStorage)
        assert storage.getName() == "mine (connected)"
        with pytest.raises(ReadOnlyError):
            storage.tpc_begin(transaction.get())
    finally:
        storage.close()


def test_every_key_reaches_the_client(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given: list[dict[str, object]] = []
    monkeypatch.setattr("zeolith.client.storage.ClientStorage", lambda **kw: given.append(kw))
    (tmp_path / "password").write_text("a password\n")
    client_of(
        f"""
        <zeolith>
          server 8100
          server [::1]:8100
          server /run/zeo.sock
          storage main
          name mine
          cache-size 1MB
          var {tmp_path}
          blob-dir {tmp_path}/blobs
          blob-cache-size 5MB
          blob-cache-size-check 20
          read-only-fallback true
          wait false
          wait-timeout 1m
          min-disconnect-poll 0.1
          max-disconnect-poll 2
          server-sync on
          drop-cache-rather-verify on
          database-behind refuse
          dead-server-timeout 2m
          compression on
          client-label web1
          username web
          password-file {tmp_path}/password
          realm ZEO
          client app
          shared-cache on
        </zeolith>
        """
    ).open()
    assert given == [
        {
            "addr": [("127.0.0.1", 8100), ("::1", 8100), "/run/zeo.sock"],
            "cache": None,
            "storage": "main",
            "cache_size": 1024**2,
            "name": "mine",
            "wait_timeout": 60.0,
            "read_only": False,
            "read_only_fallback": True,
            "blob_dir": f"{tmp_path}/blobs",
            "shared_blob_dir": False,
            "blob_cache_size": 5 * 1024**2,
            "blob_cache_size_check": 20,
            "client_label": "web1",
            "client": "app",
            "shared_cache": True,
            "var": str(tmp_path),
            "min_disconnect_poll": 0.1,
            "max_disconnect_poll": 2.0,
            "wait": False,
            "drop_cache_rather_verify": True,
            "server_sync": True,
            "database_behind": "refuse",
            "dead_server_timeout": 120.0,
            "compression": True,
            "username": "web",
            "password": None,
            "password_file": f"{tmp_path}/password",
            "realm": "ZEO",
        }
    ]


def test_zodbs_own_section_opens_our_client(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given: list[dict[str, object]] = []
    monkeypatch.setattr("zeolith.client.storage.ClientStorage", lambda **kw: given.append(kw))
    client_of(
        f"""
        <zeoclient>
          server localhost:8100
          server /run/zeo.sock
          storage main
          cache-size 1MB
          blob-dir {tmp_path}/blobs
          shared-blob-dir yes
          read-only on
          wait off
          min-disconnect-poll 1
          client-label hub
        </zeoclient>
        """
    ).open()
    (keywords,) = given
    assert keywords["addr"] == [("localhost", 8100), "/run/zeo.sock"]
    assert keywords["storage"] == "main"
    assert keywords["shared_blob_dir"] is True
    assert keywords["read_only"] is True
    assert keywords["wait"] is False
    assert keywords["client_label"] == "hub"
    # What the file does not say is our client's to choose, not ZODB's.
    assert keywords["min_disconnect_poll"] == 1
    assert keywords["max_disconnect_poll"] is None


@pytest.mark.parametrize("kind", ["clientstorage", "zeoclient"])
def test_zeos_sections_may_say_what_zeo_ignores(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    given: list[dict[str, object]] = []
    monkeypatch.setattr("zeolith.client.storage.ClientStorage", lambda **kw: given.append(kw))
    opener = client_of(
        f"<{kind}>\nserver h:1\nblob-dir b\nshared-blob-dir on\nblob-cache-size 1MB\n"
        f"blob-cache-size-check 20\n</{kind}>"
    )
    assert caplog.messages == []
    opener.open()
    assert not {"blob_cache_size", "blob_cache_size_check"} & given[0].keys()
    reason = "has no effect: a shared blob directory is the server's"
    assert caplog.messages == [
        f"storage '1' of h:1: blob_cache_size {reason}",
        f"storage '1' of h:1: blob_cache_size_check {reason}",
    ]


@pytest.mark.parametrize(
    ("section", "key", "problem"),
    [
        ("<zeolith>\n</zeolith>", "<zeolith>", "the key server is missing"),
        ("<zeolith>\nserver here\n</zeolith>", "server", "has no port"),
        ("<zeolith>\nserver 0\n</zeolith>", "server", "port 0"),
        ("<zeolith>\nserver 1\nusername x\n</zeolith>", "username", "needs a password"),
        ("<zeoclient>\nserver h:1\nusername x\n</zeoclient>", "username", "needs a password"),
        ("<zeoclient>\nserver h:1\npassword x\n</zeoclient>", "password", "without username"),
        ("<zeoclient>\nserver h:1\nrealm x\n</zeoclient>", "realm", "without username"),
        (
            "<zeolith>\nserver 1\nusername x\npassword y\npassword-file z\n</zeolith>",
            "password-file",
            "contradicts password",
        ),
        (
            "<zeolith>\nserver 1\nusername x\npassword-file /missing/x\n</zeolith>",
            "password-file",
            "'/missing/x' cannot be read",
        ),
        (
            "<zeolith>\nserver 1\nread-only on\nread-only-fallback on\n</zeolith>",
            "read-only-fallback",
            "contradicts",
        ),
        ("<zeolith>\nserver 1\nshared-cache on\n</zeolith>", "shared-cache", "temporary cache"),
        ("<zeolith>\nserver 1\ndatabase-behind no\n</zeolith>", "database-behind", "is unknown"),
        (
            "<zeolith>\nserver 1\ndead-server-timeout 0.5\n</zeolith>",
            "dead-server-timeout",
            "cannot be agreed upon",
        ),
        (
            "<zeolith>\nserver 1\nblob-cache-size 1MB\n</zeolith>",
            "blob-cache-size",
            "without blob_dir",
        ),
        (
            "<zeolith>\nserver 1\nmin-disconnect-poll 9\nmax-disconnect-poll 3\n</zeolith>",
            "min-disconnect-poll",
            "max_disconnect_poll",
        ),
        (
            "<zeolith>\nserver 1\n<ssl>\nauthenticate /missing/x\n</ssl>\n</zeolith>",
            "authenticate",
            "/missing/x cannot be used",
        ),
    ],
)
def test_what_a_client_cannot_use_is_said_with_its_line(
    section: str, key: str, problem: str
) -> None:
    error = refusal(section)
    assert error.option.startswith("<text>, line ")
    assert error.option.endswith(f", {key}")
    assert problem in error.problem


def test_a_mistake_in_an_applications_file_can_be_read() -> None:
    with pytest.raises(ValueError, match="username: needs a password; give password or"):
        ZODB.config.storageFromString(
            "%import zeolith\n<zeolith>\nserver 1\nusername x\n</zeolith>"
        )


def test_with_tls(tmp_path: Path) -> None:
    ca = trustme.CA()
    files = {}
    for name in ("localhost", "client"):
        files[name] = tmp_path / f"{name}.pem"
        ca.issue_cert(name).private_key_and_cert_chain_pem.write_to_path(files[name])
    authority = tmp_path / "ca.pem"
    ca.cert_pem.write_to_path(authority)
    address, stop = zeolith.server(
        zeo_conf=f"<zeo>\naddress 127.0.0.1:0\n<ssl>\ncertificate {files['localhost']}\n"
        f"authenticate {authority}\n</ssl>\n</zeo>"
    )
    section = (
        "%import zeolith\n<zeolith>\nserver {}\n<ssl>\ncertificate {}\nauthenticate {}\n"
        "server-hostname {}\n</ssl>\nwait-timeout 5\n</zeolith>"
    )
    try:
        text = section.format(format_address(address), files["client"], authority, "localhost")
        ZODB.config.storageFromString(text).close()
        text = section.format(format_address(address), files["client"], authority, "example.org")
        with pytest.raises(zeolith.errors.ServerRefused, match=r"example\.org"):
            ZODB.config.storageFromString(text)
    finally:
        stop()


# -- a server that serves another server's storage -------------------------------------------------


class Process:
    """A server as a process in which ZEO cannot be imported."""

    def __init__(self, directory: Path, storage: str) -> None:
        self.port = free_port()
        directory.mkdir()
        conf = directory / "zeo.conf"
        conf.write_text(f"<zeo>\naddress 127.0.0.1:{self.port}\n</zeo>\n{storage}")
        self.log = directory / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", NO_ZEO, "serve", "-C", str(conf)],
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=child_environment(),
            )
        wait_until(self._is_up, "the server listens")

    def _is_up(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        return is_listening(("127.0.0.1", self.port))

    def stop(self) -> None:
        self.process.terminate()
        try:
            assert self.process.wait(30) == 0, self.log.read_text()
        finally:
            self.process.kill()
            self.process.wait()
        assert "Traceback" not in self.log.read_text()


@pytest.mark.parametrize(
    "section",
    [
        "<zeoclient>\nserver localhost:{port}\nblob-dir blobs\nclient-label hub\n</zeoclient>",
        "<zeolith>\nserver {port}\nblob-dir blobs\n</zeolith>",
        DEMO,
    ],
    ids=["zeoclient", "zeolith", "nested"],
)
def test_fan_out(tmp_path: Path, section: str) -> None:
    """Commits through either server are seen through the other, without being asked for."""
    origin = Process(tmp_path / "origin", "<filestorage>\npath Data.fs\nblob-dir b\n</filestorage>")
    try:
        with (
            database(origin.port, tmp_path / "first") as db,
            db.transaction() as connection,
        ):
            connection.root()["n"] = 0
        hub = Process(tmp_path / "hub", section.format(port=origin.port))
        try:
            with (
                database(origin.port, tmp_path / "near") as near,
                database(hub.port, tmp_path / "far") as far,
            ):
                assert read(far) == 0
                if section is DEMO:
                    # Its changes stay where they are; what it stands on cannot be changed.
                    write(far, 1)
                    assert (read(far), read(near)) == (1, 0)
                    return
                for number in range(1, 6):
                    write(near, number)
                    wait_for(far, number)
                    write(far, -number)
                    wait_for(near, -number)
                exchange_blobs(near, far)
        finally:
            hub.stop()
    finally:
        origin.stop()


@contextmanager
def database(port: int, blob_dir: Path) -> Iterator[ZODB.DB]:
    db = zeolith.DB(port, wait_timeout=30, blob_dir=str(blob_dir))
    try:
        yield db
    finally:
        db.close()


def exchange_blobs(*dbs: ZODB.DB) -> None:
    """Commit a blob through each and read it through the other."""
    for number, (one, other) in enumerate(itertools.permutations(dbs)):
        with one.transaction() as connection:
            connection.root()["blob"] = ZODB.blob.Blob(b"blob %d" % number)
            connection.root()["n"] = f"blob {number}"
        wait_for(other, f"blob {number}")
        with other.transaction() as connection, connection.root()["blob"].open() as file:
            assert file.read() == b"blob %d" % number


def read(db: ZODB.DB) -> object:
    with db.transaction() as connection:
        value: object = connection.root()["n"]
        return value


def write(db: ZODB.DB, value: object) -> None:
    with db.transaction() as connection:
        connection.root()["n"] = value


def wait_for(db: ZODB.DB, value: object) -> None:
    """Wait until the invalidation has come: nothing here asks the server."""
    wait_until(lambda: read(db) == value, f"{value} is seen")


def serve(conf: Path) -> subprocess.CompletedProcess[str]:
    """Serve what *conf* says, where ZEO is not installed, until that fails."""
    return subprocess.run(
        [sys.executable, "-c", NO_ZEO, "serve", "-C", str(conf)],
        capture_output=True,
        text=True,
        env=child_environment(),
        check=False,
        timeout=60,
    )


def test_a_server_that_is_away_is_said_without_a_traceback(tmp_path: Path) -> None:
    conf = tmp_path / "zeo.conf"
    port = free_port()
    conf.write_text(
        f"<zeo>\naddress 0\n</zeo>\n<zeolith>\nserver {port}\nwait-timeout 0.2\n</zeolith>\n"
    )
    done = serve(conf)
    assert done.returncode == 1  # a supervisor may try again
    assert f"storage '1', storage '1' of 127.0.0.1:{port}: " in done.stderr
    assert "Traceback" not in done.stderr


def test_a_server_that_refuses_is_said_without_a_traceback(server: str, tmp_path: Path) -> None:
    conf = tmp_path / "zeo.conf"
    conf.write_text(
        f"<zeo>\naddress 0\n</zeo>\n<zeolith>\nserver {server}\nstorage nowhere\n</zeolith>\n"
    )
    done = serve(conf)
    assert done.returncode == 2
    assert "nowhere" in done.stderr
    assert "the name of the storage there" in done.stderr
    assert "Traceback" not in done.stderr

"""The real command on a copy of this checkout, and the servers that come of it."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import transaction
from persistent.mapping import PersistentMapping
from tests.support.buildouts import Buildout, make_environment
from tests.support.certificates import Certificates
from tests.support.processes import is_listening
from tests.support.users import PASSWORD, entry, write
from tests.support.waiting import wait_until
from ZODB.blob import Blob

import zeolith

COUNTERS = """
from persistent import Persistent

class Counter(Persistent):
    value = 0
    def _p_resolveConflict(self, old, saved, new):
        return dict(new, value=saved["value"] + new["value"] - old.get("value", 0))
"""


@pytest.fixture
def site() -> Iterator[Buildout]:
    site = Buildout()
    yield site
    site.close()


def commit(site: Buildout, blobs: Path, key: str, **options: Any) -> None:
    """Commit an object and a blob."""
    connection = zeolith.connection(
        site.address, wait_timeout=10, blob_dir=str(blobs), blob_cache_size=2**20, **options
    )
    try:
        connection.root()[key] = PersistentMapping(value=key)
        connection.root()[f"{key}-blob"] = Blob(key.encode())
        transaction.commit()
    finally:
        connection.close()


def add_counters(site: Buildout) -> None:
    """Put an egg with the module ``counters`` among those of the buildout."""
    python = f"py{sys.version_info.major}.{sys.version_info.minor}"
    egg = site.directory / "eggs" / "v5" / f"counters-1.0-{python}.egg"
    (egg / "EGG-INFO").mkdir(parents=True)
    (egg / "EGG-INFO" / "PKG-INFO").write_text("Metadata-Version: 1.0\nName: counters\n")
    (egg / "counters.py").write_text(COUNTERS)


def make_conflict(site: Buildout, path: Path, **options: Any) -> int:
    """Have two clients increase a counter at the same time; return its value then."""
    path.mkdir()
    (path / "counters.py").write_text(COUNTERS)
    sys.path.append(str(path))
    try:
        from counters import Counter  # type: ignore[import-not-found]

        db = zeolith.DB(site.address, wait_timeout=10, **options)
        managers = [transaction.TransactionManager(explicit=True) for _ in range(2)]
        first, second = (db.open(manager) for manager in managers)
        with managers[0]:
            first.root()["counter"] = Counter()
        for manager in managers:
            manager.begin()
        first.root()["counter"].value += 1
        second.root()["counter"].value += 2
        for manager in managers:
            manager.commit()
        with managers[0]:
            value: int = first.root()["counter"].value
        for connection in (first, second):
            connection.close()
        db.close()
        return value
    finally:
        sys.path.remove(str(path))
        del sys.modules["counters"]


@pytest.mark.timeout(300)
def test_a_server_from_an_empty_directory_to_its_end(site: Buildout, tmp_path: Path) -> None:
    """With users, TLS, an application's egg and relative paths, in a directory that is moved."""
    etc = site.directory / "etc"
    etc.mkdir()
    issued = Certificates(etc)
    certificate = Path(issued.issue("server", "127.0.0.1", "localhost")).name
    root = etc / Path(issued.root).name
    write(etc / "users", entry("packer", "read,pack"), entry("writer", "read,write"))
    add_counters(site)
    site.configure(
        "[zeo]\nrecipe = zeolith\n"
        f"zeo-address = {site.where}\n"
        "eggs = counters\n"
        "authentication-database = etc/users\n"
        f"ssl-certificate = etc/{certificate}\n"
        "ssl-client-certificates = none\n"
        "pack-user = packer\n"
        f"pack-password = {PASSWORD}\n"
        f"pack-ssl-authenticate = etc/{root.name}\n"
        "zeopack-script-name = pack\n"
        "initialization =\n    import os\n    os.environ['ZEOLITH_LOST'] = 'nothing'\n",
        main="relative-paths = true\n",
    )
    said = site.build()
    assert f"Generated script '{site.directory}/bin/zeo'." in said
    before = site.directory
    site.move("elsewhere")
    root = site.directory / "etc" / root.name
    login: dict[str, Any] = {
        "username": "writer", "password": PASSWORD, "ssl": zeolith.tls(authenticate=str(root)),
    }  # fmt: skip
    assert "daemon process started" in site.run("bin/zeo", "start")
    assert f"answers at {site.where}" in site.run("bin/zeo", "status")
    commit(site, tmp_path / "blobs", "one", **login)
    assert make_conflict(site, tmp_path / "application", **login) == 3
    said = site.run("bin/pack")
    assert "packed in" in said
    assert PASSWORD not in said
    backups = site.directory / "var" / "backups" / "zeo"
    assert "full backup" in site.run("bin/zeo-backup")
    commit(site, tmp_path / "blobs", "two", **login)
    assert "incremental backup" in site.run("bin/zeo-backup")
    assert len(list(backups.glob("*fs"))) == 2
    data = site.directory / "var" / "filestorage" / "Data.fs"
    (site.root / "copies").mkdir()
    site.run("bin/repozo", "-B", "-r", str(site.root / "copies"), "-f", str(data))
    assert list((site.root / "copies").glob("*.fs"))
    # What a command line says wins over the part.
    said = site.run("bin/pack", "-S", "9", status=2)
    assert "has no storage '9'; it has: 1" in said
    assert "daemon process stopped" in site.run("bin/zeo", "stop")
    assert not is_listening(site.address)
    log = (site.directory / "var" / "log" / "zeo.log").read_text()
    assert "Traceback" not in log
    # supervisord wants the server itself.
    with site.started("bin/zeo", SUPERVISOR_ENABLED="1") as server:
        wait_until(lambda: is_listening(site.address), "the server listens")
        assert "is set" in site.run("bin/zeo", "stop", status=2, SUPERVISOR_ENABLED="1")
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0
    # Without the part everything of it goes, and the data stays.
    site.move(before.name)
    site.configure("", parts="")
    site.build()
    assert os.listdir(site.directory / "parts") == []
    assert os.listdir(site.directory / "bin") == []
    assert (site.directory / "var" / "filestorage" / "Data.fs").exists()


def walk_through(site: Buildout, blobs: Path) -> None:
    """Install, use, change, break, mend and remove a part."""
    part = f"[zeo]\nrecipe = zeolith\nzeo-address = {site.where}\n"
    site.configure(part)
    assert "Generated script" in site.build()
    site.run("bin/zeo", "start")
    commit(site, blobs, "one")
    # Made anew while the server runs, which goes on.
    site.configure(f"{part}pack-days = 3\n")
    said = site.build()
    assert "Uninstalling zeo" in said
    assert "days=3.0" in (site.directory / "bin" / "zeopack").read_text()
    commit(site, blobs, "two")
    assert "answers at" in site.run("bin/zeo", "status")
    # Nothing has changed: nothing is made.
    said = site.build()
    assert "Updating zeo" in said
    assert "Generated" not in said
    # A mistake leaves everything as it is, what is installed and what runs.
    site.configure(part.replace("zeo-address", "zeo-adress"))
    said = site.build(status=1)
    assert "part zeo, option zeo-adress: is no option of this recipe; did you mean" in said
    assert "An internal error" not in said
    assert "Uninstalling" not in said
    assert "packed in" in site.run("bin/zeopack")
    # The other entry of the same recipe, for who installs it with its extra.
    site.configure(part.replace("= zeolith", "= zeolith[buildout]:default"))
    site.build()
    assert "full backup" in site.run("bin/zeo-backup")
    site.run("bin/zeo", "stop")
    site.run("parts/zeo/bin/zeoctl", "start")
    site.run("parts/zeo/bin/zeoctl", "stop")
    with site.started("parts/zeo/bin/runzeo") as server:
        wait_until(lambda: is_listening(site.address), "the server listens")
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0
    site.configure("", parts="")
    site.build()
    assert os.listdir(site.directory / "parts") == []
    assert os.listdir(site.directory / "bin") == []


@pytest.mark.long
@pytest.mark.timeout(600)
def test_clients_that_need_a_certificate(site: Buildout) -> None:
    """The scripts show the server's own, or the one that is named for them."""
    etc = site.directory / "etc"
    etc.mkdir()
    issued, others = Certificates(etc), Certificates(etc, "others")
    for name in ("server", "packer"):
        Path(issued.issue(name, "127.0.0.1")).rename(etc / f"{name}.pem")
    Path(others.issue("stranger")).rename(etc / "stranger.pem")
    part = (
        f"[zeo]\nrecipe = zeolith\nzeo-address = {site.where}\n"
        f"ssl-certificate = etc/server.pem\nssl-authenticate = {issued.root}\n"
    )
    site.configure(part)
    site.build()
    site.run("bin/zeo", "start")
    assert "answers at" in site.run("bin/zeo", "status")
    assert "packed in" in site.run("bin/zeopack")
    for name, status in (("packer", 0), ("stranger", 1)):
        site.configure(
            f"{part}pack-ssl-certificate = etc/{name}.pem\npack-ssl-authenticate = {issued.root}\n"
        )
        site.build()
        said = site.run("bin/zeopack", status=status)
        assert ("packed in" in said) is (status == 0)
    site.run("bin/zeo", "stop")


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_part_over_its_life(site: Buildout, tmp_path: Path) -> None:
    walk_through(site, tmp_path)


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("version", ["5", "6"])
def test_each_version_of_buildout_in_an_environment_of_its_own(
    version: str, tmp_path: Path
) -> None:
    """Nothing but buildout is installed there: it fetches the rest as eggs."""
    command = make_environment(tmp_path / "environment", f"zc.buildout=={version}.*")
    site = Buildout(command)
    try:
        walk_through(site, tmp_path)
        found = list((site.directory / "eggs" / "v5").glob("ZODB-*"))
        assert len(found) == 1
    finally:
        site.close()

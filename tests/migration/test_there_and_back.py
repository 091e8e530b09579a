"""From ZEO to Zeolith and back, with the files of a site: the steps of docs/migration.md."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import ZEO
import ZODB.blob
from tests.support.processes import child_environment, free_port, is_listening
from tests.support.waiting import wait_until

import zeolith

COMMANDS = {
    "ZEO": ("-m", "ZEO.runzeo", "-C", "zeo.conf"),
    "Zeolith": ("-m", "zeolith", "serve", "-C", "zeo.conf"),
}


class Site:
    """A directory with a ``zeo.conf``, which either server is started with."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.address = ("127.0.0.1", free_port())
        self.environment = child_environment()
        (directory / "zeo.conf").write_text(
            f"<zeo>\naddress 127.0.0.1:{self.address[1]}\npid-filename {directory}/pid\n</zeo>\n"
            f"<filestorage 1>\npath {directory}/Data.fs\nblob-dir {directory}/blobs\n"
            "</filestorage>\n"
            f"<eventlog>\n<logfile>\npath {directory}/log\n</logfile>\n</eventlog>\n"
        )

    @contextmanager
    def served_by(self, server: str) -> Iterator[None]:
        """Serve it, and stop the server in the end."""
        process = subprocess.Popen(
            [sys.executable, *COMMANDS[server]], cwd=self.directory, env=self.environment
        )
        try:
            wait_until(lambda: self._is_up(process), f"{server} listens")
            yield
        finally:
            if server == "Zeolith":
                process.terminate()
                assert process.wait(30) == 0
            else:
                # ZEO's may not end on SIGTERM, which raises in whatever runs there.  What it has
                # acknowledged is on disk.
                process.kill()
                process.wait()

    def _is_up(self, process: subprocess.Popen[bytes]) -> bool:
        assert process.poll() is None, (self.directory / "log").read_text()
        return is_listening(self.address)

    def work(self, package: Any, **keywords: Any) -> list[str]:
        """Add a blob with the client of *package*; return the names of those before it."""
        directory = self.directory / f"blobs of {package.__name__}"
        db = package.DB(self.address, blob_dir=str(directory), wait_timeout=30, **keywords)
        try:
            with db.transaction() as connection:
                root = connection.root()
                before = sorted(root)
                for name in before:
                    with root[name].open() as file:
                        assert file.read() == name.encode()
                name = f"{len(before)}"
                root[name] = ZODB.blob.Blob(name.encode())
            with db.transaction() as connection, connection.root()[name].open() as file:
                assert file.read() == name.encode()
            return before
        finally:
            db.close()


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_a_server_there_and_back_and_there_again(site: Site) -> None:
    expected: list[str] = []
    for server in ("ZEO", "Zeolith", "ZEO", "Zeolith"):
        with site.served_by(server):
            for client in (ZEO, zeolith):
                assert site.work(client) == expected
                expected = sorted([*expected, f"{len(expected)}"])


def test_a_client_there_and_back_with_a_cache_that_stays(site: Site) -> None:
    expected: list[str] = []
    cache = site.directory / "cache"
    cache.mkdir()
    with site.served_by("Zeolith"):
        for client in (ZEO, zeolith, ZEO, zeolith):
            assert site.work(client, client="main", var=str(cache)) == expected
            expected = sorted([*expected, f"{len(expected)}"])
    # Each puts the other's file aside, and begins with an empty one.
    assert "main-1.zec.zeo" in os.listdir(cache)


@pytest.mark.long
def test_one_client_and_its_cache_at_both_servers(site: Site) -> None:
    expected: list[str] = []
    for server in ("ZEO", "Zeolith", "ZEO"):
        with site.served_by(server):
            assert site.work(zeolith, client="main", var=str(site.directory)) == expected
            expected = sorted([*expected, f"{len(expected)}"])


@pytest.mark.long
def test_a_configuration_as_container_images_have_it(site: Site) -> None:
    (site.directory / "var").mkdir()
    (site.directory / "zeo.conf").write_text(
        f"%define INSTANCE {site.directory}\n"
        "<zeo>\naddress 0.0.0.0:$(ZEO_PORT)\nread-only $(ZEO_READ_ONLY)\n"
        "invalidation-queue-size $(ZEO_INVALIDATION_QUEUE_SIZE)\n"
        "pid-filename $INSTANCE/var/zeo.pid\n</zeo>\n"
        "<filestorage 1>\npath $INSTANCE/Data.fs\nblob-dir $INSTANCE/blobs\n"
        "pack-keep-old $(ZEO_PACK_KEEP_OLD)\n</filestorage>\n"
    )
    site.environment.update(
        ZEO_PORT=str(site.address[1]),
        ZEO_READ_ONLY="false",
        ZEO_INVALIDATION_QUEUE_SIZE="100",
        ZEO_PACK_KEEP_OLD="true",
    )
    expected: list[str] = []
    for server in ("ZEO", "Zeolith", "ZEO"):
        with site.served_by(server):
            assert site.work(ZEO) == expected
            expected = sorted([*expected, f"{len(expected)}"])

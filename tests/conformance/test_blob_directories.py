"""Blob directories that clients of both kinds use, and such as are not what they should be."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import zc.lockfile
from tests.conformance.clients import FORGIVEN
from tests.conformance.site import BLOBS, Pairing, Site, files_below
from tests.support.hosts import Hosts
from ZODB.blob import Blob, BlobFile
from ZODB.Connection import TransactionMetaData
from ZODB.POSException import POSKeyError

from zeolith.client.blobsizes import shrink
from zeolith.errors import ConfigurationError

CONTENT = b"whole " * 50_000


def test_a_shared_directory_that_is_another_one(site: Site) -> None:
    """Not mounted, as a rule.  Who has the right one goes on."""
    server = site.serve(BLOBS)
    right = site.database(server.address, **site.blob_options(True))
    with right.transaction() as connection:
        connection.root.blob = Blob(CONTENT)
    elsewhere = site.directory / "elsewhere"
    elsewhere.mkdir()
    wrong = site.database(server.address, blob_dir=str(elsewhere), shared_blob_dir=True)
    with wrong.transaction() as connection, pytest.raises(POSKeyError):
        connection.root.blob.open()
    with pytest.raises(Exception) as caught, wrong.transaction() as connection:  # noqa: PT011
        connection.root.other = Blob(b"never")
    assert not isinstance(caught.value, AssertionError)
    site.catch_up(right, wrong)
    with right.transaction() as connection:
        assert "other" not in connection.root()
        with connection.root.blob.open() as file:
            assert file.read() == CONTENT
        connection.root.third = Blob(b"third")
    assert len(files_below(site.directory / "blobs", ".blob")) == 2


@pytest.mark.parametrize("is_shared", [False, True], ids=["fetched", "shared"])
def test_a_file_of_the_temporary_directory_becomes_the_blob(site: Site, is_shared: bool) -> None:
    """It is consumed, and not copied: where it is, a rename suffices."""
    server = site.serve(BLOBS)
    storage = site.client(server.address, **site.blob_options(is_shared))
    path = os.path.join(storage.temporaryDirectory(), "new")
    Path(path).write_bytes(CONTENT)
    inode = os.stat(path).st_ino
    meta = TransactionMetaData()
    oid = storage.new_oid()
    storage.tpc_begin(meta)
    storage.storeBlob(oid, bytes(8), b"record", path, "", meta)
    assert not os.path.exists(path)
    storage.tpc_vote(meta)
    tid = storage.tpc_finish(meta)
    kept = storage.loadBlob(oid, tid)
    assert os.stat(kept).st_ino == inode
    with storage.openCommittedBlobFile(oid, tid) as file:
        assert file.read() == CONTENT
    with storage.openCommittedBlobFile(oid, tid, Blob()) as file:
        assert file.read() == CONTENT
        assert isinstance(file, BlobFile)


class Neighbours:
    """A client of ZEO and one of Zeolith, with one blob cache, and a server of Zeolith's."""

    def __init__(self, hosts: Hosts, directory: Path) -> None:
        self.cache = str(directory / "cache")
        self._sites = [
            Site(hosts, Pairing(kind, "zeolith", False), directory) for kind in ("zeolith", "zeo")
        ]
        self.server = self._sites[0].serve(BLOBS)
        self.ours, self.theirs = (
            site.database(self.server.address, blob_dir=self.cache) for site in self._sites
        )

    def close(self) -> None:
        for site in reversed(self._sites):
            site.close()

    def names(self) -> list[str]:
        return files_below(self.cache, ".blob")

    def open(self, database: Any) -> Any:
        with database.transaction() as connection:
            blob = connection.root.blob
            blob._p_activate()
            return database.storage.openCommittedBlobFile(blob._p_oid, blob._p_serial)


@pytest.fixture
def neighbours(hosts: Hosts, tmp_path: Path) -> Iterator[Neighbours]:
    with closing(Neighbours(hosts, tmp_path)) as found:
        yield found


class TestZeosClientsInOurCache:
    """What :mod:`zeolith.client.bloblocks` says of them."""

    pytestmark = FORGIVEN["zeo"]

    @pytest.mark.parametrize("writer", ["ours", "theirs"])
    def test_what_one_has_the_other_reads(self, neighbours: Neighbours, writer: str) -> None:
        pair = [neighbours.ours, neighbours.theirs]
        one, other = pair if writer == "ours" else reversed(pair)
        with one.transaction() as connection:
            connection.root.blob = Blob(CONTENT)
        (name,) = neighbours.names()
        inode = os.stat(name).st_ino
        other.storage.ping()
        with neighbours.open(other) as file:
            assert file.read() == CONTENT
            assert os.fstat(file.fileno()).st_ino == inode
        os.remove(name)
        for database in (one, other):
            with neighbours.open(database) as file:
                assert file.read() == CONTENT
        assert neighbours.names() == [name]

    def test_they_evict_what_we_read_and_we_read_on(self, neighbours: Neighbours) -> None:
        from ZEO.ClientStorage import _check_blob_cache_size

        with neighbours.ours.transaction() as connection:
            connection.root.blob = Blob(CONTENT)
        with neighbours.open(neighbours.ours) as file:
            _check_blob_cache_size(neighbours.cache, 0)
            assert neighbours.names() == []
            assert file.read() == CONTENT
        with neighbours.open(neighbours.ours) as file:
            assert file.read() == CONTENT

    def test_we_evict_what_they_read_and_they_read_on(self, neighbours: Neighbours) -> None:
        with neighbours.theirs.transaction() as connection:
            connection.root.blob = Blob(CONTENT)
        with neighbours.open(neighbours.theirs) as file:
            assert shrink(neighbours.cache, 0)
            assert neighbours.names() == []
            assert file.read() == CONTENT

    def test_only_one_of_both_looks_after_the_size(self, neighbours: Neighbours) -> None:
        with neighbours.ours.transaction() as connection:
            connection.root.blob = Blob(CONTENT)
        lock = os.path.join(neighbours.cache, "check_size.lock")
        with closing(zc.lockfile.LockFile(lock)):
            assert shrink(neighbours.cache, 0)
            assert len(neighbours.names()) == 1
        assert os.path.exists(os.path.join(neighbours.cache, "check_size.attempt"))

    def test_neither_takes_a_servers_directory_for_a_cache(
        self, neighbours: Neighbours, tmp_path: Path
    ) -> None:
        with neighbours.ours.transaction() as connection:
            connection.root.blob = Blob(CONTENT)
        directory = tmp_path / "blobs"
        for site, error in zip(neighbours._sites, (ConfigurationError, ValueError), strict=True):
            with pytest.raises(error, match="bushy"):
                site.client(neighbours.server.address, blob_dir=str(directory))
        # ZEO's client does so where the mark is lost, and marks it as its own.
        os.remove(directory / ".layout")
        neighbours._sites[1].client(neighbours.server.address, blob_dir=str(directory)).close()
        assert (directory / ".layout").read_text() == "zeocache"
        with pytest.raises(ConfigurationError, match="of a server's blob directory"):
            neighbours._sites[0].client(neighbours.server.address, blob_dir=str(directory))
        (directory / ".layout").write_text("bushy")

"""Documents with blobs, each of which records the checksum of its blob."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import ZODB
from tests.support.blobdisk import debris, listing, revisions
from ZODB.blob import FilesystemHelper
from ZODB.FileStorage import FileStorage

CONTAINER: Final = "documents"


class Broken(Exception):
    """A blob is not what its document says."""


def check_blob(document: Any, data: bytes) -> None:
    """Check the contents of a document's blob.

    :raises Broken: they are not what the document says.
    """
    found = hashlib.sha256(data).hexdigest()
    if found != document["checksum"]:
        raise Broken(f"{len(data)} bytes, {found}, expected {document['checksum']}")


def prepare(database: ZODB.DB, lives: Iterable[str]) -> None:
    """Make a container for each life of a worker, so that they have no conflicts."""
    from persistent.mapping import PersistentMapping

    with database.transaction() as connection:
        root = connection.root()
        root[CONTAINER] = PersistentMapping()
        for life in lives:
            root[CONTAINER][life] = PersistentMapping()


def ids_of(path: Path) -> tuple[bytes, bytes]:
    """Return object id and tid of a file in a client's cache, whose path is relative to that."""
    base, tid, _suffix = path.name.split(".")
    return (int(base) * 997 + int(path.parent.name)).to_bytes(8, "big"), bytes.fromhex(tid)


def verify(directory: Path, done: Iterable[Path], is_clean: bool = True) -> tuple[int, int]:
    """Check every committed blob of a server that does not run, and its whole blob directory.

    :param directory: has ``Data.fs`` and ``blobs``.
    :param done: files of what was acknowledged.
    :param is_clean: there is nothing in the blob directory but what was committed.
    :returns: documents acknowledged, and how many others are there.
    """
    acknowledged = {
        name: checksum
        for path in done
        for name, checksum in (line.split() for line in path.read_text().splitlines())
    }
    storage = FileStorage(
        str(directory / "Data.fs"), read_only=True, blob_dir=str(directory / "blobs")
    )
    found = {}
    with closing(ZODB.DB(storage)) as database, database.transaction() as connection:
        for mine in connection.root()[CONTAINER].values():
            for name, document in mine.items():
                with document["blob"].open() as file:
                    check_blob(document, file.read())
                found[name] = document["checksum"]
        # Nothing is lost that was acknowledged, and there is a file for each record, no other.
        assert acknowledged.items() <= found.items()
        files = {
            str(Path(storage.fshelper.getBlobFilename(oid, tid)).relative_to(directory / "blobs"))
            for oid, tid in revisions(storage)
        }
    if is_clean:
        assert set(listing(directory / "blobs")) == files | {".layout"}
        assert debris(directory / "blobs") == []
    return len(acknowledged), len(found) - len(acknowledged)


def verify_caches(directory: Path) -> None:
    """Check what clients have kept in ``cache-…`` against what the server has in ``blobs``."""
    blobs = directory / "blobs"
    helper = FilesystemHelper(str(blobs))
    committed = listing(blobs)
    cached = {
        path: checksum
        for cache in directory.glob("cache-*")
        for path, checksum in listing(cache).items()
        if path.endswith(".blob")
    }
    assert cached
    for path, checksum in cached.items():
        name = Path(helper.getBlobFilename(*ids_of(Path(path)))).relative_to(blobs)
        assert committed[str(name)] == checksum, path

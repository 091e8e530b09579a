"""Documents with blobs, each of which records the checksum of its blob."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import ZODB
from tests.support.blobdisk import debris, listing, revisions
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


def verify(directory: Path, done: Iterable[Path]) -> tuple[int, int]:
    """Check every committed blob of a server that does not run, and its whole blob directory.

    :param directory: has ``Data.fs`` and ``blobs``.
    :param done: files of what was acknowledged.
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
    assert set(listing(directory / "blobs")) == files | {".layout"}
    assert debris(directory / "blobs") == []
    return len(acknowledged), len(found) - len(acknowledged)

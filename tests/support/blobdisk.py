"""What lies in a blob directory, all of it, and what should."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from tests.support.raw import RawClient, oid_of
from tests.support.rawstreams import RawStreams
from ZODB.blob import BlobStorage
from ZODB.DemoStorage import DemoStorage
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage

from zeolith.protocol.greeting import Coding
from zeolith.protocol.hello import NO_TERMS, Terms
from zeolith.protocol.limits import FIRST_UPLOAD
from zeolith.protocol.messages import Store, StoreBlobChunk, StoreBlobEnd, StoreBlobStart
from zeolith.protocol.streamrequests import AttachBlob, StreamData, StreamEnd

RECORD: Final = b"cZODB.blob\nBlob\n."
"""The record of an object that is a blob."""

_CHUNK: Final = 30_000


def checksum(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def listing(directory: Path) -> dict[str, str]:
    """Return the checksum of each file below *directory*, by its relative path.

    Links and the like count as files.  A file that goes away meanwhile may be left out.
    """
    found = {}
    for base, _, names in os.walk(directory):
        for name in names:
            path = Path(base, name)
            try:
                text = checksum(path.read_bytes()) if path.is_file() else "no plain file"
            except FileNotFoundError:
                continue
            found[str(path.relative_to(directory))] = text
    return found


def debris(directory: Path) -> list[str]:
    """Return what lies below a server's *directory* and is neither a blob nor the layout's mark."""
    return sorted(
        name for name in listing(directory) if name != ".layout" and not name.endswith(".blob")
    )


class Disk:
    """A storage with blobs that a test serves, and its blob directory.

    :param kind: one of :data:`KINDS`.
    """

    def __init__(self, kind: str, directory: Path) -> None:
        self.directory = directory / "blobs"
        self.storage, self._helper = KINDS[kind](directory)
        self.blobs: dict[tuple[int, bytes], bytes] = {}
        """What was committed: number of the object and tid → contents."""

    def committed(self, number: int, tid: bytes, data: bytes) -> None:
        """Note a blob that is to be there."""
        self.blobs[number, tid] = data

    def expected(self) -> dict[str, str]:
        """Return what :func:`listing` should return."""
        found = {
            os.path.relpath(
                self._helper.getBlobFilename(oid_of(number), tid), self.directory
            ): checksum(data)
            for (number, tid), data in self.blobs.items()
        }
        mark = self.directory / ".layout"
        return {".layout": checksum(mark.read_bytes()), **found}

    def found(self) -> dict[str, str]:
        """Return what is there."""
        return listing(self.directory)

    def is_right(self) -> bool:
        """Whether there is what should be, to the last file."""
        return self.found() == self.expected()


def _bushy(directory: Path) -> tuple[Any, Any]:
    storage = FileStorage(str(directory / "Data.fs"), blob_dir=str(directory / "blobs"))
    return storage, storage.fshelper


def _lawn(directory: Path) -> tuple[Any, Any]:
    (directory / "blobs").mkdir()
    (directory / "blobs" / ".layout").write_text("lawn")
    return _bushy(directory)


def _wrapped(directory: Path) -> tuple[Any, Any]:
    storage = BlobStorage(str(directory / "blobs"), FileStorage(str(directory / "Data.fs")))
    return storage, storage.fshelper


def _mapping(directory: Path) -> tuple[Any, Any]:
    storage = BlobStorage(str(directory / "blobs"), MappingStorage())
    return storage, storage.fshelper


def _demo(directory: Path) -> tuple[Any, Any]:
    changes, helper = _mapping(directory)
    return DemoStorage(base=MappingStorage(), changes=changes), helper


KINDS: Final[dict[str, Callable[[Path], tuple[Any, Any]]]] = {
    "bushy": _bushy,
    "lawn": _lawn,
    "wrapped": _wrapped,
    "mapping": _mapping,
    "demo": _demo,
}
"""Storages: a FileStorage with either layout, one in a ``<blobstorage>``, and without history."""


class Uploader:
    """Stores blobs message by message, as the client's protocol has it.

    :param client: a raw client of any coding.
    """

    def __init__(self, client: RawClient) -> None:
        self.client = client
        self.is_own = not client.is_zeo
        self._numbers = iter(range(FIRST_UPLOAD, FIRST_UPLOAD + 1_000_000))
        self.number = 0
        """The number of the last upload that was begun, in Zeolith's own protocol."""
        self._sent = b""

    def begin(self, data: bytes) -> None:
        """Send *data*, but not the end."""
        parts = [data[at : at + _CHUNK] for at in range(0, len(data), _CHUNK)]
        self._sent = data
        if self.is_own:
            self.number = next(self._numbers)
            self.client.send(*(StreamData(self.number, part) for part in parts))
        else:
            self.client.send(StoreBlobStart(), *map(StoreBlobChunk, parts))

    def end(self, oid: bytes, size: int, serial: bytes = bytes(8), txn: int = 1) -> None:
        """Send the end, and make it the blob of *oid* in the transaction *txn*."""
        if self.is_own:
            self.client.send(StreamEnd(self.number))
        self.client.send(self.attachment(oid, size, serial, txn))

    def attachment(
        self, oid: bytes, size: int, serial: bytes = bytes(8), txn: int = 1
    ) -> AttachBlob | StoreBlobEnd:
        """Return what makes the last upload the blob of *oid*."""
        if not self.is_own:
            return StoreBlobEnd(oid, serial, RECORD, txn)
        codec = self.client.peer.codec
        assert codec is not None
        digest = None if codec.checksum is None else hashlib.sha256(self._sent).digest()
        return AttachBlob(self.number, oid, serial, RECORD, txn, size, digest)

    def store(self, oid: bytes, data: bytes, serial: bytes = bytes(8), txn: int = 1) -> None:
        """Send a whole blob, of no more bytes than the first credit, with its record."""
        self.client.send(Store(oid, serial, RECORD, txn))
        self.begin(data)
        self.end(oid, len(data), serial, txn)

    def commit(self, oid: bytes, data: bytes, serial: bytes = bytes(8)) -> bytes:
        """Commit a blob; return the transaction's id."""
        self.client.begin()
        self.store(oid, data, serial)
        self.client.vote()
        return self.client.finish()


def read(client: RawClient, oid: bytes, tid: bytes) -> bytes:
    """Return a blob as the server sends it."""
    from tests.rules.commits import blob

    if client.is_zeo:
        return blob(client, oid, tid)
    streams = RawStreams(client)
    number = sum(1 for _ in client.inbox)  # not used before
    streams.open(number, oid, tid, credit=1 << 20)
    streams.read_to_end(number)
    return streams.data[number]


class Speech(NamedTuple):
    """What a raw client speaks.

    :ivar terms: what it says in a hello of Zeolith's own protocol.
    """

    name: str
    coding: Coding
    terms: Terms = NO_TERMS

    @property
    def options(self) -> dict[str, Any]:
        """Return the keywords of a :class:`RawClient`."""
        return {"coding": self.coding, "terms": self.terms}


Z5, M5 = Speech("Z5", Coding.PICKLE), Speech("M5", Coding.MSGPACK)
OWN = Speech("own", Coding.OWN)
VERIFIED = Speech("verified", Coding.OWN, Terms(checksums=("sha256",)))
"""As Zeolith's own clients do it: with checksums of blobs."""

SPEECHES: Final = (Z5, M5, OWN, VERIFIED)


def revisions(storage: Any) -> Iterator[tuple[bytes, bytes]]:
    """Yield object id and tid of each blob's record in *storage*."""
    from ZODB.blob import is_blob_record

    for transaction in storage.iterator():
        for record in transaction:
            if is_blob_record(record.data):
                yield record.oid, record.tid

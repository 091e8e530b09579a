"""What a cache knows beside its records, in one piece: the index file of a persistent cache.

The records of a cache lie in one file, which changes all the time; where they lie, up to which
transaction they are right, and of which database they are, is written to another one now and
then, as a whole.  So there is no state in between: a snapshot is right as of its last tid, for
ever, whatever happened to the cache after it.  What has been written over since does not pass for
the record that the snapshot means, because of its checksum, and is not there then.

Layout, all numbers big-endian::

    magic 8 | last tid 8 | revisions u64
    shift u8 | bits of a segment u8
    twice, for the small ring and the main one:
    first, end, head, tail, limit u32 each, in granules | wrapped u8
    epoch u64 | length of the identity u16 | length of the storage's name u16
    identity, UTF-8; empty if none is known | name of the storage, UTF-8
    number of segments u32 | per segment: seed u32, in the order of the machine
    number of pages u32 | per page: number u64, size u32, the page
    number of rows u32  | per row: oid u64, size u32, the row
    number of pages of suspects u32 | per page as above
    checksum 4

A page is what BTrees' fsBucket gives as bytes: keys of two bytes, sorted, then places of six.  A
row is what :mod:`.earlier` keeps of one object; suspects are explained in :mod:`.suspects`.  The
checksum is made as that of a record.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple
from zlib import crc32

from ..protocol.hello import Database
from .log import LogState
from .records import CHECKSUM_SIZE, REMAINDER
from .rings import RingsState

MAGIC: Final = b"zeoindx2"
"""The last letter is the version."""

_HEAD: Final = struct.Struct(">8s8sQBB IIIII? IIIII? QHH")
_COUNT: Final = struct.Struct(">I")
_PART: Final = struct.Struct(">QI")
_SEED_SIZE: Final = 4

assert _HEAD.size == 80
assert _PART.size == 12


class SnapshotDamaged(Exception):
    """The bytes are no snapshot, or not as they were written."""


class Snapshot(NamedTuple):
    """What a cache knows beside its records.

    :ivar last_tid: up to which transaction everything is right.
    :ivar database: which database it is, if that is known.
    :ivar storage: name of the storage that it is of; empty if that is not known.
    :ivar revisions: how many there are, earlier ones included.
    :ivar rings: where in the file what is.
    :ivar pages: number and bytes of each page of the index.
    :ivar rows: object id as a number, and what is known of its earlier revisions.
    :ivar suspects: as *pages*, of what may be out of date already as of *last_tid*.
    """

    last_tid: bytes
    database: Database | None
    storage: str
    revisions: int
    rings: RingsState
    pages: list[tuple[int, bytes]]
    rows: list[tuple[int, bytes]]
    suspects: Sequence[tuple[int, bytes]] = ()


def serialize_snapshot(snapshot: Snapshot) -> bytes:
    """Return the bytes of the index file."""
    last_tid, database, storage, revisions, rings, pages, rows, suspects = snapshot
    identity, epoch = (b"", 0) if database is None else (database[0].encode(), database[1])
    name = storage.encode()
    head = _HEAD.pack(
        MAGIC, last_tid, revisions,
        rings.shift, rings.segment_bits, *rings.small, *rings.main,
        epoch, len(identity), len(name),
    )  # fmt: skip
    seeds = _COUNT.pack(len(rings.seeds) // _SEED_SIZE) + rings.seeds
    parts = (*_parts(pages), *_parts(rows), *_parts(suspects))
    body = b"".join((head, identity, name, seeds, *parts))
    return body + crc32(body).to_bytes(CHECKSUM_SIZE, "little")


def _parts(parts: Sequence[tuple[int, bytes]]) -> Iterable[bytes]:
    yield _COUNT.pack(len(parts))
    for number, data in parts:
        yield _PART.pack(number, len(data))
        yield data


def parse_snapshot(data: bytes) -> Snapshot:
    """Return what :func:`serialize_snapshot` was given.

    :raises SnapshotDamaged: *data* is not what it returned.
    """
    if len(data) < _HEAD.size or data[:8] != MAGIC:
        raise SnapshotDamaged("it is no index of a cache")
    if crc32(data) != REMAINDER:
        raise SnapshotDamaged("its checksum is wrong")
    _, last_tid, revisions, shift, bits, *logs, epoch, size, length = _HEAD.unpack_from(data)
    at = _HEAD.size
    identity = data[at : at + size].decode()
    at += size
    storage = data[at : at + length].decode()
    at += length
    (count,) = _COUNT.unpack_from(data, at)
    at += _COUNT.size
    seeds = data[at : at + count * _SEED_SIZE]
    reader = _Parts(data, at + len(seeds))
    pages, rows, suspects = list(reader.take()), list(reader.take()), list(reader.take())
    return Snapshot(
        last_tid,
        Database(identity, epoch) if identity else None,
        storage,
        revisions,
        RingsState(shift, bits, seeds, LogState(*logs[:6]), LogState(*logs[6:])),
        pages,
        rows,
        suspects,
    )


class _Parts:
    """Reads lists of parts; the checksum has been found right, so they are all there."""

    def __init__(self, data: bytes, at: int) -> None:
        self._data = data
        self._at = at

    def take(self) -> Iterator[tuple[int, bytes]]:
        (count,) = _COUNT.unpack_from(self._data, self._at)
        self._at += _COUNT.size
        for _ in range(count):
            number, size = _PART.unpack_from(self._data, self._at)
            begin = self._at + _PART.size
            self._at = begin + size
            yield number, self._data[begin : self._at]

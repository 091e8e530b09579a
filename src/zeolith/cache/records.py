"""One record of a cache file: a revision with what it takes to recognise it.

::

    oid 8 | start tid 8 | length of the whole record, u32 big-endian | data | checksum 4

The checksum is the CRC-32 of what stands before it, little-endian, begun with the *seed* of its
place (:mod:`.seals`).  A CRC that is followed by itself has a constant remainder, so one call over
a whole record tells whether it is as it was written, without cutting it into parts first.  A
record sealed with another seed never passes, whatever else it is.
"""

from __future__ import annotations

import struct
from typing import Final
from zlib import crc32

HEADER: Final = struct.Struct(">8s8sI")
"""oid, start tid, length of the record in bytes, header and checksum included."""

CHECKSUM_SIZE: Final = 4

OVERHEAD: Final = HEADER.size + CHECKSUM_SIZE
"""Bytes that a record takes beside its data."""

assert HEADER.size == 20
assert OVERHEAD == 24

LENGTH: Final = struct.Struct(">I")
LENGTH_AT: Final = 16

REMAINDER: Final = 0x2144DF1C
"""CRC-32 of anything followed by its own CRC-32, whatever it began with."""


def pack_body(oid: bytes, start: bytes, data: bytes) -> bytes:
    """Return the record of the revision of *oid* that transaction *start* wrote, not yet sealed."""
    return HEADER.pack(oid, start, OVERHEAD + len(data)) + data


def seal(body: bytes, seed: int) -> bytes:
    """Return the record whose body :func:`pack_body` returned.

    :param seed: 32 bits.
    """
    return body + crc32(body, seed).to_bytes(CHECKSUM_SIZE, "little")


def is_whole(record: bytes, seed: int) -> bool:
    """Return whether *record* is what :func:`seal` returned with that *seed*."""
    return crc32(record, seed) == REMAINDER

"""One record of a cache file: a revision with what it takes to recognise it.

::

    oid 8 | start tid 8 | length of the whole record, u32 big-endian | data | checksum 4

The checksum is the CRC-32 of what stands before it, little-endian, begun with the cache's *seed*.
A CRC that is followed by itself has a constant remainder, so one call over a whole record tells
whether it is as it was written, without cutting it into parts first.  Records written with
another seed never pass, whatever else they are.

What was an earlier revision when it was written has a seed of its own: where the index expects the
current revision of an object, an earlier one of the same object must not pass for it.
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


def earlier_seed(seed: int) -> int:
    """Return the seed of earlier revisions in a cache whose current ones have *seed*."""
    return seed ^ 0xFFFFFFFF


def pack_record(oid: bytes, start: bytes, data: bytes, seed: int) -> bytes:
    """Return the record of the revision of *oid* that transaction *start* wrote.

    :param seed: 32 bits.
    """
    body = HEADER.pack(oid, start, OVERHEAD + len(data)) + data
    return body + crc32(body, seed).to_bytes(CHECKSUM_SIZE, "little")


def reseal(record: bytes, seed: int) -> bytes:
    """Return *record* as if it had been written with *seed*."""
    body = record[:-CHECKSUM_SIZE]
    return body + crc32(body, seed).to_bytes(CHECKSUM_SIZE, "little")


def is_whole(record: bytes, seed: int) -> bool:
    """Return whether *record* is what :func:`pack_record` returned with that *seed*."""
    return crc32(record, seed) == REMAINDER

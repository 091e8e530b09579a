"""Checksums of the server's blob files: computed once, and then remembered beside the file.

Where the file system has extended attributes, one of the file says by which algorithm, of how many
bytes and of which time the checksum is; a file that has changed since has none.  It comes from the
client that sent the blob, or from this server's reading of it: so whoever gets the blob later finds
out, too, what has happened to the file on the disk meanwhile.  Any thread may call these, which
may have to wait for the disk.

The attribute has 54 bytes: ext4 has room for 56 in an inode of the usual 256, and beyond that takes
another block of the disk for each file, to be written, flushed and read.
"""

from __future__ import annotations

import logging
import os
from struct import Struct
from typing import Final
from zlib import crc32

from ..protocol.checksums import DIGEST_SIZE, make_hasher

logger = logging.getLogger(__name__)

ATTRIBUTE: Final = "user.zeolith.checksum"

_VERSION: Final = 2

_NUMBERS: Final = {"sha256": 1, "blake3": 2}
"""What stands for an algorithm; a number is never used for another."""

_LAYOUT: Final = Struct(f">BBQq{DIGEST_SIZE}s")
"""Version, algorithm, the file's length, its time of modification in nanoseconds, the checksum.  A
CRC-32 of that follows: a disk may change this, too."""

_PIECE: Final = 1024 * 1024
"""Bytes read at once: as a rule they are still in the processor's cache when they are summed up."""

_has_attributes: Final = hasattr(os, "setxattr")


def remember(descriptor: int, algorithm: str, digest: bytes, status: os.stat_result) -> None:
    """Keep the checksum of an open file; nothing happens where that cannot be.

    :param status: of the file, as it was after its last byte was written.
    """
    if not _has_attributes:
        return
    try:
        os.setxattr(descriptor, ATTRIBUTE, _value(algorithm, digest, status))
    except OSError as error:
        # No such attributes here, no room for them, or another user's file: it is computed again.
        logger.debug("a checksum is not kept: %s", error)


def recall(descriptor: int, algorithm: str) -> bytes | None:
    """Return the checksum of an open file if it is known and the file has not changed since."""
    return recall_as(descriptor, algorithm, os.fstat(descriptor))


def recall_as(descriptor: int, algorithm: str, status: os.stat_result) -> bytes | None:
    """Return the checksum of an open file if it is known and is that of the file as it was.

    :param status: of the file, when it was as it is meant.
    """
    if not _has_attributes:
        return None
    try:
        value = os.getxattr(descriptor, ATTRIBUTE)
    except OSError:
        return None  # there is none, or there cannot be
    digest = value[_LAYOUT.size - DIGEST_SIZE : _LAYOUT.size]
    return digest if value == _value(algorithm, digest, status) else None


def _value(algorithm: str, digest: bytes, status: os.stat_result) -> bytes:
    """Return the attribute of a file that has *status*."""
    number = _NUMBERS[algorithm]
    value = _LAYOUT.pack(_VERSION, number, status.st_size, status.st_mtime_ns, digest)
    return value + crc32(value).to_bytes(4, "big")


def compute(descriptor: int, algorithm: str) -> bytes:
    """Read all of an open file; return its checksum, which is kept.

    :raises OSError: it cannot be read.
    """
    hasher = make_hasher(algorithm)
    buffer = bytearray(_PIECE)
    offset = 0
    with memoryview(buffer) as view:
        while size := os.preadv(descriptor, [view], offset):
            hasher.update(view[:size])
            offset += size
    digest = hasher.digest()
    remember(descriptor, algorithm, digest, os.fstat(descriptor))
    return digest

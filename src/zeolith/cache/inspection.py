"""Reading the files of a persistent cache without changing, locking or believing anything.

For commands, not for clients: :mod:`.home` is how a client opens its cache.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from itertools import chain
from typing import NamedTuple

from BTrees.fsBTree import fsBucket

from .earlier import entries_of
from .home import ASIDE, HEADER_SIZE, INDEX_SUFFIX, MAGIC, ZEO_MAGIC, ForeignFile, longest_index
from .log import LENGTH_MASK
from .opening import open_to_read
from .owners import Owner, find_owner
from .snapshot import MAGIC as INDEX_MAGIC
from .snapshot import Snapshot, SnapshotDamaged, parse_snapshot


class Stamp(NamedTuple):
    """What tells one version of an index file from the next, and its time."""

    inode: int
    size: int
    modified: int
    """Nanoseconds since the epoch."""


class CacheFiles(NamedTuple):
    """The files of a cache as they were at one moment.

    :ivar path: of the file of records, absolute.
    :ivar size: bytes of that file.
    :ivar stamp: of the file with the index; None if there is none.
    :ivar snapshot: what the index says; None if there is none, or none that can be used.
    :ivar problem: why it cannot be used; empty if it can, or there is none.
    :ivar owner: who has the cache open.
    """

    path: str
    size: int
    stamp: Stamp | None
    snapshot: Snapshot | None
    problem: str
    owner: Owner | None

    @property
    def is_new(self) -> bool:
        """Whether there is nothing in it and nothing is missed."""
        return self.stamp is None and self.size <= HEADER_SIZE


def look(path: str) -> CacheFiles:
    """Return what there is of the cache file *path*.

    :raises ForeignFile: it is something else; the error says what, if that can be told.
    :raises OSError: it cannot be read.
    """
    path = os.path.abspath(path)
    size = _recognize(path)
    stamp = snapshot = None
    problem = ""
    try:
        with open(open_to_read(path + INDEX_SUFFIX), "rb", buffering=0) as file:
            stamp = _stamp(os.fstat(file.fileno()))
            snapshot = parse_snapshot(_read_index(file.fileno(), stamp.size, longest_index(size)))
    except FileNotFoundError:
        pass
    except SnapshotDamaged as error:
        problem = str(error)
    return CacheFiles(path, size, stamp, snapshot, problem, find_owner(path))


def is_same(files: CacheFiles) -> bool:
    """Return whether nobody has saved the cache since :func:`look` saw it, or has it open.

    :raises OSError: that cannot be found out.
    """
    try:
        stamp = _stamp(os.stat(files.path + INDEX_SUFFIX))
    except FileNotFoundError:
        stamp = None
    return stamp == files.stamp and find_owner(files.path) is None


def places_of(page: bytes) -> Iterator[tuple[bytes, int]]:
    """Yield the last two bytes of each object id in a page of the index, and its place."""
    bucket = fsBucket()
    bucket.fromBytes(page)
    for suffix, place in bucket.items():
        yield suffix, int.from_bytes(place, "big")


class Contents(NamedTuple):
    """What an index says there is.

    :ivar current: current revisions, suspects included.
    :ivar suspects: those that a server has yet to verify; see :mod:`.suspects`.
    :ivar earlier: earlier ones.
    :ivar bytes_used: of all their records.
    :ivar biggest: bytes of the longest record, 0 if there are none.
    """

    current: int
    suspects: int
    earlier: int
    bytes_used: int
    biggest: int


def count(snapshot: Snapshot) -> Contents:
    """Add up what *snapshot* says of records; reads none of them."""
    current = suspects = earlier = used = biggest = 0
    for number, (_, page) in enumerate(chain(snapshot.pages, snapshot.suspects)):
        for _, place in places_of(page):
            length = place & LENGTH_MASK
            current += 1
            suspects += number >= len(snapshot.pages)
            used += length
            biggest = max(biggest, length)
    for _, row in snapshot.rows:
        for _, _, place in entries_of(row):
            length = place & LENGTH_MASK
            earlier += 1
            used += length
            biggest = max(biggest, length)
    return Contents(current, suspects, earlier, used, biggest)


def _recognize(path: str) -> int:
    """Return the size of the cache file *path*; raises as :func:`look`."""
    # Opening one of these might wait for ever.
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise ForeignFile(path, "is no regular file, so it is no client cache")
    with open(path, "rb", buffering=0) as file:
        head = file.read(len(MAGIC))
        size = os.fstat(file.fileno()).st_size
    if MAGIC.startswith(head):
        return size
    if head.startswith(ZEO_MAGIC):
        raise ForeignFile(
            path,
            "is a cache of ZEO, which cannot be read here",
            f"a Zeolith client of that name keeps it as {os.path.basename(path)}{ASIDE} and begins "
            "with an empty one",
        )
    if head.startswith(INDEX_MAGIC[:-1]):
        raise ForeignFile(
            path, "is the index of a cache", "name the file of records, which has no .index behind"
        )
    raise ForeignFile(path, "is no client cache of Zeolith's, or one of another version")


def _read_index(descriptor: int, size: int, most: int) -> bytes:
    # A large file of something else is not read only to be told from an index.
    head = os.pread(descriptor, len(INDEX_MAGIC), 0)
    if head[:-1] == INDEX_MAGIC[:-1] and head != INDEX_MAGIC:
        raise SnapshotDamaged("it was written by another version of Zeolith")
    if head != INDEX_MAGIC:
        return head
    if size > most:
        raise SnapshotDamaged("it is too large for the file of records")
    parts = []
    at = 0
    while part := os.pread(descriptor, size - at, at):
        parts.append(part)
        at += len(part)
    return b"".join(parts)


def _stamp(found: os.stat_result) -> Stamp:
    return Stamp(found.st_ino, found.st_size, found.st_mtime_ns)

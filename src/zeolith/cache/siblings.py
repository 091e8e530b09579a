"""The caches of other processes of this host, to read from.

Nothing is ever written to them, and nobody is asked: what another process has saved of its cache
(:mod:`.snapshot`) says where the records lie in its file, and each record says whether it still is
what the snapshot meant.  Its process goes on, writing over records while they are read here; what
is read then has a wrong checksum, or is another object.  Their seeds say that records and
snapshot belong together.

Only current revisions are read: earlier ones are few.
"""

from __future__ import annotations

import logging
import os
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Lock
from typing import Final, NamedTuple

from .home import INDEX_SUFFIX, MAGIC
from .index import PlaceIndex
from .log import LENGTH_BITS, LENGTH_MASK
from .opening import open_to_read
from .records import is_whole
from .snapshot import Snapshot, SnapshotDamaged, parse_snapshot

logger = logging.getLogger(__name__)


class SiblingUnusable(Exception):
    """A file that should be another process's cache cannot be read as one."""


class Sibling:
    """One file of another process, as of its last snapshot.

    Any thread may read.  The file stays open for as long as there is somebody who may be reading.

    :param descriptor: of the file of records; closed with this object.
    :ivar path: of that file.
    :ivar database: which database it is of; None if that is not known.
    :ivar as_of: the revisions were current as of this transaction; may be lowered, not raised.
    """

    def __init__(self, path: str, descriptor: int, snapshot: Snapshot) -> None:
        self.path: Final = path
        self.database: Final = snapshot.database
        self.as_of = snapshot.last_tid
        self._descriptor = descriptor
        self._seals = snapshot.rings.seals
        self._shift = snapshot.rings.shift
        self._index = PlaceIndex()
        self._index.load(snapshot.pages)
        self._has_failed = False
        # A number that is closed while somebody reads may be another file's a moment later.
        weakref.finalize(self, os.close, descriptor)

    def read(self, oid: bytes) -> bytes | None:
        """Return the record of *oid*, which is whole; None if it is not there (any more)."""
        place = self._index.get(oid)
        if place is None or self._has_failed:
            return None
        try:
            record = os.pread(
                self._descriptor, place & LENGTH_MASK, place >> LENGTH_BITS << self._shift
            )
        except OSError as error:
            self._has_failed = True
            logger.warning("%s is not read from any more: %s", self.path, error)
            return None
        seed = self._seals.seed_at(place >> LENGTH_BITS)
        return record if record[:8] == oid and is_whole(record, seed) else None


class _Stamp(NamedTuple):
    """What tells one snapshot of a file from the next."""

    inode: int
    changed: int
    size: int


class Siblings:
    """The files that may be there, and those that are.

    :param paths: of files of records, whether they exist or not.
    :param limit: bytes of all their snapshots together, which is what they take in memory; those
        that were saved last come first.
    :param storage: name of the storage that they are to be of; None to take them as they are.
    """

    def __init__(self, paths: Sequence[str], limit: int, storage: str | None = None) -> None:
        self._paths = tuple(paths)
        self._limit = limit
        self._storage = storage
        self._lock = Lock()
        # By path; None for what cannot be used.
        self._known: dict[str, tuple[_Stamp, Sibling | None]] = {}
        self._said: dict[str, str] = {}

    def look(self) -> list[Sibling]:
        """Look for new snapshots; return what there is, the newest first.  Any thread.

        What cannot be used is logged, once.
        """
        with self._lock:
            with self._opened() as opened:
                self._take_up(opened)
            found = [sibling for _, sibling in self._known.values() if sibling is not None]
        return sorted(found, key=lambda sibling: sibling.as_of, reverse=True)

    def distrust(self) -> None:
        """Use none of the snapshots that are there now, only what is saved from now on."""
        with self._lock, self._opened() as opened:
            # Those too that were saved since the last look, or for which there was no memory.
            self._known = {path: (_stamp(index), None) for path, index in opened}

    @contextmanager
    def _opened(self) -> Iterator[list[tuple[str, int]]]:
        """Return which files there are, with descriptors of their snapshots."""
        opened = [(path, index) for path in self._paths if (index := self._open(path)) >= 0]
        try:
            yield opened
        finally:
            for _, index in opened:
                os.close(index)

    def release(self) -> None:
        """Give back the files, as far as nobody is reading; look no more.

        Without the lock: in a child made by ``fork`` there may be nobody who would give it back.
        """
        self._paths = ()
        self._known = {}

    def _open(self, path: str) -> int:
        """Return a descriptor of the snapshot; -1 if there is none."""
        try:
            return open_to_read(path + INDEX_SUFFIX)
        except FileNotFoundError:
            self._said.pop(path, None)
        except OSError as error:
            self._say(path, error)
        return -1

    def _take_up(self, opened: list[tuple[str, int]]) -> None:
        stamps = {path: _stamp(index) for path, index in opened}
        known = self._known
        # What is not used stays so, even if it cannot be opened for a while.
        self._known = {path: entry for path, entry in known.items() if entry[1] is None}
        room = self._limit
        for path, index in sorted(opened, key=lambda item: stamps[item[0]].changed, reverse=True):
            stamp = stamps[path]
            before = known.get(path)
            if before == (stamp, None):
                continue
            room -= stamp.size
            if room < 0:
                self._say(path, f"there is no memory for its index of {stamp.size} bytes")
                break
            if before is not None and before[0] == stamp:
                self._known[path] = before
                continue
            sibling = None
            try:
                sibling = _read(path, index, stamp.size, self._storage)
                self._said.pop(path, None)
            except FileNotFoundError:
                pass  # removed at this moment, or half of it before
            except (OSError, SiblingUnusable, SnapshotDamaged) as error:
                self._say(path, error)
            self._known[path] = stamp, sibling

    def _say(self, path: str, problem: object) -> None:
        text = str(problem)
        if self._said.get(path) != text:
            self._said[path] = text
            logger.warning("%s, another process's cache, is not read: %s", path, text)


def _stamp(descriptor: int) -> _Stamp:
    status = os.fstat(descriptor)
    return _Stamp(status.st_ino, status.st_mtime_ns, status.st_size)


def _read(path: str, index: int, size: int, storage: str | None) -> Sibling:
    """Return the cache of which *index* is the snapshot.

    :raises SiblingUnusable, SnapshotDamaged: it is none, or of another version or storage.
    """
    parts = []
    while size and (part := os.read(index, size)):
        parts.append(part)
        size -= len(part)
    snapshot = parse_snapshot(b"".join(parts))
    if snapshot.storage != storage and snapshot.storage and storage is not None:
        # Whoever has no server yet takes its database for that of the others.
        raise SiblingUnusable(f"it is a cache of storage {snapshot.storage!r}, not of {storage!r}")
    descriptor = open_to_read(path)
    try:
        if os.pread(descriptor, len(MAGIC), 0) != MAGIC:
            raise SiblingUnusable("it is no cache of Zeolith's, or of another version")
        return Sibling(path, descriptor, snapshot)
    except BaseException:
        os.close(descriptor)
        raise

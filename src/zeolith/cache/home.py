"""Where a persistent cache lives: its files, and the proof that nobody else uses them.

``NAME`` holds the records (:mod:`.log`), ``NAME.index`` where they lie (:mod:`.snapshot`), and
``NAME.lock`` is locked for as long as the cache is open.

Nothing here is flushed to the disk: what a loss of power leaves is recognised by its checksums,
and costs warmth only.
"""

from __future__ import annotations

import fcntl
import logging
import os
from contextlib import suppress
from typing import IO, Final

from ..errors import ConfigurationError
from .snapshot import Snapshot, SnapshotDamaged, parse_snapshot, serialize_snapshot

logger = logging.getLogger(__name__)

HEADER_SIZE: Final = 4096
"""Bytes of the file before the first record: a multiple of every granule."""

MAGIC: Final = b"zeolith client cache, records, version 1\n"
"""First bytes of a file of records; the rest of its header is zeros."""

ZEO_MAGIC: Final = b"ZEC"
"""First bytes of the cache files of ZEO, whatever their version."""

ASIDE: Final = ".zeo"
"""Appended to the name of a cache file of ZEO that stands where ours is to be."""


INDEX_SUFFIX: Final = ".index"
"""Appended to the name of the file of records: the file of the snapshot."""


class CacheInUse(ConfigurationError):
    """Another process has the persistent cache of that name open."""


class ForeignFile(ConfigurationError):
    """The file is no cache of ours, and will not be written to."""


class CacheHome:
    """The files of one persistent cache, locked.

    One thread at a time.

    :param path: of the file of records; its directory has to be there.
    :raises CacheInUse: another process uses it.
    :raises ForeignFile: something else has that name.
    :raises OSError: the files cannot be opened or made.
    """

    def __init__(self, path: str) -> None:
        self.path: Final = os.path.abspath(path)
        self._lock = _lock(self.path + ".lock", self.path)
        self._is_new = False
        try:
            self.file: Final = self._open()
        except BaseException:
            os.close(self._lock)
            raise

    @property
    def index_path(self) -> str:
        """The file of the snapshot."""
        return self.path + INDEX_SUFFIX

    def _open(self) -> IO[bytes]:
        try:
            file = open(self.path, "r+b", buffering=0)  # noqa: SIM115
        except FileNotFoundError:
            return self._make()
        try:
            head = os.pread(file.fileno(), len(MAGIC), 0)
            if head == MAGIC:
                return file
            if head.startswith(ZEO_MAGIC):
                os.replace(self.path, self.path + ASIDE)
                logger.warning(
                    "%s is a cache of ZEO, which cannot be read here: it is kept as %s, and a new "
                    "cache begins empty",
                    self.path,
                    self.path + ASIDE,
                )
            elif head:
                raise ForeignFile(
                    f"client cache {self.path}",
                    "a file of that name is no cache of Zeolith's, or of another version",
                    "remove it, or give the cache another name",
                )
            # An empty one was made at a moment when the disk had no room.
        except BaseException:
            file.close()
            raise
        file.close()
        return self._make()

    def _make(self) -> IO[bytes]:
        file = open(self.path, "w+b", buffering=0)  # noqa: SIM115
        try:
            os.pwrite(file.fileno(), MAGIC.ljust(HEADER_SIZE, b"\0"), 0)
        except BaseException:
            file.close()
            with suppress(OSError):
                os.unlink(self.path)
            raise
        self._is_new = True
        return file

    def load(self) -> Snapshot | None:
        """Return what was saved last; None if there is nothing, or nothing that can be used."""
        if self._is_new:
            return None
        try:
            with open(self.index_path, "rb", buffering=0) as file:
                return parse_snapshot(file.read())
        except FileNotFoundError:
            return None
        except (OSError, SnapshotDamaged) as error:
            logger.warning("%s is not used, the cache begins empty: %s", self.index_path, error)
            return None

    def save(self, snapshot: Snapshot) -> None:
        """Put *snapshot* in the place of the one before, in one step.

        :raises OSError: it cannot be written; the one before is still there.
        """
        temporary = self.index_path + ".new"
        try:
            with open(temporary, "wb", buffering=0) as file:
                data = memoryview(serialize_snapshot(snapshot))
                while data:
                    data = data[file.write(data) :]
            os.replace(temporary, self.index_path)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise

    def close(self) -> None:
        """Let others use the files; may be called twice.

        In a child made by ``fork`` this leaves the parent's lock alone, which goes with the last
        descriptor of it.
        """
        self.file.close()
        lock, self._lock = self._lock, -1
        if lock >= 0:
            os.close(lock)


def _lock(path: str, cache: str) -> int:
    """Return the descriptor of the locked file *path*.

    ZEO locks a file of the same name in the same way.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, b" %d\n" % os.getpid(), 0)
    except BlockingIOError:
        said = os.pread(descriptor, 40, 0).decode("ascii", "replace").strip()
        os.close(descriptor)
        owner = f" (process {said})" if said.isdigit() else ""
        raise CacheInUse(
            f"client cache {cache}",
            f"another process uses it{owner}",
            "give each process a cache name of its own, or have all of them share it: shared_cache",
        ) from None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor

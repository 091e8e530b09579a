"""Where a persistent cache lives: its files, and the proof that nobody else uses them.

``NAME`` holds the records (:mod:`.log`), ``NAME.index`` where they lie (:mod:`.snapshot`), and
``NAME.lock`` is locked for as long as the cache is open; so is ``NAME`` itself, in case that
somebody removes the former, or that the file has two names.

What is written here is not flushed to the disk: what a loss of power leaves is recognised by its
checksums, and costs warmth only.  Flushed are the header of a new file, without which it would be
taken for something else ever after, and that a snapshot is gone which must not come back.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
from contextlib import suppress
from typing import IO, Final

from ..errors import ConfigurationError
from .opening import open_to_read
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

INDEX_SHARE: Final = 2
"""Bytes of the index for one of the records, at most: an object takes at least 32 bytes there, and
at most 64 here."""

INDEX_REST: Final = 1 << 20
"""Bytes of the index beside that: the seeds of segments, names."""


def longest_index(size: int) -> int:
    """Return how many bytes the index may have of a file of records of *size* bytes."""
    return INDEX_SHARE * size + INDEX_REST


class CacheInUse(ConfigurationError):
    """Somebody else has the persistent cache of that name open."""


class ForeignFile(ConfigurationError):
    """The file is no cache of ours, and will not be written to."""


class CacheHome:
    """The files of one persistent cache, locked.

    One thread at a time.

    :param path: of the file of records; its directory has to be there.
    :param storage: name of the storage that it is a cache of; None to take it as it is.
    :raises CacheInUse: another process, or another storage of this one, uses it.
    :raises ForeignFile: something else has that name.
    :raises OSError: the files cannot be opened or made.
    """

    def __init__(self, path: str, storage: str | None = None) -> None:
        self.path: Final = os.path.abspath(path)
        self.storage: Final = storage
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
        file = self._open_claimed()
        try:
            head = os.pread(file.fileno(), len(MAGIC), 0)
            if head.startswith(ZEO_MAGIC):
                os.replace(self.path, self.path + ASIDE)
                logger.warning(
                    "%s is a cache of ZEO, which cannot be read here: it is kept as %s, and a new "
                    "cache begins empty",
                    self.path,
                    self.path + ASIDE,
                )
                file.close()
                file = self._open_claimed()
            elif not MAGIC.startswith(head):
                raise ForeignFile(
                    f"client cache {self.path}",
                    "a file of that name is no cache of Zeolith's, or of another version",
                    "remove it, or give the cache another name",
                )
            if head != MAGIC:
                # A new one; or one that was made when the disk had no room, or not all of it.
                os.pwrite(file.fileno(), MAGIC.ljust(HEADER_SIZE, b"\0"), 0)
                os.fsync(file.fileno())
                self._is_new = True
        except BaseException:
            file.close()
            raise
        return file

    def _open_claimed(self) -> IO[bytes]:
        """Return the file of records, made if there is none, and locked."""
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            _claim(descriptor, self.path, self.path)
        except BaseException:
            os.close(descriptor)
            raise
        return open(descriptor, "r+b", buffering=0)

    def load(self) -> Snapshot | None:
        """Return what was saved last; None if there is nothing, or nothing that can be used."""
        if self._is_new:
            return None
        try:
            with open(open_to_read(self.index_path), "rb", buffering=0) as file:
                most = longest_index(os.fstat(self.file.fileno()).st_size)
                data = file.read(most + 1)
            if len(data) > most:
                raise SnapshotDamaged("it is too large for the file of records")
            snapshot = parse_snapshot(data)
        except FileNotFoundError:
            return None
        except (OSError, SnapshotDamaged) as error:
            logger.warning("%s is not used, the cache begins empty: %s", self.index_path, error)
            return None
        if snapshot.storage != self.storage and snapshot.storage and self.storage is not None:
            logger.warning(
                "%s is a cache of storage %r, not of %r: it begins empty",
                self.path,
                snapshot.storage,
                self.storage,
            )
            return None
        return snapshot

    def begin_anew(self) -> None:
        """Drop what is there: neither the snapshot nor the records are of any use.

        :raises OSError: they cannot be dropped.
        """
        with suppress(FileNotFoundError):
            os.unlink(self.index_path)
        os.ftruncate(self.file.fileno(), HEADER_SIZE)

    def forget(self) -> None:
        """Remove the snapshot, for good: what it says is not true any more.

        If that cannot be done the records go: of what is not there nothing wrong can be said.

        :raises OSError: neither can be done.
        """
        try:
            self._remove_index()
        except OSError as error:
            os.ftruncate(self.file.fileno(), HEADER_SIZE)
            os.fsync(self.file.fileno())
            logger.debug("%s is left without its records: %s", self.index_path, error)

    def _remove_index(self) -> None:
        """Remove the snapshot, so that it does not come back when the power fails either."""
        try:
            os.unlink(self.index_path)
        except FileNotFoundError:
            return
        directory = os.open(os.path.dirname(self.path), os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def save(self, snapshot: Snapshot) -> None:
        """Put *snapshot* in the place of the one before, in one step.

        :raises OSError: it cannot be written; the one before is still there.
        """
        ours, there = os.fstat(self.file.fileno()), os.stat(self.path)
        if (ours.st_dev, ours.st_ino) != (there.st_dev, there.st_ino):
            # It may be somebody else's by now, and the index as well.
            raise OSError(errno.ESTALE, "another file has the name of the cache now")
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
        _claim(descriptor, path, cache)
        with suppress(OSError):  # a full disk: nobody is told who it is, that is all
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, b" %d\n" % os.getpid(), 0)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _claim(descriptor: int, path: str, cache: str) -> None:
    """Lock the file.

    :raises CacheInUse: somebody else has it locked.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        said = ""
        if path != cache:
            said = os.pread(descriptor, 40, 0).decode("ascii", "replace").strip()
        if said == str(os.getpid()):
            problem = "another storage of this process uses it"
            remedy = "give each a cache name of its own, or have them share it: shared_cache"
        else:
            problem = "another process uses it" + (f" (process {said})" if said.isdigit() else "")
            remedy = (
                "give each process a cache name of its own, or have all of them share it: "
                "shared_cache"
            )
        raise CacheInUse(f"client cache {cache}", problem, remedy) from None

"""The proof that nobody else writes to a FileStorage's file, under whatever name.

A FileStorage locks a file beside its own, ``Data.fs.lock``.  That keeps away who uses the same
name, but not who comes through a link: two servers would then write to the same places of one
file, and acknowledge both.  So the file itself is locked too.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import struct
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, Protocol

from ZODB.FileStorage import FileStorage

from ..errors import ConfigurationError
from .access import parts_of

logger = logging.getLogger(__name__)

_PLACE: Final = 1 << 62
"""The byte that is locked: far behind the end of any file, because there are file systems on which
nobody can read what is locked."""

_UNSUPPORTED: Final = (errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.ENOSYS, errno.EINVAL)


class Closable(Protocol):
    """Something to be closed."""

    def close(self) -> None: ...


class FileInUse(ConfigurationError):
    """A storage's file is open for writing already, under another name."""


class FileClaim:
    """Keeps others from writing to the file of one FileStorage; closed with the storage.

    :meth:`follow` and :meth:`close` may be called from any thread.

    :param path: the file; it need not exist yet.
    :param option: how the user calls the storage, for errors.
    :raises FileInUse: somebody writes to it.
    :raises OSError: it cannot be opened.
    """

    def __init__(self, path: str, option: str) -> None:
        self._path = path
        self._option = option
        self._lock = threading.Lock()  # guards the two below
        self._descriptor: int | None = None
        self._is_closed = False
        self._others = ExitStack()
        if os.path.isfile(path):
            self.follow()

    def follow(self) -> None:
        """Claim the file that has the name now; give up the one that had it.

        :raises FileInUse: somebody writes to it; what was claimed before still is.
        :raises OSError: it cannot be opened.
        """
        with self._lock:
            if not self._is_closed:  # else a pack was quicker than the end of its storage
                self._follow()

    def _follow(self) -> None:
        descriptor = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        former = self._descriptor
        if former is not None and os.path.sameopenfile(former, descriptor):
            os.close(descriptor)
            return
        try:
            _lock(descriptor, self._path, self._option)
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        if former is not None:
            _release(former)

    def attach(self, storage: Any) -> None:
        """Have *storage*, which has this file open, close the claim when it is closed."""
        self.also(storage._lock_file)
        storage._lock_file = self

    def also(self, other: Closable) -> None:
        """Have *other* closed with the claim."""
        self._others.callback(other.close)

    def close(self) -> None:
        """Give the file free.  Any number of times."""
        try:
            self._others.close()
        finally:
            with self._lock:
                self._is_closed = True
                descriptor, self._descriptor = self._descriptor, None
            if descriptor is not None:
                _release(descriptor)


def file_storages_of(storage: Any) -> Iterator[Any]:
    """Yield the FileStorages in *storage* that are open for writing."""
    for part in parts_of(storage):
        if isinstance(part, FileStorage) and hasattr(part, "_lock_file"):
            yield part


def claim_files(storage: Any, option: str) -> None:
    """Claim the files of the FileStorages in *storage*, as far as that has not been done.

    :param option: how the user calls the storage, for errors.
    :raises FileInUse: somebody else writes to one.
    :raises OSError: one cannot be opened.
    """
    for part in file_storages_of(storage):
        if not isinstance(part._lock_file, FileClaim):
            FileClaim(part._file_name, option).attach(part)


def follow_file(storage: Any) -> None:
    """Claim the file that a pack has put in the place of a FileStorage's former one.

    The new file is a moment old and has one name, so this can hardly fail; if it does, the pack
    has succeeded all the same, and the log says that the file has to do without.
    """
    claim = getattr(storage, "_lock_file", None)
    if not isinstance(claim, FileClaim):
        return
    try:
        claim.follow()
    except (FileInUse, OSError) as error:
        logger.error("%s is not guarded against use under other names: %s", claim._path, error)


# -- the lock itself ---------------------------------------------------------------------------

# Of the open file rather than of the process: FileStorage opens its file many times, and the
# process would lose its lock whenever one of them is closed.
_OFD: Final[int | None] = getattr(fcntl, "F_OFD_SETLK", None)


def _lock(descriptor: int, path: str, option: str) -> None:
    try:
        if _OFD is None:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            fcntl.fcntl(descriptor, _OFD, _request(fcntl.F_WRLCK))
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            logger.warning("%s is not guarded against use under other names: %s", path, error)
            return
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            raise
        raise FileInUse(
            option,
            f"is another name of a file that is open already in {_who_has(descriptor)}",
            "stop that process, or connect to it as a client; find -samefile finds the names",
        ) from error


def _release(descriptor: int) -> None:
    # Explicitly, because a forked process may have the same open file.
    try:
        if _OFD is None:
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        else:
            fcntl.fcntl(descriptor, _OFD, _request(fcntl.F_UNLCK))
    except OSError as error:
        logger.debug("cannot unlock: %s", error)
    finally:
        os.close(descriptor)


def _request(kind: int) -> bytes:
    # struct flock: type, whence, start, length, process (0 is the only one legal here).
    return struct.pack("hhqqi4x", kind, os.SEEK_SET, _PLACE, 1, 0)


def _who_has(descriptor: int) -> str:
    """Return which process has the file of *descriptor* open otherwise, as far as can be seen."""
    wanted = os.fstat(descriptor)
    ours = Path(f"/proc/{os.getpid()}/fd")
    others = (path for path in Path("/proc").glob("[0-9]*/fd") if path != ours)
    for directory in (ours, *others):
        try:
            entries = list(directory.iterdir())
        except OSError:
            continue  # it has ended, or is none of our business
        for entry in entries:
            if directory == ours and entry.name == str(descriptor):
                continue
            try:
                is_same = os.path.samestat(entry.stat(), wanted)
            except OSError:
                continue  # closed meanwhile
            if is_same:
                return "this process" if directory == ours else f"process {directory.parent.name}"
    return "another process"

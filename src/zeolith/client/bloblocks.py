"""Locks in a blob cache, which every process that uses the directory honours.

- A *bucket* is held by its lock file while something is added to it or taken from it, as ZEO's
  clients do it.
- A *blob* is held, shared, by its own open file as long as that is open: in whatever process,
  thread or child of a fork.  Who evicts needs it alone.  ZEO's clients know nothing of this one.

The kernel releases both when a process dies.
"""

from __future__ import annotations

import fcntl
import os
import time
from typing import Final

from ..errors import ClientStorageError
from .bloblayout import PARTIAL_SUFFIX
from .bloblengths import check_length

LOCK_TIMEOUT: Final = 600.0
"""Seconds to wait for another process that works in the same bucket, before giving up with an
error.  They begin anew as long as what it receives grows: a few gigabytes take their time."""

_NONE: Final = -1

_held: set[FileLock] = set()


class FileLock:
    """A lock file that is held.  :meth:`close` releases it; any thread may."""

    __slots__ = ("_descriptor",)

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        _held.add(self)

    def close(self) -> None:
        """Release the lock.  May be called again."""
        _held.discard(self)
        if self._descriptor == _NONE:
            return
        # Said in words: a child that was forked meanwhile may have the file open, too.
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        os.close(self._descriptor)
        self._descriptor = _NONE

    @staticmethod
    def forked() -> None:
        """In the child of a fork: have no part in the locks of its parent.

        The child would keep them if the parent died.
        """
        for lock in _held:
            os.close(lock._descriptor)
            lock._descriptor = _NONE
        _held.clear()


os.register_at_fork(after_in_child=FileLock.forked)


def try_lock(path: str) -> FileLock | None:
    """Take a lock file, which is made if necessary; return None if it is held.

    :raises OSError: the file, or its file system, cannot be used for that.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError:
        os.close(descriptor)
        raise
    return FileLock(descriptor)


def share(descriptor: int) -> os.stat_result:
    """Keep a blob that is open for reading from eviction until it is closed.

    :raises FileNotFoundError: it is being evicted, or has been, since it was opened; or it is not
        as long as it has to be.
    :raises OSError: the file system has no locks.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        raise FileNotFoundError("a blob is being evicted") from None
    status = os.fstat(descriptor)
    if status.st_nlink == 0:
        raise FileNotFoundError("a blob has been evicted")
    check_length(descriptor, status.st_size)
    return status


def is_shared(descriptor: int) -> bool:
    """Whether somebody reads a blob.  If nobody does, nobody can until *descriptor* is closed."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        # NFS demands a file that is open for writing, which a blob cannot be.  Its readers are
        # not known then; they read on from what has lost its name, as they do with ZEO.
        return False
    return False


def wait_for(path: str) -> FileLock:
    """Take the lock file of a bucket, which is made if necessary.

    :raises ClientStorageError: another process keeps it for :data:`LOCK_TIMEOUT` seconds.
    :raises OSError: as :func:`try_lock`.
    """
    held = try_lock(path)
    if held is not None:
        return held
    deadline = time.monotonic() + LOCK_TIMEOUT
    pause = 0.001
    while (held := try_lock(path)) is None:
        if time.monotonic() > deadline:
            if not _is_receiving(os.path.dirname(path)):
                raise ClientStorageError(f"{path} is held by another process")
            deadline = time.monotonic() + LOCK_TIMEOUT
        # Lock files cannot be waited for with a time limit.
        time.sleep(pause)
        pause = min(pause * 2, 0.05)
    return held


def _is_receiving(directory: str) -> bool:
    """Whether a blob that is on its way into a bucket has grown of late."""
    for name in os.listdir(directory):
        if name.endswith(PARTIAL_SUFFIX):
            try:
                written = os.stat(os.path.join(directory, name)).st_mtime
            except FileNotFoundError:
                continue  # it is complete
            if time.time() - written < LOCK_TIMEOUT:
                return True
    return False

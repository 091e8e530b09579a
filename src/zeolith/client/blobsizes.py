"""Keeping a blob cache within its size: the least recently used blobs go first.

Works on a directory that any number of processes use, of Zeolith or ZEO, so everything that
matters is decided under lock files:

- ``check_size.lock``: one process at a time looks after the size;
- ``check_size.attempt``: made by those who wanted to: whoever holds the lock then looks again;
- ``.lock`` in a bucket: somebody adds to it; its files are left alone;
- the lock on a blob's own file: somebody reads it, see :mod:`.bloblocks`.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from typing import Final, NamedTuple

from ..errors import ConfigurationError
from .bloblayout import (
    BLOB_SUFFIX,
    LAYOUT,
    LOCK_NAME,
    PARTIAL_SUFFIX,
    TEMPORARY_NAME,
    UPLOAD_SUFFIX,
    read_marker,
    remove,
)
from .bloblocks import is_shared, try_lock

ABANDONED_AGE: Final = 7 * 86400.0
"""Seconds after which the file of an upload, or of a blob that was not committed, is taken to be
left over by a process that died: no transaction takes a week."""

_UNCOMMITTED: Final = ("BUC", "savepoint")
"""How the names of ZODB's own files and directories in the temporary directory begin."""

_CHECK_LOCK: Final = "check_size.lock"
_ATTEMPT: Final = "check_size.attempt"

logger = logging.getLogger(__name__)


class _Entry(NamedTuple):
    """One file that may be evicted, ordered by its last use."""

    used_ns: int
    path: str
    size: int


def _never() -> bool:
    return False


def shrink(directory: str, target: int, is_stopped: Callable[[], bool] = _never) -> bool:
    """Evict blobs until those in *directory* take no more than *target* bytes.

    What somebody reads stays, in whatever process.  Returns early if another process is at it;
    that one is then told to look again.

    :param is_stopped: asked now and then; true ends the work.
    :return: whether nothing remains to be done, or somebody else does it.
    :raises OSError: the directory cannot be read or written.
    """
    attempt = os.path.join(directory, _ATTEMPT)
    with open(attempt, "w"):
        pass
    is_within = True
    # The wish is left before the lock is tried, and looked for again after the lock has been
    # released: whichever way two processes meet, one of them sees the other's wish.
    while os.path.exists(attempt) and not is_stopped():
        lock = try_lock(os.path.join(directory, _CHECK_LOCK))
        if lock is None:
            return True
        try:
            remove(attempt)
            is_within = _evict(directory, target, is_stopped)
        finally:
            lock.close()
    return is_within


def _evict(directory: str, target: int, is_stopped: Callable[[], bool]) -> bool:
    entries = _scan(directory)
    size = sum(entry.size for entry in entries)
    excess = size - target
    if excess <= 0:
        return True
    entries.sort()
    for entry in entries:
        if excess <= 0 or is_stopped():
            break
        if _evict_one(entry):
            excess -= entry.size
    logger.debug("blob cache %s: %d bytes, now %d", directory, size, target + excess)
    return excess <= 0


def _evict_one(entry: _Entry) -> bool:
    """Remove a file unless it is in use; return whether it is gone."""
    lock = try_lock(os.path.join(os.path.dirname(entry.path), LOCK_NAME))
    if lock is None:
        return False
    try:
        if os.stat(entry.path).st_atime_ns != entry.used_ns:
            # Somebody came for it after we had looked.
            return False
        try:
            descriptor = os.open(entry.path, os.O_RDONLY | os.O_CLOEXEC)
        except PermissionError:
            # A ZEO client's that runs as another user: we can remove it without reading it.
            os.remove(entry.path)
            return True
        try:
            # Before it loses its name: who opens it now sees that, and waits for the bucket.
            if is_shared(descriptor):
                return False
            os.remove(entry.path)
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        pass
    finally:
        lock.close()
    return True


def _scan(directory: str) -> list[_Entry]:
    """Return the blobs in *directory*; removes what processes that died have left behind."""
    entries: list[_Entry] = []
    with os.scandir(directory) as buckets:
        names = [bucket.path for bucket in buckets if bucket.name.isdigit() and bucket.is_dir()]
    for name in names:
        with os.scandir(name) as files:
            for file in files:
                if file.name.endswith(BLOB_SUFFIX):
                    try:
                        status = file.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        continue
                    entries.append(_Entry(status.st_atime_ns, file.path, status.st_size))
                elif file.name.endswith(PARTIAL_SUFFIX):
                    _remove_partial(name, file.path)
                elif file.name.endswith(UPLOAD_SUFFIX):
                    _remove_abandoned(file.path)
    _clear_temporary(os.path.join(directory, TEMPORARY_NAME))
    return entries


def clear_bucket(bucket: str) -> None:
    """Remove what processes that died have left in a bucket, which the caller holds."""
    with os.scandir(bucket) as files:
        for file in files:
            if file.name.endswith(PARTIAL_SUFFIX):
                # Whoever receives a blob holds the bucket.
                remove(file.path)
            elif file.name.endswith(UPLOAD_SUFFIX):
                _remove_abandoned(file.path)


def _remove_partial(bucket: str, path: str) -> None:
    # Whoever receives a blob holds the bucket: if we get it, nobody does.
    lock = try_lock(os.path.join(bucket, LOCK_NAME))
    if lock is not None:
        try:
            remove(path)
        finally:
            lock.close()


def _clear_temporary(directory: str) -> None:
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return
    for name in names:
        if name.startswith(_UNCOMMITTED):
            _remove_abandoned(os.path.join(directory, name))


def _remove_abandoned(path: str) -> None:
    try:
        # The time of the last rename or write; the others are the application's to set.
        if time.time() - os.stat(path).st_ctime <= ABANDONED_AGE:
            return
        if not os.path.isdir(path):
            os.remove(path)
            return
        for name in os.listdir(path):
            _remove_abandoned(os.path.join(path, name))
        os.rmdir(path)
    except FileNotFoundError:
        pass
    except OSError:
        # Of another user; or a directory with something younger in it.
        logger.debug("%s is old and stays", path, exc_info=True)


def shrink_cache(directory: str, target: int) -> None:
    """Bring the blob cache in *directory* down to *target* bytes, from outside its processes.

    :raises ConfigurationError: it is no blob cache, or cannot be read or written.
    """
    what = f"blob cache {directory!r}"
    try:
        os.listdir(directory)  # says why, if it is not there
        marker = read_marker(directory)
        if marker != LAYOUT:
            # Anything else may be the only copy of somebody's blobs.
            raise ConfigurationError(
                what,
                f"its layout is {marker!r}, which no cache has",
                "name the blob_dir of clients that do not share it with the server",
            )
        shrink(directory, target)
    except OSError as error:
        raise ConfigurationError(
            what, str(error), "run this as the user of the clients that use it"
        ) from error

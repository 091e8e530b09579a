"""Keeping a blob cache within its size: the least recently used blobs go first.

Works on a directory that any number of processes use, of Zeolith or ZEO, so everything that
matters is decided under lock files:

- ``check_size.lock``: one process at a time looks after the size;
- ``check_size.attempt``: made by those who wanted to: whoever holds the lock then looks again;
- ``.lock`` in a bucket: somebody adds to it; its files are left alone.
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
    UPLOAD_SUFFIX,
    read_marker,
    remove,
    try_lock,
)

ABANDONED_AGE: Final = 7 * 86400.0
"""Seconds after which the file of an upload is taken to be left over by a process that died: no
transaction takes a week."""

_CHECK_LOCK: Final = "check_size.lock"
_ATTEMPT: Final = "check_size.attempt"

logger = logging.getLogger(__name__)


class _Entry(NamedTuple):
    """One file that may be evicted, ordered by its last use."""

    used_ns: int
    path: str
    size: int


def _nobody(_path: str) -> bool:
    return False


def _never() -> bool:
    return False


def shrink(
    directory: str,
    target: int,
    is_open: Callable[[str], bool] = _nobody,
    is_stopped: Callable[[], bool] = _never,
) -> None:
    """Evict blobs until those in *directory* take no more than *target* bytes.

    Returns early if another process is at it; that one is then told to look again.

    :param is_open: whether a file is in use by this process; such files stay.
    :param is_stopped: asked now and then; true ends the work.
    :raises OSError: the directory cannot be read or written.
    """
    attempt = os.path.join(directory, _ATTEMPT)
    with open(attempt, "w"):
        pass
    # The wish is left before the lock is tried, and looked for again after the lock has been
    # released: whichever way two processes meet, one of them sees the other's wish.
    while os.path.exists(attempt) and not is_stopped():
        lock = try_lock(os.path.join(directory, _CHECK_LOCK))
        if lock is None:
            return
        try:
            remove(attempt)
            _evict(directory, target, is_open, is_stopped)
        finally:
            lock.close()


def _evict(
    directory: str, target: int, is_open: Callable[[str], bool], is_stopped: Callable[[], bool]
) -> None:
    entries = _scan(directory)
    size = sum(entry.size for entry in entries)
    excess = size - target
    if excess <= 0:
        return
    entries.sort()
    for entry in entries:
        if excess <= 0 or is_stopped():
            break
        if _evict_one(entry, is_open):
            excess -= entry.size
    logger.debug("blob cache %s: %d bytes, now %d", directory, size, target + excess)


def _evict_one(entry: _Entry, is_open: Callable[[str], bool]) -> bool:
    """Remove a file unless it is in use; return whether it is gone."""
    lock = try_lock(os.path.join(os.path.dirname(entry.path), LOCK_NAME))
    if lock is None:
        return False
    try:
        if is_open(entry.path) or os.stat(entry.path).st_atime_ns != entry.used_ns:
            # Somebody came for it after we had looked.
            return False
        os.remove(entry.path)
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
    return entries


def _remove_partial(bucket: str, path: str) -> None:
    # Whoever receives a blob holds the bucket: if we get it, nobody does.
    lock = try_lock(os.path.join(bucket, LOCK_NAME))
    if lock is not None:
        try:
            remove(path)
        finally:
            lock.close()


def _remove_abandoned(path: str) -> None:
    try:
        # The time of the last rename; that of the contents is the application's.
        if time.time() - os.stat(path).st_ctime > ABANDONED_AGE:
            os.remove(path)
    except FileNotFoundError:
        pass


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

"""Removing the files of blobs that have not been used for long, and are in the store."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from heapq import heappop, heappush
from typing import Any, Final, NamedTuple

from .chore import Rests
from .localblobs import LocalBlob, walk
from .stubs import read_stub, stub_of, sync_file

logger = logging.getLogger(__name__)

GRACE: Final = 60.0
"""Seconds for which a file stays after it was asked for: whoever has its path is about to open it,
and an open file can be read to its end whatever becomes of its name."""

_LOW_MARK: Final = 0.9
"""Part of the limit down to which is removed, so that not each new blob needs a look at all."""


class Evicted(NamedTuple):
    """What :func:`evict` has done.

    :ivar evicted: files removed.
    :ivar files: files that are left.
    :ivar size: their bytes.
    :ivar unstubbed: damaged stubs removed: these files are to be uploaded again.
    """

    evicted: int
    files: int
    size: int
    unstubbed: int


def evict(
    helper: Any,
    lock: threading.Lock,
    limit: int,
    expected: int,
    grace: float,
    is_over: Callable[[], bool],
) -> Evicted:
    """Remove files, those first that were not asked for the longest, if there are too many bytes.

    :param helper: ZODB's ``FilesystemHelper`` of the directory.
    :param lock: held while a file is removed.
    :param limit: bytes.
    :param expected: bytes that there are, as far as is known; more than *limit*.
    :param grace: seconds; see :data:`GRACE`.
    :param is_over: whether to stop.
    :raises OSError: the directory cannot be read, a stub not brought to disk, or a file not
        removed.
    """
    files = size = evicted = unstubbed = 0
    # Of those that can go, the ones not asked for the longest, as many as there are too many: not
    # a list of all (R8).
    oldest: list[tuple[float, str, int]] = []
    held = 0
    target = int(limit * _LOW_MARK)
    for found in walk(helper, Rests()):
        if not isinstance(found, LocalBlob):
            continue
        files += 1
        size += found.size
        if found.has_stub:
            heappush(oldest, (-found.used, found.path, found.size))
            held += found.size
            while held - oldest[0][2] > max(size, expected) - target:
                held -= heappop(oldest)[2]
    if size > limit:
        for _, path, length in sorted(oldest, reverse=True):
            if size <= target or is_over():
                break
            stub = read_stub(stub_of(path))
            if stub is None:
                unstubbed += remove_stub(path, lock)
            elif stub.size != length:
                # Nobody knows which of them is right: neither goes.
                logger.error(
                    "%s has %d bytes, and %d in the object store: one of them is damaged",
                    path, length, stub.size,
                )  # fmt: skip
            elif _remove(path, lock, grace):
                evicted += 1
                files -= 1
                size -= length
    return Evicted(evicted, files, size, unstubbed)


def remove_stub(path: str, lock: threading.Lock) -> bool:
    """Remove the stub of the blob *path*, which has its file; return whether that was done.

    :param lock: held meanwhile.
    :raises OSError: it cannot be removed.
    """
    with lock, suppress(FileNotFoundError):  # a pack was quicker
        if os.path.exists(path):
            os.remove(stub_of(path))
            return True
    return False


def _remove(path: str, lock: threading.Lock, grace: float) -> bool:
    stub = stub_of(path)
    with suppress(FileNotFoundError):  # a pack was quicker
        sync_file(stub)
        with lock:
            if os.stat(path).st_atime > time.time() - grace or not os.path.exists(stub):
                return False
            os.remove(path)
        return True
    return False

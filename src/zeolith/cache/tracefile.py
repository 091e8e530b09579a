"""Writing a trace, while many threads use the cache that it is of.

Who adds a record never waits: the cache may be in the middle of anything, and a finalizer that the
garbage collector runs may come back to it.  Records wait in a queue; who finds it long writes it
to the file, unless somebody else is at it.  Only whole records are written, and nothing is flushed
to the disk.
"""

from __future__ import annotations

import atexit
import errno
import fcntl
import logging
import os
import stat
import time
from collections import deque
from contextlib import suppress
from threading import RLock
from typing import Final

from .traces import LONGEST, LONGEST_LENGTH, RECORD, ZERO, begins_trace

logger = logging.getLogger(__name__)

WRITE_AT: Final = 1024
"""Records that wait before they are written: 34 KB, so that the file is touched rarely."""

MOST_WAITING: Final = 100_000
"""Records that may wait while a slow disk is written to, some 7 MB; with more the trace ends."""

MOST_NAMES: Final = 100
"""Names that are tried for a trace, if other caches are writing to the ones before."""


class TraceFile:
    """A trace that is being written; any thread.

    When it cannot be written to any more (full disk) it ends, and a warning says so.

    :param path: file to append to.  While another cache writes to it, a name with the process id
        put in is taken, and so on.
    :raises OSError: it cannot be opened, or is something else.
    :ivar path: the file that is written.
    """

    def __init__(self, path: str) -> None:
        self._pid = os.getpid()
        self._waiting: deque[bytes] = deque()
        self._writing = RLock()
        self._is_writing = False
        self._is_ended = False
        self.path, self._descriptor = _open_first(path)
        self._size = os.lseek(self._descriptor, 0, os.SEEK_END)
        # What waits would be lost with a process that does not close its storages.
        atexit.register(self.close)

    def add(
        self, code: int, oid: bytes, start: bytes = ZERO, end: bytes = ZERO, length: int = 0
    ) -> None:
        """Add a record; see :mod:`.traces`."""
        if self._is_ended:
            return
        word = min(length, LONGEST_LENGTH) << 8 | code
        waiting = self._waiting
        waiting.append(RECORD.pack(int(time.time()), word, len(oid), start, end) + oid)
        if len(waiting) >= WRITE_AT:
            if self._writing.acquire(blocking=False):
                try:
                    self._write()
                finally:
                    self._writing.release()
            elif len(waiting) > MOST_WAITING:
                self._end("the disk is too slow")

    def flush(self) -> None:
        """Write what waits.  The caller holds no lock that users of the cache take."""
        with self._writing:
            self._write()

    def _write(self) -> None:
        # A finalizer may come back to here in the middle of it.
        if self._is_writing or self._is_ended or os.getpid() != self._pid:
            return
        self._is_writing = True
        try:
            chunk = b"".join([self._waiting.popleft() for _ in range(len(self._waiting))])
            rest = memoryview(chunk)
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
            self._size += len(chunk)
        except OSError as error:
            self._end(str(error))
            with suppress(OSError):
                # No part of a record is to be left.
                os.ftruncate(self._descriptor, self._size)
        finally:
            self._is_writing = False

    def _end(self, reason: str) -> None:
        if not self._is_ended:
            self._is_ended = True
            logger.warning("the cache trace %s ends: %s", self.path, reason)
            self._waiting.clear()

    def close(self) -> None:
        """Write what waits, and close the file; may be called twice.

        In a child made by ``fork`` what waits is the parent's, and is left to it.
        """
        atexit.unregister(self.close)
        if os.getpid() == self._pid:
            self.flush()
        self._is_ended = True
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def _open_first(path: str) -> tuple[str, int]:
    """Return the first name that no other cache is writing to, and a descriptor of the file.

    :raises OSError: see :class:`TraceFile`.
    """
    path = os.path.abspath(path)
    stem, extension = os.path.splitext(path)
    name = path
    for number in range(1, MOST_NAMES + 1):
        descriptor = _open(name)
        if descriptor is not None:
            return name, descriptor
        counted = f"-{number}" if number > 1 else ""
        name = f"{stem}-{os.getpid()}{counted}{extension}"
    raise FileExistsError(
        errno.EEXIST, f"{MOST_NAMES} files of such a name are in use by other caches", path
    )


def _open(path: str) -> int | None:
    """Return a descriptor of *path*, locked; None if another cache writes to it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", path)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        head = os.pread(descriptor, LONGEST, 0)
        if head and not begins_trace(head):
            raise OSError(errno.EINVAL, "a file that is no trace has that name", path)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor

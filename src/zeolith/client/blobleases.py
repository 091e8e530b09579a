"""Blobs whose paths were handed out: held for a while, so that they can still be opened.

ZODB asks for the path of a blob when it loads the object, and applications use such paths
(``Blob.committed()``, ``Blob.open("a")``, a file iterator of a web server) some time later.
A path by itself holds nothing, so this process keeps the file open meanwhile.
"""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict
from typing import Final

from .bloblocks import share
from .blobpartials import PartialFile
from .blobuse import note_use

MOST_LEASES: Final = 32
"""Blobs that are held in this way at a time: each takes a file descriptor, and 32 requests that
are answered at the same time are many for one process."""

LEASE: Final = 60.0
"""Seconds for which a path stays good.  Whoever uses it later has to ask again."""


class _Lease:
    """A file that is held.

    :ivar inode: its number; None: not looked up yet.
    :ivar deadline: on the monotonic clock.
    """

    __slots__ = ("deadline", "descriptor", "inode", "size")

    def __init__(self, descriptor: int, inode: int | None, size: int, deadline: float) -> None:
        self.descriptor = descriptor
        self.inode = inode
        self.size = size
        self.deadline = deadline


class Leases:
    """The blobs that are held for those who have their paths.  Any thread may use it.

    :param most_bytes: how large they may be together, the last one apart; None: without limit.
    """

    def __init__(self, most_bytes: int | None) -> None:
        self._most_bytes = most_bytes
        self._reset()

    def _reset(self) -> None:
        # Guards what follows; no file is opened under it.
        self._mutex = threading.Lock()
        self._leases: OrderedDict[str, _Lease] = OrderedDict()  # the last one used is the last
        self._bytes = 0
        self._is_closed = False

    def take(self, path: str) -> str:
        """Return *path*, whose file is used now, and hold it for :data:`LEASE` seconds.

        :raises FileNotFoundError: there is no such file, or it is being evicted.
        :raises OSError: it cannot be opened.
        """
        known = self._leases.get(path)  # as good as under the mutex
        if known is not None:
            status = os.stat(path)
            # Another one of the same name: the first was removed by somebody who asks nobody.
            if self._renew(path, status.st_ino):
                note_use(path, status)
                return path
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            status = share(descriptor)
        except OSError:
            os.close(descriptor)
            raise
        note_use(descriptor, status)
        self._hold(path, descriptor, status.st_ino, status.st_size)
        return path

    def keep(self, file: PartialFile) -> str:
        """As :meth:`take` with a file that was just made, whose descriptor belongs to this then.

        The bucket is held since before it had its name: nobody can be evicting it.

        :raises OSError: the file system has no locks.
        """
        file.share()
        path = file.path
        self._hold(path, file.detach(), None, file.size)
        return path

    def _renew(self, path: str, inode: int) -> bool:
        """Hold what is held already from now on, if it is the file with that number."""
        deadline = time.monotonic() + LEASE
        with self._mutex:
            lease = self._leases.get(path)
            if lease is None:
                return False
            if lease.inode is None:
                lease.inode = os.fstat(lease.descriptor).st_ino
            if lease.inode != inode:
                return False
            lease.deadline = deadline
            self._leases.move_to_end(path)
            return True

    def _hold(self, path: str, descriptor: int, inode: int | None, size: int) -> None:
        now = time.monotonic()
        lease = _Lease(descriptor, inode, size, now + LEASE)
        with self._mutex:
            ended = [descriptor] if self._is_closed else self._add(path, lease, now)
        for old in ended:
            os.close(old)

    def _add(self, path: str, lease: _Lease, now: float) -> list[int]:
        """Return the descriptors that are no longer needed."""
        leases = self._leases
        ended = [self._drop(path)] if path in leases else []
        leases[path] = lease
        self._bytes += lease.size
        most_bytes = self._most_bytes
        while len(leases) > 1:
            first = next(iter(leases))
            if (
                leases[first].deadline > now
                and len(leases) <= MOST_LEASES
                and (most_bytes is None or self._bytes <= most_bytes)
            ):
                break
            ended.append(self._drop(first))
        return ended

    def _end_by(self, now: float) -> list[int]:
        ended = []
        while self._leases:
            path, lease = next(iter(self._leases.items()))
            if lease.deadline > now:
                break
            ended.append(self._drop(path))
        return ended

    def _drop(self, path: str) -> int:
        lease = self._leases.pop(path)
        self._bytes -= lease.size
        return lease.descriptor

    def end_old(self) -> None:
        """Let go of those whose time is over; a new one does so, too."""
        with self._mutex:
            ended = self._end_by(time.monotonic())
        for descriptor in ended:
            os.close(descriptor)

    def close(self) -> None:
        """Let go of all, now and from now on.  May be called again."""
        with self._mutex:
            self._is_closed = True
            ended = [self._drop(path) for path in list(self._leases)]
        for descriptor in ended:
            os.close(descriptor)

    def forked(self) -> None:
        """In the child of a fork: let go of the parent's, which the parent goes on holding."""
        for lease in self._leases.values():
            os.close(lease.descriptor)
        self._reset()

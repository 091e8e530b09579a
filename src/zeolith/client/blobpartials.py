"""The file that a blob is received into, before and after it gets its name in a client's cache.

All is done with its descriptor: what was written is known to be whole, so nothing is looked up
again by its name.
"""

from __future__ import annotations

import fcntl
import os
from typing import Final

from .bloblayout import remove
from .bloblengths import note_length

_FLAGS: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
"""Also for reading: where NFS makes locks of its own, who shares a file has to be able to."""

_NONE: Final = -1


class PartialFile:
    """A new file, open for writing.  Not thread-safe.

    :param path: nobody else may use it meanwhile: the bucket is held.
    :raises OSError: it cannot be made.

    :ivar path: its name at present.
    :ivar size: bytes that it has; known when it is sealed.
    """

    __slots__ = ("_descriptor", "path", "size")

    def __init__(self, path: str) -> None:
        self._descriptor = _NONE
        self.path = path
        self.size = 0
        try:
            self._descriptor = os.open(path, _FLAGS, 0o666)
        except FileExistsError:
            # Of a process that died, which may even have protected it.
            remove(path)
            self._descriptor = os.open(path, _FLAGS, 0o666)

    def __del__(self) -> None:
        self.close()

    def write(self, data: bytes | memoryview) -> int:
        """Add a part of *data*, from its beginning on; return how many bytes that is.

        :raises OSError: the disk is full, or failed.
        """
        return os.write(self._descriptor, data)

    @property
    def position(self) -> int:
        """Bytes that have been written, as the system knows it."""
        return os.lseek(self._descriptor, 0, os.SEEK_CUR)

    def seal(self, size: int, mode: int) -> None:
        """Note the length of the file, which is complete, and protect it from being written to.

        :param mode: permissions of a blob in that bucket.
        :raises OSError: the disk is full, or failed.
        """
        self.size = size
        # Network file systems report a full disk not before a file is closed.
        os.close(os.dup(self._descriptor))
        note_length(self._descriptor, size)  # while it can still be written to
        try:
            os.fchmod(self._descriptor, mode)
        except PermissionError:
            # On a file system without permissions: protection is a courtesy, not a need.
            pass

    def rename(self, path: str) -> None:
        """Give the file another name.

        :raises OSError: it could not be done; the file has its name still.
        """
        os.replace(self.path, path)
        self.path = path

    def share(self) -> None:
        """Keep the file from eviction until it is closed, as :func:`.bloblocks.share`; what is in
        it need not be looked at.

        :raises OSError: the file system has no locks.
        """
        fcntl.flock(self._descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)

    def detach(self) -> int:
        """Return the descriptor, which belongs to the caller from now on."""
        descriptor, self._descriptor = self._descriptor, _NONE
        return descriptor

    def close(self) -> None:
        """Close the file, whatever it is by now.  May be called again."""
        descriptor, self._descriptor = self._descriptor, _NONE
        if descriptor != _NONE:
            os.close(descriptor)

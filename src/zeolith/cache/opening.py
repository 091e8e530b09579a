"""Opening what has the name of a file, only to read it."""

from __future__ import annotations

import errno
import os
import stat


def open_to_read(path: str) -> int:
    """Return a descriptor of the file *path*.  Whatever has its name, nobody waits for it.

    :raises OSError: it cannot be opened, or is no regular file.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is no regular file", path)
    return descriptor

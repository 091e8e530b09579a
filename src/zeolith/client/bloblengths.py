"""How long a cached blob has to be: noted with its file, so that nobody waits for the disk.

A blob gets its name in the cache without having been flushed.  A power failure may then leave the
name with less behind it.  The length that is noted before the name is given tells that: both are
kept by the file system's journal, and the file systems that have one write data before the length
that includes them (ext4 but for ``data=writeback``, XFS, Btrfs).  What turns out to be too short is
fetched again, as the server has it.

Where a length cannot be noted, the file is flushed before it gets its name.
"""

from __future__ import annotations

import os
from typing import Final

ATTRIBUTE: Final = "user.zeolith.length"
"""The extended attribute: a decimal number of bytes."""


def note_length(file: str | int, size: int | None = None) -> None:
    """Note the length of a file, or bring it to disk if that cannot be noted.

    :param file: its path, or its descriptor.
    :param size: its length; None: to be looked up.
    :raises OSError: the disk failed.
    """
    if hasattr(os, "setxattr"):
        try:
            os.setxattr(file, ATTRIBUTE, b"%d" % (os.stat(file).st_size if size is None else size))
            return
        except FileNotFoundError:
            raise
        except OSError:
            pass  # a file system without them, or another user's file
    if isinstance(file, int):
        os.fsync(file)
        return
    descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_length(file: int, size: int) -> None:
    """Check the length of a file against what was noted, if anything was.

    :param file: its descriptor.
    :param size: its length.
    :raises FileNotFoundError: it is another one.  The file is as good as not there.
    """
    try:
        noted = os.getxattr(file, ATTRIBUTE)
    except (OSError, AttributeError):
        return  # on disk before it had its name; or a ZEO client's
    if noted != b"%d" % size:
        raise FileNotFoundError(f"a cached blob of {noted[:20]!r} bytes has only {size} left")

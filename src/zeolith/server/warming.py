"""Parts of files brought to memory, so that whoever sends them to a socket waits for no disk.

``sendfile`` reads what is not in memory, and there is no way to ask it not to.  It runs on the
event loop; this runs on worker threads, before it.
"""

from __future__ import annotations

import os
from typing import Final

_STEP: Final = 64 * 1024
"""Bytes between two looks: the system reads files in pieces of that order."""

_NOWAIT: Final[int | None] = getattr(os, "RWF_NOWAIT", None)


def warm(descriptor: int, start: int, end: int) -> None:
    """Return when the bytes from *start* to *end* of a file are in memory, and have the system read
    as many behind them meanwhile.

    A file that is shorter is there as far as it goes.

    :raises OSError: the disk failed.
    """
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, start, 2 * (end - start), os.POSIX_FADV_WILLNEED)
    byte, piece = bytearray(1), bytearray(_STEP)
    for at in range(start, end, _STEP):
        if _is_there(descriptor, byte, at):
            continue
        if not os.preadv(descriptor, [piece], at):
            return


def _is_there(descriptor: int, byte: bytearray, at: int) -> bool:
    if _NOWAIT is None:
        return False
    try:
        return os.preadv(descriptor, [byte], at, _NOWAIT) == 1
    except OSError:
        return False  # it is not, or this file system cannot tell

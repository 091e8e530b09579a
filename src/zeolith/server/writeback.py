"""Has the system begin to bring a file to disk that is still being written.

Where that is not said it keeps what it is given for seconds, and the fsync at the end waits for all
of it.
"""

from __future__ import annotations

import ctypes
from typing import Any, Final

PIECE: Final = 2 * 1024 * 1024
"""Bytes of a file after which it is said: enough for a disk to work well, and little enough that a
processor, which does nothing else meanwhile, is soon free for others."""

_WRITE: Final = 2
"""``SYNC_FILE_RANGE_WRITE``: begin, and wait for nothing."""


def _find() -> Any:
    try:
        function = ctypes.CDLL(None).sync_file_range
    except (OSError, AttributeError):
        return None  # not Linux
    function.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    return function


_sync_file_range: Final = _find()


def begin_writeback(descriptor: int, start: int, size: int) -> None:
    """Have the system write *size* bytes from *start* on.

    Promises nothing: whether all is on disk, fsync tells, which also reports what went wrong here.
    """
    if _sync_file_range is not None:
        _sync_file_range(descriptor, start, size, _WRITE)

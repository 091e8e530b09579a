"""Files that the system has in memory, opened and read without waiting for a disk or a network.

Linux (5.12 and later) opens a file on request only if it knows all names on the way to it, and
reads from one only what it has in memory.  Where it cannot, or does not know how, it says so, and
somebody who may wait has to do it.

Sources: ``openat2(2)``, ``preadv2(2)``.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import sys
from struct import Struct
from typing import Any, Final

_NUMBERS: Final = {"x86_64": 437, "aarch64": 437, "riscv64": 437}
"""By machine: ``openat2``, which C libraries did not have for long."""

_HOW: Final = Struct("=QQQ")
"""``struct open_how``: flags, mode, resolve."""

_RESOLVE_CACHED: Final = 0x20

_AT_FDCWD: Final = -100

_FLAGS: Final = (
    os.O_RDONLY
    | os.O_CLOEXEC
    # Else a lease that another program has on the file, or a pipe of its name, would be waited for.
    | os.O_NONBLOCK
    # To note that a file was read may have to wait for the file system's journal.
    | getattr(os, "O_NOATIME", 0)
)

NEVER: Final = (errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
"""What the system says if it does not know how, or the file system does not: it is not going to."""


def _find() -> Any:
    if sys.platform != "linux" or not hasattr(os, "RWF_NOWAIT"):
        return None
    # It does not wait, so others need not be let run meanwhile.
    found = ctypes.PyDLL(None, use_errno=True).syscall
    found.argtypes = (
        ctypes.c_long,
        ctypes.c_int,
        ctypes.c_char_p,
        ctypes.c_char_p,
        ctypes.c_size_t,
    )
    found.restype = ctypes.c_long
    return found


_syscall: Final = _find()
_number: Final = _NUMBERS.get(platform.machine())
_how: Final = _HOW.pack(_FLAGS, 0, _RESOLVE_CACHED)


def open_warm(path: bytes) -> int:
    """Open a file for reading; return its descriptor.

    :raises BlockingIOError: it would have to be waited for.
    :raises OSError: it cannot be opened, or not in this way: :data:`NEVER` has the numbers of those
        errors that stay.
    """
    if _syscall is None or _number is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), path)
    descriptor: int = _syscall(_number, _AT_FDCWD, path, _how, _HOW.size)
    if descriptor < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    return descriptor


def read_warm(descriptor: int, buffer: memoryview) -> int:
    """Read the beginning of a file into *buffer*; return how many bytes of it are in memory.

    :raises BlockingIOError: none.
    :raises OSError: as :func:`open_warm`.
    """
    return os.preadv(descriptor, [buffer], 0, os.RWF_NOWAIT)

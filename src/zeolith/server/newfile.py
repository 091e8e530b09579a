"""Files with names that nobody has, and directories that may be there."""

from __future__ import annotations

import os
from itertools import count
from typing import Final

_FLAGS: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW

_process: Final = os.urandom(6).hex()
_numbers: Final = count()


def make_file(directory: str, prefix: str) -> tuple[int, str]:
    """Make a file in *directory*, readable and writable for this user only; return its descriptor
    and its path.  Any thread.

    The standard library's ``mkstemp`` does the same, and takes as long as the system needs to make
    the file and write a small blob to it.

    :param prefix: of its name.
    :raises OSError: it cannot be made.
    """
    while True:
        # What a child made by fork would have in common with its parent, O_EXCL tells apart.
        path = f"{directory}{os.sep}{prefix}{_process}{next(_numbers):x}"
        try:
            return os.open(path, _FLAGS, 0o600), path
        except FileExistsError:
            continue


def make_directory(path: str) -> None:
    """Make a directory, which as a rule is not there, in one that is; nothing if it is there.

    :raises OSError: it cannot be made.
    """
    try:
        os.mkdir(path)
    except FileNotFoundError:
        os.makedirs(path, exist_ok=True)
    except OSError:
        if not os.path.exists(path):
            raise

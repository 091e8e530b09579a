"""Who uses a persistent cache, found out without getting in anybody's way.

Trying the lock would keep out a client that starts at that moment.  The system's list of locks
tells as much, where there is one (Linux); elsewhere what the lock file says is believed if there
is such a process.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Final, NamedTuple

from .opening import open_to_read

SYSTEM_LOCKS: Final = "/proc/locks"


class Owner(NamedTuple):
    """A process that has a cache open.

    :ivar pid: its number; None if it is not known here, as from within a container.
    """

    pid: int | None


def find_owner(path: str) -> Owner | None:
    """Return who has the cache file *path* open; None if nobody has, as far as can be told.

    :raises OSError: the lock file cannot be read.
    """
    # The file itself is locked too: the other one may have been removed, or be that of another
    # name of the file.
    said, places = None, []
    with suppress(FileNotFoundError):
        places.append(os.stat(path))
    with (
        suppress(FileNotFoundError),
        open(open_to_read(path + ".lock"), "rb", buffering=0) as file,
    ):
        said = _number(file.read(40))
        places.append(os.fstat(file.fileno()))
    try:
        with open(SYSTEM_LOCKS, encoding="ascii", errors="replace") as lines:
            locks = [line.split() for line in lines]
    except OSError:
        return None if said is None or not _is_alive(said) else Owner(said)
    for fields in locks:
        # "1: FLOCK ADVISORY WRITE 4711 fe:00:2206043 0 EOF"; with "->" whoever waits for it.
        if len(fields) < 6 or fields[1] != "FLOCK" or fields[3] != "WRITE":
            continue
        pid = int(fields[4]) if fields[4].isdigit() else 0
        major, minor, inode = fields[5].split(":")
        device = os.makedev(int(major, 16), int(minor, 16))
        # Some file systems have one device for this list and another one for everybody else.
        for place in places:
            if int(inode) == place.st_ino and (device == place.st_dev or pid == said):
                return Owner(pid or said)
    return None


def _number(text: bytes) -> int | None:
    digits = text.strip()
    return int(digits) if digits.isdigit() else None


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True

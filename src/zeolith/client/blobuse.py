"""When a cached blob was last used: its access time, set by us.

File systems that are mounted with ``noatime`` do not note it themselves, and those with
``relatime`` do so once a day.
"""

from __future__ import annotations

import os
import time
from typing import Final

RESOLUTION: Final = 1.0
"""Seconds: a use is not noted if one so shortly before was.  Which blobs go is a matter of minutes
and days, and each note dirties an inode."""


def note_use(file: int | str, status: os.stat_result) -> None:
    """Note that a file is used now.

    :param file: its path or descriptor.
    :param status: what is known of it.
    """
    renew_use(file, status.st_atime, status.st_mtime_ns)


def renew_use(file: int | str, used: float, modified: int) -> None:
    """As :func:`note_use`.

    :param used, modified: when it was used and modified last, in seconds and in nanoseconds.
    """
    if 0 <= time.time() - used < RESOLUTION:
        return
    try:
        os.utime(file, ns=(time.time_ns(), modified))
    except OSError:
        # Removed while it was looked at; or another user's, which can be read but looks old.
        pass

"""Ended processes that only process 1 can bury.

In a container the server may be process 1 of its namespace.  Every process whose parent has
ended becomes its child then, and stays in the process table until it is waited for.
"""

from __future__ import annotations

import logging
import os
from typing import Final

logger = logging.getLogger(__name__)

GRACE: Final = 2.0
"""Seconds for which an ended process is left to whoever may be waiting for it."""


class Reaper:
    """Waits for children that nobody waits for.  Not for several threads at a time.

    The server's code has children of its own, whose exit status it wants; whoever waits for one
    does so the moment it ends.  So only those are taken that have ended for a while.
    """

    def __init__(self) -> None:
        self._seen: dict[int, float] = {}

    def look(self, now: float) -> bool:
        """Bury those that have been there for the time of grace.

        :param now: seconds on any clock that does not jump.
        :return: whether there are others; look again after the time of grace.
        """
        seen, self._seen = self._seen, {}
        for pid in _ended_children():
            since = seen.get(pid, now)
            if now - since < GRACE:
                self._seen[pid] = since
                continue
            try:
                os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                continue  # somebody did wait
            logger.debug("process %d, left behind by its parent, has ended", pid)
        return bool(self._seen)


def _ended_children() -> list[int]:
    """Return the ids of this process's children that have ended.  Needs Linux's /proc."""
    found = []
    parent = str(os.getpid())
    try:
        names = os.listdir("/proc")
    except OSError:
        return []
    for name in names:
        if not name.isdecimal():
            continue
        try:
            with open(f"/proc/{name}/stat", encoding="utf-8", errors="replace") as file:
                # The command's name in parentheses may itself hold blanks and parentheses.
                state, ppid = file.read().rpartition(")")[2].split()[:2]
        except (OSError, ValueError):
            continue  # it has gone
        if state == "Z" and ppid == parent:
            found.append(int(name))
    return found

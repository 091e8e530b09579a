"""How many files the process may open: connections are files, and so is what a commit needs."""

from __future__ import annotations

import logging
import resource
from typing import Final

logger = logging.getLogger(__name__)

RESERVE: Final = 256
"""Files that are no connections: databases, their indexes and blobs, temporary files of commits,
iterations, pipes.  Where connections had taken all there are, no commit would succeed."""


def most_connections(wanted: int) -> int:
    """Return how many connections there may be so that other files can still be opened.

    :param wanted: as configured.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return wanted
    # A small limit is shared out: half of it for connections is better than none.
    found = min(wanted, max(soft - RESERVE, soft // 2))
    if found < wanted:
        logger.info("%d files may be open here: %d connections at most", soft, found)
    return found


def make_room(connections: int) -> None:
    """Raise the limit of this process as far as *connections* need it, and as it may be raised.

    For a process that only serves: the limit is not only ours.
    """
    needed = connections + RESERVE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    raised = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    if raised > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
    if raised < needed:
        logger.warning(
            "%d connections (max-connections) need %d open files, but this process may open %d: "
            "raise LimitNOFILE in the unit of systemd, or ulimit -n, or lower max-connections",
            connections,
            needed,
            raised,
        )

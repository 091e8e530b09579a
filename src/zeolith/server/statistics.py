"""Counters of one storage."""

from __future__ import annotations

import time
from typing import Any

from .blobcounts import BlobCounts


class Statistics:
    """What has happened to one storage since the server started.

    Only the loop's thread writes; any thread may read.
    """

    __slots__ = (
        "aborts",
        "active_txns",
        "blobs",
        "commits",
        "conflicts",
        "conflicts_resolved",
        "loads",
        "lock_time",
        "reloads",
        "silent_clients",
        "slow_clients",
        "start",
        "stores",
        "timeouts",
    )

    def __init__(self) -> None:
        self.loads = 0
        self.stores = 0
        self.commits = 0
        self.aborts = 0
        self.active_txns = 0
        # Seconds since the epoch at which the commit lock was taken; None while it is free.
        self.lock_time: float | None = None
        self.conflicts = 0
        self.conflicts_resolved = 0
        self.start = time.ctime()
        # Not part of ZEO's status, whose keys are fixed:
        self.timeouts = 0
        self.slow_clients = 0
        self.silent_clients = 0
        self.reloads = 0
        self.blobs = BlobCounts()

    def status(
        self, connections: int, waiting: int, has_timeout: bool, last_tid: bytes
    ) -> dict[str, Any]:
        """Return the answer to ``server_status``, with exactly ZEO's keys."""
        return {
            "connections": connections,
            "loads": self.loads,
            "stores": self.stores,
            "commits": self.commits,
            "aborts": self.aborts,
            "active_txns": self.active_txns,
            "lock_time": self.lock_time,
            "conflicts": self.conflicts,
            "conflicts_resolved": self.conflicts_resolved,
            "start": self.start,
            "waiting": waiting,
            # ZEO has a thread for this; monitors only look whether the feature is alive.
            "timeout-thread-is-alive": True if has_timeout else "stub",
            "last-transaction": last_tid.hex(),
        }

    def extras(self) -> dict[str, Any]:
        """Return the counters that ZEO does not have."""
        return {
            "timeouts": self.timeouts,
            "slow_clients": self.slow_clients,
            "silent_clients": self.silent_clients,
            "reloads": self.reloads,
        }

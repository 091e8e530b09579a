"""What can be said of a client's cache file without reading its records."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from persistent.TimeStamp import TimeStamp

from ..cache.inspection import CacheFiles, Contents, count, look
from ..types import NO_TID


@dataclass(frozen=True)
class CacheInfo:
    """A cache file as it is now.

    :ivar files: what there is of it.
    :ivar contents: what the index says; None if there is no index that can be used.
    :ivar now: seconds since the epoch.
    """

    files: CacheFiles
    contents: Contents | None
    now: float

    @property
    def saved(self) -> float | None:
        """When the index was written, in seconds since the epoch."""
        stamp = self.files.stamp
        return None if stamp is None else stamp.modified / 1e9

    @property
    def last_time(self) -> float | None:
        """The time of the last transaction that the cache knows, None if it knows none."""
        snapshot = self.files.snapshot
        if snapshot is None or snapshot.last_tid == NO_TID:
            return None
        try:
            return float(TimeStamp(snapshot.last_tid).timeTime())
        except ValueError:  # eight bytes that are no time
            return None

    def as_json(self) -> dict[str, Any]:
        """Return all of this as it can be written as JSON."""
        files, contents, snapshot = self.files, self.contents, self.files.snapshot
        saved = self.saved
        told: dict[str, Any] = {
            "path": files.path,
            "size": files.size,
            "in_use": files.owner is not None,
            "process": None if files.owner is None else files.owner.pid,
            "index": None,
            "problem": files.problem or None,
        }
        if snapshot is None or contents is None or saved is None:
            return told
        database = snapshot.database
        records = contents.current + contents.earlier
        told["index"] = {
            "saved": saved,
            "age": round(max(self.now - saved, 0.0), 3),
            "last_transaction": {"tid": snapshot.last_tid.hex(), "time": self.last_time},
            "database": None
            if database is None
            else {"identity": database.identity, "epoch": database.epoch},
            "current": contents.current,
            "unverified": contents.suspects,
            "earlier": contents.earlier,
            "bytes_used": contents.bytes_used,
            "capacity": snapshot.rings.capacity,
            "biggest_record": contents.biggest,
            "mean_record": round(contents.bytes_used / records, 1) if records else 0.0,
        }
        return told


def read_info(path: str) -> CacheInfo:
    """Look at the cache file *path*, which may be in use; changes and locks nothing.

    :raises ForeignFile: it is no cache file of ours.
    :raises OSError: it cannot be read.
    """
    files = look(path)
    contents = None if files.snapshot is None else count(files.snapshot)
    return CacheInfo(files, contents, time.time())

"""An application's own cache, in the shape of ZEO's ``IClientCache``, behind our interface."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ..protocol.hello import Database
from ..types import NO_TID
from .interface import CacheStatistics, Revision
from .suspects import Suspects


class IClientCacheLike(Protocol):
    """What ZEO asks of a cache object; documented in ``ZEO.interfaces.IClientCache``."""

    def load(self, oid: bytes) -> tuple[bytes, bytes] | None: ...

    def loadBefore(self, oid: bytes, tid: bytes) -> Revision | None: ...  # noqa: N802

    def store(self, oid: bytes, start_tid: bytes, end_tid: bytes | None, data: bytes) -> None: ...

    def invalidate(self, oid: bytes, tid: bytes | None) -> None: ...

    def getLastTid(self) -> bytes | None: ...  # noqa: N802

    def setLastTid(self, tid: bytes) -> None: ...  # noqa: N802

    def clear(self) -> None: ...

    def close(self) -> None: ...

    def __len__(self) -> int: ...


class ForeignCache:
    """Adapts *cache* to :class:`.ClientCache`.

    ZEO's own cache, and what follows its example, is wrecked by an invalidation that names the
    tid it holds, and refuses a newer current revision while it has an older one; so both are
    asked about first.  Errors that the foreign cache raises reach the caller.

    Threads: as :class:`.ClientCache` says, given that *cache* is thread-safe, which
    ``IClientCache`` demands.

    :param cache: the application's object; closed with this one.
    """

    def __init__(self, cache: IClientCacheLike) -> None:
        self._cache = cache
        self._is_closed = False
        # Kept here, because clear() has to forget it, which not every foreign cache does.
        self._last_tid: bytes = cache.getLastTid() or NO_TID
        self.database: Database | None = None
        """Its file, if it has one, does not say which database it is of."""
        self.suspects: Suspects | None = None
        """The interface cannot tell them apart, and ZEO's cache cannot even be listed while others
        read from it."""

    def load_before(self, oid: bytes, tid: bytes) -> Revision | None:
        """Return the revision of *oid* that was current just before *tid*, or None if not held."""
        return None if self._is_closed else self._cache.loadBefore(oid, tid)

    def store(self, oid: bytes, start: bytes, end: bytes | None, data: bytes) -> None:
        """Keep the revision of *oid* that is valid from *start* up to before *end*."""
        held = self._cache.load(oid)
        if held is not None:
            held_start = held[1]
            if end is None:
                if held_start >= start:
                    return
                self._cache.invalidate(oid, None)
            elif held_start == start:
                self._cache.invalidate(oid, end)
                return
            elif held_start < end:
                self._cache.invalidate(oid, None)
        self._cache.store(oid, start, end, data)

    def store_many(self, records: Sequence[tuple[bytes, bytes, bytes | None, bytes]]) -> None:
        """Keep each of *records*, which are the arguments of :meth:`store`, one after the other."""
        for record in records:
            self.store(*record)

    def invalidate(self, oid: bytes, tid: bytes | None) -> None:
        """*oid* was changed by transaction *tid*: the current revision, if held, ends there."""
        if tid is not None:
            held = self._cache.load(oid)
            if held is None or held[1] >= tid:
                return
        self._cache.invalidate(oid, tid)

    def replace(self, oid: bytes, tid: bytes, data: bytes) -> None:
        """*oid* was changed by transaction *tid*, which made *data* of it."""
        self.invalidate(oid, tid)
        self.store(oid, tid, None, data)

    def last_tid(self) -> bytes:
        """Return the last transaction whose invalidations were applied, ``NO_TID`` if none."""
        return self._last_tid

    def set_last_tid(self, tid: bytes) -> None:
        """All invalidations up to *tid* have been applied.

        :raises ValueError: *tid* is older than the present one.
        """
        if tid < self._last_tid:
            raise ValueError(
                f"last tid {tid.hex()} is older than the cache's {self._last_tid.hex()}"
            )
        if tid != self._last_tid:
            self._cache.setLastTid(tid)
            self._last_tid = tid

    def clear(self) -> None:
        """Forget everything, the last tid too."""
        self._cache.clear()
        self._last_tid = NO_TID
        self.database = None

    def set_database(self, database: Database | None) -> None:
        """The cache was verified against *database*, or one that does not say which it is."""
        self.database = database

    def save(self) -> None:
        """Do nothing: what a foreign cache keeps it keeps by itself."""

    def close(self) -> None:
        """Close the foreign cache; may be called twice."""
        if not self._is_closed:
            self._is_closed = True
            self._cache.close()

    def __len__(self) -> int:
        return len(self._cache)

    def statistics(self) -> CacheStatistics:
        """Return how many revisions there are, which is all that the interface tells."""
        return CacheStatistics(len(self), 0, 0, 0, 0)

"""What a client's cache has done and holds, in numbers."""

from __future__ import annotations

from typing import NamedTuple

from ..cache.interface import ClientCache
from ..protocol.additions import CacheReport


class CacheStats(NamedTuple):
    """Counters of a client storage's cache, since the storage was made (in a child made by
    ``fork``: since then), and what is in it now.

    Of a cache of the application's own only ``hits``, ``misses`` and ``records`` are known; the
    others are 0.

    :ivar hits: loads that the cache answered.
    :ivar misses: loads that it did not answer.
    :ivar stored: records taken in.
    :ivar dropped: records that had to make room for others.
    :ivar kept: records that were copied because they had been used, when it was their turn to go.
    :ivar damaged: records that were not there any more when they were looked for.
    :ivar records: records held, those of earlier revisions included.
    :ivar used: bytes of the file that records take; those that were replaced lately are included.
    :ivar capacity: most bytes that it takes; 0 once its disk has failed.
    :ivar borrowed: hits that were found in the files of other processes; see ``shared_cache``.
    """

    hits: int
    misses: int
    stored: int
    dropped: int
    kept: int
    damaged: int
    records: int
    used: int
    capacity: int
    borrowed: int = 0

    @property
    def hit_rate(self) -> float | None:
        """Share of the loads that the cache answered, 0 to 1; None if there were none."""
        loads = self.hits + self.misses
        return self.hits / loads if loads else None


def make_stats(cache: ClientCache, hits: int, misses: int) -> CacheStats:
    """Return the statistics of *cache*; any thread.

    :param hits: loads that it answered.
    :param misses: loads that it did not.
    """
    found = cache.statistics()
    return CacheStats(
        hits,
        misses,
        found.stored,
        found.dropped,
        found.kept,
        found.damaged,
        found.revisions,
        found.used,
        found.capacity,
        found.borrowed,
    )


def make_report(stats: CacheStats) -> CacheReport:
    """Return what a Zeolith server is told of *stats*."""
    return CacheReport(stats.hits, stats.misses, stats.records, stats.used, stats.capacity)

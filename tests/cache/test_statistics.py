"""What our own cache says of itself."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from zeolith.cache import CacheStatistics, RingCache
from zeolith.cache.records import OVERHEAD


def to_tid(n: int) -> bytes:
    return n.to_bytes(8, "big")


T1, T2 = to_tid(1), to_tid(2)


@pytest.fixture
def cache() -> Iterator[RingCache]:
    cache = RingCache(20_000)
    yield cache
    cache.close()


def test_used_bytes(cache: RingCache) -> None:
    assert cache.statistics() == CacheStatistics(0, 20_000, 0, 0, 0, 0, 0)
    for n in range(1, 6):
        cache.store(to_tid(n), T1, None, bytes(160 - OVERHEAD))
    assert cache.statistics() == CacheStatistics(5, 20_000, 5, 0, 0, 0, 800)
    # It is not known which of them could be given up.
    cache.invalidate(to_tid(1), None)
    assert cache.statistics() == CacheStatistics(4, 20_000, 5, 0, 0, 0, 800)
    cache.clear()
    assert cache.statistics().used == 0


def test_a_full_cache_uses_nearly_all_of_it(cache: RingCache) -> None:
    """Once its rings go round: less their gaps, and what was left at their ends."""
    used = []
    for n in range(5_000):
        cache.store(to_tid(n), T1, None, bytes(100))
        cache.load_before(to_tid(n), T2)
        used.append(cache.statistics().used)
    assert max(used) <= 20_000
    assert min(used[1_000:]) > 14_000


def test_nothing_is_used_of_a_cache_that_is_closed(cache: RingCache) -> None:
    cache.store(T1, T1, None, b"data")
    cache.close()
    found = cache.statistics()
    assert (found.revisions, found.used, found.capacity) == (0, 0, 0)

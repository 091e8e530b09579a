"""A cache file for each test of this room that asks for one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.caches import OpenCache

from zeolith.cache import CacheHome, RingCache


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "app-1.zec")


@pytest.fixture
def open_cache(path: str) -> Iterator[OpenCache]:
    opened: list[RingCache] = []

    def open_one(size: int = 100_000) -> RingCache:
        opened.append(RingCache(size, home=CacheHome(path)))
        return opened[-1]

    yield open_one
    for cache in opened:
        cache.close()

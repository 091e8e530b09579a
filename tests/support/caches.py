"""Persistent caches for tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from zeolith.cache import RingCache

OpenCache: TypeAlias = Callable[..., RingCache]
"""Opens the cache in the test's file; its argument is the size in bytes."""


def kill(cache: RingCache) -> None:
    """Leave the files as a process leaves them that ends all of a sudden."""
    cache._is_off = True
    cache._rings.close()
    assert cache._home is not None
    cache._home.close()

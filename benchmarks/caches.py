"""Workloads of the client caches alone, in the worker's process; the server has nothing to do."""

from __future__ import annotations

import gc
import random
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import psutil

from .worker import Session

TID: Final = b"\0" * 7 + b"\1"
NOW: Final = b"\x7f" + b"\xff" * 7

_HIT_OBJECTS: Final = 20_000
_RECORD: Final = 300
_FILE_SIZE: Final = 300 << 20
_PER_OBJECT: Final = 345
"""Bytes of a record of 300 in either cache's file."""

_FILL: Final = 450
"""Bytes of a record with which 600,000 fill 300 MB."""


def _open(product: str, size: int, path: Path | None = None) -> tuple[Any, Any]:
    """Return the cache of *product*, and its method to load; without *path* a temporary one."""
    if product == "zeo":
        from ZEO.cache import ClientCache

        theirs = ClientCache(None if path is None else str(path), size)
        return theirs, theirs.loadBefore
    from zeolith.cache import CacheHome, RingCache

    ours = RingCache(size, home=None if path is None else CacheHome(str(path)))
    return ours, ours.load_before


def _oids(count: int, spread: int) -> list[bytes]:
    """Return *count* object ids; with *spread* one of so many, in any order, else a range."""
    numbers = range(count)
    chosen = random.Random(5).sample(range(count * spread), count) if spread else numbers
    return [number.to_bytes(8, "big") for number in chosen]


def cache_hit_alone(session: Session) -> None:
    """Read what the cache holds, from the cache itself."""
    cache, load = _open(session.job.client, 20 << 20)
    data = bytes(_RECORD)
    oids = _oids(_HIT_OBJECTS, 0)
    for oid in oids:
        cache.store(oid, TID, None, data)
    random.Random(session.job.seed).shuffle(oids)
    for oid in oids:
        load(oid, NOW)
    passes = session.job.amount // len(oids)
    session.start()
    for _ in range(passes):
        for oid in oids:
            load(oid, NOW)
    session.finish(passes * len(oids))
    cache.close()


def cache_memory(session: Session) -> None:
    """Fill a cache to twice its size with ids in sequence; ``each`` is the bytes of an object."""
    _measure_memory(session, 0)


def cache_memory_scattered(session: Session) -> None:
    """The same with one id in 20, in any order."""
    _measure_memory(session, 20)


def _measure_memory(session: Session, spread: int) -> None:
    process, count = psutil.Process(), session.job.amount
    data = bytes(_RECORD)
    oids = _oids(2 * count, spread)
    cache, _ = _open(session.job.client, count * _PER_OBJECT)
    cache.store(NOW, TID, None, data)
    gc.collect()
    session.start()
    before = process.memory_info().rss
    for oid in oids:
        cache.store(oid, TID, None, data)
    gc.collect()
    grown = process.memory_info().rss - before
    session.finish(2 * count, each=grown / len(cache))
    cache.close()


def cache_open(session: Session) -> None:
    """Close and open a full file of 300 MB; seconds of each."""
    with TemporaryDirectory(dir=Path(session.job.data).parent) as folder:
        path = Path(folder) / "cache.zec"
        cache, _ = _open(session.job.client, _FILE_SIZE, path)
        oids = _oids(session.job.amount, 0)
        data = bytes(_FILL)
        for oid in oids:
            cache.store(oid, TID, None, data)
        cache.setLastTid(TID) if session.job.client == "zeo" else cache.set_last_tid(TID)
        held = len(cache)
        session.start()
        began = time.perf_counter()
        cache.close()
        closed = time.perf_counter()
        cache, load = _open(session.job.client, _FILE_SIZE, path)
        load(oids[-1], NOW)
        opened = time.perf_counter()
        if len(cache) < 0.99 * held or load(oids[-1], NOW) is None:
            raise RuntimeError(f"of {held} objects {len(cache)} are there again")
        session.finish(held, open=opened - closed, close=closed - began)
        cache.close()

"""The client cache alone, Zeolith's beside ZEO 6.2's: ``python -m benchmarks.bench_cache``.

No server takes part.  Both caches do the same in turns, in one process; a number is the median of
the rounds in CPU time of the thread, so that other work on the machine does little harm; a ratio
is ours to ZEO's, below 1 is better.  Memory is measured by ``cache-memory`` of
``python -m benchmarks``, hit rates by :mod:`.hitrates`.
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

SIZE = 20 << 20
COUNT = 40_000
"""Objects of 300 bytes that either cache holds at once in SIZE bytes."""

TID, LATER = b"\0" * 7 + b"\1", b"\0" * 7 + b"\2"
NOW = b"\x7f" + b"\xff" * 7

Load = Callable[[bytes, bytes], object]


class Subject(NamedTuple):
    """One of the caches.

    :ivar cache: the object itself, for what both call the same.
    :ivar load: its ``load_before``.
    """

    cache: Any
    load: Load


def make_zeo(size: int = SIZE) -> Subject:
    from ZEO.cache import ClientCache

    cache = ClientCache(None, size)
    return Subject(cache, cache.loadBefore)


def make_zeolith(size: int = SIZE) -> Subject:
    from zeolith.cache import RingCache

    cache = RingCache(size)
    return Subject(cache, cache.load_before)


MAKERS: dict[str, Callable[[int], Subject]] = {"zeo": make_zeo, "zeolith": make_zeolith}


def to_oids(numbers: Sequence[int]) -> list[bytes]:
    return [number.to_bytes(8, "big") for number in numbers]


def shuffled(oids: list[bytes], seed: int = 1) -> list[bytes]:
    oids = oids[:]
    random.Random(seed).shuffle(oids)
    return oids


def held(load: Load, oids: list[bytes]) -> list[bytes]:
    """Return which of *oids* are held: what is new need not stay where all is full."""
    found = [oid for oid in oids if load(oid, NOW) is not None]
    if not found:
        raise RuntimeError("nothing of what was stored is held")
    return found


def time_calls(act: Callable[[bytes, bytes], object], oids: list[bytes], tid: bytes) -> float:
    """Return the microseconds of CPU time that *act* takes for one of *oids* and *tid*."""
    gc.collect()
    begin = time.thread_time()
    for oid in oids:
        act(oid, tid)
    return (time.thread_time() - begin) / len(oids) * 1e6


def measure_round(make: Callable[[int], Subject]) -> dict[str, float]:
    """Return the time of each operation for one cache, in microseconds."""
    subject = make(SIZE)
    cache, load = subject.cache, subject.load
    data = os.urandom(300)
    results: dict[str, float] = {}

    def store(oid: bytes, tid: bytes) -> None:
        cache.store(oid, tid, None, data)

    laps = [to_oids(range(lap * COUNT, (lap + 1) * COUNT)) for lap in range(4)]
    results["store, room left"] = time_calls(store, laps[0], TID)
    results["store, full, nothing used"] = time_calls(store, laps[1], TID)
    order = shuffled(held(load, laps[0] + laps[1]))
    results["hit, 300 bytes"] = time_calls(load, order, NOW)
    results["store, full, all used"] = time_calls(store, laps[2], TID)
    results["miss"] = time_calls(load, laps[3], NOW)
    order = shuffled(held(load, laps[0] + laps[1] + laps[2]))[: COUNT // 4]
    results["invalidate, held"] = time_calls(cache.invalidate, order, LATER)
    results["hit, earlier revision"] = time_calls(load, order, LATER)
    results["invalidate, not held"] = time_calls(cache.invalidate, laps[3], LATER)
    cache.close()
    for size in (60, 3_000, 64_000):
        subject = make(SIZE)
        data = os.urandom(size)
        oids = to_oids(range(min(COUNT, SIZE // 2 // (size + 50))))
        for oid in oids:
            subject.cache.store(oid, TID, None, data)
        order = shuffled(oids) * (1 + 5_000 // len(oids))
        results[f"hit, {size} bytes"] = time_calls(subject.load, order, NOW)
        subject.cache.close()
    return results


def print_row(name: str, numbers: list[float]) -> None:
    zeo, ours = numbers
    print(f"{name:32} {zeo:9.2f} {ours:9.2f} {ours / zeo:8.2f}")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_cache")
    parser.add_argument("-r", "--rounds", type=int, default=5)
    options = parser.parse_args(argv)
    rounds: dict[str, list[dict[str, float]]] = {product: [] for product in MAKERS}
    for _ in range(options.rounds):
        for product, make in MAKERS.items():
            rounds[product].append(measure_round(make))
    print(f"{'microseconds':32} {'ZEO':>9} {'Zeolith':>9} {'ratio':>8}")
    for name in rounds["zeo"][0]:
        medians = [statistics.median(r[name] for r in rounds[product]) for product in MAKERS]
        print_row(name, medians)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""The client cache alone, Zeolith's beside ZEO 6.2's: ``python -m benchmarks.bench_cache``.

No server takes part.  Both caches do the same in turns, in one process; a number is the median of
the rounds in CPU time of the thread, so that other work on the machine does little harm; a ratio
is ours to ZEO's, below 1 is better.  Memory is measured in a fresh process for each cache.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import os
import random
import statistics
import subprocess
import sys
import time
from bisect import bisect
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
    order = shuffled(laps[1])
    for oid in order:
        if load(oid, NOW) is None:
            raise RuntimeError("what was just stored is not held")
    results["hit, 300 bytes"] = time_calls(load, order, NOW)
    results["store, full, all used"] = time_calls(store, laps[2], TID)
    results["miss"] = time_calls(load, laps[3], NOW)
    order = shuffled(laps[2])[: COUNT // 4]
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


def resident() -> int:
    """Return the memory of this process in bytes."""
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGESIZE")


def measure_memory(product: str, spread: int) -> float:
    """Return the bytes of memory that one of 100,000 objects takes.

    :param spread: one object in this many of the database is in the cache; 0: a range of ids.
    """
    count = 100_000
    subject = MAKERS[product](count * 345)
    numbers: Sequence[int] = range(2 * count)
    if spread:
        numbers = random.Random(5).sample(range(2 * count * spread), 2 * count)
    oids = to_oids(numbers)
    subject.cache.store(NOW, TID, None, bytes(300))
    gc.collect()
    before = resident()
    for oid in oids:
        subject.cache.store(oid, TID, None, bytes(300))
    gc.collect()
    result = (resident() - before) / len(subject.cache)
    subject.cache.close()
    return result


def measure_memory_apart(product: str, spread: int) -> float:
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.bench_cache", "--memory-of", product, str(spread)],
        check=True,
        capture_output=True,
        text=True,
    )
    return float(run.stdout)


# -- hit rates -----------------------------------------------------------------------------------

OBJECTS = 20_000


def zipf(exponent: float, count: int, seed: int) -> list[int]:
    """Return *count* object numbers; the n-th most popular is drawn with weight n ** -exponent."""
    rng = random.Random(seed)
    weights = list(itertools.accumulate((n + 1) ** -exponent for n in range(OBJECTS)))
    names = list(range(OBJECTS))
    rng.shuffle(names)
    return [names[bisect(weights, rng.random() * weights[-1])] for _ in range(count)]


def scanned(trace: list[int]) -> list[int]:
    """Return *trace* with a scan of 6,000 objects, never used again, in each 20,000."""
    result: list[int] = []
    fresh = itertools.count(OBJECTS)
    for at, number in enumerate(trace):
        result.append(number)
        if at % 20_000 < 6_000:
            result.append(next(fresh))
    return result


def measure_hits(make: Callable[[int], Subject], trace: list[int], share: float) -> float:
    """Return the share of hits with a cache of *share* of the database's size."""
    data = bytes(700)
    subject = make(int(OBJECTS * 440 * share))
    hits = 0
    for number in trace:
        oid = number.to_bytes(8, "big")
        if subject.load(oid, NOW) is not None:
            hits += 1
        else:
            subject.cache.store(oid, TID, None, data[: 100 + number * 7919 % 600])
    subject.cache.close()
    return hits / len(trace)


def print_row(name: str, numbers: list[float], digits: int = 2) -> None:
    zeo, ours = numbers
    print(f"{name:32} {zeo:9.{digits}f} {ours:9.{digits}f} {ours / zeo:8.2f}")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_cache")
    parser.add_argument("-r", "--rounds", type=int, default=5)
    parser.add_argument("--rates", action="store_true", help="hit rates too (a minute)")
    parser.add_argument("--memory-of", nargs=2, metavar=("PRODUCT", "SPREAD"), help="internal")
    options = parser.parse_args(argv)
    if options.memory_of:
        print(measure_memory(options.memory_of[0], int(options.memory_of[1])))
        return 0
    rounds: dict[str, list[dict[str, float]]] = {product: [] for product in MAKERS}
    for _ in range(options.rounds):
        for product, make in MAKERS.items():
            rounds[product].append(measure_round(make))
    print(f"{'microseconds':32} {'ZEO':>9} {'Zeolith':>9} {'ratio':>8}")
    for name in rounds["zeo"][0]:
        medians = [statistics.median(r[name] for r in rounds[product]) for product in MAKERS]
        print_row(name, medians)
    print("\nbytes of memory an object")
    for spread, name in (
        (0, "a range of ids"),
        (1, "all, in any order"),
        (20, "one in 20"),
        (200, "one in 200"),
    ):
        print_row(name, [measure_memory_apart(product, spread) for product in MAKERS], digits=1)
    if options.rates:
        print("\nhit rate")
        traces = {
            "zipf 0.7": zipf(0.7, 150_000, 1),
            "zipf 0.9": zipf(0.9, 150_000, 1),
            "zipf 1.1": zipf(1.1, 150_000, 1),
            "zipf 0.9 with scans": scanned(zipf(0.9, 120_000, 2)),
        }
        for name, trace in traces.items():
            for share in (0.02, 0.1, 0.3):
                rates = [measure_hits(make, trace, share) for make in MAKERS.values()]
                print_row(f"{name}, cache of {share:.0%}", rates, digits=3)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

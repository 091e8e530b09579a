"""Hit rates of the client cache beside other ways to choose what stays.

``python -m benchmarks.hitrates`` prints the table of ``docs/cache.md``.  Ours is the real cache;
the others are models of the same room: ZEO's circle (what is read from the oldest fifth is copied
to the front), least-recently-used, and the optimum, which knows the future.
"""

from __future__ import annotations

import heapq
import random
from bisect import bisect
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Final

from zeolith.cache import RingCache
from zeolith.types import MAX_TID

OBJECTS: Final = 20_000
READS: Final = 200_000
SHARES: Final = (0.02, 0.1, 0.3, 0.6)
OVERHEAD: Final = 24
"""Bytes of a record of ours beside its data; the models count the same."""

Trace = Sequence[int]
Policy = Callable[[Trace, Sequence[int], int], int]


def make_traces(seed: int) -> dict[str, list[int]]:
    """Return reads of objects, by number, for each kind of load."""
    chance = random.Random(seed)
    weights = list(accumulate(1 / (n + 1) ** 0.9 for n in range(OBJECTS)))
    order = list(range(OBJECTS))
    chance.shuffle(order)

    def popular() -> int:
        return order[bisect(weights, chance.random() * weights[-1])]

    scans: list[int] = []
    while len(scans) < READS:
        if chance.random() < 0.0003:
            begin = chance.randrange(OBJECTS)
            scans += [(begin + n) % OBJECTS for n in range(3_000)]
        else:
            scans.append(popular())
    moving = []
    for n in range(READS):
        moved = n // 20_000 * 1_500 if chance.random() < 0.9 else 0
        moving.append((popular() + moved) % OBJECTS)
    inner = [chance.randrange(OBJECTS) for _ in range(300)]
    tree: list[int] = []
    while len(tree) < READS:
        leaf = popular()
        tree += [inner[0], inner[1 + leaf % 299], leaf]
    places: list[int] = []
    while len(places) < READS:
        begin = chance.randrange(OBJECTS - 200)
        for _ in range(60):
            near = chance.random() < 0.7
            places.append(begin + chance.randrange(200) if near else popular())
    return {
        "steady, Zipf 0.9": [popular() for _ in range(READS)],
        "the same with scans of 3,000 objects": scans[:READS],
        "what is popular moves on": moving,
        "look-ups in a BTree": tree[:READS],
        "short-lived neighbourhoods": places[:READS],
        "one scan after the other": [n % OBJECTS for n in range(READS)],
    }


def zeolith(trace: Trace, sizes: Sequence[int], room: int) -> int:
    """Return the hits of our cache with *room* bytes."""
    cache = RingCache(room)
    hits = 0
    start = (1).to_bytes(8, "big")
    try:
        for number in trace:
            oid = number.to_bytes(8, "big")
            if cache.load_before(oid, MAX_TID) is not None:
                hits += 1
            else:
                cache.store(oid, start, None, bytes(sizes[number] - OVERHEAD))
    finally:
        cache.close()
    return hits


def circle(trace: Trace, sizes: Sequence[int], room: int) -> int:
    """Return the hits of a circle as ZEO's cache is one."""
    places: dict[int, int] = {}
    written: deque[tuple[int, int]] = deque()
    head = hits = 0
    for number in trace:
        place = places.get(number)
        if place is not None:
            hits += 1
            if head - place <= 0.8 * room:
                continue
        while written and head + sizes[number] - written[0][0] > room:
            old, gone = written.popleft()
            if places.get(gone) == old:
                del places[gone]
        places[number] = head
        written.append((head, number))
        head += sizes[number]
    return hits


def recent(trace: Trace, sizes: Sequence[int], room: int) -> int:
    """Return the hits where the least recently used goes."""
    held: OrderedDict[int, None] = OrderedDict()
    used = hits = 0
    for number in trace:
        if number in held:
            hits += 1
            held.move_to_end(number)
            continue
        held[number] = None
        used += sizes[number]
        while used > room:
            gone, _ = held.popitem(last=False)
            used -= sizes[gone]
    return hits


def optimum(trace: Trace, sizes: Sequence[int], room: int) -> int:
    """Return the hits where that goes which is not needed for longest (Bélády)."""
    never = len(trace)
    following = [never] * len(trace)
    later: dict[int, int] = {}
    for at in range(len(trace) - 1, -1, -1):
        following[at] = later.get(trace[at], never)
        later[trace[at]] = at
    needed: dict[int, int] = {}
    queue: list[tuple[int, int]] = []
    used = hits = 0
    for at, number in enumerate(trace):
        if number in needed:
            hits += 1
        else:
            used += sizes[number]
        needed[number] = following[at]
        heapq.heappush(queue, (-following[at], number))
        while used > room:
            when, gone = heapq.heappop(queue)
            if needed.get(gone) == -when:
                del needed[gone]
                used -= sizes[gone]
    return hits


POLICIES: Final[dict[str, Policy]] = {
    "ZEO": circle,
    "LRU": recent,
    "Zeolith": zeolith,
    "optimum": optimum,
}


def main() -> None:
    """Print the table of ``docs/cache.md``."""
    chance = random.Random(1)
    sizes = [int(chance.lognormvariate(5.5, 1.0)) + OVERHEAD for _ in range(OBJECTS)]
    total = sum(sizes)
    print(f"| load | share of all objects that fits | {' | '.join(POLICIES)} |")
    print("| --- " * (2 + len(POLICIES)) + "|")
    for name, trace in make_traces(1).items():
        for share in SHARES:
            rates = [
                run(trace, sizes, int(total * share)) / len(trace) for run in POLICIES.values()
            ]
            cells = " | ".join(f"{rate:.3f}" for rate in rates)
            print(f"| {name} | {share:.0%} | {cells} |", flush=True)


if __name__ == "__main__":
    main()

"""Hit rates of the client cache beside other ways to choose what stays.

``python -m benchmarks.hitrates`` prints the tables of ``docs/cache.md``: of synthetic loads, and of
recorded ones, which are the traces in ``traces/`` or those that are named as arguments.  The ways
are those of ``zeolith cache simulate``, but each counts the same bytes beside a record's data.
"""

from __future__ import annotations

import random
import sys
from bisect import bisect
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Final

from zeolith.cache.policies import Circle, PolicyMaker, make_policies, simulate
from zeolith.cache.records import OVERHEAD
from zeolith.cache.traces import open_trace
from zeolith.cache.workload import Workload, WorkloadReader

OBJECTS: Final = 20_000
READS: Final = 200_000
SHARES: Final = (0.02, 0.1, 0.3, 0.6)
TRACES: Final = Path(__file__).parent / "traces"

POLICIES: Final[dict[str, PolicyMaker]] = {
    **make_policies(),
    "ZEO": partial(Circle, overhead=OVERHEAD),
}


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


def synthetic() -> Iterator[tuple[str, Workload]]:
    """Yield the name and the workload of each synthetic load."""
    chance = random.Random(1)
    lengths = [int(chance.lognormvariate(5.5, 1.0)) for _ in range(OBJECTS)]
    for name, trace in make_traces(1).items():
        yield name, Workload.of_reads(trace, lengths)


def recorded(paths: Iterable[Path]) -> Iterator[tuple[str, Workload]]:
    """Yield the name and the workload of each recorded trace."""
    for path in paths:
        reader = WorkloadReader()
        with open_trace(str(path)) as events:
            for event in events:
                reader.add(event)
        yield path.name.removesuffix(".gz").removesuffix(".trace"), reader.finish()


def rows(name: str, workload: Workload, shares: Iterable[float] = SHARES) -> Iterator[str]:
    """Yield the lines of the table about *workload*.

    :param shares: sizes of the cache, as shares of the room that all revisions take.
    """
    total = sum(workload.lengths) + OVERHEAD * len(workload.lengths)
    for share in shares:
        rates = []
        for make in POLICIES.values():
            hits = simulate(make, workload, int(total * share))
            rates.append(f"{sum(hits) / len(hits):.3f}")
        yield f"| {name} | {share:.0%} | {' | '.join(rates)} |"


def main(arguments: list[str]) -> None:
    """Print the tables of ``docs/cache.md``, or that of the traces named."""
    print(f"| load | share of all objects that fits | {' | '.join(POLICIES)} |")
    print("| --- " * (2 + len(POLICIES)) + "|")
    if arguments:
        loads = list(recorded(map(Path, arguments)))
    else:
        loads = [*synthetic(), *recorded(sorted(TRACES.iterdir()))]
    for name, workload in loads:
        for row in rows(name, workload):
            print(row, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])

"""What caches of several sizes would have made of a recorded load."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import Final, NamedTuple

from ..cache.policies import PolicyMaker, Unlimited, simulate
from ..cache.records import OVERHEAD
from ..cache.workload import Workload

MB: Final = 1 << 20

SIZES: Final = 8
"""Sizes that are tried if none is asked for: each half of the next one."""

SMALLEST_SIZE: Final = 64 * 1024
"""Bytes of the smallest one that is tried without being asked for."""


class Simulated(NamedTuple):
    """A cache that was tried.

    :ivar size: bytes; 0 for one without limit.
    :ivar hits: by name of the policy, for each load 1 or 0.
    """

    size: int
    hits: Mapping[str, bytearray]

    def rates(self) -> dict[str, float]:
        """Return the hits of each policy as a share of the loads; 0 if there are none."""
        return {name: sum(hits) / max(1, len(hits)) for name, hits in self.hits.items()}


def size_of(workload: Workload) -> int:
    """Return how many bytes all revisions of *workload* take in a cache."""
    return sum(workload.lengths) + OVERHEAD * len(workload.lengths)


def choose_sizes(workload: Workload) -> list[int]:
    """Return the sizes to try: powers of two, up to one that all revisions have room in."""
    largest = max(size_of(workload), SMALLEST_SIZE)
    bits = (largest - 1).bit_length()
    sizes = [1 << n for n in range(bits - SIZES + 1, bits + 1)]
    return [size for size in sizes if size >= SMALLEST_SIZE]


def try_sizes(
    workload: Workload, sizes: list[int], policies: Mapping[str, PolicyMaker]
) -> Iterator[Simulated]:
    """Yield what caches of *sizes* make of *workload*, each as soon as it is known.

    :raises ConfigurationError: there is no room for temporary files.
    """
    for size in sizes:
        yield Simulated(
            size, {name: simulate(make, workload, size) for name, make in policies.items()}
        )


def unlimited(workload: Workload) -> float:
    """Return the hit rate of a cache that nothing goes from."""
    hits = simulate(Unlimited, workload, 0)
    return sum(hits) / max(1, len(hits))


def size_text(size: int) -> str:
    """Return *size* in the unit that ``--size`` has: MB of 1,048,576 bytes."""
    return f"{size / MB:.4g} MB"


def heading(policies: Mapping[str, PolicyMaker]) -> str:
    """Return the line above those of :func:`row`."""
    return f"{'size':>12}" + "".join(f"{name:>9}" for name in policies)


def row(simulated: Simulated) -> str:
    """Return the line for one size."""
    return f"{size_text(simulated.size):>12}" + _cells(simulated.rates())


def last_row(rate: float, policies: Mapping[str, PolicyMaker]) -> str:
    """Return the line for a cache without limit."""
    return f"{'no limit':>12}" + _cells(dict.fromkeys(policies, rate))


def interval_rows(simulated: Simulated, times: list[int], seconds: int) -> Iterator[str]:
    """Yield lines for one size, one for each stretch of time in which there were loads.

    :param times: seconds since the epoch of each load.
    :param seconds: length of the stretches.
    """
    names = list(simulated.hits)
    yield f"{size_text(simulated.size):>12}    loads" + "".join(f"{name:>9}" for name in names)
    for _, group in groupby(range(len(times)), key=lambda at: times[at] // seconds):
        places = list(group)
        first, last = places[0], places[-1] + 1
        rates = {name: sum(hits[first:last]) / len(places) for name, hits in simulated.hits.items()}
        begin = time.strftime("%b %d %H:%M", time.localtime(times[first]))
        yield f"{begin:>12} {len(places):8}{_cells(rates)}"
    yield f"{'all':>12} {len(times):8}{_cells(simulated.rates())}"


def _cells(rates: Mapping[str, float]) -> str:
    return "".join(f"{100 * rate:8.1f}%" for rate in rates.values())

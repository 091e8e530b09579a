"""Binding processes to cores, and what else ran on them meanwhile."""

from __future__ import annotations

import os
from collections.abc import Iterable

import psutil

CAN_BIND = hasattr(os, "sched_setaffinity")
"""Whether this system can bind a process to cores; without it the two one-thread benchmarks of
cold loads measure the same thing."""


def usable_cores() -> list[int]:
    """Return the cores this process may run on."""
    if CAN_BIND:
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def bind(cores: Iterable[int]) -> None:
    """Bind this process, and all it will start, to *cores*; do nothing where that cannot be."""
    if CAN_BIND:
        os.sched_setaffinity(0, cores)


def busy_seconds(cores: Iterable[int]) -> float:
    """Return the CPU time that *cores* have spent since the machine started, whoever used it."""
    times = psutil.cpu_times(percpu=True)
    busy = 0.0
    for core in cores:
        t = times[core]
        busy += sum(t) - t.idle - getattr(t, "iowait", 0.0)
        # Linux counts the time of guests in user and nice already.
        busy -= getattr(t, "guest", 0.0) + getattr(t, "guest_nice", 0.0)
    return busy

"""Loads beside other work: how much longer they take than alone."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from .worker import Session


def finish_loads(
    session: Session, idle: Sequence[float], busy: Sequence[float], **more: float
) -> None:
    """End a turn with what loads took while nothing else was done, and while something was.

    :param idle: seconds of each load alone.
    :param busy: the same beside the other work.
    :param more: further results.
    """
    idle_p99 = statistics.quantiles(idle, n=100)[98]
    cuts = statistics.quantiles(busy, n=100)
    session.finish(
        len(busy),
        idle_p99=idle_p99,
        p50=cuts[49],
        p99=cuts[98],
        slowdown=cuts[98] / idle_p99,
        longest=max(busy),
        **more,
    )

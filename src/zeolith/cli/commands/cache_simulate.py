"""``zeolith cache simulate``."""

from __future__ import annotations

from typing import Final

import click

from ..console import interruptible
from ..numbers import NumberRange
from ..traces import Events, trace_argument

MB: Final = 1 << 20

LARGEST: Final = 1 << 16
"""Megabytes of a cache that is tried at most: the real one takes a hundredth of it in memory."""


@click.command("simulate")
@trace_argument
@click.option(
    "-s",
    "--size",
    "sizes",
    type=NumberRange(min=0.01, max=LARGEST),
    multiple=True,
    metavar="MB",
    help="Try a cache of that size; may be given several times.  [default: eight sizes, up to one "
    "that has room for everything]",
)
@click.option(
    "-i",
    "--interval",
    type=NumberRange(min=0.01, max=60),
    metavar="MINUTES",
    help="Show the hit rates of intervals of that length, too; at most 60.",
)
@click.option(
    "-r",
    "--rearrange",
    type=NumberRange(min=0, max=1),
    default=0.8,
    show_default=True,
    metavar="SHARE",
    help="Setting of ZEO's cache: what is read is copied to the front if the cache has moved on by "
    "that share of its size.",
)
@click.option(
    "--plot",
    metavar="FILE",
    help="Draw hit rate over size into FILE, which ends in .svg, or in .png if the extra "
    "zeolith[plot] is installed.",
)
@click.pass_context
def cache_simulate(
    context: click.Context,
    trace: str,
    sizes: tuple[float, ...],
    interval: float | None,
    rearrange: float,
    plot: str | None,
) -> int:
    """Say what size of a cache would give which hit rate.

    TRACE is a file that a client wrote for ZEO_CACHE_TRACE, Zeolith's or ZEO's, compressed by gzip
    or not; - is standard input.  Its loads are put to caches of several sizes: ZEO's, one that
    drops what was least recently used, Zeolith's (the real one, in a temporary file), and the
    optimum, which knows the future.  No cache can do better than one without limit.

    The traced cache should have begun empty; what it held before counts as loaded at its first use.
    """
    from ...admin import hitrates
    from ...admin.hitcurve import Curve, find_painter
    from ...cache.policies import make_policies
    from ...cache.traces import open_trace
    from ...cache.workload import WorkloadReader

    painter = None if plot is None else find_painter(plot)
    with interruptible(context):
        with open_trace(trace) as reader:
            events = Events(reader, trace)
            making = WorkloadReader()
            for event in events:
                making.add(event)
        workload = making.finish()
        loads, revisions = workload.loads, len(workload.oids)
        if not loads:
            if reader.count:
                click.echo(f"zeolith: {trace}: no object was loaded", err=True)
            return events.status or 1
        click.echo(
            f"{reader.count:,} records, {loads:,} loads of {revisions:,} revisions "
            f"that take {hitrates.size_text(hitrates.size_of(workload))}"
        )
        click.echo()
        policies = make_policies(rearrange)
        if interval is None:
            click.echo(hitrates.heading(policies))
        wanted = sorted({int(size * MB) for size in sizes}) or hitrates.choose_sizes(workload)
        curve = Curve(list(policies))
        for simulated in hitrates.try_sizes(workload, wanted, policies):
            curve.add(simulated.size, simulated.rates())
            if interval is None:
                click.echo(hitrates.row(simulated))
            else:
                times = workload.times.tolist()
                for line in hitrates.interval_rows(simulated, times, int(interval * 60)):
                    click.echo(line)
                click.echo()
        best = hitrates.unlimited(workload)
        click.echo(hitrates.last_row(best, policies))
        if painter is not None:
            painter(curve)
        return events.status

"""``zeolith cache stats``."""

from __future__ import annotations

import time

import click
from click.core import ParameterSource

from ..console import interruptible
from ..traces import interval_option, trace_argument


# -h is what it is with ZEO's tool.
@click.command("stats", context_settings={"help_option_names": ["--help"]})
@trace_argument
@click.option("-v", "--verbose", is_flag=True, help="Print each record.")
@click.option("-q", "--quiet", is_flag=True, help="Print no summaries of intervals.")
@click.option("-s", "--sizes", is_flag=True, help="Print histograms of object sizes.")
@click.option("-S", "--no-stats", is_flag=True, help="Print no totals.")
@click.option(
    "-h", "--load-histogram", is_flag=True, help="Print how many objects were loaded how often."
)
@click.option(
    "-X",
    "--check",
    is_flag=True,
    help="Where there is no record, or one with an object id of 2**32 or more, look for the next "
    "one instead of giving up.",
)
@interval_option
@click.pass_context
def cache_stats(
    context: click.Context,
    trace: str,
    verbose: bool,
    quiet: bool,
    sizes: bool,
    no_stats: bool,
    load_histogram: bool,
    check: bool,
    interval: float,
) -> int:
    """Say what a trace of a client's cache holds.

    TRACE is a file that a client wrote for ZEO_CACHE_TRACE, Zeolith's or ZEO's, compressed by gzip
    or not; - is standard input.  For each interval there are loads, hits, invalidations of objects
    that were held, stores, and hits in per cent of loads.
    """
    from ...admin import tracetables
    from ...admin.tracestats import Intervals, Summary
    from ...cache.traces import Code, open_trace
    from ..traces import Events

    if verbose and quiet:
        raise click.UsageError("--verbose and --quiet exclude each other")
    if quiet and context.get_parameter_source("interval") is not ParameterSource.DEFAULT:
        raise click.UsageError("--interval has no effect with --quiet")
    begin = time.monotonic()
    summary = Summary(wants_loads=load_histogram, wants_sizes=sizes)
    intervals = Intervals(int(interval * 60))
    with open_trace(trace, check) as reader, interruptible(context):
        events = Events(reader, trace)
        if not quiet:
            click.echo(tracetables.HEADING)
        try:
            for event in events:
                summary.add(event)
                if not quiet:
                    if (ended := intervals.add(event)) is not None:
                        click.echo(tracetables.interval_line(ended))
                    if event.code == Code.START:
                        click.echo(tracetables.restart_line(event))
                if verbose:
                    click.echo(tracetables.event_line(event))
        except KeyboardInterrupt:
            events.interrupted()
    if not quiet and (ended := intervals.finish()) is not None:
        click.echo(tracetables.interval_line(ended))
    if summary.total is None:
        return events.status
    sections = []
    if not no_stats:
        seconds = time.monotonic() - begin
        sections.append(tracetables.summary_lines(summary, reader, seconds))
    if load_histogram:
        sections.append(tracetables.load_lines(summary))
    if sizes:
        sections.append(tracetables.size_lines(summary))
    for lines in sections:
        click.echo()
        for line in lines:
            click.echo(line)
    return events.status

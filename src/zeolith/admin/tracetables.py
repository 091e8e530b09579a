"""What ``zeolith cache stats`` prints, as lines."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator

from ..cache.traces import EXPLAIN, Event, TraceReader
from .tracestats import Interval, Summary

HEADING = f"{'':18} {'loads':>7} {'hits':>7} {'inv(h)':>7} {'writes':>7} {'hitrate':>7}"


def hit_rate(interval: Interval) -> str:
    """Return the hits of *interval* in per cent of its loads."""
    return f"{100 * interval.hits / interval.loads:.1f}%" if interval.loads else "n/a"


def interval_line(interval: Interval) -> str:
    """Return the line below :data:`HEADING` for *interval*."""
    begin = time.strftime("%b %d %H:%M", time.localtime(interval.first))
    end = time.strftime("%H:%M", time.localtime(interval.last))
    return (
        f"{begin}-{end} {interval.loads:7} {interval.hits:7} {interval.invalidations:7}"
        f" {interval.writes:7} {hit_rate(interval):>7}"
    )


def restart_line(event: Event) -> str:
    """Return the line for a start of the cache."""
    return f"{_moment(event.time)} {' Restart ':=^50}"


def event_line(event: Event) -> str:
    """Return one event as text: when, what, of which object, its tids, its length."""
    oid = f"{int.from_bytes(event.oid, 'big'):16x}" if len(event.oid) == 8 else f"{'-':>16}"
    return (
        f"{_moment(event.time)} {event.code:02x} {oid} {event.start.hex()} {event.end.hex()} "
        f"{'V' if event.is_version else '-'}{f' {event.length}' if event.length else ''}"
    )


def summary_lines(summary: Summary, reader: TraceReader, seconds: float) -> Iterator[str]:
    """Yield the totals of a trace, and the table of what happened how often.

    :param reader: what read it.
    :param seconds: how long that took.
    """
    total = summary.total
    assert total is not None
    share = 100 * summary.sized / reader.count
    average = summary.total_size / summary.sized if summary.sized else 0
    rate = 100 * total.hits / total.loads if total.loads else 0.0
    yield f"Read {reader.count:,} trace records ({reader.offset:,} bytes) in {seconds:.1f} seconds"
    yield f"Versions:   {summary.versions:,} records used a version"
    yield f"First time: {time.ctime(total.first)}"
    yield f"Last time:  {time.ctime(total.last)}"
    yield f"Duration:   {total.last - total.first:,} seconds"
    yield f"Data recs:  {summary.sized:,} ({share:.1f}%), average size {average:.0f} bytes"
    yield f"Hit rate:   {rate:.1f}% (load hits / loads)"
    yield ""
    yield f"{'Count':>13} Code Function (action)"
    for code, count in sorted(total.codes.items()):
        yield f"{count:13,}  {code:02x}  {EXPLAIN[code]}"


def load_lines(summary: Summary) -> Iterator[str]:
    """Yield how many objects were loaded how often."""
    objects, loads = len(summary.loads), summary.loads.total()
    yield "Histogram of object load frequency"
    yield f"Unique oids: {objects:,}"
    yield f"Total loads: {loads:,}"
    yield f"{'loads':>7} {'objects':>12} {'%obj':>6} {'%load':>6} {'%cum':>6}"
    cumulated = 0.0
    for times, count in sorted(Counter(summary.loads.values()).items()):
        share = 100 * times * count / loads
        cumulated += share
        yield f"{times:7} {count:12,} {100 * count / objects:5.1f}% {share:5.1f}% {cumulated:5.1f}%"


def size_lines(summary: Summary) -> Iterator[str]:
    """Yield how many objects of which length were stored and loaded how often."""
    yield "Histograms of object sizes"
    for sizes, done, noun in (
        (summary.sizes_written, "written", "writes"),
        (summary.sizes_loaded, "loaded", "loads"),
    ):
        yield ""
        yield f"Unique sizes {done}: {len(sizes):,}"
        yield f"{'size':>10} {'objs':>6} {noun:>6}"
        for length, objects in sorted(sizes.items()):
            yield f"{length:10,} {len(objects):6} {objects.total():6}"


def _moment(seconds: int) -> str:
    return time.strftime("%b %d %H:%M:%S", time.localtime(seconds))

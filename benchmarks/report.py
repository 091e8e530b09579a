"""Turns samples into medians, ratios, a plain table and JSON."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

from .products import Contender
from .run import QUIET, Results, Sample
from .suite import Metric

_SUBJECT: Final = Contender("zeolith", "zeolith")


class Row(NamedTuple):
    """One metric, for all contenders.

    :ivar medians: in the metric's unit, of the quiet samples where there are at least two, else
        of all.
    :ivar spreads: distance of the quartiles over the median, or of the extremes for few samples.
    :ivar ratios: the first contender's median over each other's.
    :ivar floor: the floor's median, if it took part.
    :ivar cpu: CPU µs per operation of clients and server together.
    :ivar disturbed: how many samples were not quiet.
    """

    key: str
    metric: Metric
    medians: dict[Contender, float]
    spreads: dict[Contender, float]
    ratios: dict[Contender, float]
    floor: float | None
    cpu: dict[Contender, float]
    disturbed: int
    samples: int

    @property
    def verdict(self) -> str:
        """Whether Zeolith meets target and limit; empty without either or without Zeolith."""
        target, limit = self.metric.target, self.metric.limit
        met = []
        if target is not None and _SUBJECT in self.ratios:
            met.append(self.ratios[_SUBJECT] >= target)
        if limit is not None and _SUBJECT in self.medians:
            met.append(self.medians[_SUBJECT] <= limit)
        return "" if not met else "met" if all(met) else "MISSED"

    @property
    def aim(self) -> str:
        """Target and limit in words; empty if there is neither."""
        target, limit = self.metric.target, self.metric.limit
        least = [] if target is None else [f">= {target:g}"]
        most = [] if limit is None else [f"{limit:g} {self.metric.unit} at most"]
        return ", ".join(least + most)


def is_disturbed(sample: Sample) -> bool:
    """Return whether others used so much of the cores that the sample's times mean little."""
    return sample.foreign > QUIET


def _counted(samples: Sequence[Sample]) -> Sequence[Sample]:
    quiet = [sample for sample in samples if not is_disturbed(sample)]
    return quiet if len(quiet) >= 2 else samples


def _spread(values: list[float]) -> float:
    middle = statistics.median(values)
    if middle == 0 or len(values) < 2:
        return 0.0
    if len(values) < 4:
        return (max(values) - min(values)) / middle
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return (high - low) / middle


def make_rows(results: Results) -> list[Row]:
    """Return a row for every metric of *results*."""
    benchmark = results.benchmark
    rows = []
    for metric in benchmark.metrics:
        medians, spreads, cpu = {}, {}, {}
        for contender, samples in results.samples.items():
            counted = _counted(samples)
            values = [sample.values[metric.value] * metric.scale for sample in counted]
            medians[contender] = statistics.median(values)
            spreads[contender] = _spread(values)
            # Of all samples: others' work disturbs it much less than it does the time that passes.
            cpu[contender] = 1e6 * statistics.median(
                sample.server_cpu + sample.client_cpu for sample in samples
            )
        floor = medians.pop(benchmark.floor, None) if benchmark.floor else None
        baseline, *others = medians
        every = [sample for samples in results.samples.values() for sample in samples]
        rows.append(
            Row(
                benchmark.key,
                metric,
                medians,
                spreads,
                {other: medians[baseline] / medians[other] for other in others if medians[other]},
                floor,
                cpu,
                sum(map(is_disturbed, every)) if benchmark.is_timed else 0,
                len(every),
            )
        )
    return rows


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _table(lines: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*lines)]
    text = []
    for number, line in enumerate(lines):
        # Titles to the left, numbers to the right.
        cells = [line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:]))]
        text.append("  ".join(cells).rstrip())
        if number == 0:
            text.append("  ".join("-" * width for width in widths))
    return "\n".join(text)


def format_rows(rows: Sequence[Row]) -> str:
    """Return the table that people read."""
    contenders = list(rows[0].medians)
    subjects = contenders[1:]
    head = ["", "unit", *map(str, contenders), "floor"]
    head += [f"{contenders[0]}/{other}" for other in subjects]
    head += ["target", "", "CPU µs", "spread", "disturbed"]
    lines = [head]
    for row in rows:
        line = [row.metric.title, row.metric.unit]
        line += [_number(row.medians[contender]) for contender in contenders]
        line.append("" if row.floor is None else _number(row.floor))
        line += [f"{row.ratios[s]:.2f}" if s in row.ratios else "" for s in subjects]
        line.append(row.aim)
        line.append(row.verdict)
        line.append(" ".join(_number(row.cpu[contender]) for contender in contenders))
        line.append(" ".join(f"{row.spreads[contender]:.0%}" for contender in contenders))
        line.append(f"{row.disturbed}/{row.samples}")
        lines.append(line)
    return _table(lines)


def as_json(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Return *rows* as values that JSON can carry."""

    def named(values: dict[Contender, float]) -> dict[str, float]:
        return {str(contender): value for contender, value in values.items()}

    return [
        {
            "benchmark": row.key,
            "title": row.metric.title,
            "unit": row.metric.unit,
            "medians": named(row.medians),
            "spreads": named(row.spreads),
            "ratios": named(row.ratios),
            "floor": row.floor,
            "cpu_us_per_operation": named(row.cpu),
            "target": row.metric.target,
            "limit": row.metric.limit,
            "verdict": row.verdict,
            "disturbed": row.disturbed,
            "samples": row.samples,
        }
        for row in rows
    ]

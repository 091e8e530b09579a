"""A check for Nagios and its kin, with the output of ZEO's ``zeo-nagios``.

The first line is the state, and after a bar the first metric; further metrics follow on lines of
their own.  Levels are what is now; rates compare with the counters of the last check, which are
kept in a file of the same form as ``zeo-nagios`` writes.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from ..config.validity import SOON
from ..errors import ConfigurationError
from .asking import NotAnswering, Refused, Target
from .status import Status, fetch_status

OK, WARNING, CRITICAL = 0, 1, 2

LEVELS: Final = ("active_txns", "connections", "waiting")
RATES: Final = ("aborts", "commits", "conflicts", "conflicts_resolved", "loads", "stores")
UNITS: Final = {"seconds": 1.0, "minutes": 60.0, "hours": 3600.0, "days": 86400.0}

_NO_TRANSACTION: Final = "0" * 16
_DEFAULT_STORAGE: Final = "1"

_Counters = Mapping[str, Mapping[str, Any]]
"""By storage: the counters of ``ruok``."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to check and to print.

    :ivar metrics: whether to print metrics.
    :ivar status_path: file that keeps the counters until the next check; None: no rates.
    :ivar unit: of time, for rates; a key of :data:`UNITS`.
    :ivar warning: greatest values of metrics that are well.
    :ivar critical: greatest values of metrics that are not yet critical.
    """

    metrics: bool = False
    status_path: str | None = None
    unit: str = "minutes"
    warning: Mapping[str, float] = field(default_factory=dict)
    critical: Mapping[str, float] = field(default_factory=dict)


class Result(NamedTuple):
    """What to print, and with which status to exit."""

    text: str
    status: int


class Metric(NamedTuple):
    """One value of one storage."""

    storage: str
    name: str
    value: float


def check(target: Target, plan: Plan) -> Result:
    """Check a server, of Zeolith or of ZEO.

    :raises ConfigurationError: the status file cannot be written.
    """
    try:
        found = fetch_status(target, connections=0)
    except NotAnswering as error:
        what = "No answer" if error.has_connected else "Can't connect"
        return Result(f"{what} {error.problem.removeprefix('cannot connect: ')}", CRITICAL)
    except Refused as error:
        return Result(str(error), CRITICAL)
    counters = {name: storage["counters"] for name, storage in found.storages.items()}
    if not counters:
        return Result("No storages", WARNING)
    metrics = [
        Metric(name, level, counters[name][level]) for name in sorted(counters) for level in LEVELS
    ]
    if plan.status_path is not None:
        metrics += measure_rates(counters, plan.status_path, UNITS[plan.unit])
    troubles = [(CRITICAL, outage) for outage in found.outages]
    troubles += _judge_certificate(found)
    troubles += [
        (WARNING, f"Empty storage {name!r}")
        for name in sorted(counters)
        if counters[name]["last-transaction"] == _NO_TRANSACTION
    ]
    for metric in metrics:
        troubles += _judge(metric, plan)
    messages = [text for _, text in troubles] or ["OK"]
    shown = [_show(metric, plan) for metric in metrics] if plan.metrics else []
    return Result(_layout(messages, shown), max((level for level, _ in troubles), default=OK))


def measure_rates(counters: _Counters, path: str, unit: float) -> list[Metric]:
    """Return how fast the counters have grown since the last check, and keep them for the next.

    A storage whose counters have begun anew has no rates this time.

    :param path: of the file that keeps them.
    :param unit: of time, in seconds.
    :raises ConfigurationError: the file cannot be written.
    """
    now = time.time()
    metrics = []
    previous, when = _read(path)
    if now > when:
        for name in sorted(counters):
            before = previous.get(name)
            if before is not None and before.get("start") == counters[name]["start"]:
                metrics += [
                    Metric(
                        name, rate, (counters[name][rate] - before[rate]) / ((now - when) / unit)
                    )
                    for rate in RATES
                    if isinstance(before.get(rate), int)
                ]
    _write(path, counters)
    return metrics


def _read(path: str) -> tuple[dict[str, dict[str, Any]], float]:
    """Return what the last check kept, and when that was; nothing if it is of no use."""
    try:
        with open(path, encoding="utf-8") as file:
            kept = json.load(file)
            when = os.fstat(file.fileno()).st_mtime
    except (OSError, ValueError, RecursionError):
        # None yet, or damaged: the next check will find the one that is written now.
        return {}, 0.0
    if not isinstance(kept, dict):
        return {}, 0.0
    return {name: found for name, found in kept.items() if isinstance(found, dict)}, when


def _write(path: str, counters: _Counters) -> None:
    temporary = f"{path}.{os.getpid()}.tmp"
    try:
        try:
            with open(temporary, "w", encoding="utf-8") as file:
                json.dump(counters, file)
            os.replace(temporary, path)
        except BaseException:
            if os.path.exists(temporary):
                os.remove(temporary)
            raise
    except OSError as error:
        raise ConfigurationError(
            "--status-path", f"{path} cannot be written: {error.strerror}", "choose another file"
        ) from error


def _judge(metric: Metric, plan: Plan) -> list[tuple[int, str]]:
    for level, limits in ((CRITICAL, plan.critical), (WARNING, plan.warning)):
        limit = limits.get(metric.name)
        if limit is not None and metric.value > limit:
            return [(level, f"{_label(metric)} is {metric.value:g}, more than {limit:g}")]
    return []


def _judge_certificate(found: Status) -> list[tuple[int, str]]:
    certificate = None if found.server is None else found.server.get("certificate")
    if found.server is None or certificate is None:
        return []
    troubles = []
    left = certificate["expires"] - found.server["now"]
    if left <= 0:
        troubles.append((CRITICAL, "The server's certificate has expired"))
    elif left < SOON:
        troubles.append((WARNING, f"The server's certificate ends in {left / 86400:.1f} days"))
    if certificate["trouble"]:
        troubles.append((WARNING, f"The certificate is not renewed: {certificate['trouble']}"))
    return troubles


def _show(metric: Metric, plan: Plan) -> str:
    label = _label(metric)
    if " " in metric.storage:
        label = f"'{label}'"
    limits = [limits.get(metric.name) for limits in (plan.warning, plan.critical)]
    text = f"{label}={metric.value}"
    if limits == [None, None]:
        return text
    return ";".join([text, *("" if limit is None else f"{limit:g}" for limit in limits)])


def _label(metric: Metric) -> str:
    is_default = metric.storage == _DEFAULT_STORAGE
    return metric.name if is_default else f"{metric.storage}:{metric.name}"


def _layout(messages: Sequence[str], metrics: Sequence[str]) -> str:
    first, *others = messages
    if metrics:
        first = f"{first}|{metrics[0]}"
    lines = [first, *others]
    if len(metrics) > 1:
        lines.append("| " + "\n ".join(metrics[1:]))
    return "\n".join(lines)

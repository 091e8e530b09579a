"""The benchmark of hit rates runs, and its recorded trace can be made again."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from benchmarks.hitrates import TRACES, recorded, rows

from benchmarks import record_trace
from zeolith.cache.traces import Code, open_trace
from zeolith.cache.workload import Workload


def test_a_row_for_each_size() -> None:
    workload = Workload.of_reads([*range(100), *range(100)], [100] * 100)
    assert list(rows("twice", workload, [2.0])) == [
        "| twice | 200% | 0.500 | 0.500 | 0.500 | 0.500 |"
    ]


def test_what_was_recorded() -> None:
    paths = sorted(TRACES.iterdir())
    assert [path.name for path in paths] == ["catalog.trace.gz"]
    assert sum(path.stat().st_size for path in paths) < 300_000
    ((name, workload),) = recorded(paths)
    assert name == "catalog"
    assert workload.loads > 20_000
    (line,) = rows(name, workload, [0.3])
    zeo, lru, ours, best = map(float, re.findall(r"0\.\d+", line))
    assert zeo < ours < best
    assert lru < ours


def test_recording(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(record_trace, "DOCUMENTS", 200)
    monkeypatch.setattr(record_trace, "REQUESTS", 60)
    target = tmp_path / "traces" / "small.trace.gz"
    record_trace.record(target)
    with open_trace(str(target)) as reader:
        codes = {event.code for event in reader}
    assert codes >= {Code.START, Code.LOAD_MISS, Code.LOAD_HIT, Code.STORE, Code.INVALIDATE_KEEP}

"""The workloads with blobs do what they say, with either product."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks.__main__ import main
from benchmarks.memory import forget_peak, peak_memory

_MEGABYTES = 64


def run(tmp_path: Path, *arguments: str) -> list[dict[str, object]]:
    file = tmp_path / "results.json"
    common = ["-r", "1", "--patience", "0", "--dir", str(tmp_path), "--json", str(file)]
    assert main([*arguments, *common]) == 0
    found: list[dict[str, object]] = json.loads(file.read_text())["rows"]
    return found


def test_many_blobs_and_memory(tmp_path: Path) -> None:
    names = ["blobs-1000-up", "blobs-1000-down", "blob-memory"]
    rows = run(tmp_path, *names, "--blob-scale", "0.02")
    assert [row["benchmark"] for row in rows] == [*names, names[-1]]
    for row in rows:
        medians = row["medians"]
        assert isinstance(medians, dict)
        assert list(medians) == ["zeo", "zeolith"]
        assert all(value > 0 for value in medians.values())


@pytest.mark.long
@pytest.mark.parametrize(
    "name",
    [
        "blob-small-loads-up",
        "blob-small-loads-down",
        "blob-same-client-up",
        "blob-same-client-down",
    ],
)
def test_small_loads_are_timed_beside_a_transfer(tmp_path: Path, name: str) -> None:
    idle, middle, late, slowdown = run(tmp_path, name, "-c", "zeolith", "--blob-scale", "0.05")
    found = [row["medians"] for row in (idle, middle, late, slowdown)]
    assert all(isinstance(medians, dict) and medians["zeolith"] > 0 for medians in found)


def test_the_peak_is_that_since_it_was_forgotten() -> None:
    code = f"""
import sys
for line in sys.stdin:
    data = bytearray({_MEGABYTES} << 20) if "big" in line else None
    del data
    print("done", flush=True)
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None

        def peak(line: str) -> int:
            forget_peak(child.pid)
            print(line, file=child.stdin, flush=True)
            assert child.stdout is not None
            assert child.stdout.readline() == "done\n"
            return peak_memory(child.pid)

        small, big, again = peak("small"), peak("big"), peak("small")
        child.stdin.close()
        assert child.wait() == 0
    assert big - small > (_MEGABYTES - 4) << 20
    assert again - small < 4 << 20
    assert peak_memory(os.getpid()) > 0

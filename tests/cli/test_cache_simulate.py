"""``zeolith cache simulate``: what size of a cache would give which hit rate."""

from __future__ import annotations

import gzip
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from zeolith.cache.traces import EMPTY, RECORD, ZERO, Code
from zeolith.cli.main import FAILURE, OK, USAGE, main

NOON = 1_795_003_200
OBJECTS = 1_000


def record(time: int, code: int, oid: bytes, start: bytes, end: bytes, length: int) -> bytes:
    return RECORD.pack(time, length << 8 | code, len(oid), start, end) + oid


def some_records(seconds: int = 1800) -> bytes:
    """Return a trace of a cache that kept everything."""
    chance = random.Random(1)
    records = [record(NOON, Code.START, b"", ZERO, EMPTY, 0)]
    held: set[int] = set()
    tid = (1).to_bytes(8, "big")
    for n in range(4_000):
        number = int(chance.paretovariate(0.4)) % OBJECTS
        time, oid = NOON + n * seconds // 4_000, number.to_bytes(8, "big")
        if number in held:
            records.append(record(time, Code.LOAD_HIT, oid, tid, ZERO, 300))
        else:
            records.append(record(time, Code.LOAD_MISS, oid, ZERO, ZERO, 0))
            records.append(record(time, Code.STORE, oid, tid, ZERO, 300))
            held.add(number)
    return b"".join(records)


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "app.trace"
    path.write_bytes(some_records())
    return path


def simulate(*arguments: str) -> int:
    return main(["cache", "simulate", *arguments])


def table(out: str) -> list[list[float]]:
    """Return the numbers of the lines about sizes, of a cache without limit too."""
    found = []
    for line in out.splitlines():
        words = line.replace("no limit", "inf MB").split()
        if len(words) == 6 and words[1] == "MB":
            found.append([float(words[0]), *(float(word.rstrip("%")) for word in words[2:])])
    return found


def test_sizes_are_found(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert simulate(str(trace)) == OK
    out = capsys.readouterr().out
    assert "4,491 records, 4,000 loads of 490 revisions that take 0.1514 MB" in out
    assert "size      ZEO      LRU  Zeolith  optimum" in out
    rows = table(out)
    assert [row[0] for row in rows] == [0.0625, 0.125, 0.25, float("inf")]
    assert rows[-2] == [0.25, *rows[-1][1:]], "the largest size has room for everything"
    for _, zeo, lru, zeolith, optimum in rows[:-2]:
        assert max(zeo, lru, zeolith) < optimum <= rows[-1][1]
    for column in range(1, 5):
        rates = [row[column] for row in rows]
        assert rates == sorted(rates)


def test_sizes_that_are_asked_for(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert simulate("-s", "0.2", "--size", "0.1", "-s", "0.2", str(trace)) == OK
    assert [row[0] for row in table(capsys.readouterr().out)] == [0.1, 0.2, float("inf")]


def test_intervals(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert simulate("-s", "0.1", "-i", "10", str(trace)) == OK
    out = capsys.readouterr().out
    rows = [line.split() for line in out.splitlines() if line[:3] == "Nov"]
    loads = [int(row[3]) for row in rows]
    assert len(loads) == 3
    assert sum(loads) == 4_000
    (total,) = [line.split() for line in out.splitlines() if line.split()[:1] == ["all"]]
    for column in range(2, 6):
        mean = sum(n * float(row[column + 2][:-1]) for n, row in zip(loads, rows)) / 4_000
        assert float(total[column][:-1]) == pytest.approx(mean, abs=0.1)
    # The first interval begins with nothing.
    assert float(rows[0][4][:-1]) < float(rows[1][4][:-1])


def test_rearrange_is_for_zeo(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = []
    for share in ("0.5", "1"):
        assert simulate("-s", "0.1", "-r", share, str(trace)) == OK
        found.append(table(capsys.readouterr().out)[0])
    (_, eager, lru, _, optimum), (_, never, lru_too, _, optimum_too) = found
    assert eager > never
    assert (lru, optimum) == (lru_too, optimum_too)


@pytest.mark.parametrize("kind", ["svg", "png"])
def test_a_curve(trace: Path, tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"rates.{kind}"
    assert simulate("--plot", str(path), str(trace)) == OK
    assert path.read_bytes().startswith({"svg": b"<svg", "png": b"\x89PNG"}[kind])


def test_gzip(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "app.trace.gz"
    path.write_bytes(gzip.compress(some_records()))
    assert simulate("-s", "0.1", str(path)) == OK
    assert len(table(capsys.readouterr().out)) == 2


def test_a_trace_that_is_cut_off(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace.write_bytes(trace.read_bytes()[:-3])
    assert simulate("-s", "0.1", str(trace)) == OK
    out, err = capsys.readouterr()
    assert "ends within a record" in err
    assert len(table(out)) == 2


def test_no_trace_and_no_loads(
    tmp_path: Path, trace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    other.write_text("<html><body>There is no such page.</body></html>")
    assert simulate(str(other)) == FAILURE
    assert "it is no trace of a client's cache" in capsys.readouterr().err
    other.write_bytes(trace.read_bytes()[:26])
    assert simulate(str(other)) == FAILURE
    out, err = capsys.readouterr()
    assert err == f"zeolith: {other}: no object was loaded\n"
    assert not out


def test_wrong_use(tmp_path: Path, trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # Said before the work is done, which may take long.
    assert simulate("--plot", str(tmp_path / "rates.pdf"), str(trace)) == USAGE
    out, err = capsys.readouterr()
    assert "let it end in .svg or .png" in err
    assert not out
    for option, value in (("-s", "0.001"), ("-r", "2"), ("-i", "0")):
        assert simulate(option, value, str(trace)) == USAGE
        assert option in capsys.readouterr().err
    assert simulate(str(tmp_path / "none")) == USAGE


def test_an_interrupt_ends_it(trace: Path) -> None:
    command = [sys.executable, "-m", "zeolith", "cache", "simulate", str(trace)]
    sizes = [option for n in range(1, 500) for option in ("-s", str(n / 10))]
    with subprocess.Popen(
        [*command, *sizes], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        while b" MB  " not in process.stdout.readline():
            pass
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == FAILURE
    assert err == b"zeolith: interrupted\n"

"""``zeolith cache stats``: what traces of Zeolith and of ZEO say, as ZEO's own tool has it."""

from __future__ import annotations

import gzip
import io
import re
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from zeolith.cache.traces import EMPTY, RECORD, ZERO, Code
from zeolith.cli.main import FAILURE, OK, USAGE, main

NOON = 1_795_003_200
"""A time that no interval of an hour or less goes across, whatever the time zone."""


def record(
    time: int, code: int, oid: int = 0, start: bytes = ZERO, end: bytes = ZERO, length: int = 0
) -> bytes:
    name = b"" if code == Code.START else oid.to_bytes(8, "big")
    return RECORD.pack(time, length << 8 | code, len(name), start, end) + name


def some_records() -> bytes:
    records = [record(NOON, Code.START, end=EMPTY)]
    for n in range(40):
        time, tid = NOON + 60 * n, n.to_bytes(8, "big")
        records += [
            record(time, Code.LOAD_MISS, n),
            record(time, Code.STORE, n, tid, length=100 + n % 2),
            record(time, Code.LOAD_HIT, n, tid, length=100 + n % 2),
            record(time, Code.LOAD_EARLIER_MISS, n, end=tid),
        ]
        if n % 4 == 0:
            records.append(record(time, Code.INVALIDATE_KEEP, n, tid))
            records.append(record(time, Code.INVALIDATE_MISS, n + 1, tid))
    return b"".join(records)


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "app.trace"
    path.write_bytes(some_records())
    return path


def numbers_of(text: str) -> list[list[str]]:
    """Return the numbers of each line that is one of an interval with loads."""
    found = []
    for line in text.splitlines():
        match = re.match(r"\w+ \d+ \d\d:\d\d-\S+ +(\d+ +\d+ +\d+ +\d+ +\S+)$", line)
        if match and not match[1].startswith("0 "):
            found.append(match[1].split())
    return found


def stats(*arguments: str) -> int:
    return main(["cache", "stats", *arguments])


def test_intervals_and_totals(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert stats(str(trace)) == OK
    out = capsys.readouterr().out
    assert numbers_of(out) == [
        ["45", "15", "4", "15", "33.3%"],
        ["45", "15", "4", "15", "33.3%"],
        ["30", "10", "2", "10", "33.3%"],
    ]
    assert "Read 181 trace records" in out
    assert "Duration:   2,340 seconds" in out
    assert "Data recs:  80 (44.2%), average size 100 bytes" in out
    assert "Hit rate:   33.3% (load hits / loads)" in out
    assert re.search(r"^ +10  1c  invalidate \(hit, kept", out, re.M)


@pytest.mark.parametrize("options", [[], ["-i", "5"], ["-i", "60"], ["-q"], ["-S"], ["-h", "-s"]])
def test_the_numbers_are_those_of_zeos_tool(
    trace: Path, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    from ZEO.scripts import cache_stats

    # These lines tell a time, or put the same in other words; and -q leaves the heading there.
    strange = re.compile(r"^(Read|Data recs|Unique sizes|Histogram|\s+\d+  [0-9a-f]{2} )|Restart")

    def facts(text: str) -> list[list[str]]:
        lines = [line.split() for line in text.splitlines() if not strange.search(line)]
        return [line for line in lines if line and line[0] not in ("Nov", "loads")]

    assert stats(*options, str(trace)) == OK
    ours = capsys.readouterr().out
    assert cache_stats.main([*options, str(trace)]) is None
    theirs = capsys.readouterr().out
    assert facts(ours) == facts(theirs)
    assert numbers_of(ours) == numbers_of(theirs)
    assert bool(numbers_of(ours)) is ("-q" not in options)
    for number in re.findall(r"^ +[\d,]+  [0-9a-f]{2} ", theirs, re.M):
        assert number in ours


def test_a_trace_that_zeo_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from ZEO.cache import ClientCache

    monkeypatch.setenv("ZEO_CACHE_TRACE", "1")
    cache = ClientCache(str(tmp_path / "zeo.zec"), 100_000)
    for n in range(300):
        oid, tid = (n % 30 + 1).to_bytes(8, "big"), (n + 1).to_bytes(8, "big")
        if cache.load(oid) is None:
            cache.store(oid, tid, None, b"x" * 300)
        elif n % 5 == 0:
            cache.invalidate(oid, tid)
        elif n % 7 == 0:
            cache.invalidate(oid, None)
            cache.store(oid, tid, tid + b"", b"y" * 400)
    cache.close()
    assert stats("-i", "60", str(tmp_path / "zeo.zec.trace")) == OK
    ours = capsys.readouterr().out
    from ZEO.scripts import cache_stats

    assert cache_stats.main(["-i", "60", str(tmp_path / "zeo.zec.trace")]) is None
    theirs = capsys.readouterr().out
    assert numbers_of(ours) == numbers_of(theirs)
    assert re.findall(r"Hit rate:.*", ours) == re.findall(r"Hit rate:.*", theirs)


def test_each_record(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert stats("-v", "-S", str(trace)) == OK
    out = capsys.readouterr().out
    assert len(re.findall(r"^\w+ \d+ \d\d:\d\d:\d\d [0-9a-f]{2} ", out, re.M)) == 181
    assert re.search(r" 52 +2 0000000000000002 0000000000000000 - 100$", out, re.M)
    assert re.search(r" 00 +- 0{16} f{16} -$", out, re.M)


def test_histograms(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert stats("-q", "-S", "-h", "-s", str(trace)) == OK
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["3", "40", "100.0%", "100.0%", "100.0%"] in lines
    assert lines.count(["100", "20", "20"]) == 2
    assert lines.count(["101", "20", "20"]) == 2


@pytest.mark.parametrize("is_compressed", [False, True])
def test_standard_input_and_gzip(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    is_compressed: bool,
) -> None:
    data = gzip.compress(some_records()) if is_compressed else some_records()

    class Input:
        buffer = io.BufferedReader(io.BytesIO(data))

    monkeypatch.setattr("sys.stdin", Input)
    assert stats("-") == OK
    assert "Read 181 trace records" in capsys.readouterr().out
    path = tmp_path / "app.trace.gz"
    path.write_bytes(data)
    assert stats(str(path)) == OK
    assert "Read 181 trace records" in capsys.readouterr().out


def test_a_trace_that_is_still_being_written(
    trace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace.write_bytes(trace.read_bytes()[:-5])
    assert stats(str(trace)) == OK
    out, err = capsys.readouterr()
    assert "Read 180 trace records" in out
    assert "ends within a record at byte 6,112; this is about the 180 records before" in err


def test_damage_in_the_middle(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = trace.read_bytes()
    trace.write_bytes(data[:1046] + b"\xff" * 7 + data[1046:])
    assert stats(str(trace)) == FAILURE
    out, err = capsys.readouterr()
    assert "Read 31 trace records" in out
    assert "there is no record of a cache trace at byte 1,046" in err
    assert "--check" in err
    assert stats("-X", str(trace)) == OK
    out, err = capsys.readouterr()
    assert "Read 181 trace records" in out
    assert "7 bytes that are no records were passed over" in err


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "there are no records"),
        (bytes(64), "there are no records"),
        (b"<html><body>There is no such page.</body></html>", "it is no trace of a client's cache"),
        (gzip.compress(b"Good morning, good evening, and good night"), "it is no trace"),
    ],
    # Not the data: what gzip writes has the time in it.
    ids=["nothing", "zeros", "page", "compressed"],
)
def test_no_trace(
    tmp_path: Path, data: bytes, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "what"
    path.write_bytes(data)
    assert stats(str(path)) == FAILURE
    err = capsys.readouterr().err
    assert err.startswith(f"zeolith: {path}: ")
    assert said in err


def test_wrong_use(tmp_path: Path, trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert stats(str(tmp_path / "none")) == USAGE
    assert f"trace {tmp_path / 'none'}: cannot be read: No such file" in capsys.readouterr().err
    assert stats(str(tmp_path)) == USAGE
    assert "Is a directory" in capsys.readouterr().err
    assert stats("-v", "-q", str(trace)) == USAGE
    assert "--verbose and --quiet exclude each other" in capsys.readouterr().err
    assert stats("-i", "90", str(trace)) == USAGE
    assert "--interval" in capsys.readouterr().err
    assert stats("-i", "5", "-q", str(trace)) == USAGE
    assert "--interval has no effect with --quiet" in capsys.readouterr().err
    assert stats() == USAGE


def test_an_interrupt_shows_what_was_read() -> None:
    command = [sys.executable, "-m", "zeolith", "cache", "stats", "-v", "-"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        source, out, err = process.stdin, process.stdout, process.stderr
        assert source is not None
        assert out is not None
        assert err is not None

        def feed() -> None:
            with suppress(BrokenPipeError), source:
                while True:
                    source.write(some_records())
                    source.flush()

        feeder = threading.Thread(target=feed)
        feeder.start()
        # A stream is shown as it comes.
        while b" 22 " not in out.readline():
            pass
        process.send_signal(signal.SIGINT)
        shown = out.read()
        said = err.read()
        feeder.join()
    assert process.returncode == FAILURE
    assert said.startswith(b"zeolith: standard input: interrupted; this is about the ")
    assert b"Hit rate: " in shown

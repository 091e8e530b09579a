"""What the benchmarks make of their samples, and that they run at all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from benchmarks.__main__ import main
from benchmarks.products import BARE, Contender, parse_contender
from benchmarks.report import as_json, format_rows, make_rows
from benchmarks.run import Results, Sample
from benchmarks.suite import BENCHMARKS, Benchmark, Metric, scaled
from benchmarks.workloads import WORKLOADS

ZEO = Contender("zeo", "zeo")
ZEOLITH = Contender("zeolith", "zeolith")
MIXED = Contender("zeolith", "zeo")
METRIC = Metric("title", "µs", 1e6, 2.0)
BENCHMARK = Benchmark("key", "cold_load", 1, (METRIC,), floor=BARE)


def samples(*microseconds: float, foreign: float = 0.0) -> list[Sample]:
    return [Sample({"": time / 1e6}, foreign, 1e-6, 2e-6) for time in microseconds]


def test_ratios_are_of_medians_and_to_the_first_contender() -> None:
    results = Results(
        BENCHMARK,
        {ZEO: samples(90, 100, 500), MIXED: samples(50, 49, 51), ZEOLITH: samples(40, 20, 10)},
    )
    (row,) = make_rows(results)
    assert row.medians == pytest.approx({ZEO: 100, MIXED: 50, ZEOLITH: 20})
    assert row.ratios == pytest.approx({MIXED: 2, ZEOLITH: 5})
    assert row.cpu == pytest.approx({ZEO: 3, MIXED: 3, ZEOLITH: 3})
    assert row.verdict == "met"


@pytest.mark.parametrize(("time", "verdict"), [(49, "met"), (50, "met"), (51, "MISSED")])
def test_the_target_is_the_least_ratio(time: float, verdict: str) -> None:
    (row,) = make_rows(Results(BENCHMARK, {ZEO: samples(100), ZEOLITH: samples(time)}))
    assert row.verdict == verdict


@pytest.mark.parametrize(("time", "verdict"), [(30, "met"), (31, "MISSED")])
def test_a_limit_is_for_zeolith_alone(time: float, verdict: str) -> None:
    limited = BENCHMARK._replace(metrics=(METRIC._replace(target=None, limit=30),))
    (row,) = make_rows(Results(limited, {ZEO: samples(100), ZEOLITH: samples(time)}))
    assert row.verdict == verdict
    assert row.aim == "30 µs at most"
    both = BENCHMARK._replace(metrics=(METRIC._replace(target=4, limit=30),))
    (row,) = make_rows(Results(both, {ZEO: samples(100), ZEOLITH: samples(time - 5)}))
    assert row.verdict == ("met" if time - 5 <= 25 else "MISSED")
    assert row.aim == ">= 4, 30 µs at most"


def test_without_zeolith_or_a_target_there_is_no_verdict() -> None:
    (row,) = make_rows(Results(BENCHMARK, {ZEO: samples(100), MIXED: samples(10)}))
    assert row.verdict == ""
    aimless = BENCHMARK._replace(metrics=(METRIC._replace(target=None),))
    (row,) = make_rows(Results(aimless, {ZEO: samples(100), ZEOLITH: samples(10)}))
    assert row.verdict == ""


def test_disturbed_samples_count_only_if_there_are_too_few_others() -> None:
    loud = samples(900, 900, 900, foreign=0.5)
    (row,) = make_rows(
        Results(BENCHMARK, {ZEO: samples(90, 110) + loud, ZEOLITH: samples(10) + loud})
    )
    assert row.medians == pytest.approx({ZEO: 100, ZEOLITH: 900})
    assert (row.disturbed, row.samples) == (6, 9)


def test_the_floor_is_no_contender() -> None:
    results = Results(BENCHMARK, {ZEO: samples(100), ZEOLITH: samples(10), BARE: samples(5)})
    (row,) = make_rows(results)
    assert row.floor == pytest.approx(5)
    assert list(row.medians) == [ZEO, ZEOLITH]


def test_the_table_and_the_json_say_the_same() -> None:
    rows = make_rows(Results(BENCHMARK, {ZEO: samples(100), ZEOLITH: samples(10)}))
    head, _, line = format_rows(rows).splitlines()
    assert head.split()[:4] == ["unit", "zeo", "zeolith", "floor"]
    assert line.split()[:5] == ["title", "µs", "100", "10.0", "10.00"]
    (found,) = json.loads(json.dumps(as_json(rows)))
    assert found["ratios"] == pytest.approx({"zeolith": 10})
    assert found["verdict"] == "met"


@pytest.mark.parametrize("text", ["zeo", "zeolith", "zeolith:zeo", "zeo:zeolith"])
def test_contenders_are_written_as_they_are_named(text: str) -> None:
    assert str(parse_contender(text)) == text


@pytest.mark.parametrize("text", ["", "postgres", "zeo:postgres", "zeolith:file"])
def test_unknown_contenders_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected zeo"):
        parse_contender(text)


def test_every_benchmark_has_its_workload_and_a_name_of_its_own() -> None:
    assert {benchmark.workload for benchmark in BENCHMARKS} <= set(WORKLOADS)
    assert len({benchmark.key for benchmark in BENCHMARKS}) == len(BENCHMARKS)


def test_a_run_measures_and_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "results.json"
    arguments = ["cache-hit", "-c", "zeolith", "-r", "1", "--patience", "0", "--dir", str(tmp_path)]
    assert main([*arguments, "--json", str(file)]) == 0
    (row,) = json.loads(file.read_text())["rows"]
    assert 0 < row["medians"]["zeolith"] < 1000
    assert "cache hit" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


def test_server_cpu_is_a_number_of_every_benchmark(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    small = ["-r", "1", "--patience", "0", "--dir", str(tmp_path), "--blob-scale", "0.01"]
    status = main(["blob-up", "blob-down", *small, "-c", "zeolith", "--json", str(file)])
    assert status == 0
    rows = json.loads(file.read_text())["rows"]
    assert [row["benchmark"] for row in rows] == ["blob-up"] * 2 + ["blob-down"] * 2
    assert all(row["medians"]["zeolith"] >= 0 for row in rows)
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


def test_what_is_scaled_stays_the_same_otherwise() -> None:
    half = scaled(BENCHMARK._replace(amount=9, beside=("upload_until_told", 4)), 0.5)
    assert half == BENCHMARK._replace(amount=4, beside=("upload_until_told", 2))
    assert scaled(half, 0.01).amount == 1
    assert scaled(half, 0.01).beside == ("upload_until_told", 1)
    assert scaled(BENCHMARK, 1.0) == BENCHMARK


@pytest.mark.parametrize("factor", ["0", "-1", "26", "nan"])
def test_blobs_are_not_scaled_beyond_reason(
    factor: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([f"--blob-scale={factor}"])
    assert "not above 0 and at most 25" in capsys.readouterr().err


def test_an_unknown_benchmark_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["nonsense"])
    assert exit_.value.code == 2
    assert "no such benchmark: nonsense" in capsys.readouterr().err

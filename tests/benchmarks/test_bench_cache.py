"""The benchmark of the caches alone runs, and measures the same of both."""

from __future__ import annotations

import pytest

from benchmarks import bench_cache


def test_it_measures_the_same_of_both_caches(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench_cache, "COUNT", 400)
    monkeypatch.setattr(bench_cache, "SIZE", 200 << 10)
    assert bench_cache.main(["-r", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["microseconds", "ZEO", "Zeolith", "ratio"]
    names = {line[:32].strip() for line in lines[1:]}
    assert names >= {"miss", "hit, 300 bytes", "hit, earlier revision", "invalidate, held"}

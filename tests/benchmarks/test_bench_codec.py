"""The benchmark of the encodings runs, and measures what it says."""

from __future__ import annotations

import pytest
from benchmarks.bench_codec import measure, zeo_steps, zeolith_steps

from zeolith.protocol.greeting import ZEO_CODINGS, Coding


@pytest.mark.parametrize("coding", Coding)
def test_every_step_can_be_taken(coding: Coding) -> None:
    works = dict(zeolith_steps(coding))
    assert {work: len(steps) for work, steps in works.items()} == {
        "load": 4,
        "commit": 16,
        "loads": 4,
    }
    for steps in works.values():
        assert all(step() is not None for step in steps)


@pytest.mark.parametrize("coding", ZEO_CODINGS)
def test_zeo_s_own(coding: Coding) -> None:
    assert all(step() is not None for step in zeo_steps(coding)["load"])


def test_measuring_counts_every_step() -> None:
    taken: list[int] = []
    measure([lambda: taken.append(1), lambda: taken.append(2)], count=5, rounds=3)
    assert (taken.count(1), taken.count(2)) == (15, 15)

"""What stays in simulated caches: each way is what it is called."""

from __future__ import annotations

import random
from array import array
from collections.abc import Sequence
from functools import partial
from itertools import product
from pathlib import Path

import pytest

from zeolith.cache import MINIMUM_SIZE
from zeolith.cache.policies import (
    Circle,
    Optimum,
    PolicyMaker,
    Recent,
    Unlimited,
    Zeolith,
    make_policies,
    simulate,
)
from zeolith.cache.traces import open_trace
from zeolith.cache.workload import STEP_BITS, Step, Workload, WorkloadReader
from zeolith.errors import ConfigurationError

ALL: dict[str, PolicyMaker] = {**make_policies(), "no limit": Unlimited}
MODELS: dict[str, PolicyMaker] = {
    "circle": partial(Circle, overhead=0, rearrange=0.8),
    "recent": partial(Recent, overhead=0),
    "optimum": partial(Optimum, overhead=0),
}


def of(steps: Sequence[tuple[Step, int]], lengths: Sequence[int]) -> Workload:
    workload = Workload.of_reads([], lengths)
    workload.steps = array("Q", [number << STEP_BITS | step for step, number in steps])
    return workload


def hits(make: PolicyMaker, reads: str, room: int, lengths: Sequence[int] = (1,) * 10) -> str:
    workload = Workload.of_reads(map(int, reads), lengths)
    return "".join("+" if hit else "." for hit in simulate(make, workload, room))


def test_the_least_recently_used_goes() -> None:
    assert hits(MODELS["recent"], "0120301", 3) == "...+.+."


def test_the_circle_drops_the_oldest_and_copies_what_is_far_back() -> None:
    assert hits(MODELS["circle"], "0123012", 3) == "......."
    # 0 is read while it is the oldest of five, so it is copied; 1 goes then.
    assert hits(MODELS["circle"], "01234" + "0" + "5" + "0" + "1", 5) == ".....+.+."
    # Without that it would go.
    plain = partial(Circle, overhead=0, rearrange=1.0)
    assert hits(plain, "01234" + "0" + "5" + "0", 5) == ".....+.."


def test_the_optimum_is_best() -> None:
    """Of all ways to choose, tried out one by one."""
    chance = random.Random(5)

    def best(reads: Sequence[int], room: int) -> int:
        states = {frozenset[int](): 0}
        for read in reads:
            following: dict[frozenset[int], int] = {}
            for held, count in states.items():
                choices = [held]
                if read not in held:
                    choices.append(held | {read})
                    choices += [held - {gone} | {read} for gone in held]
                for choice in choices:
                    if len(choice) <= room:
                        gained = count + (read in held)
                        following[choice] = max(following.get(choice, 0), gained)
            states = following
        return max(states.values())

    for _ in range(30):
        reads = [chance.randrange(6) for _ in range(20)]
        for room in (1, 2, 3):
            workload = Workload.of_reads(reads, [1] * 6)
            assert sum(simulate(MODELS["optimum"], workload, room)) == best(reads, room)


@pytest.mark.parametrize("name", ALL)
def test_steps(name: str) -> None:
    load, store, end, miss, clear = Step.LOAD, Step.STORE, Step.END, Step.MISS, Step.CLEAR
    before = [(store, 0), (load, 0), (miss, 0), (load, 1), (load, 1), (end, 1), (load, 1)]
    after = [(clear, 0), (load, 0), (load, 1), (load, 1), (load, 0)]
    workload = of(before + after, [100, 100])
    workload.ends[1] = 2
    assert list(simulate(ALL[name], workload, 100_000)) == [1, 0, 0, 1, 1, 0, 0, 1, 1]


@pytest.mark.parametrize("name", ALL)
def test_what_is_larger_than_the_cache(name: str) -> None:
    workload = of([(Step.LOAD, 0), (Step.LOAD, 1), (Step.LOAD, 0), (Step.LOAD, 1)], [10**6, 100])
    found = list(simulate(ALL[name], workload, MINIMUM_SIZE))
    assert found == ([0, 0, 1, 1] if name == "no limit" else [0, 0, 0, 1])


def test_ours_is_told_what_has_ended() -> None:
    """Revisions of one object: what is current and what is not, by tids as in a trace."""
    workload = of(
        [(Step.STORE, 0), (Step.END, 0), (Step.STORE, 1), (Step.LOAD, 0), (Step.LOAD, 1)],
        [100, 100],
    )
    workload.oids = array("Q", [7, 7])
    workload.starts = array("Q", [10, 20])
    workload.ends = array("Q", [20, 0])
    assert list(simulate(Zeolith, workload, 100_000)) == [1, 1]
    late = of([(Step.END, 0), (Step.STORE, 1), (Step.LOAD, 0), (Step.LOAD, 0)], [100, 100])
    late.oids, late.starts, late.ends = workload.oids, workload.starts, workload.ends
    assert list(simulate(Zeolith, late, 100_000)) == [0, 1]


def test_traces_of_the_same_time_one_behind_the_other() -> None:
    """What ended in the first is current again in the second: the hit rates are the same."""
    chance = random.Random(2)
    steps = [(Step.CLEAR, 0)]
    steps += [(Step.LOAD, int(chance.paretovariate(0.4)) % 500) for _ in range(8_000)]
    steps += [(Step.END, revision) for revision in range(500)]
    workload = of(steps * 2, [100] * 500)
    workload.ends = array("Q", [2]) * 500
    found = simulate(Zeolith, workload, 20_000)
    first, second = sum(found[:8_000]), sum(found[8_000:])
    assert abs(first - second) < 0.01 * first


def test_no_room_for_the_temporary_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def pwrite(*args: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.pwrite", pwrite)
    with pytest.raises(ConfigurationError, match="has no room for a cache of 100,000 bytes"):
        simulate(Zeolith, Workload.of_reads([0], [100]), 100_000)


def test_nothing_is_better_than_the_optimum_but_what_has_no_limit() -> None:
    chance = random.Random(3)
    lengths = [100] * 2_000
    reads = [int(chance.paretovariate(0.3)) % 2_000 for _ in range(10_000)]
    workload = Workload.of_reads(reads, lengths)
    for room in (10_000, 50_000):
        counts = {name: sum(simulate(make, workload, room)) for name, make in ALL.items()}
        assert counts["no limit"] > counts["optimum"] > counts["Zeolith"] > counts["ZEO"] > 0


@pytest.mark.parametrize(("size", "rearrange"), list(product((0.1, 0.4), (0.8, 0.3))))
def test_the_circle_does_what_zeos_simulation_does(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    size: float,
    rearrange: float,
) -> None:
    """On a trace that ZEO has made; its simulation leaves a cold beginning out of its totals."""
    from ZEO.cache import ClientCache
    from ZEO.scripts import cache_simul

    monkeypatch.setenv("ZEO_CACHE_TRACE", "1")
    path = str(tmp_path / "zeo.zec")
    cache = ClientCache(path, 1 << 20)
    chance, tid = random.Random(1), 1
    current: dict[int, int] = {}
    for _ in range(8_000):
        number = int(chance.paretovariate(0.5)) % 3_000
        oid = number.to_bytes(8, "big")
        if cache.load(oid) is None:
            start = current.setdefault(number, 1).to_bytes(8, "big")
            cache.store(oid, start, None, b"x" * (50 + number % 500))
        elif chance.random() < 0.05:
            tid += 1
            current[number] = tid
            cache.invalidate(oid, tid.to_bytes(8, "big"))
            cache.store(oid, tid.to_bytes(8, "big"), None, b"x" * (50 + number % 500))
    cache.close()
    reader = WorkloadReader()
    with open_trace(path + ".trace") as events:
        for event in events:
            reader.add(event)
    workload = reader.finish()
    ours = simulate(partial(Circle, rearrange=rearrange), workload, int(size * (1 << 20)))
    cache_simul.main(["-s", str(size), "-r", str(rearrange), "-i", "60", path + ".trace"])
    words = capsys.readouterr().out.splitlines()[-1].split()
    loads, theirs = int(words[4]), int(words[5])
    assert loads == len(ours) == 8_000
    assert abs(sum(ours) - theirs) < 0.01 * loads

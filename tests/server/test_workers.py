"""Threads beside the loop, and the one way back."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.support.waiting import DEADLINE

from zeolith.server.inbox import Inbox
from zeolith.server.loops import handle_loop_error, new_event_loop
from zeolith.server.workers import BATCH_COST, BATCH_JOBS, Lane, Share, WorkerPool


class LoopBed:
    """A loop that runs until a condition holds."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.inbox = Inbox()
        self.inbox.open(loop)
        self.pools: list[WorkerPool] = []

    def pool(self, size: int) -> WorkerPool:
        pool = WorkerPool("test", size, self.inbox)
        self.pools.append(pool)
        return pool

    def until(self, condition: Callable[[], object]) -> None:
        async def wait() -> None:
            while not condition():
                await asyncio.sleep(0.001)

        self.loop.run_until_complete(asyncio.wait_for(wait(), DEADLINE))


@pytest.fixture
def bed(loop: Any) -> Iterator[LoopBed]:
    found = LoopBed(new_event_loop(loop))
    yield found
    found.inbox.close()
    for pool in found.pools:
        pool.close()
        assert pool.join(DEADLINE)
    found.loop.close()


def test_results_and_errors_come_back_to_the_loop(bed: LoopBed) -> None:
    outcomes: list[tuple[Any, Any, int]] = []

    def done(result: Any, error: Exception | None) -> None:
        outcomes.append((result, error, threading.get_ident()))

    def fail() -> None:
        raise OSError("disk")

    pool = bed.pool(1)
    pool.submit(threading.get_ident, done)
    pool.submit(fail, done)
    bed.until(lambda: len(outcomes) == 2)
    (thread, none, here), (nothing, error, here_too) = outcomes
    assert thread != here == here_too == threading.get_ident()
    assert none is nothing is None
    assert isinstance(error, OSError)


def test_one_thread_keeps_the_order(bed: LoopBed) -> None:
    order: list[int] = []
    results: list[int] = []
    pool = bed.pool(1)
    for number in range(100):
        pool.submit(lambda n=number: order.append(n), lambda r, e, n=number: results.append(n))  # type: ignore[misc]
    bed.until(lambda: len(results) == 100)
    assert order == results == list(range(100))
    assert pool.is_idle


def test_as_many_threads_as_allowed_and_no_more(bed: LoopBed) -> None:
    pool = bed.pool(3)
    barrier = threading.Barrier(3)
    ended: list[Any] = []
    for _ in range(9):
        pool.submit(lambda: barrier.wait(DEADLINE), lambda r, e: ended.append(e))
    bed.until(lambda: len(ended) == 9)
    assert ended == [None] * 9
    assert sum(thread.name.startswith("test-") for thread in threading.enumerate()) == 3


def test_closing_drops_what_waits_and_lets_end_what_runs(bed: LoopBed) -> None:
    pool = bed.pool(1)
    started, go = threading.Event(), threading.Event()
    ran: list[str] = []

    def first() -> None:
        started.set()
        assert go.wait(DEADLINE)
        ran.append("first")

    pool.submit(first)
    assert started.wait(DEADLINE)
    pool.submit(lambda: ran.append("second"))
    assert not pool.is_idle
    pool.close()
    pool.close()
    pool.submit(lambda: ran.append("third"))
    assert not pool.join(0.01)
    go.set()
    assert pool.join(DEADLINE)
    assert ran == ["first"]


def test_a_job_that_nobody_waits_for_is_logged_when_it_fails(
    bed: LoopBed, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise ValueError("nobody asked")

    pool = bed.pool(1)
    pool.submit(fail)
    ended: list[Any] = []
    pool.submit(lambda: None, lambda r, e: ended.append(r))
    bed.until(lambda: ended)
    assert "nobody asked" in caplog.text


def test_an_error_in_one_callback_does_not_lose_the_others(
    bed: LoopBed, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[int] = []

    def fail() -> None:
        raise RuntimeError("defect")

    bed.inbox.post(fail)
    bed.inbox.post(lambda: seen.append(1))
    bed.until(lambda: seen)
    assert "defect" in caplog.text


def test_what_is_posted_before_the_loop_runs_is_delivered(loop: Any) -> None:
    inbox = Inbox()
    seen: list[int] = []
    inbox.post(lambda: seen.append(1))
    event_loop = new_event_loop(loop)
    try:
        inbox.open(event_loop)
        event_loop.run_until_complete(asyncio.sleep(0))
    finally:
        event_loop.close()
    assert seen == [1]
    # The loop has ended: nothing happens, and nobody is hurt.
    inbox.post(lambda: seen.append(2))
    inbox.close()
    inbox.post(lambda: seen.append(3))
    assert seen == [1]


def test_r1_posts_are_delivered_in_order(bed: LoopBed) -> None:
    """Whatever the loop does with its callbacks."""
    seen: list[int] = []
    count = 3000

    def post() -> None:
        for number in range(count):
            bed.inbox.post(lambda n=number: seen.append(n))  # type: ignore[misc]

    thread = threading.Thread(target=post)
    thread.start()
    bed.until(lambda: len(seen) == count)
    thread.join()
    assert seen == list(range(count))


def test_a_lane_runs_one_job_at_a_time_in_order(bed: LoopBed) -> None:
    lane = Lane(bed.pool(4))
    running: list[int] = []
    peaks: list[int] = []
    order: list[str] = []

    def job(number: int) -> Callable[[], None]:
        def run() -> None:
            running.append(number)
            peaks.append(len(running))
            running.remove(number)

        return run

    for number in range(20):
        lane.submit(job(number), lambda r, e, n=number: order.append(f"job {n}"), cost=10)  # type: ignore[misc]
    assert lane.cost == 200
    assert not lane.is_idle
    bed.until(lambda: lane.is_idle)
    assert peaks == [1] * 20
    assert lane.cost == 0
    assert order == [f"job {n}" for n in range(20)]


def test_a_lane_forgets_what_costs_and_has_not_begun(bed: LoopBed) -> None:
    pool = bed.pool(1)
    busy, free = threading.Event(), threading.Event()

    def occupy() -> None:
        busy.set()
        free.wait(20)

    pool.submit(occupy)
    assert busy.wait(20)
    lane = Lane(pool)
    ran: list[str] = []
    ended: list[str] = []

    def add(name: str, cost: int) -> None:
        lane.submit(lambda: ran.append(name), lambda r, e: ended.append(name), cost)

    add("handed to the pool", 10)
    add("cheap", 0)
    add("waiting", 10)
    lane.forget()
    assert lane.cost == 0
    add("later", 10)
    free.set()
    bed.until(lambda: lane.is_idle)
    assert ran == ["cheap", "later"]
    # Whoever waits for an end learns of it.
    assert ended == ["handed to the pool", "cheap", "waiting", "later"]
    assert lane.cost == 0


def test_a_lane_takes_many_short_jobs_to_a_thread_at_once(bed: LoopBed) -> None:
    pool = bed.pool(1)
    submitted = pool.submit
    times: list[int] = []

    def count(job: Any, done: Any = None) -> None:
        times.append(1)
        submitted(job, done)

    pool.submit = count  # type: ignore[method-assign]
    lane = Lane(pool)
    ended: list[object] = []
    go_on = threading.Event()
    lane.submit(lambda: go_on.wait(20), lambda r, e: ended.append(r))

    def fail() -> None:
        raise ValueError

    for number in range(BATCH_JOBS):
        job = fail if number == 3 else lambda number=number: number
        lane.submit(job, lambda r, e: ended.append(r if e is None else type(e)))
    lane.submit(lambda: "large", lambda r, e: ended.append(r), BATCH_COST)
    lane.submit(lambda: "after it", lambda r, e: ended.append(r), 1)
    lane.submit(lambda: "last", lambda r, e: ended.append(r))
    go_on.set()
    bed.until(lambda: lane.is_idle)
    numbers: list[object] = list(range(BATCH_JOBS))
    numbers[3] = ValueError
    assert ended == [True, *numbers, "large", "after it", "last"]
    # The first one, those that were there when it ended, the large one, and the rest.
    assert len(times) == 4


def test_a_lane_forgets_the_rest_of_what_a_thread_is_at(bed: LoopBed) -> None:
    lane = Lane(bed.pool(1))
    begun, go_on, later = threading.Event(), threading.Event(), threading.Event()
    ran: list[str] = []
    ended: list[str] = []

    def add(name: str, cost: int, work: Callable[[], object] = lambda: None) -> None:
        def job() -> None:
            work()
            ran.append(name)

        lane.submit(job, lambda r, e: ended.append(name), cost)

    def begin() -> None:
        begun.set()
        go_on.wait(20)

    add("first", 0, lambda: later.wait(20))
    add("begun", 10, begin)
    add("not begun", 10)
    add("cheap", 0)
    later.set()
    bed.until(begun.is_set)
    lane.forget()
    assert lane.cost == 0
    add("new", 7)
    assert lane.cost == 7
    go_on.set()
    bed.until(lambda: lane.is_idle)
    assert ran == ["first", "begun", "cheap", "new"]
    assert ended == ["first", "begun", "not begun", "cheap", "new"]
    assert lane.cost == 0


def test_a_job_that_has_begun_is_not_forgotten(bed: LoopBed) -> None:
    lane = Lane(bed.pool(1))
    begun, go_on = threading.Event(), threading.Event()
    ended: list[Any] = []

    def job() -> str:
        begun.set()
        go_on.wait(20)
        return "done"

    lane.submit(job, lambda r, e: ended.append(r), 10)
    assert begun.wait(20)
    lane.forget()
    go_on.set()
    bed.until(lambda: lane.is_idle)
    assert ended == ["done"]
    assert lane.cost == 0


def test_a_share_is_not_more_than_that(bed: LoopBed) -> None:
    pool = bed.pool(4)
    share = Share(pool, 2)
    barrier = threading.Barrier(2)
    lock = threading.Lock()
    results: list[tuple[Any, Any]] = []
    running = [0, 0]  # now, and at most

    def job() -> int:
        with lock:
            running[0] += 1
            running[1] = max(running)
        number = barrier.wait(DEADLINE)
        with lock:
            running[0] -= 1
        return number

    for _ in range(6):
        share.submit(job, lambda r, e: results.append((r, e)))
    bed.until(lambda: len(results) == 6)
    assert sorted(results) == [(0, None)] * 3 + [(1, None)] * 3
    assert running == [0, 2]


def test_a_share_forgets_what_has_not_begun(bed: LoopBed) -> None:
    share = Share(bed.pool(4), 1)
    go = threading.Event()
    results: list[tuple[str, Any, Any]] = []
    share.submit(lambda: go.wait(DEADLINE), lambda r, e: results.append(("first", r, e)))
    share.submit(lambda: "ran", lambda r, e: results.append(("second", r, e)))
    share.forget()
    assert results == [("second", None, None)]
    go.set()
    bed.until(lambda: len(results) == 2)
    assert results[1] == ("first", True, None)


def test_a_lane_goes_on_after_a_defect(bed: LoopBed, caplog: pytest.LogCaptureFixture) -> None:
    lane = Lane(bed.pool(1))
    seen: list[int] = []

    def fail(result: Any, error: Exception | None) -> None:
        raise RuntimeError("defect")

    lane.submit(lambda: None, fail)
    lane.submit(lambda: None, lambda r, e: seen.append(1))
    bed.until(lambda: seen)
    assert "defect" in caplog.text


@pytest.mark.parametrize(
    ("error", "level"),
    [
        (ConnectionResetError("gone"), logging.WARNING),
        (RuntimeError("defect"), logging.ERROR),
        (None, logging.ERROR),
    ],
)
def test_complaints_of_the_loop(
    bed: LoopBed, error: Exception | None, level: int, caplog: pytest.LogCaptureFixture
) -> None:
    """What a peer caused is no traceback."""
    handle_loop_error(bed.loop, {"message": "it happened", "exception": error})
    (record,) = caplog.records
    assert record.levelno == level
    assert "it happened" in record.getMessage()
    assert bool(record.exc_info) == isinstance(error, RuntimeError)

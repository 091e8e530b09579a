"""Threads for what must not run on the event loop."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Final, TypeAlias

from .inbox import Inbox

logger = logging.getLogger(__name__)

Job: TypeAlias = Callable[[], Any]
"""Runs on a worker thread."""

Done: TypeAlias = Callable[[Any, Exception | None], None]
"""Runs on the loop's thread with the job's result, or with the exception it raised."""


class WorkerPool:
    """A bounded number of threads that take jobs first come first served.

    Threads start when they are needed and end with :meth:`close`.  They are daemons: a storage
    call that never returns must not keep the process from ending.

    :param name: prefix of the threads' names.
    :param size: greatest number of threads; with 1 the jobs run strictly one after the other.
    :param inbox: where results go.
    """

    def __init__(self, name: str, size: int, inbox: Inbox) -> None:
        self._name = name
        self._size = size
        self._inbox = inbox
        self._jobs: SimpleQueue[tuple[Job, Done | None] | None] = SimpleQueue()
        self._lock = threading.Lock()  # guards the four below
        self._threads: list[threading.Thread] = []
        self._idle = 0
        self._queued = 0
        self._closed = False

    def submit(self, job: Job, done: Done | None = None) -> None:
        """Have a thread run *job*, then the loop *done*.  Any thread may call this.

        After :meth:`close` nothing happens.
        """
        with self._lock:
            if self._closed:
                return
            self._queued += 1
            if self._queued > self._idle and len(self._threads) < self._size:
                thread = threading.Thread(
                    target=self._run, name=f"{self._name}-{len(self._threads)}", daemon=True
                )
                self._threads.append(thread)
                thread.start()
                # It counts as idle from now on, or a second job would start another thread.
                self._idle += 1
        self._jobs.put((job, done))

    @property
    def has_waiting(self) -> bool:
        """Whether a job waits for a thread, as far as the calling thread knows."""
        return self._queued > 0

    @property
    def is_idle(self) -> bool:
        """Whether no job waits or runs, as far as the calling thread knows."""
        # In this order: a thread that takes a job ceases to be idle before the job ceases to wait.
        return self._queued == 0 and self._idle == len(self._threads)

    def close(self) -> None:
        """Start nothing more.  Jobs that are running end; those that wait are dropped."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            threads = len(self._threads)
        try:
            while True:
                self._jobs.get_nowait()
        except Empty:
            pass
        for _ in range(threads):
            self._jobs.put(None)

    def join(self, timeout: float) -> bool:
        """Wait up to *timeout* seconds for each thread; return whether all have ended."""
        for thread in self._threads:
            thread.join(timeout)
        return not any(thread.is_alive() for thread in self._threads)

    def _run(self) -> None:
        while (item := self._jobs.get()) is not None:
            with self._lock:
                self._idle -= 1
                self._queued -= 1
            self._do(*item)
            del item  # or an idle thread would keep the last job's data alive
            with self._lock:
                self._idle += 1

    def _do(self, job: Job, done: Done | None) -> None:
        result, error = None, None
        try:
            result = job()
        except Exception as caught:
            if done is None:
                logger.exception("error in %r", job)
                return
            error = caught
        if done is not None:
            self._inbox.post(partial(done, result, error))


_LaneItem: TypeAlias = tuple[Job | None, Done, int]

BATCH_JOBS: Final = 32
BATCH_COST: Final = 512 * 1024
"""How many jobs of a lane a thread does before it sees to others, and what they may cost together:
for short jobs the way to the thread and back takes longer than they do.  What they bring is known
only when the last of them has ended."""

JOB_MEMORY: Final = 600
"""Bytes of memory that a job takes, which waits for a thread, besides its data (R8): to be counted
where a peer can have many with hardly any data."""


class Lane:
    """Runs jobs on a pool strictly one after the other, in order.

    Not thread-safe: it belongs to the event loop.

    :param pool: runs the jobs.
    :ivar cost: sum of the costs of the jobs whose end is not known.
    """

    __slots__ = ("_batch", "_busy", "_jobs", "_pool", "cost")

    def __init__(self, pool: WorkerPool) -> None:
        self._pool = pool
        # A list, because most lanes are empty for ever and an empty deque takes 600 bytes.
        self._jobs: list[_LaneItem] = []
        # What a thread has to do; none if it was forgotten.  The thread takes one after the other
        # from the left, and so do we to take them back.
        self._batch: deque[_LaneItem] | None = None
        self._busy = False
        self.cost = 0

    @property
    def is_idle(self) -> bool:
        """Whether all jobs have ended."""
        return not self._busy

    def submit(self, job: Job, done: Done, cost: int = 0) -> None:
        """Have *job* run after all jobs before it, then *done* on the loop."""
        self.cost += cost
        self._jobs.append((job, done, cost))
        if not self._busy:
            self._start()

    def forget(self) -> None:
        """Run none of the jobs that cost anything and have not begun: their results are of no use
        any more, and what they hold is let go at once.  What was to be called after them is."""
        taken_back = []
        batch, self._batch = self._batch, None
        # One that has begun is not disturbed by that.
        with suppress(IndexError):
            while batch:
                taken_back.append(batch.popleft())
        jobs = taken_back + self._jobs
        self._jobs = [(None if cost else job, done, 0) for job, done, cost in jobs]
        self.cost = 0

    def _start(self) -> None:
        self._busy = True
        while self._jobs:
            if self._jobs[0][0] is not None:
                self._batch = self._next_batch()
                # The pool gets to see no job before a thread has time for it.
                self._pool.submit(partial(_run_all, self._batch), self._ended)
                return
            _, done, _ = self._jobs.pop(0)
            self._tell(done, None, None)
        self._busy = False

    def _next_batch(self) -> deque[_LaneItem]:
        count = cost = 0
        for item in self._jobs[:BATCH_JOBS]:
            cost += item[2]
            if item[0] is None or (count and cost > BATCH_COST):
                break
            count += 1
        batch = deque(self._jobs[:count])
        del self._jobs[:count]
        return batch

    def _ended(self, ended: list[_Ended], error: Exception | None) -> None:
        if self._batch is not None:  # else it was forgotten meanwhile
            self._batch = None
            self.cost -= sum(cost for _, cost, _, _ in ended)
        for done, _, result, job_error in ended:
            self._tell(done, result, job_error)
        self._start()

    def _tell(self, done: Done, result: Any, error: Exception | None) -> None:
        try:
            done(result, error)
        except Exception:
            # A defect in one callback must not stop the jobs behind it for ever.
            logger.exception("error in %r", done)


_Ended: TypeAlias = tuple[Done, int, Any, Exception | None]


def _run_all(batch: deque[_LaneItem]) -> list[_Ended]:
    """Runs on a worker thread."""
    ended: list[_Ended] = []
    while True:
        try:
            job, done, cost = batch.popleft()
        except IndexError:
            return ended
        assert job is not None
        try:
            ended.append((done, cost, job(), None))
        except Exception as error:  # noqa: BLE001 - told by the loop
            ended.append((done, cost, None, error))


class Share:
    """Runs jobs of one client on a pool, not more than so many at once: the others' threads are for
    other clients, however long the jobs take.

    Not thread-safe: it belongs to the event loop.

    :param pool: runs the jobs.
    :param most: jobs at once.
    """

    __slots__ = ("_jobs", "_most", "_pool", "_running")

    def __init__(self, pool: WorkerPool, most: int) -> None:
        self._pool = pool
        self._most = most
        self._jobs: deque[tuple[Job, Done]] = deque()
        self._running = 0

    def submit(self, job: Job, done: Done) -> None:
        """Have *job* run as soon as there is room for it, then *done* on the loop."""
        self._jobs.append((job, done))
        self._start()

    def forget(self) -> None:
        """Run none of the jobs that have not begun; what was to be called after them is, with
        neither result nor error."""
        jobs, self._jobs = self._jobs, deque()
        for _, done in jobs:
            done(None, None)

    def _start(self) -> None:
        if self._jobs and self._running < self._most:
            self._running += 1
            job, done = self._jobs.popleft()
            self._pool.submit(job, partial(self._ended, done))

    def _ended(self, done: Done, result: Any, error: Exception | None) -> None:
        self._running -= 1
        self._start()
        done(result, error)

"""Threads for what must not run on the event loop."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, TypeAlias

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


class Lane:
    """Runs jobs on a pool strictly one after the other, in order.

    Not thread-safe: it belongs to the event loop.

    :param pool: runs the jobs.
    :ivar cost: sum of the costs of the jobs that have not ended.
    """

    __slots__ = ("_busy", "_current", "_jobs", "_pool", "cost")

    def __init__(self, pool: WorkerPool) -> None:
        self._pool = pool
        # A list, because most lanes are empty for ever and an empty deque takes 600 bytes.
        self._jobs: list[tuple[Job | None, Done, int]] = []
        self._busy = False
        self._current: tuple[Job | None, int] = (None, 0)
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

    def after(self, callback: Callable[[], None]) -> None:
        """Call *callback* on the loop when all jobs so far have ended; at once if they have."""
        if not self._busy:
            callback()
        else:
            self._jobs.append((None, lambda result, error: callback(), 0))

    def forget(self) -> None:
        """Run none of the jobs that cost anything and have not begun: their results are of no use
        any more, and what they hold is let go at once.  What was to be called after them is."""
        if self._current[1]:
            self._current = (None, 0)  # one that has begun is not disturbed by that
        self._jobs = [(None if cost else job, done, 0) for job, done, cost in self._jobs]
        self.cost = 0

    def _start(self) -> None:
        self._busy = True
        while self._jobs:
            job, done, cost = self._jobs.pop(0)
            if job is not None:
                self._current = (job, cost)
                # The pool gets to see no job before a thread has time for it.
                self._pool.submit(self._run, partial(self._ended, done))
                return
            self._tell(done, None, None)
        self._busy = False

    def _run(self) -> Any:
        """Runs on a worker thread."""
        job, _ = self._current
        return None if job is None else job()

    def _ended(self, done: Done, result: Any, error: Exception | None) -> None:
        (_, cost), self._current = self._current, (None, 0)
        self.cost -= cost
        self._tell(done, result, error)
        self._start()

    def _tell(self, done: Done, result: Any, error: Exception | None) -> None:
        try:
            done(result, error)
        except Exception:
            # A defect in one callback must not stop the jobs behind it for ever.
            logger.exception("error in %r", done)


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

"""A stand-in for the thread that sums up what another one moves."""

from __future__ import annotations

from typing import Any


class Late:
    """Does what an :class:`zeolith.aside.Aside` does as late as it may."""

    def __init__(self) -> None:
        self._job: Any = None

    def do(self, job: Any) -> None:
        self.wait()
        self._job = job

    def wait(self) -> None:
        job, self._job = self._job, None
        if job is not None:
            job()

    close = wait

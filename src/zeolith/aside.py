"""Checksums of long transfers, made by a thread of their own while another one moves the bytes.

SHA-256 takes longer than to take a blob from the network and write it, and needs no interpreter's
lock; so both are done at once where there is a second processor.  BLAKE3 takes so little that to
have another processor fetch the bytes would cost more than is won.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Final

_WORTHWHILE: Final = 4 * 1024 * 1024
"""Bytes of a blob from which on a thread is started for it."""

_MOST: Final = 32
"""Threads of this kind in a process at most (R8): each blob on its way may have one, however slow
its line is."""

_SLOW: Final = frozenset({"sha256"})

_HAS_ROOM: Final = (os.cpu_count() or 1) > 1

_NAME: Final = "zeolith-aside"

Job = Callable[[], object]


def is_worthwhile(algorithm: str | None, size: int) -> bool:
    """Return whether the checksum of *size* bytes by *algorithm* is worth a thread, and there may
    be another one."""
    if size < _WORTHWHILE or algorithm not in _SLOW or not _HAS_ROOM:
        return False
    return sum(thread.name == _NAME for thread in threading.enumerate()) < _MOST


class Aside:
    """A thread that does one job after the other, and is one behind at most.

    One thread at a time may call its methods.  Between a call of :meth:`do` and the end of the next
    call of any method the job may be under way.  :meth:`close` has to be called; whoever calls may
    be interrupted at any step, by a signal handler that raises, and that still ends the thread.
    """

    __slots__ = ("_error", "_jobs", "_last", "_thread")

    def __init__(self) -> None:
        self._jobs: SimpleQueue[tuple[Job, threading.Event] | None] = SimpleQueue()
        # Tells the end of the latest job.  Each has its own, which stays set: what was waited for
        # in vain, or twice, is no difference to the next one.
        self._last: threading.Event | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=_NAME, daemon=True)
        self._thread.start()

    def do(self, job: Job) -> None:
        """Have *job* done, when the one before has ended."""
        if self._last is not None:
            self._last.wait()
        ended = threading.Event()
        self._jobs.put((job, ended))
        self._last = ended  # not before: it would be waited for for ever if it was never put there

    def wait(self) -> None:
        """Return when the last job has ended.

        :raises BaseException: what the first that failed has raised.
        """
        if self._last is not None:
            self._last.wait()
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """End the thread, when the last job has ended; may be called again."""
        self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (given := self._jobs.get()) is not None:
            job, ended = given
            try:
                if self._error is None:
                    job()
            except BaseException as error:  # noqa: BLE001 - raised by who waits
                self._error = error
            del job, given  # nobody's buffer is held any longer
            ended.set()

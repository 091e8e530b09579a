"""Checksums of long transfers, made by a thread of their own while another one moves the bytes.

SHA-256 takes longer than to take a blob from the network and write it, and needs no interpreter's
lock; so both are done at once where there is a second processor.  BLAKE3 takes so little that to
have another processor fetch the bytes would cost more than is won.
"""

from __future__ import annotations

import os
import threading
from _thread import allocate_lock
from collections.abc import Callable
from typing import Final

_WORTHWHILE: Final = 4 * 1024 * 1024
"""Bytes of a blob from which on a thread is started for it."""

_SLOW: Final = frozenset({"sha256"})

_HAS_ROOM: Final = (os.cpu_count() or 1) > 1

Job = Callable[[], object]


def is_worthwhile(algorithm: str | None, size: int) -> bool:
    """Return whether the checksum of *size* bytes by *algorithm* is worth a thread."""
    return size >= _WORTHWHILE and algorithm in _SLOW and _HAS_ROOM


class Aside:
    """A thread that does one job after the other, and is one behind at most.

    One thread at a time may call its methods.  Between a call of :meth:`do` and the end of the next
    call of any method the job may be under way.  :meth:`close` has to be called.
    """

    __slots__ = ("_error", "_free", "_given", "_job", "_thread")

    def __init__(self) -> None:
        # Both as events: whoever waits acquires, whoever tells releases.
        self._given = allocate_lock()
        self._given.acquire()
        self._free = allocate_lock()
        self._job: Job | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="zeolith-aside", daemon=True)
        self._thread.start()

    def do(self, job: Job) -> None:
        """Have *job* done, when the one before has ended."""
        self._free.acquire()
        self._job = job
        self._given.release()

    def wait(self) -> None:
        """Return when the last job has ended.

        :raises BaseException: what the first that failed has raised.
        """
        self._free.acquire()
        self._free.release()
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """End the thread, when the last job has ended; may be called again."""
        if self._thread.is_alive():
            self._free.acquire()
            self._job = None
            self._given.release()
            self._thread.join()
            self._free.release()

    def _run(self) -> None:
        while True:
            self._given.acquire()
            job, self._job = self._job, None
            if job is None:
                return
            try:
                if self._error is None:
                    job()
            except BaseException as error:  # noqa: BLE001 - raised by who waits
                self._error = error
            del job  # nobody's buffer is held any longer
            self._free.release()

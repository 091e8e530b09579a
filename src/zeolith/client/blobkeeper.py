"""Looking after the size of a blob cache while it is used."""

from __future__ import annotations

import logging
import threading
from typing import Final

from ..errors import ConfigurationError
from .blobleases import Leases
from .blobsizes import shrink

logger = logging.getLogger(__name__)

LOGGED_AS: Final = "cannot look after the size of the blob cache %s"


class SizeKeeper:
    """Has a thread evict blobs when this process has added a part of the limit.

    Any thread may use it.

    :param path: the directory.
    :param limit: bytes of blobs to keep; None: without limit.
    :param check_percent: the size is looked after when that part of *limit* has been added.
    :param leases: those of this process; they end in time for the eviction.
    :raises ConfigurationError: *check_percent* is none.
    """

    def __init__(self, path: str, limit: int | None, check_percent: int, leases: Leases) -> None:
        if limit is not None and not 0 <= check_percent < 100:
            raise ConfigurationError(
                "blob_cache_size_check", f"{check_percent} is not a percentage below 100"
            )
        self._path = path
        self._limit = limit
        self._step = 0 if limit is None else limit * check_percent // 100
        self._leases = leases
        self._is_closed = False
        self._reset()

    def _reset(self) -> None:
        self._mutex = threading.Lock()
        self._added = 0
        self._checker: threading.Thread | None = None
        self._is_checking = self._is_check_wanted = False
        self._stop = threading.Event()

    def forked(self) -> None:
        """In the child of a fork: forget the parent's thread."""
        self._reset()

    def start(self) -> None:
        """Look at what is there already."""
        self.added(self._step)

    def added(self, size: int) -> None:
        """*size* more bytes are here: look after the size if it is time."""
        if self._limit is None:
            return
        with self._mutex:
            self._added += size
            if self._added < self._step or self._is_closed:
                return
            self._added = 0
            self._is_check_wanted = True
            if self._is_checking:
                return
            self._is_checking = True
            self._checker = threading.Thread(
                target=self._check, name=f"size check of {self._path}", daemon=True
            )
            self._checker.start()

    def _check(self) -> None:
        assert self._limit is not None
        target = max(self._limit - self._step, 0)
        while True:
            with self._mutex:
                # Decided under the mutex, so that nobody leaves a wish with a thread that has
                # already looked for one.
                if not self._is_check_wanted or self._stop.is_set():
                    self._is_checking = False
                    return
                self._is_check_wanted = False
            self._leases.end_old()
            try:
                is_within = shrink(self._path, target, self._stop.is_set)
            except OSError:
                # The directory's trouble is told to whoever loads a blob; the next check may
                # do better.
                logger.exception(LOGGED_AS, self._path)
                continue
            if not is_within:
                # What was in use now need not be any more when the next blobs come.
                with self._mutex:
                    self._added = max(self._added, self._step - self._step // 10)

    def close(self) -> None:
        """End the check and wait for it.  May be called again."""
        with self._mutex:
            self._is_closed = True
            checker = self._checker
        self._stop.set()
        if checker is not None:
            checker.join()

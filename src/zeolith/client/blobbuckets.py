"""The buckets of a blob cache that this process works in."""

from __future__ import annotations

import os
import threading
from typing import Final

from ..errors import ClientStorageError
from .blobfiles import protected_mode, unusable, usable
from .bloblayout import LOCK_NAME
from .bloblocks import FileLock, wait_for
from .blobsizes import clear_bucket

_UNKNOWN: Final = -1


class Bucket:
    """One of them; to be held in a ``with`` statement, by one thread at a time.

    It is held against other threads and processes, and made if necessary.  Threads of this process
    meet here before they contend for the lock file, so that they wait without polling.

    Entering raises ClientStorageError if another process keeps it for
    :data:`.bloblocks.LOCK_TIMEOUT` seconds, if it or its lock file cannot be made or locked, or if
    this thread holds it already.

    :ivar mode: the permissions of a blob's file there, as long as it is held.
    """

    __slots__ = ("_directory", "_file", "_lock", "mode")

    def __init__(self, directory: str) -> None:
        self._directory = directory
        # A lock that knows its owner: whoever is interrupted around taking it can tell whether it
        # has to be given up.
        self._lock = threading.RLock()
        self._file: FileLock | None = None
        self.mode = _UNKNOWN

    def __enter__(self) -> Bucket:
        if self._lock._is_owned():  # type: ignore[attr-defined]  # as Condition asks it
            raise ClientStorageError(
                f"{self._directory} is in use by the same thread: a finalizer or a signal handler "
                "must not load a blob there"
            )
        try:
            self._lock.acquire()
            if self.mode == _UNKNOWN:
                self._meet()
            else:
                self._file = self._take()
        except BaseException:
            self._give_up()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._give_up()

    def _give_up(self) -> None:
        if not self._lock._is_owned():  # type: ignore[attr-defined]
            return
        try:
            file, self._file = self._file, None
            if file is not None:
                file.close()
        finally:
            self._lock.release()

    def _meet(self) -> None:
        """Take it for the first time; what is left there later was left by processes that still
        run."""
        is_new = self._make()
        self._file = self._take()
        with usable(self._directory):
            if not is_new:
                clear_bucket(self._directory)
            self.mode = protected_mode(self._directory)

    def _make(self) -> bool:
        """Make the directory, and those around it; return whether it was not there."""
        try:
            os.mkdir(self._directory)
        except FileExistsError:
            return False
        except FileNotFoundError:
            with usable(self._directory):
                os.makedirs(self._directory, exist_ok=True)
        except OSError as error:
            raise unusable(self._directory, error) from error
        return True

    def _take(self) -> FileLock:
        path = f"{self._directory}{os.sep}{LOCK_NAME}"
        try:
            return wait_for(path)
        except FileNotFoundError:
            # Somebody has emptied the cache by hand.
            self._make()
        except OSError as error:
            raise unusable(path, error) from error
        with usable(path):
            return wait_for(path)


class Buckets:
    """The buckets of one cache, as many as it has at most.  Any thread may use it."""

    def __init__(self) -> None:
        self._known: dict[str, Bucket] = {}

    def find(self, directory: str) -> Bucket:
        """Return the bucket with that path, which need not be there."""
        return self._known.get(directory) or self._known.setdefault(directory, Bucket(directory))

"""The buckets of a blob cache that this process works in."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from .blobfiles import protected_mode, unusable, usable
from .bloblayout import LOCK_NAME
from .bloblocks import FileLock, wait_for
from .blobsizes import clear_bucket


class Buckets:
    """The buckets of one cache.  Any thread may use it."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        # Threads of this process meet here before they contend for the lock file, so that they
        # wait without polling: bucket -> its lock and how many use it.
        self._locks: dict[str, tuple[threading.Lock, int]] = {}
        # Of the files in those that this process knows: it has looked for what others left there.
        self._modes: dict[str, int] = {}

    @contextmanager
    def hold(self, directory: str) -> Iterator[int]:
        """Hold a bucket, which is made if necessary, against other threads and processes.

        :returns: the permissions of a blob's file there.
        :raises ClientStorageError: another process keeps it for :data:`.bloblocks.LOCK_TIMEOUT`
            seconds, or it or its lock file cannot be made or locked.
        """
        with self._mutex:
            lock, users = self._locks.get(directory, (None, 0))
            if lock is None:
                lock = threading.Lock()
            self._locks[directory] = lock, users + 1
        try:
            with lock:
                mode = self._modes.get(directory)
                is_new = mode is None and _make(directory)
                held = _lock(directory)
                try:
                    if mode is None:
                        mode = self._meet(directory, is_new)
                    yield mode
                finally:
                    held.close()
        finally:
            with self._mutex:
                lock, users = self._locks[directory]
                if users == 1:
                    del self._locks[directory]
                else:
                    self._locks[directory] = lock, users - 1

    def _meet(self, directory: str, is_new: bool) -> int:
        """Look at a bucket for the first time; what is left there later was left by processes that
        still run."""
        with usable(directory):
            if not is_new:
                clear_bucket(directory)
            mode = self._modes[directory] = protected_mode(directory)
        return mode


def _make(directory: str) -> bool:
    """Make a directory, and those around it; return whether it was not there."""
    try:
        os.mkdir(directory)
    except FileExistsError:
        return False
    except FileNotFoundError:
        with usable(directory):
            os.makedirs(directory, exist_ok=True)
    except OSError as error:
        raise unusable(directory, error) from error
    return True


def _lock(directory: str) -> FileLock:
    path = f"{directory}{os.sep}{LOCK_NAME}"
    try:
        return wait_for(path)
    except FileNotFoundError:
        # Somebody has emptied the cache by hand.
        _make(directory)
    except OSError as error:
        raise unusable(path, error) from error
    with usable(path):
        return wait_for(path)

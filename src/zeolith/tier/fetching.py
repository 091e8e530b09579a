"""Fetches of blobs: one for each blob at a time, whoever waits for it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeAlias

Key: TypeAlias = tuple[bytes, bytes]


class _Fetch:
    """One that is under way."""

    def __init__(self) -> None:
        self.is_over = threading.Event()
        self.error: Exception | None = None


class Fetches:
    """Collapses fetches of the same blob.  Any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[Key, _Fetch] = {}

    def run(self, key: Key, fetch: Callable[[], None]) -> None:
        """Return when *fetch*, or somebody else's of the same *key*, has succeeded.

        :raises Exception: what it has raised.
        """
        with self._lock:
            running = self._running.get(key)
            is_ours = running is None
            if running is None:
                running = self._running[key] = _Fetch()
        if not is_ours:
            running.is_over.wait()
            if running.error is not None:
                raise type(running.error)(*running.error.args)
            return
        try:
            fetch()
        except Exception as error:
            running.error = error
            raise
        finally:
            with self._lock:
                del self._running[key]
            running.is_over.set()

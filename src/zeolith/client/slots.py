"""Where answers go, and how the threads that wait for them are woken.

A slot has no lock around it: see the handshakes in :mod:`.channel`.
"""

from __future__ import annotations

from _thread import LockType
from collections.abc import Callable
from contextlib import suppress
from typing import Any


class Slot:
    """Where the answer to one call goes.

    Whoever leads fills it; any thread may wait for it, with a lock of its own in ``locks``.

    :ivar done: the answer is there: ``error`` if not None, else ``value``.
    :ivar on_reply: called by the leader with the value before anybody is told; an exception
        becomes the slot's error and ends the connection.
    :ivar locks: of the threads that wait, held by them; to release one wakes its thread.
    """

    __slots__ = ("done", "error", "locks", "on_reply", "value")

    def __init__(self) -> None:
        self.done = False
        self.value: Any = None
        self.error: Exception | None = None
        self.on_reply: Callable[[Any], None] | None = None
        self.locks: list[LockType] = []

    def answer(self, value: Any) -> None:
        """Answer with *value*; wake whoever waits."""
        if self.on_reply is not None:
            self.on_reply(value)
        self.value = value
        self.done = True
        if self.locks:
            self.wake()

    def settle(self, error: Exception | None) -> None:
        """Answer with *error*, or with nothing but that there is an answer; wake whoever waits."""
        self.value = None
        self.error = error
        self.done = True
        if self.locks:
            self.wake()

    def wake(self) -> None:
        """Wake whoever waits; ``done`` has been set before."""
        for lock in tuple(self.locks):
            release(lock)


def release(lock: LockType) -> None:
    """Wake the thread that waits for its own *lock*, or is about to."""
    with suppress(RuntimeError):  # it was released already: its thread is about to look
        lock.release()

"""Waiting for conditions, with a deadline: what tests do instead of sleeping."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")

DEADLINE = 30.0
"""Seconds after which a test gives up.  Nothing takes that long unless it is broken."""

_tick = threading.Event()


def wait_until(condition: Callable[[], T], what: str = "", timeout: float = DEADLINE) -> T:
    """Return the first true value of *condition*.

    :raises AssertionError: it has not come true after *timeout* seconds.
    """
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {timeout} s: {what or condition}"
        _tick.wait(0.005)
    return value


@contextmanager
def promptly(limit: float = 5.0) -> Iterator[None]:
    """Assert that the block takes no longer than *limit* seconds."""
    start = time.monotonic()
    yield
    taken = time.monotonic() - start
    assert taken < limit, f"took {taken:.1f} s, {limit} s are allowed"


class Background(threading.Thread):
    """A function in a thread, whose result or error is handed over by :meth:`result`."""

    def __init__(self, action: Callable[[], object]) -> None:
        super().__init__(daemon=True)
        self._action = action
        self._value: object = None
        self._error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self._value = self._action()
        except BaseException as error:  # noqa: BLE001 - raised again by result()
            self._error = error

    def result(self, timeout: float = DEADLINE) -> object:
        """Wait for the thread; return what the function returned or raise what it raised."""
        self.join(timeout)
        assert not self.is_alive(), f"still running after {timeout} s"
        if self._error is not None:
            raise self._error
        return self._value

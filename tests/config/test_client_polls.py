"""``min-disconnect-poll`` and ``max-disconnect-poll`` say how long a client pauses."""

from __future__ import annotations

import itertools
import socket
import threading
import time
from collections.abc import Iterator

import pytest
import ZODB.config
from tests.support.waiting import wait_until


class Door:
    """A port that lets nobody in.

    :ivar attempts: when somebody tried, in seconds.
    """

    def __init__(self) -> None:
        self.attempts: list[float] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while True:
            visitor, _ = self._listener.accept()
            visitor.close()
            if self.attempts and self.attempts[-1] < 0:
                return
            self.attempts.append(time.monotonic())

    def close(self) -> None:
        self.attempts.append(-1.0)
        socket.create_connection(("127.0.0.1", self.port)).close()
        self._thread.join()
        self._listener.close()


@pytest.fixture
def door() -> Iterator[Door]:
    door = Door()
    yield door
    door.close()


def pauses(door: Door, number: int, lines: str) -> list[float]:
    """Return the pauses of a client whose section has *lines*, between its first attempts."""
    storage = ZODB.config.storageFromString(
        f"%import zeolith\n<zeolith>\nserver 127.0.0.1:{door.port}\nwait off\n{lines}\n</zeolith>"
    )
    try:
        wait_until(lambda: len(door.attempts) > number)
    finally:
        storage.close()
    times = door.attempts[: number + 1]
    return [later - earlier for earlier, later in itertools.pairwise(times)]


def test_the_shortest_pause(door: Door) -> None:
    """Each is the one before doubled, less up to a half at random."""
    found = pauses(door, 2, "min-disconnect-poll 0.2")
    assert found[0] > 0.09
    assert found[1] > 0.19


def test_the_longest_pause(door: Door) -> None:
    """Without it the pauses of eleven doublings would be ten seconds and more."""
    began = time.monotonic()
    found = pauses(door, 12, "min-disconnect-poll 0.005\nmax-disconnect-poll 0.01")
    assert len(found) == 12
    assert time.monotonic() - began < 10

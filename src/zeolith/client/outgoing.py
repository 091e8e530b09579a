"""A stream to the server, and how long its messages are."""

from __future__ import annotations

import threading
from typing import Final

from ..protocol.limits import STREAM_FRAME, STREAM_WINDOW
from ..protocol.streams import Sender

SEND_TIME: Final = 0.004
"""Seconds that it should take to send one message of an upload."""


class Outgoing:
    """A stream to the server."""

    def __init__(self, number: int) -> None:
        # Guards the sender; nobody waits for anything while holding it.
        self._lock = threading.Lock()
        self.sender = Sender(number, STREAM_WINDOW)

    @property
    def is_ready(self) -> bool:
        """Whether there is credit, or no use for it."""
        return self.sender.credit > 0 or not self.sender.is_open

    def sendable(self, wanted: int, frame: int) -> int:
        """Return how many of *wanted* bytes are to be sent now, and take their credit."""
        with self._lock:
            size = self.sender.sendable(wanted, frame)
            if size:
                self.sender.sent(size)
            return size

    def granted(self, size: int) -> None:
        with self._lock:
            self.sender.granted(size)

    def cancelled(self) -> None:
        with self._lock:
            self.sender.cancelled()

    def end(self) -> None:
        with self._lock:
            self.sender.end()


class Pace:
    """How long the messages of uploads are: other threads' calls wait for one to be sent.

    Any thread; who comes between another one's look and step has it one step longer or shorter.

    :param most: bytes that one may have.
    :ivar frame: bytes that the next one may have.
    """

    __slots__ = ("_most", "frame")

    def __init__(self, most: int) -> None:
        self._most = most
        self.frame = min(STREAM_FRAME, most)

    def took(self, size: int, seconds: float) -> None:
        """To send *size* bytes took so long."""
        if seconds > SEND_TIME:
            self.frame = min(max(self.frame // 2, STREAM_FRAME), self._most)
        elif size == self.frame and seconds < SEND_TIME / 4:
            self.frame = min(2 * self.frame, self._most)

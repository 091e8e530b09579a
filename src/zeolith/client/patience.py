"""Waiting for a server while nobody watches the connection: until the cache is verified.

The thread that connects and verifies is the one that watches later.  Meanwhile its socket has a
time-out, and where the server stands less silence than that, the wait is cut into parts with
heartbeats between them.
"""

from __future__ import annotations

from ..protocol.liveness import BEATS


class Patience:
    """How long a channel waits for bytes.

    :param timeout: seconds to wait.
    :param demand: seconds of silence after which the server gives us up; None: never.
    :ivar part: seconds to wait at once.
    """

    __slots__ = ("_reads", "_timeout", "_waited", "part")

    def __init__(self, timeout: float, demand: float | None) -> None:
        self.part = timeout if demand is None else min(timeout, demand / BEATS)
        self._timeout = timeout
        self._waited = 0.0
        self._reads = -1

    def goes_on(self, reads: int) -> bool:
        """A part has passed without a byte; return whether to wait for another one.

        :param reads: number of times that bytes were read before.
        """
        if reads != self._reads:
            self._reads = reads
            self._waited = 0.0
        self._waited += self.part
        return self._waited < self._timeout

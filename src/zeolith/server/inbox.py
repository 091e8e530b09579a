"""The one door into the event loop for other threads."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable

logger = logging.getLogger(__name__)


class Inbox:
    """Runs callables on the loop's thread, in the order in which they were posted.

    Loops differ in how they order what other threads hand them (uvloop does not keep ZEO's
    expectations); going through one queue of our own, nothing depends on that.
    """

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._queue: deque[Callable[[], None]] = deque()

    def open(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start delivering to *loop*; call it on the loop's thread, before the loop runs."""
        self._loop = loop
        if self._queue:
            loop.call_soon(self.deliver)

    def close(self) -> None:
        """Deliver no more.  What is posted from now on is dropped."""
        self._loop = None
        self._queue.clear()

    def post(self, callback: Callable[[], None]) -> None:
        """Have *callback* run on the loop's thread.  Any thread may call this."""
        self._queue.append(callback)
        loop = self._loop
        if loop is None:
            return
        try:
            loop.call_soon_threadsafe(self.deliver)
        except RuntimeError:
            # The loop was closed between the look and the call: the server has ended.
            logger.debug("posted to a server that has ended: %r", callback)

    def deliver(self) -> None:
        """Run what is waiting.  Only on the loop's thread."""
        queue = self._queue
        # Whoever posts makes a call of its own: a callback that posts again must not keep the
        # loop from its sockets, so only what is there now is run.
        for _ in range(len(queue)):
            try:
                callback = queue.popleft()
            except IndexError:  # an earlier call of this method, further up the stack, took it
                return
            try:
                callback()
            except Exception:
                # As a loop does with its callbacks: one defect must not lose the others' answers.
                logger.exception("error in %r", callback)

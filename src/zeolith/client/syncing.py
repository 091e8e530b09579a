"""Waiting until this client knows a certain transaction."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from ..errors import ClientDisconnected, NotReached
from ..protocol.loadrequests import MAX_SYNC_TIME, SyncTo
from ..protocol.messages import Ping

if TYPE_CHECKING:
    from .link import Link

MAX_ASKING: Final = 32
"""Threads of one client that may have the server wait for them.  A server handles no more calls of
a client that has too many on their way (128 by default); further threads wait here only."""


class Progress:
    """Tells threads that wait when the client has learnt of another transaction.

    Any thread may call any method.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting = 0
        self.asking = threading.BoundedSemaphore(MAX_ASKING)
        """For threads that have the server wait for them."""

    def tell(self) -> None:
        """Something has changed; costs next to nothing if nobody waits."""
        # Whoever waits has counted itself before it looked, and we have changed what it looks at
        # before we look: one of us sees the other.
        if self._waiting:
            with self._changed:
                self._changed.notify_all()

    def wait_for(self, is_reached: Callable[[], bool], timeout: float) -> bool:
        """Wait up to *timeout* seconds until *is_reached* is true; return whether it is.

        :param is_reached: takes no locks.
        """
        with self._changed:
            self._waiting += 1
            try:
                return self._changed.wait_for(is_reached, timeout)
            finally:
                self._waiting -= 1


def sync_to(link: Link, tid: bytes, timeout: float) -> bytes:
    """Wait until *tid* and all transactions before it have reached the database object.

    :param timeout: seconds.
    :returns: the last transaction that has.
    :raises NotReached: it has not in time.
    :raises ClientDisconnected: no server in time, or closed.
    """
    deadline = time.monotonic() + timeout
    while (last_tid := link.last_tid()) < tid:
        left = deadline - time.monotonic()
        if left <= 0:
            raise NotReached(tid, last_tid)
        channel = link.wait(left)
        if link.cache.last_tid() >= tid:
            continue  # the server is another one than a moment ago
        try:
            if not channel.speaks_own:
                # What was committed before is known when the answer is there.  What is committed
                # later will be announced.
                channel.call(Ping())
            elif link.progress.asking.acquire(blocking=False):
                try:
                    if channel.call(SyncTo(tid, min(left, MAX_SYNC_TIME))) is None:
                        continue
                finally:
                    link.progress.asking.release()
        except ClientDisconnected:
            # Of this connection: what comes next counts as well.
            if link.is_closed or not channel.is_broken:
                raise
            continue
        # If the transaction is our own, the answer to it may be on its way.
        left = max(0.0, deadline - time.monotonic())
        link.progress.wait_for(lambda: link.is_closed or link.cache.last_tid() >= tid, left)
    return last_tid

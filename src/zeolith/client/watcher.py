"""Reading when nobody calls, so that invalidations are applied at once, and heartbeats.

The watcher waits until the socket is readable *without* holding the reading role, and takes the
role only if it is free then.  An application thread that makes a call therefore never waits for
the watcher and is never served by it.  Both are woken when the answer arrives, which costs the
system a little; so when the watcher sees that calls are being made it goes to sleep, and looks
again after a tick in which nobody read.  A busy connection pays one short wake-up per tick.
"""

from __future__ import annotations

import threading
import time

from .channel import Channel

TICK = 0.01
"""Seconds.  An invalidation that arrives just after the last call of a busy thread waits this long
at most; a hundred wake-ups a second of a few microseconds each are not measurable."""

HEARTBEAT = 60.0
"""Seconds between heartbeats, as ZEO sends them."""


def watch(channel: Channel, nudge: threading.Event) -> None:
    """Watch *channel* until it is broken.

    :param nudge: set by whoever breaks the channel or wants the watcher to return soon.
    """
    is_busy = False
    heartbeat_at = time.monotonic() + HEARTBEAT
    while not channel.is_broken:
        if is_busy:
            reads = channel.reads
            if nudge.wait(TICK):
                nudge.clear()
            is_busy = channel.reads != reads
        else:
            # Where nothing arrives there is nothing to do but to keep the connection alive; the
            # end of the connection makes the socket readable.
            patience = max(0.0, heartbeat_at - time.monotonic())
            if channel.wire.is_readable(patience):
                is_busy = not channel.read_if_ready()
        now = time.monotonic()
        if now >= heartbeat_at:
            channel.heartbeat()
            heartbeat_at = now + HEARTBEAT

"""Reading when nobody calls, so that invalidations are applied at once; heartbeats, both ways.

The watcher waits until the socket is readable *without* holding the reading role, and takes the
role only if it is free then.  An application thread that makes a call therefore never waits for
the watcher and is never served by it.  Both are woken when the answer arrives, which costs the
system a little; so when the watcher sees that calls are being made it goes to sleep, and looks
again after a tick in which nobody read.  A busy connection pays one short wake-up per tick.

The thread that reads waits for the server for as long as it takes, so it is the watcher, too, who
notices that the server is gone: nothing was read for longer than the server may be silent, and
nothing waits to be read.  (What waits was sent by a server that is alive; the thread that reads may
be in the database's code.)
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from ..errors import ClientDisconnected
from ..protocol.liveness import Liveness, SteadyClock
from .channel import Channel

TICK = 0.01
"""Seconds.  An invalidation that arrives just after the last call of a busy thread waits this long
at most; a hundred wake-ups a second of a few microseconds each are not measurable."""

ROUTINE = 180.0
"""Seconds that a server which does not say how long a client may be silent is taken to wait: three
heartbeats, one a minute, as ZEO sends them."""

TENDING = 60.0
"""Seconds between two rounds of what else is to be done: so much warmth of a persistent cache is
lost at most when its process is killed."""


def watch(channel: Channel, nudge: threading.Event, tend: Callable[[], None] | None = None) -> None:
    """Watch *channel* until it is broken; break it if the server is silent for too long.

    :param nudge: set by whoever breaks the channel or wants the watcher to return soon.
    :param tend: called about every :data:`TENDING` seconds, for what else is to be done.
    """
    is_busy = False
    # A server of ZEO's protocol sends no heartbeats: there TCP has to notice its end.
    patience = channel.terms.silence if channel.speaks_own else None
    demand = ROUTINE if channel.demand is None else channel.demand
    looked_at = time.monotonic()
    clock = SteadyClock(looked_at)
    liveness = Liveness(clock.time, patience, demand)
    next_look = looked_at + liveness.pause
    seen = channel.reads
    tend_at = looked_at + TENDING
    while not channel.is_broken:
        if is_busy:
            reads = channel.reads
            if nudge.wait(TICK):
                nudge.clear()
            is_busy = channel.reads != reads
        else:
            # Where nothing arrives there is nothing to do but to keep the connection alive; the
            # end of the connection makes the socket readable.
            if channel.wire.is_readable(max(0.0, next_look - time.monotonic())):
                is_busy = not channel.read_if_ready()
        now = time.monotonic()
        if now >= next_look:
            reads = channel.reads
            has_heard = reads != seen or channel.wire.is_readable(0)
            seen = reads
            has_spoken, channel.has_spoken = channel.has_spoken, False
            passed = clock.advance(now, next_look - looked_at)
            is_dead, is_due, next_time = liveness.look(passed, has_heard, has_spoken)
            looked_at = now
            next_look = now + next_time - passed
            if tend is not None and now >= tend_at:
                tend_at = now + TENDING
                tend()
            if is_dead:
                channel.close(_silent(patience))
            elif is_due:
                channel.heartbeat()


def _silent(patience: float | None) -> ClientDisconnected:
    return ClientDisconnected(f"the server has not been heard of for {patience:g} seconds")

"""Invalidations: in tid order, and before anything that reveals them.

Publishing may happen on any thread and only appends to a queue.  The queue is emptied (*drained*)
on the event loop, by whoever is about to write something to a session; thus no reply can overtake
an invalidation, whatever order the loop runs its callbacks in (R1).

While a storage finishes a transaction the publisher is *held*: the storage calls back before the
data is on disk, and no client shall hear of a transaction that a crash may still undo.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable
from typing import Protocol

from ..protocol.codec import Codec
from ..protocol.greeting import Coding
from ..protocol.messages import InvalidateTransaction
from ..types import NO_TID
from .invalidations import InvalidationLog
from .waiters import Waiters

logger = logging.getLogger(__name__)


class Subscriber(Protocol):
    """What a publisher needs of a session."""

    @property
    def codec(self) -> Codec: ...

    def push(self, frame: bytes) -> None:
        """Send *frame*, which the client did not ask for, after all that was sent before."""

    def drop(self, reason: str) -> None:
        """Close the connection at once."""

    def close(self, reason: str) -> None:
        """Close the connection after what has been sent so far."""


class Publication:
    """One transaction to be announced.

    :ivar tid: its id.
    :ivar oids: the objects it changed.
    :ivar origin: the subscriber that made it and is told by the reply to its ``tpc_finish``; or
        None.
    """

    __slots__ = ("oids", "origin", "tid")

    def __init__(self, tid: bytes, oids: tuple[bytes, ...], origin: Subscriber | None) -> None:
        self.tid = tid
        self.oids = oids
        self.origin = origin


class Reset:
    """The storage lost track of what changed: everybody has to verify anew.

    :ivar last_tid: returns the storage's last transaction.
    """

    __slots__ = ("last_tid",)

    def __init__(self, last_tid: Callable[[], bytes]) -> None:
        self.last_tid = last_tid


class Publisher:
    """Tells the sessions of one storage what changed.

    :param name: the storage's name, for messages.
    :param log: where transactions are remembered for clients that return.
    :param wake: called, on the publishing thread, when something was published that no commit of
        this server will bring to the loop's attention.
    :ivar is_held: whether draining must wait; only the loop changes it.
    :ivar log: see above.
    :ivar waiters: who wants to be told when a transaction has been announced.
    """

    def __init__(self, name: str, log: InvalidationLog, wake: Callable[[], None]) -> None:
        self.name = name
        self.log = log
        self.is_held = False
        self._wake = wake
        # Appending and popping are atomic; only the loop pops.
        self._pending: deque[Publication | Reset] = deque()
        self._subscribers: dict[Subscriber, None] = {}
        self.waiters = Waiters()

    # -- any thread ------------------------------------------------------------------------------

    def publish(
        self, tid: bytes, oids: Iterable[bytes], origin: Subscriber | None = None
    ) -> Publication:
        """Announce that *tid* changed *oids*.

        The caller guarantees that tids increase: a storage commits one transaction at a time.
        """
        publication = Publication(tid, tuple(oids), origin)
        self._pending.append(publication)
        if origin is None:
            self._wake()
        return publication

    def retract(self, publication: Publication) -> None:
        """Take back *publication* if it has not been announced."""
        try:
            self._pending.remove(publication)
        except ValueError:
            logger.debug("%s: transaction was announced already", self.name)

    def reset(self, last_tid: Callable[[], bytes]) -> None:
        """Announce that everybody has to verify anew.

        :param last_tid: returns the storage's last transaction.  Called when this is announced: a
            storage that tells of it may be about to come to another one, and clients that have seen
            as much as before must not take themselves for up to date.
        """
        self._pending.append(Reset(last_tid))
        self._wake()

    # -- the loop's thread -----------------------------------------------------------------------

    @property
    def subscribers(self) -> list[Subscriber]:
        """Those who are told."""
        return list(self._subscribers)

    def __len__(self) -> int:
        return len(self._subscribers)

    def subscribe(self, subscriber: Subscriber) -> bytes:
        """Add *subscriber*; return the last transaction it will not be told of."""
        assert not self.is_held
        self.drain()
        self._subscribers[subscriber] = None
        return self.log.last_tid

    def unsubscribe(self, subscriber: Subscriber) -> None:
        """Remove *subscriber* if it is there, and what waits for it."""
        self._subscribers.pop(subscriber, None)
        self.waiters.forget(subscriber)

    def awaits_only(self, origin: Subscriber) -> bool:
        """Whether one transaction is to be announced now, and *origin* has made it."""
        pending = self._pending
        return (
            len(pending) == 1
            and not self.is_held
            and isinstance(pending[0], Publication)
            and pending[0].origin is origin
        )

    def drain(self) -> None:
        """Announce all that was published, unless the publisher is held."""
        if self._pending:
            self._drain()

    def _drain(self) -> None:
        pending = self._pending
        while pending and not self.is_held:
            item = pending.popleft()
            if isinstance(item, Reset):
                self._start_anew(_found(item), "the storage lost its invalidations")
            elif item.tid > self.log.last_tid:
                self.log.append(item.tid, item.oids)
                self._announce(item)
            elif item.oids:
                # A storage that does this cannot be a basis for caches.  Closing the connections
                # makes the clients verify, which is what they would have to do anyway.
                logger.error(
                    "storage %r: transaction %s comes after %s; all clients have to verify",
                    self.name,
                    item.tid.hex(),
                    self.log.last_tid.hex(),
                )
                self._start_anew(self.log.last_tid, "the storage's transactions lost order")
        # What they are told leaves after all that was announced here (R1).
        self.waiters.release(self.log.last_tid)

    def send_all(self, make_frame: Callable[[Codec], bytes]) -> None:
        """Push a frame to everybody; *make_frame* is called once per coding, and once more
        for those clients that take compressed messages."""
        self.drain()
        self._push(make_frame, None)

    def _announce(self, publication: Publication) -> None:
        message = InvalidateTransaction(publication.tid, list(publication.oids))
        self._push(lambda codec: codec.notice(message), publication.origin)

    def _push(self, make_frame: Callable[[Codec], bytes], origin: Subscriber | None) -> None:
        frames: dict[tuple[Coding, bool], bytes] = {}
        # A copy, because a push may drop its subscriber.
        for subscriber in list(self._subscribers):
            if subscriber is origin:
                continue
            codec = subscriber.codec
            compress = codec.compress
            kind = codec.coding, compress is not None
            frame = frames.get(kind)
            if frame is None:
                frame = make_frame(codec)
                frames[kind] = frame = frame if compress is None else compress(frame)
            subscriber.push(frame)

    def _start_anew(self, last_tid: bytes, reason: str) -> None:
        self.log.reset(last_tid, [])
        for subscriber in list(self._subscribers):
            subscriber.drop(reason)


def _found(item: Reset) -> bytes:
    """Return the storage's last transaction; if it does not say, one that all clients are ahead of,
    so that they drop what they have."""
    try:
        return item.last_tid()
    except Exception:
        logger.exception("the storage does not say which transaction is its last")
        return NO_TID

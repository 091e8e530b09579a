"""Loads that a client asked for many at a time, answered in slices."""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from ..errors import MessageTooLarge
from ..protocol.limits import MAX_LOADS
from ..protocol.loadrequests import LoadedMany, LoadMany, Record
from ..protocol.manyloads import RECORD_SIZE, room_for_records
from ..protocol.messages import LoadBefore
from .peerlog import peer_logger

if TYPE_CHECKING:
    from .session import Session

logger = peer_logger(__name__)

SLICE_OBJECTS: Final = 64
SLICE_SIZE: Final = 64 * 1024
"""Objects, and bytes of records, after which the loop turns to other clients: some 200 µs."""

MAX_WAITING: Final = 4 * MAX_LOADS
"""Objects that one client may have asked for without having been answered; above it nothing more
is taken from the client.  They take about 50 bytes each (R8)."""

WINDOW: Final = 16
"""Loads from a slow storage that are under way for one client at once: enough to keep the threads
busy, few enough to leave them to others."""

AHEAD: Final = 256
"""Objects that a slow storage is told of before they are loaded, if it can fetch ahead: one that is
a client of another server asks that by one message.  They should fit into its cache."""


class BulkLoads:
    """What one client has asked for by :class:`LoadMany`, and was not answered yet.

    Belongs to the loop.  From a fast storage, objects are read right here, some at a time; from a
    slow one they are loaded on worker threads and answered one by one, after it was told of them.

    :param session: the client.
    :ivar waiting: objects that were asked for and not answered yet.
    """

    __slots__ = ("_ahead", "_at", "_is_due", "_loading", "_queue", "_session", "waiting")

    def __init__(self, session: Session) -> None:
        self._session = session
        self._queue: deque[LoadMany] = deque()
        self._at = 0  # in the first of the queue
        self._ahead = 0  # likewise: so far the storage has been told
        self._is_due = False  # something will call _go_on
        self._loading = 0
        self.waiting = 0

    def add(self, request: LoadMany) -> None:
        """Answer *request* after those before it."""
        self._queue.append(request)
        self.waiting += len(request.oids)
        if self.waiting > MAX_WAITING:
            self._session.stall("loads")
        if not self._is_due:
            self._go_on()

    def resume(self) -> None:
        """The client takes data again."""
        if self._queue and not self._is_due:
            self._go_on()

    def close(self) -> None:
        """The client is gone."""
        self._queue.clear()

    def _go_on(self) -> None:
        self._is_due = False
        session = self._session
        # One that is paused calls resume().
        if not self._queue or not session.is_writable or session.connection.is_closing:
            return
        service = session.service
        if service.publisher.is_held:
            self._is_due = True
            service.when_settled(self._go_on)
        elif service.access.is_fast:
            self._slice()
            if self._queue:
                self._is_due = True
                session.lobby.loop.call_soon(self._go_on)
        else:
            while self._queue and self._loading < WINDOW and not self._is_due:
                if self._at == self._ahead:
                    self._fetch_ahead()
                else:
                    self._load_next()

    def _take(self, count: int) -> None:
        """*count* objects of the first request need not be asked for again."""
        self._at += count
        if self._at >= len(self._queue[0].oids):
            self._queue.popleft()
            self._at = self._ahead = 0

    def _answered(self, count: int) -> None:
        self.waiting -= count
        if self.waiting <= MAX_WAITING:
            self._session.unstall("loads")

    # -- fast storages ---------------------------------------------------------------------------

    def _slice(self) -> None:
        """Answer some objects of the first request in one write."""
        session = self._session
        service = session.service
        publisher = service.publisher
        load = service.access.load_before
        tid, oids = self._queue[0]
        publisher.drain()
        position = service.log.last_tid
        found: list[Any] = []
        revision: Any
        size = 0
        for oid in oids[self._at : self._at + SLICE_OBJECTS]:
            try:
                revision = load(oid, tid)
                size += 0 if revision is None else len(revision[0])
            except Exception as error:  # noqa: BLE001 - becomes the answer for this object
                revision = error
            found.append((oid, revision))
            if size >= SLICE_SIZE:
                break
        publisher.drain()
        last_tid = service.log.last_tid
        if last_tid != position and any(service.log.has_changed(oid, position) for oid, _ in found):
            # A storage that changes while it is not our commit: what was read first may be older
            # than an invalidation that has just been written.  They are read again.
            service.stats.reloads += len(found)
            return
        service.stats.loads += len(found)
        # Nothing is published to this client from here to the write, whoever publishes (R1).
        session.send_checked(self._frames(tid, found))
        self._take(len(found))
        self._answered(len(found))

    def _frames(self, tid: bytes, found: list[Any]) -> bytes:
        """Return the frames that answer for objects with what was found: a revision, nothing, or
        an error."""
        codec = self._session.codec
        room = left = room_for_records(codec.max_payload)
        frames: list[bytes] = []
        records: list[Record] = []
        for oid, revision in found:
            if revision.__class__ is tuple and isinstance(revision[0], bytes):
                data, start, end = revision
                size = RECORD_SIZE + len(data)
                if size <= room:
                    if size > left:
                        frames.append(codec.notice(LoadedMany(tid, records)))
                        records, left = [], room
                    records.append((oid, start, end, data))
                    left -= size
                    continue
            frames.append(self._alone(oid, tid, revision))
        if records:
            frames.append(codec.notice(LoadedMany(tid, records)))
        return b"".join(frames)

    def _alone(self, oid: bytes, tid: bytes, found: Any) -> bytes:
        session = self._session
        key = LoadBefore(oid, tid)
        if isinstance(found, Exception):
            return session.fault_frame(key, found)
        if found is None:
            return session.codec.reply(key, None)
        try:
            return session.codec.loaded(key, *found)
        except MessageTooLarge as error:
            return session.fault_frame(key, error)
        except (TypeError, ValueError) as error:
            logger.error("(%s) an answer cannot be sent: %s", session.name, error)
            return session.fault_frame(key, ValueError("unsendable answer"))

    # -- slow storages ---------------------------------------------------------------------------

    def _fetch_ahead(self) -> None:
        tid, oids = self._queue[0]
        some = oids[self._at : self._at + AHEAD]
        self._ahead += len(some)
        service = self._session.service
        prefetch = service.access.prefetch
        if prefetch is not None and len(some) > 1:
            self._is_due = True
            service.pools.loads.submit(partial(prefetch, some, tid), self._has_fetched)

    def _has_fetched(self, result: None, error: Exception | None) -> None:
        if error is not None:
            # It was a hint; the loads will say what is wrong.
            name = self._session.service.name
            logger.warning(
                "storage %r cannot fetch ahead: %s: %s", name, type(error).__name__, error
            )
        self._go_on()

    def _load_next(self) -> None:
        tid, oids = self._queue[0]
        oid = oids[self._at]
        self._take(1)
        self._loading += 1
        service = self._session.service
        service.stats.loads += 1
        service.load(oid, tid, partial(self._loaded, oid, tid))

    def _loaded(self, oid: bytes, tid: bytes, found: Any, error: Exception | None) -> None:
        self._loading -= 1
        if self._session.is_lost:
            return
        # The publisher has been drained for just this (see StorageService.load).
        self._session.send_checked(self._alone(oid, tid, found if error is None else error))
        self._answered(1)
        if not self._is_due:
            self._go_on()

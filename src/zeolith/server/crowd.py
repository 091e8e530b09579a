"""How many connections there may be, in all and of one address (R8).

At a limit, the connection that has waited longest without registering makes room for the new one,
if it had its time: clients need milliseconds.  So connections that say nothing keep nobody out;
only where all have registered, or have just come, a new one is turned away.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from .limitedlog import LimitedLog
from .origins import UNIX
from .tally import Limit, Tally

logger = logging.getLogger(__name__)

PATIENCE: Final = 2.0
"""Seconds that a connection may take to register while others want its place.  A handshake of TLS
and a log-in over a slow line take less than one."""


_REASONS: Final = {
    Limit.CONNECTIONS: "there are {} connections (max-connections)",
    Limit.CONNECTIONS_PER_ADDRESS: "its address has {} connections (max-connections-per-address)",
}


class _Group:
    """The connections of one address.

    :ivar count: all of them.
    :ivar waiting: those that have not registered, oldest first.
    """

    __slots__ = ("count", "waiting")

    def __init__(self) -> None:
        self.count = 0
        self.waiting: dict[Entry, None] = {}


class Entry:
    """The place of one connection.

    :ivar evict: ends the connection; may be replaced as long as it waits.
    :ivar since: when it came.
    """

    __slots__ = ("_crowd", "_is_in", "evict", "origin", "since")

    def __init__(
        self, crowd: Crowd, origin: str, evict: Callable[[], object], since: float
    ) -> None:
        self._crowd = crowd
        self._is_in = True
        self.origin = origin
        self.evict = evict
        self.since = since

    def settle(self) -> None:
        """The connection has registered: it keeps its place."""
        self._crowd._settle(self)

    def leave(self) -> None:
        """The connection has ended; any number of times."""
        if self._is_in:
            self._is_in = False
            self._crowd._leave(self)


class Crowd:
    """All connections of a server.  Belongs to the loop's thread.

    :param clock: returns the time in seconds.
    :param most: connections there may be.
    :param most_per_address: connections of one :func:`~.origins.origin`, Unix sockets excepted.
    :param tally: counts who was turned away.
    :param log: gets a line for each, as far as somebody would read them.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        most: int,
        most_per_address: int,
        tally: Tally,
        log: LimitedLog,
    ) -> None:
        self._clock = clock
        self._most_per_address = most_per_address
        self._tally = tally
        self._log = log
        self._groups: dict[str, _Group] = {}
        self._waiting: dict[Entry, None] = {}
        self.most = most
        self.count = 0

    def enter(self, origin: str, name: str, evict: Callable[[], object]) -> Entry | None:
        """Return the place of a new connection; None if it is to be closed at once.

        :param name: of its peer, for the log.
        :param evict: ends the connection if it has to make room before it has registered.
        """
        now = self._clock()
        group = self._groups.get(origin)
        if group is not None and group.count >= self._most_per_address and origin != UNIX:
            limit, count, waiting = Limit.CONNECTIONS_PER_ADDRESS, group.count, group.waiting
        elif self.count >= self.most:
            limit, count, waiting = Limit.CONNECTIONS, self.count, self._waiting
        else:
            return self._admit(origin, evict, now)
        if not self._make_room(waiting, now, limit):
            self._tally.hit(limit)
            self._log.warn("(%s) turned away: %s", name, _REASONS[limit].format(count))
            return None
        return self._admit(origin, evict, now)

    def _admit(self, origin: str, evict: Callable[[], object], now: float) -> Entry:
        # Not looked up before: who made room may have been the last of this address.
        group = self._groups.setdefault(origin, _Group())
        entry = Entry(self, origin, evict, now)
        group.count += 1
        group.waiting[entry] = None
        self._waiting[entry] = None
        self.count += 1
        return entry

    def _make_room(self, waiting: dict[Entry, None], now: float, limit: Limit) -> bool:
        oldest = next(iter(waiting), None)
        if oldest is None or now - oldest.since < PATIENCE:
            return False
        oldest.leave()
        self._tally.hit(limit)
        self._log.warn(
            "(%s) connection closed: not registered for %.1f s, and others want its place",
            oldest.origin,
            now - oldest.since,
        )
        oldest.evict()
        return True

    def _settle(self, entry: Entry) -> None:
        self._waiting.pop(entry, None)
        group = self._groups.get(entry.origin)
        if group is not None:
            group.waiting.pop(entry, None)

    def _leave(self, entry: Entry) -> None:
        self._settle(entry)
        self.count -= 1
        group = self._groups[entry.origin]
        group.count -= 1
        if not group.count:
            del self._groups[entry.origin]

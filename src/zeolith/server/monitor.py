"""The report of ``monitor-address``: connect, read a few lines of text, and that is all."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any, Final

from .. import __version__
from ..rights import UNLIMITED, Rights
from .crowd import Entry
from .endpoint import MONITOR_OPTION, Endpoint
from .identifying import identify
from .listening import Acceptor, start_accepting
from .lobby import Lobby
from .overview import SEES
from .service import StorageService

logger = logging.getLogger(__name__)

MOST_READERS: Final = 32
"""Readers served at a time.  One more, and the oldest is cut off: whoever reads what he asked for
is gone within milliseconds."""

PATIENCE: Final = 5.0
"""Seconds that a reader gets to take the report."""


def make_report(lobby: Lobby, rights: Rights = UNLIMITED) -> str:
    """Return the report; the names of its values are those of ZEO 2.

    :param rights: of whoever reads it.
    """
    lines = [f"ZEO monitor server version {__version__} (Zeolith)", time.ctime()]
    reached = sum(lobby.tally.as_dict().values())
    if reached:
        lines.append(f"Limits reached: {reached}")
    for name, service in sorted(lobby.services.items()):
        if rights.on(name) & SEES:
            lines += ["", f"Storage: {name}", *_report_storage(service)]
    return "\n".join([*lines, ""])


def _report_storage(service: StorageService) -> list[str]:
    stats = service.stats
    lines = [
        f"Server started: {stats.start}",
        f"Clients: {len(service.publisher)}",
        f"Clients verifying: {service.verifying}",
        f"Active transactions: {stats.active_txns}",
    ]
    if stats.lock_time is not None:
        lines.append(f"Commit lock held for: {max(int(time.time() - stats.lock_time), 0)}")
    if service.outage:
        lines.append(f"Out of service: {service.outage}")
    return [
        *lines,
        f"Commits: {stats.commits}",
        f"Aborts: {stats.aborts}",
        f"Loads: {stats.loads}",
        f"Stores: {stats.stores}",
        f"Conflicts: {stats.conflicts}",
        f"Conflicts resolved: {stats.conflicts_resolved}",
    ]


class MonitorConnection(asyncio.Protocol):
    """One reader.  Belongs to the loop's thread.

    :param lobby: the server.
    :param readers: all readers that are being served, in order of arrival.
    :param entry: its place among the connections, if it has one: of the others there are few.
    """

    def __init__(
        self, lobby: Lobby, readers: dict[MonitorConnection, None], entry: Entry | None = None
    ) -> None:
        self._entry = entry
        self._lobby = lobby
        self._readers = readers
        self._transport: asyncio.Transport
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        # uvloop's transports are no subclass of asyncio's, whose methods they have.
        self._transport = transport
        self._readers[self] = None
        if self._entry is not None:
            self._entry.evict = transport.abort
        if self._lobby.is_closing:
            transport.abort()
            return
        if len(self._readers) > MOST_READERS:
            oldest = next(iter(self._readers))
            logger.debug("too many read the monitor's report: one is cut off")
            oldest.abort()
        rights = self._rights()
        if rights is None:
            transport.abort()
            return
        logger.debug("the monitor's report is read by %s", transport.get_extra_info("peername"))
        self._timer = self._lobby.loop.call_later(PATIENCE, transport.abort)
        transport.write(make_report(self._lobby, rights).encode("utf-8"))
        transport.close()

    def _rights(self) -> Rights | None:
        """Return what the reader may do; None if he is nobody that the server knows."""
        door = self._lobby.door
        if door is None:
            return UNLIMITED
        user = identify(door.users, self._transport.get_extra_info)
        if user is None:
            door.warn(
                "(%s) does not get the monitor's report: the server knows its users, and this is "
                "none of them",
                self._transport.get_extra_info("peername") or "unix client",
            )
        return None if user is None else user.rights

    def abort(self) -> None:
        """End the connection at once."""
        del self._readers[self]
        self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._readers.pop(self, None)
        if self._entry is not None:
            self._entry.leave()


class Monitor:
    """Listens at the monitor's address, if there is one.  Belongs to the loop's thread.

    :param lobby: the server; learns the address.
    :param endpoint: the address if it is bound already; belongs to the monitor.
    """

    def __init__(self, lobby: Lobby, endpoint: Endpoint | None = None) -> None:
        self._lobby = lobby
        self._endpoint = endpoint
        self._servers: list[Acceptor] = []
        self._readers: dict[MonitorConnection, None] = {}

    async def open(self) -> None:
        """Serve readers from now on.

        :raises ConfigurationError: the address cannot be listened on.
        """
        lobby, address = self._lobby, self._lobby.options.monitor_address
        if self._endpoint is None:
            if address is None:
                return
            self._endpoint = Endpoint.bind(address, option=MONITOR_OPTION)
        self._endpoint.listen()
        lobby.monitor_address = self._endpoint.address
        for listener in self._endpoint.sockets:
            self._servers.append(
                await start_accepting(
                    lobby,
                    listener,
                    lambda entry=None: MonitorConnection(lobby, self._readers, entry),
                )
            )
        logger.info("listening on %s for readers of the monitor's report", lobby.monitor_address)

    def pause(self) -> None:
        """Accept nobody any more; :meth:`close` is to follow some turns of the loop later."""
        if self._endpoint is not None:
            for listener in self._endpoint.sockets:
                self._lobby.loop.remove_reader(listener.fileno())

    def close(self) -> None:
        """Listen no more, and end what is being read."""
        for server in self._servers:
            server.close()
        if self._endpoint is not None:
            self._endpoint.close()
        for reader in list(self._readers):
            reader.abort()

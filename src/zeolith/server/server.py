"""The server: listeners, the loop, and an orderly end.

The end, whoever asks for it, has these steps: listen no more; take no more requests; let commits
that are being written end, and give up those that are not; send what is to be sent; close
connections; close storages.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

from ..credentials import FixedCredentials
from ..errors import ConfigurationError
from .crowd import Entry
from .endpoint import Endpoint
from .inbox import Inbox
from .listening import Acceptor, start_accepting
from .lobby import Lobby
from .loops import handle_loop_error, new_event_loop
from .monitor import Monitor
from .options import Address, ServerOptions
from .recovery import Recovery
from .renewal import Renewal
from .service import Pools, StorageService
from .transport import Connection

logger = logging.getLogger(__name__)

_CLOSE_TIMEOUT: Final = 2.0
_POLL: Final = 0.01

_SETTLING_TURNS: Final = 5
"""Turns of the loop in which a connection accepted at the last moment is made, and closed."""


class Server:
    """Serves ZODB storages to clients that speak ZEO's protocol 5.

    :param storages: the storages by name; they belong to the server, which closes them.
    :param options: see :class:`ServerOptions`.
    :param reopen: functions that open a storage again after it has failed, by its name; each may be
        called any number of times, on any thread.  A storage without one stays out of service once
        it has failed; when none is left, the server ends.
    :raises ConfigurationError: there is nothing to serve.
    """

    def __init__(
        self,
        storages: Mapping[str, Any],
        options: ServerOptions,
        reopen: Mapping[str, Callable[[], Any]] | None = None,
    ) -> None:
        if not storages:
            raise ConfigurationError("storages", "there is none to serve")
        self._options = options
        self._inbox = Inbox()
        self._pools = Pools(options, self._inbox)
        self._services = {
            name: self._make_service(name, storage) for name, storage in storages.items()
        }
        self._reopen = dict(reopen or {})
        self._recoveries: dict[str, Recovery] = {}
        self._lost: set[str] = set()  # names of storages that are out of service for good
        self._lobby: Lobby | None = None
        self._address: Address | None = None
        self._lock = threading.Lock()  # guards the two below
        self._has_run = False
        self._is_stopping = False
        self._stopped: asyncio.Event | None = None
        self._exit_status = 0

    # -- any thread ------------------------------------------------------------------------------

    @property
    def address(self) -> Address:
        """Where the server listens, with the real port.

        :raises RuntimeError: it does not listen yet.
        """
        if self._address is None:
            raise RuntimeError("the server does not listen")
        return self._address

    @property
    def max_connections(self) -> int:
        """How many connections there may be, if the process may open as many files."""
        return self._options.max_connections

    def stop(self) -> None:
        """Have the server end, upon which :meth:`run` returns.  Any thread, any number of times."""
        with self._lock:
            self._is_stopping = True
        self._inbox.post(self._wake_up)

    def status(self) -> dict[str, dict[str, Any]]:
        """Return the status of each storage by name, as ``ruok`` reports it.

        :raises RuntimeError: the server does not listen yet.
        """
        lobby = self._lobby
        if lobby is None:
            raise RuntimeError("the server does not listen")
        return lobby.status()

    def statistics(self) -> dict[str, dict[str, Any]]:
        """Return further counters of each storage by name."""
        return {name: service.extras() for name, service in self._services.items()}

    # -- the thread that runs the server ---------------------------------------------------------

    def run(
        self,
        on_listening: Callable[[Address], None] | None = None,
        endpoint: Endpoint | None = None,
        monitor_endpoint: Endpoint | None = None,
    ) -> int:
        """Serve until stopped; close the storages; return the exit status.

        :param on_listening: called with the address as soon as clients can connect, in a callback
            of the event loop.
        :param endpoint: where to listen if that is bound already; belongs to the server from now
            on.  Otherwise the options' address is bound here.
        :param monitor_endpoint: the same for the options' ``monitor_address``.
        :returns: 0, or 1 if a storage failed for good.
        :raises ConfigurationError: the server cannot listen; the storages are closed.
        :raises RuntimeError: it has run before.
        """
        with self._lock:
            if self._has_run:
                raise RuntimeError("a server runs once")
            self._has_run = True
        loop: asyncio.AbstractEventLoop | None = None
        try:
            loop = new_event_loop(self._options.loop)
            loop.set_exception_handler(handle_loop_error)
            loop.run_until_complete(self._serve(loop, on_listening, endpoint, monitor_endpoint))
        finally:
            for given in (endpoint, monitor_endpoint):
                if given is not None:
                    given.close()
            if loop is not None:
                loop.run_until_complete(_cancel_tasks())
            self._inbox.close()
            if loop is not None:
                loop.close()
            is_clean = self._close_storages()
        return self._exit_status if is_clean else 1

    async def _serve(
        self,
        loop: asyncio.AbstractEventLoop,
        on_listening: Callable[[Address], None] | None,
        endpoint: Endpoint | None,
        monitor_endpoint: Endpoint | None,
    ) -> None:
        self._stopped = asyncio.Event()
        for service in self._services.values():
            service.prepare()
            service.open(loop)
        lobby = self._lobby = Lobby(loop, self._options, self._services)
        self._inbox.open(loop)
        if endpoint is None:
            endpoint = Endpoint.bind(self._options.address)
        listeners = list(endpoint.sockets)
        self._address = endpoint.address
        servers: list[Acceptor] = []
        monitor = Monitor(lobby, monitor_endpoint)
        renewal = self._make_renewal(loop)
        try:
            endpoint.listen()
            for listener in listeners:
                servers.append(await self._listen(listener, lobby))
            lobby.address = self._address
            await monitor.open()
            logger.info("listening on %s", self._address)
            if on_listening is not None:
                on_listening(self._address)
            with self._lock:
                if self._is_stopping:
                    self._stopped.set()
            await self._stopped.wait()
        finally:
            lobby.is_closing = True
            monitor.pause()
            if renewal is not None:
                renewal.stop()
            for listener in listeners:
                # asyncio cannot finish accepting for a server that is closed, and leaks the
                # connection.  (uvloop has no reader here; its accepting has no second half.)
                loop.remove_reader(listener.fileno())
            await _take_turns()
            monitor.close()
            for server in servers:
                server.close()
            endpoint.close()
            await self._end(loop, lobby)

    def _make_renewal(self, loop: asyncio.AbstractEventLoop) -> Renewal | None:
        credentials = self._options.credentials
        if credentials is None or isinstance(credentials, FixedCredentials):
            return None
        return Renewal(loop, self._pools.quick, credentials)

    async def _listen(self, listener: Any, lobby: Lobby) -> Acceptor:
        def factory(entry: Entry | None = None) -> Connection:
            return Connection(lobby, entry)

        return await start_accepting(lobby, listener, factory)

    def _wake_up(self) -> None:
        if self._stopped is not None:
            self._stopped.set()

    # -- storages that fail ----------------------------------------------------------------------

    def _make_service(self, name: str, storage: Any) -> StorageService:
        return StorageService(
            name, storage, self._options, self._inbox, self._pools, partial(self._failed, name)
        )

    def _failed(self, name: str) -> None:
        """Take a storage out of service.  The others go on."""
        assert self._lobby is not None
        service = self._services[name]
        can_return = name in self._reopen
        outlook = "is being opened again" if can_return else "is out of service"
        service.withdraw(f"storage {name!r} {outlook}, because a commit failed; try again later")
        recovery = self._recoveries.get(name)
        if recovery is None:
            recovery = self._recoveries[name] = Recovery(
                name,
                partial(self._reopen_service, name) if can_return else None,
                self._lobby.loop,
                self._inbox,
                partial(self._returned, name),
                partial(self._given_up, name),
            )
        if self._lobby.is_closing:
            recovery.stop()
        recovery.begin(service)

    def _reopen_service(self, name: str) -> StorageService:
        """Runs on a thread of the recovery."""
        storage = self._reopen[name]()
        try:
            service = self._make_service(name, storage)
            service.prepare()
        except BaseException:
            storage.close()
            raise
        return service

    def _returned(self, name: str, service: StorageService) -> None:
        assert self._lobby is not None
        self._lobby.begin_life()
        service.open(self._lobby.loop)
        self._services[name] = service

    def _given_up(self, name: str, reason: str) -> None:
        """A storage stays out of service: say so, with the exit status too."""
        self._lost.add(name)
        self._exit_status = 1
        service = self._services[name]
        service.outage = f"storage {name!r} is out of service, see the log of its server"
        is_last = len(self._lost) == len(self._services)
        logger.critical(
            "storage %r stays out of service: %s.  %s",
            name,
            reason,
            "The server ends, because there is no other storage" if is_last
            else "Check disk and file, then restart the server; its other storages go on meanwhile",
        )  # fmt: skip
        if is_last:
            self._wake_up()

    # -- the end ---------------------------------------------------------------------------------

    async def _end(self, loop: asyncio.AbstractEventLoop, lobby: Lobby) -> None:
        lobby.pulse.stop()
        lobby.overdue.stop()
        if lobby.door is not None:
            lobby.door.close()
        for recovery in self._recoveries.values():
            recovery.stop()
        connections = list(lobby.connections)
        if connections:
            logger.info("closing %d connections", len(connections))
        for connection in connections:
            _dismiss(connection)
        await self._until(loop, self._is_idle)
        for connection in list(lobby.connections):
            connection.close()
        await self._until(loop, lambda: not lobby.connections)
        if lobby.connections:
            logger.warning("%d clients did not take their last answers", len(lobby.connections))
        for connection in list(lobby.connections):
            connection.abort()
        await self._until(loop, lambda: not lobby.connections)
        for service in self._services.values():
            service.parking.close()
        # Temporary files that the connections' end has left to be removed.
        await self._until(loop, lambda: self._pools.is_idle)
        self._pools.close()
        lobby.close_logs()

    def _is_idle(self) -> bool:
        return all(service.is_idle for service in self._services.values())

    async def _until(self, loop: asyncio.AbstractEventLoop, condition: Callable[[], bool]) -> None:
        """Wait for *condition*, for the time of grace at most."""
        deadline = loop.time() + self._options.shutdown_grace
        # Looking now and then is simple, and this happens once in a server's life.
        while not condition() and loop.time() < deadline:
            await asyncio.sleep(_POLL)

    def _close_storages(self) -> bool:
        is_clean = True
        for recovery in self._recoveries.values():
            recovery.close(_CLOSE_TIMEOUT)
        for name, service in self._services.items():
            if service.outage:
                continue  # its recovery has closed it
            logger.info("closing storage %r", name)
            is_clean = service.close(_CLOSE_TIMEOUT) and is_clean
        return is_clean


def _dismiss(connection: Connection) -> None:
    """End a connection because the server stops."""
    connection.stall("closing")
    session = connection.session
    if session is not None and session.is_finishing and not session.is_lost:
        # It stays to get its answer; what else the client has in progress ends after that.
        session.service.when_settled(partial(_dismiss, connection))
        return
    # Closed first: a lost connection can be retried, an aborted vote would be an error.
    connection.close()
    if session is not None and session.transactions:
        session.give_up("the server stops")


async def _take_turns() -> None:
    for _ in range(_SETTLING_TURNS):
        await asyncio.sleep(0)


async def _cancel_tasks() -> None:
    """End what the loop was doing for connections that never came to us, such as TLS handshakes."""
    await _take_turns()
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.sleep(0)

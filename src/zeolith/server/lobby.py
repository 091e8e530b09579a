"""What connections share before they have chosen a storage."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..protocol.checksums import ALGORITHMS
from ..protocol.compression import is_available
from ..protocol.hello import Terms
from ..protocol.limits import MAX_TRANSACTIONS
from .crowd import Crowd
from .door import Door
from .limitedlog import LimitedLog
from .openfiles import most_connections
from .options import Address, ServerOptions
from .overdue import Overdue
from .parking import PARK_TIME
from .peerlog import PeerLines
from .pulse import Pulse
from .service import StorageService
from .tally import Tally

if TYPE_CHECKING:
    from .transport import Connection

logger = logging.getLogger(__name__)


class Lobby:
    """The server as its connections see it.  Belongs to the loop's thread.

    :ivar loop: the event loop.
    :ivar options: the server's options.
    :ivar services: the storages served, by name.
    :ivar connections: all connections, in order of arrival.
    :ivar is_closing: whether new requests are refused because the server ends.
    :ivar peers: connections accepted so far.
    :ivar address: where the server listens; None until it does.
    :ivar monitor_address: where its text report can be read; None if nowhere.
    :ivar started: when the server started, in seconds since the epoch.
    :ivar incoming: bytes that have arrived and are not done with, over all connections.
    :ivar terms: what is asked of clients that speak Zeolith's own protocol.
    :ivar door: lets users in; None if none are known, and so everybody is.
    :ivar pulse: heartbeats, and the end of connections that are silent.
    :ivar tally: how often limits were reached.
    :ivar crowd: the places of connections, of those in a TLS handshake too.
    :ivar lines: what may be logged of each address.
    :ivar overdue: ends transactions that take too long.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        options: ServerOptions,
        services: Mapping[str, StorageService],
    ) -> None:
        self.loop = loop
        self.options = options
        self.services = services
        self.connections: dict[Connection, None] = {}
        self.is_closing = False
        self.peers = 0
        self.address: Address | None = None
        self.monitor_address: Address | None = None
        self.started = time.time()
        self.incoming = 0
        self.terms = Terms(
            options.dead_peer_timeout,
            options.compression != "off" and is_available(),
            ALGORITHMS,
            transactions=MAX_TRANSACTIONS,
            keeps=PARK_TIME,
        )
        self.begin_life()
        self.tally = Tally()
        self.door = (
            None
            if options.users is None
            else Door(loop, options.users, self.tally, options.login_attempts)
        )
        self.pulse = Pulse(loop, lambda: self.connections, options.dead_peer_timeout)
        self._crowd_log = LimitedLog(loop, logger, "connections were turned away")
        self.crowd = Crowd(
            loop.time,
            most_connections(options.max_connections),
            options.max_connections_per_address,
            self.tally,
            self._crowd_log,
        )
        self.lines = PeerLines(loop, options.peer_log_lines, self.tally)
        self.overdue = Overdue(
            loop, lambda: self.connections, options.max_transaction_duration, self.tally
        )

    def begin_life(self) -> None:
        """A storage has been opened: ids for objects that it gave out before may be given again."""
        self.terms = self.terms._replace(life=os.urandom(8).hex())

    def close_logs(self) -> None:
        """Tell what was left out of the log; the last thing that a server does."""
        self._crowd_log.close()
        self.lines.close()

    def status(self) -> dict[str, dict[str, Any]]:
        """Return the answer to ``ruok``: each storage's status."""
        return {name: service.status() for name, service in self.services.items()}

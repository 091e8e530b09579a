"""Ending the connections of clients because an administrator asks for it.

Where the server knows its users, it takes the right to administer the storage of the connection,
and on all storages if it has chosen none.

Elsewhere whoever can connect may write the database, and so do worse than ending a connection.
Where that is not so, because the server or the storage is read-only, only those who are on the
server's own machine and can open its Unix socket are obeyed.
"""

from __future__ import annotations

import socket
from functools import partial
from typing import TYPE_CHECKING, Any

from ..protocol.inquiry import MOST_CONNECTIONS, KickInquiry
from ..rights import Right
from .identifying import process_of
from .lobby import Lobby
from .overview import describe_connections, storage_of, tls_user
from .peerlog import peer_logger

if TYPE_CHECKING:
    from .transport import Connection

logger = peer_logger(__name__)


def kick(lobby: Lobby, asker: Connection, inquiry: KickInquiry) -> dict[str, Any]:
    """End the connections that *inquiry* names, unless it only wants to know which; return the
    answer, which describes them as they were.

    A commit that is being written gets its answer before.
    """

    def is_meant(connection: Connection) -> bool:
        return connection is not asker and not connection.is_closing and _fits(connection, inquiry)

    meant = [connection for connection in lobby.connections if is_meant(connection)]
    if lobby.door is not None:
        if not all(_may_end(lobby, asker, connection) for connection in meant):
            who = tls_user(asker) if asker.user is None else asker.user.name
            lobby.door.warn("(%s) refused: %r may not end connections", asker.address, who)
            return {"error": f"the user {who!r} lacks the right 'administer' on some of them"}
    elif not inquiry.dry_run and not _is_local(asker):
        for connection in meant:
            if _is_read_only(lobby, connection):
                return {"error": "read-only: connections can be ended over its Unix socket only"}
    described, left_out = describe_connections(lobby, MOST_CONNECTIONS, is_meant)
    if not inquiry.dry_run:
        reason = f"kicked by {_describe(asker)}"
        for connection in meant:
            _end(connection, reason)
    return {"connections": described, "left_out": left_out, "dry_run": inquiry.dry_run}


def _fits(connection: Connection, inquiry: KickInquiry) -> bool:
    session = connection.session
    if inquiry.storage is not None and storage_of(session) != inquiry.storage:
        return False
    client = inquiry.client
    if client is None or client in (connection.address, str(connection.number)):
        return True
    return session is not None and session.label == client != ""


def _may_end(lobby: Lobby, asker: Connection, connection: Connection) -> bool:
    storage = storage_of(connection.session)
    rights = asker.rights
    found = rights.on_all(lobby.services) if storage is None else rights.on(storage)
    return Right.ADMINISTER in found


def _is_local(asker: Connection) -> bool:
    sock = asker.extra_info("socket")
    return sock is not None and sock.family == socket.AF_UNIX


def _is_read_only(lobby: Lobby, connection: Connection) -> bool:
    session = connection.session
    if session is None or session.publisher is None:
        return all(service.is_read_only for service in lobby.services.values())
    return session.service.is_read_only


def _end(connection: Connection, reason: str) -> None:
    session = connection.session
    if session is None:
        logger.warning("(%s) connection closed: %s", connection.address, reason)
        connection.close()
    elif session.is_finishing and not session.is_lost:
        # Nothing can stop that commit.  Its client gets to know of it, and is asked nothing more.
        connection.stall("kicked")
        session.service.when_settled(partial(_end, connection, reason))
    elif not connection.is_closing:
        # Closed first: a lost connection can be retried, an aborted vote would be an error.
        session.close(reason)
        if session.transactions:
            session.give_up("kicked")


def _describe(asker: Connection) -> str:
    """Return who asks, for the log."""
    user = tls_user(asker) if asker.user is None else asker.user.name
    if user:
        return f"{user} from {asker.address}"
    process = process_of(asker.extra_info)
    if process is not None:
        return f"process {process.pid} of user {process.uid}"
    return asker.address

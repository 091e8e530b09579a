"""Answers to what administrators ask."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from ZODB.POSException import StorageError

from ..errors import AccessDenied
from ..protocol.inquiry import EstimateInquiry, Inquiry, KickInquiry, StatusInquiry
from ..rights import Right
from .kicking import kick
from .lobby import Lobby
from .overview import (
    describe_connections,
    describe_server,
    describe_storage,
    may_see,
    storage_of,
)

if TYPE_CHECKING:
    from .transport import Connection

logger = logging.getLogger(__name__)


def answer_inquiry(lobby: Lobby, asker: Connection, inquiry: Inquiry) -> dict[str, Any]:
    """Return the answer to *inquiry*, to be written as JSON.  On the loop; never blocks.

    :param asker: the connection over which it was asked.
    """
    visible = [name for name in sorted(lobby.services) if may_see(asker, name)]
    if not visible:
        user = "" if asker.user is None else asker.user.name
        assert lobby.door is not None  # else everybody sees everything
        lobby.door.warn("(%s) refused: %r may see no storage", asker.address, user)
        return {"error": f"the user {user!r} has neither the right 'administer' nor 'pack'"}
    if inquiry.storage is not None and inquiry.storage not in visible:
        served = ", ".join(visible)
        return {"error": f"there is no storage {inquiry.storage!r} here; there are: {served}"}
    if isinstance(inquiry, KickInquiry):
        return kick(lobby, asker, inquiry)
    if isinstance(inquiry, EstimateInquiry):
        return _estimate(lobby, asker, inquiry)
    return _status(lobby, asker, inquiry)


def _estimate(lobby: Lobby, asker: Connection, inquiry: EstimateInquiry) -> dict[str, Any]:
    service = lobby.services[inquiry.storage]
    if Right.PACK not in asker.rights.on(inquiry.storage):
        user = "" if asker.user is None else asker.user.name
        return {"error": str(AccessDenied(user, "pack", inquiry.storage))}
    if service.outage:
        return {"error": service.outage}
    try:
        service.packing.estimate(inquiry.time, asker.address)
    except StorageError as error:
        return {"error": str(error)}
    return {"started": True}


def _status(lobby: Lobby, asker: Connection, inquiry: StatusInquiry) -> dict[str, Any]:
    storage = inquiry.storage

    def is_wanted(connection: Connection) -> bool:
        if connection is asker:
            return False
        chosen = storage_of(connection.session)
        return (storage is None or chosen == storage) and Right.ADMINISTER in (
            everywhere if chosen is None else asker.rights.on(chosen)
        )

    everywhere = asker.rights.on_all(lobby.services)
    described, left_out = describe_connections(lobby, inquiry.connections, is_wanted)
    now = lobby.loop.time()
    return {
        "server": describe_server(lobby),
        "storages": {
            name: describe_storage(
                service,
                now,
                inquiry.connections,
                names_clients=Right.ADMINISTER in asker.rights.on(name),
            )
            for name, service in lobby.services.items()
            if (storage is None or name == storage) and may_see(asker, name)
        },
        "connections": described,
        "left_out": left_out,
    }

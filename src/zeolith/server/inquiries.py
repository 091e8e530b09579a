"""Answers to what administrators ask."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from ZODB.POSException import StorageError

from ..protocol.inquiry import EstimateInquiry, Inquiry, KickInquiry, StatusInquiry
from .kicking import kick
from .lobby import Lobby
from .overview import describe_connections, describe_server, describe_storage, storage_of

if TYPE_CHECKING:
    from .transport import Connection

logger = logging.getLogger(__name__)


def answer_inquiry(lobby: Lobby, asker: Connection, inquiry: Inquiry) -> dict[str, Any]:
    """Return the answer to *inquiry*, to be written as JSON.  On the loop; never blocks.

    :param asker: the connection over which it was asked.
    """
    if inquiry.storage is not None and inquiry.storage not in lobby.services:
        served = ", ".join(sorted(lobby.services))
        return {"error": f"there is no storage {inquiry.storage!r} here; there are: {served}"}
    if isinstance(inquiry, KickInquiry):
        return kick(lobby, asker, inquiry)
    if isinstance(inquiry, EstimateInquiry):
        return _estimate(lobby, asker, inquiry)
    return _status(lobby, asker, inquiry)


def _estimate(lobby: Lobby, asker: Connection, inquiry: EstimateInquiry) -> dict[str, Any]:
    service = lobby.services[inquiry.storage]
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
        return storage is None or storage_of(connection.session) == storage

    described, left_out = describe_connections(lobby, inquiry.connections, is_wanted)
    now = lobby.loop.time()
    return {
        "server": describe_server(lobby),
        "storages": {
            name: describe_storage(service, now, inquiry.connections)
            for name, service in lobby.services.items()
            if storage is None or name == storage
        },
        "connections": described,
        "left_out": left_out,
    }

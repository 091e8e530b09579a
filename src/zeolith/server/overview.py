"""What an administrator gets to see of a running server.

Everything here runs on the loop and only looks at what is in memory; nothing asks a storage.  What
is returned can be written as JSON: times are seconds since the epoch, ages and durations seconds.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from heapq import nsmallest
from typing import TYPE_CHECKING, Any, Final

from persistent.TimeStamp import TimeStamp

from .. import __version__
from ..credentials import Credentials
from ..rights import Right
from ..types import NO_TID
from .blobcounts import describe_blobs
from .identifying import names_of_certificate
from .lobby import Lobby
from .service import StorageService
from .session import Session

if TYPE_CHECKING:
    from .transport import Connection

_MAX_TEXT: Final = 200
"""Characters of a name in a certificate."""


def describe_server(lobby: Lobby) -> dict[str, Any]:
    """Return what concerns the server as a whole."""
    options = lobby.options
    return {
        "version": __version__,
        "pid": os.getpid(),
        "started": lobby.started,
        "now": time.time(),
        "address": lobby.address,
        "monitor_address": lobby.monitor_address,
        "loop": "uvloop" if type(lobby.loop).__module__.startswith("uvloop") else "asyncio",
        "tls": options.ssl is not None,
        "log_in": options.users is not None,
        "certificate": _describe_certificate(options.credentials),
        "read_only": options.read_only,
        "is_closing": lobby.is_closing,
        # Without the one over which this is asked.
        "connections": len(lobby.connections) - 1,
        "accepted": lobby.peers,
        "max_connections": lobby.crowd.most,
        # How often each limit was reached since the start.
        "limits": lobby.tally.as_dict(),
    }


def describe_storage(
    service: StorageService, now: float, most: int, *, names_clients: bool
) -> dict[str, Any]:
    """Return what concerns one storage.

    :param now: the loop's time.
    :param most: how many of those that want to commit are described at most.
    :param names_clients: whether it is said who they are.
    """
    tid = service.log.last_tid
    known_size = service.access.known_size
    turns = [
        {
            **_name(turn.owner, names_clients),
            "phase": turn.phase,
            "seconds": _since(now, turn.since),
        }
        for turn in service.coordinator.turns(most)
    ]
    return {
        "outage": service.outage,
        "read_only": service.is_read_only,
        "counters": service.status(),
        "extras": service.extras(),
        "verifying": service.verifying,
        "objects": known_size.get("length"),
        "size": known_size.get("size"),
        "last_transaction": {"tid": tid.hex(), "time": _time_of(tid)},
        "packing": service.packing_state(),
        "blobs": _describe_blobs(service),
        "tier": None if service.cold is None else service.cold.tier.describe(),
        "commits": {
            "holders": [turn for turn in turns if turn["phase"] != "waiting"],
            "waiting": [turn for turn in turns if turn["phase"] == "waiting"],
        },
    }


def _describe_blobs(service: StorageService) -> dict[str, Any] | None:
    if not service.access.has_blobs:
        return None
    subscribers = service.publisher.subscribers
    sessions = [found for found in subscribers if isinstance(found, Session)]
    return describe_blobs(service.stats.blobs, sessions, service.parking)


SEES: Final = Right.PACK | Right.ADMINISTER
"""Rights each of which lets its owner see how a storage is."""


def may_see(connection: Connection, storage: str) -> bool:
    """Return whether the peer may see how *storage* is."""
    return bool(connection.rights.on(storage) & SEES)


def describe_counters(lobby: Lobby, asker: Connection) -> dict[str, Any]:
    """Return the answer to ``ruok``: the counters of each storage that *asker* may see."""
    counters = lobby.status()
    return {name: found for name, found in counters.items() if may_see(asker, name)}


def describe_connection(connection: Connection, now: float, loop_now: float) -> dict[str, Any]:
    """Return what concerns one connection.

    :param now: ``time.monotonic()``.
    :param loop_now: the loop's time.
    """
    session = connection.session
    transaction = None if session is None else session.transaction
    return {
        "number": connection.number,
        "label": "" if session is None else session.label,
        "address": connection.address,
        "user": tls_user(connection) if connection.user is None else connection.user.name,
        "storage": storage_of(session),
        "read_only": None if session is None or session.publisher is None else session.read_only,
        "age": _since(now, connection.since),
        "idle": _since(now, connection.active),
        "transaction": None
        if transaction is None
        else {"stage": transaction.stage.value, "age": _since(loop_now, transaction.began)},
        "transactions": 0 if session is None else len(session.transactions),
        "cache": None
        if session is None or session.cache_report is None
        else session.cache_report._asdict(),
        "unsent": connection.unsent,
    }


def describe_connections(
    lobby: Lobby, most: int, is_wanted: Callable[[Connection], bool]
) -> tuple[list[dict[str, Any]], int]:
    """Describe up to *most* of the connections that are wanted; return how many were left out, too.

    Those with a transaction come first, and the oldest of both kinds.
    """
    wanted = [connection for connection in lobby.connections if is_wanted(connection)]
    now, loop_now = time.monotonic(), lobby.loop.time()
    chosen = nsmallest(most, wanted, key=_rank)
    described = [describe_connection(connection, now, loop_now) for connection in chosen]
    return described, len(wanted) - len(described)


def storage_of(session: Session | None) -> str | None:
    """Return the name of the storage that a client has chosen; None if it has not chosen yet."""
    return None if session is None or session.publisher is None else session.publisher.name


def _describe_certificate(credentials: Credentials | None) -> dict[str, Any] | None:
    if credentials is None or credentials.expires is None:
        return None
    return {"expires": credentials.expires, "trouble": credentials.trouble}


def tls_user(connection: Connection) -> str:
    """Return whom the peer's certificate names; empty without TLS."""
    if not connection.extra_info("peercert"):
        return ""
    names = names_of_certificate(connection.extra_info)
    text = ", ".join(names) or "(certificate without a name)"
    # The authority that signed it may have been careless: it must not feign lines of its own.
    return "".join(c if c.isprintable() else "?" for c in text[:_MAX_TEXT])


def _rank(connection: Connection) -> tuple[bool, int]:
    session = connection.session
    return session is None or not session.transactions, connection.number


def _name(owner: object, is_named: bool) -> dict[str, Any]:
    assert isinstance(owner, Session)
    connection = owner.connection
    if not is_named:
        return {"number": connection.number, "label": "", "address": ""}
    return {"number": connection.number, "label": owner.label, "address": connection.address}


def _since(now: float, then: float) -> float:
    return round(max(now - then, 0.0), 3)


def _time_of(tid: bytes) -> float | None:
    if tid == NO_TID:
        return None
    try:
        return float(TimeStamp(tid).timeTime())
    except ValueError:  # eight bytes that are no time
        return None

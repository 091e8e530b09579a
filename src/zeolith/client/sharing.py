"""What a client does for a cache that several processes read together, and for no other."""

from __future__ import annotations

import logging

from ZODB.POSException import POSError

from ..cache import SharedCache
from ..cache.interface import ClientCache
from ..errors import ClientDisconnected
from ..protocol.hello import Database
from ..protocol.messages import GetInvalidations
from .channel import Channel

logger = logging.getLogger(__name__)


def ask_changes(
    channel: Channel, cache: ClientCache, database: Database | None, tid: bytes
) -> None:
    """Ask the server what has changed since the snapshots of other processes' caches.

    Called before anything is applied that the server has announced after *tid*.

    :param database: which one the server has.
    :param tid: up to which *cache* has been verified.
    :raises ClientDisconnected: the connection ended meanwhile.
    """
    if not isinstance(cache, SharedCache):
        return
    for since in cache.unknown_since(database, tid):
        try:
            missed = channel.call(GetInvalidations(since))
        except ClientDisconnected:
            raise
        except POSError as error:
            logger.warning("%s cannot say what has changed: %s", channel.server_name, error)
            return
        if missed is None:
            logger.info(
                "%s: what changed since transaction %s is not known; caches of other processes "
                "that are as old are not read",
                channel.server_name,
                since.hex(),
            )
            return
        cache.learn_changes(since, *missed)


def tend(cache: ClientCache) -> None:
    """Have *cache* bring to disk what it knows, and see what others have; now and then."""
    cache.save()
    if isinstance(cache, SharedCache):
        cache.look_around()

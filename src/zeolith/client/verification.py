"""Bringing a cache up to date with the server it has just connected to (rule R6)."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager
from enum import Enum
from typing import NamedTuple, Protocol

from ..cache.interface import ClientCache
from ..errors import OtherDatabase, ServerBehindCache
from ..protocol.hello import Database
from ..protocol.messages import GetInvalidations, LastTransaction
from ..types import NO_TID
from .channel import Channel

logger = logging.getLogger(__name__)


class WhenBehind(Enum):
    """What to do when the server's database is older than what this client has seen."""

    DROP_CACHE = "drop-cache"
    REFUSE = "refuse"


class Databases(NamedTuple):
    """Whose transactions are compared.

    :ivar known: the database that the cache was verified against last; None if that is not known.
    :ivar found: the server's; None if it does not say.
    """

    known: Database | None = None
    found: Database | None = None


class CacheOwner(Protocol):
    """Whom verification reports to: the client storage."""

    def invalidate(self, tid: bytes, oids: list[bytes]) -> None:
        """The objects *oids* have changed, the last of them in transaction *tid*."""

    def invalidate_all(self, tid: bytes) -> None:
        """Any object may have changed, up to transaction *tid*."""

    def cache_is_stale(self) -> None:
        """The cache is about to be dropped for want of knowledge."""


def verify(
    channel: Channel,
    cache: ClientCache,
    owner: CacheOwner,
    server_tid: bytes | None,
    databases: Databases,
    when_behind: WhenBehind,
    drop_rather_than_verify: bool,
    visibility: AbstractContextManager[object],
) -> bytes:
    """See to it that *cache* serves nothing that the server's database contradicts.

    What counts is the last transaction this client knows of, not whether the cache holds
    anything: the objects that ZODB connections hold are as old as that.

    :param server_tid: the server's last transaction when it admitted us.
    :param visibility: held while the cache is dropped: nobody shall ask meanwhile how far it goes
        (rule R3).
    :returns: the transaction up to which the cache is now right.
    :raises ServerBehindCache: the database has lost transactions that we know, and that is
        configured to be an error.
    :raises OtherDatabase: it is another one than before, and that is configured to be an error.
    :raises ClientDisconnected: the connection ended meanwhile.
    """
    if server_tid is None:
        server_tid = channel.call(LastTransaction()) or NO_TID
    cache_tid = cache.last_tid()
    if cache_tid == NO_TID and len(cache):
        # An application's own cache that does not know how old it is.
        cache.clear()
    if cache_tid == NO_TID:
        return server_tid
    known, found = databases
    if known is not None and found is not None and known.identity != found.identity:
        # Whatever its transactions are called, they are not those that we have seen.
        if when_behind is WhenBehind.REFUSE:
            raise OtherDatabase(found.identity, known.identity)
        logger.warning(
            "%s: the database is %s, but what this client has seen comes from database %s; "
            "dropping the cache",
            channel.server_name,
            found.identity,
            known.identity,
        )
        _drop(cache, owner, server_tid, visibility)
        return server_tid
    if cache_tid > server_tid:
        if when_behind is WhenBehind.REFUSE:
            raise ServerBehindCache(server_tid, cache_tid)
        logger.warning(
            "%s: the database ends at transaction %s, but this client has seen %s: it must have "
            "been restored from a backup; dropping the cache",
            channel.server_name,
            server_tid.hex(),
            cache_tid.hex(),
        )
        _drop(cache, owner, server_tid, visibility)
        return server_tid
    if known is not None and found is not None and known.epoch != found.epoch:
        # Transactions of ours may be lost, and their place may have been taken by others.
        logger.warning(
            "%s: the database was restored from a backup: its epoch is %d, and was %d when this "
            "client was connected last; dropping the cache",
            channel.server_name,
            found.epoch,
            known.epoch,
        )
        _drop(cache, owner, server_tid, visibility)
        return server_tid
    if cache_tid == server_tid:
        return server_tid
    missed = None if drop_rather_than_verify else channel.call(GetInvalidations(cache_tid))
    if missed is None:
        obstacle = (
            "it is configured not to be verified"
            if drop_rather_than_verify
            else _obstacle(channel, cache)
        )
        logger.log(
            logging.WARNING if obstacle else logging.INFO,
            "%s: which objects changed between transaction %s and %s is not known; %s",
            channel.server_name,
            cache_tid.hex(),
            server_tid.hex(),
            f"dropping the cache: {obstacle}"
            if obstacle
            else f"verifying the cache ({len(cache)} revisions)",
        )
        if obstacle:
            owner.cache_is_stale()
            _drop(cache, owner, server_tid, visibility)
        else:
            _doubt(cache, owner, server_tid, visibility)
        return server_tid
    tid, oids = missed
    for oid in oids:
        # Not the tid: an object may have changed more than once while we were away, so where
        # the revision we hold ended is not known.
        cache.invalidate(oid, None)
    owner.invalidate(tid, list(oids))
    verified: bytes = tid
    return verified


def _obstacle(channel: Channel, cache: ClientCache) -> str | None:
    """Return why the objects of *cache* cannot be verified one by one; None if they can."""
    if cache.suspects is None:
        return "the application's own cache cannot be verified"
    if not channel.speaks_own:
        return "the server speaks ZEO's protocol, which has no call to verify objects"
    return None


def _doubt(
    cache: ClientCache,
    owner: CacheOwner,
    server_tid: bytes,
    visibility: AbstractContextManager[object],
) -> None:
    """Serve nothing that is current in *cache* until it has been verified."""
    with visibility:
        assert cache.suspects is not None
        # In this order: nobody may know of *server_tid* and be served what is older.
        cache.suspects.suspect_all()
        # ZODB's connections hold objects, too, and some that the cache does not.
        owner.invalidate_all(server_tid)
        cache.set_last_tid(server_tid)


def _drop(
    cache: ClientCache,
    owner: CacheOwner,
    server_tid: bytes,
    visibility: AbstractContextManager[object],
) -> None:
    with visibility:
        cache.clear()
        owner.invalidate_all(server_tid)
        cache.set_last_tid(server_tid)

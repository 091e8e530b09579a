"""Asking the server which objects of a cache are out of date, when nobody knows what was missed."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from itertools import islice
from typing import Final, NamedTuple

from ZODB.POSException import POSError

from ..cache.interface import ClientCache
from ..errors import ClientDisconnected, IllegalMessage
from ..protocol.additions import MAX_PAIRS, PAIR_SIZE, VerifyMany
from .channel import Channel

logger = logging.getLogger(__name__)

PATIENCE: Final = 10.0
"""Seconds for asking.  Calls wait for the end of it, thirty seconds unless told otherwise; what has
not been asked about by then is forgotten, as all of it would be without asking."""

_OVERHEAD: Final = 64
"""Bytes of a question without its pairs."""


class Findings(NamedTuple):
    """What asking has brought.

    :ivar checked: objects that were asked about.
    :ivar stale: those of them that were out of date.
    :ivar unchecked: objects that there was no time for.
    """

    checked: int
    stale: int
    unchecked: int


def forget_stale(channel: Channel, cache: ClientCache, server_tid: bytes) -> Findings | None:
    """Forget the current revisions in *cache* that are not the server's.

    Earlier ones stay: they were right, and are.  Nobody may store anything meanwhile.

    :param server_tid: the server's last transaction when it admitted us: up to this one the cache
        is right afterwards, given that what was announced since is applied.
    :returns: None if it cannot be done: the cache is as it was, or has forgotten some of it.
    :raises ClientDisconnected: the connection ended meanwhile.
    """
    entries = cache.current() if channel.speaks_own else None
    if entries is None:
        return None
    deadline = time.monotonic() + PATIENCE
    most = min(MAX_PAIRS, max(1, (channel.max_payload - _OVERHEAD) // PAIR_SIZE))
    checked = stale = 0
    while batch := list(islice(entries, most)):
        if time.monotonic() >= deadline:
            return Findings(checked, stale, _forget(cache, batch) + _forget(cache, entries))
        try:
            found = _ask(channel, batch, server_tid)
        except ClientDisconnected:
            raise
        except POSError as error:
            logger.warning("%s cannot verify objects: %s", channel.server_name, error)
            return None
        for oid in found:
            # Not known when: so where the revision we hold ended is not known.
            cache.invalidate(oid, None)
        checked += len(batch)
        stale += len(found)
    return Findings(checked, stale, 0)


def _forget(
    cache: ClientCache, entries: list[tuple[bytes, bytes]] | Iterator[tuple[bytes, bytes]]
) -> int:
    count = 0
    for oid, _ in entries:
        cache.invalidate(oid, None)
        count += 1
    return count


def _ask(channel: Channel, pairs: list[tuple[bytes, bytes]], server_tid: bytes) -> list[bytes]:
    answer = channel.call(VerifyMany(b"".join([oid + tid for oid, tid in pairs])))
    match answer:
        case (bytes(tid), bytes(stale)) if tid >= server_tid and len(stale) % 8 == 0:
            return [stale[at : at + 8] for at in range(0, len(stale), 8)]
    raise IllegalMessage(f"no answer to a verification: {answer!r:.60}")

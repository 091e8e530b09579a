"""What the log of a server that starts begins with: the last transactions of its storage.

So clients that come back after a restart of the server are told at once what they missed.  It must
not make the start longer: what the log does not reach is read when somebody asks for it.
"""

from __future__ import annotations

import logging
import time
from contextlib import closing
from typing import Final

from ZODB.POSException import StorageError

from .access import StorageAccess, wrapped_by_blobs
from .filehistory import read_backwards
from .filereader import can_read_directly
from .invalidations import ENTRY_OVERHEAD, Entry

logger = logging.getLogger(__name__)

REFILL_SECONDS: Final = 0.25
"""Seconds for reading the last transactions of a FileStorage, from the last one on: some thirty
thousand, if they are small."""

REFILL_ELSEWHERE: Final = 100
"""Transactions that other storages are asked for: they read the data of each."""


def last_entries(
    access: StorageAccess, count: int, memory: int, seconds: float = REFILL_SECONDS
) -> list[Entry]:
    """Return up to *count* of the last transactions, oldest first; empty if they are not known.

    :param memory: bytes that they may take, as :class:`.InvalidationLog` counts them.
    :param seconds: that reading them may take.
    """
    storage = wrapped_by_blobs(access.storage)
    if not can_read_directly(storage):
        return access.last_invalidations(min(count, REFILL_ELSEWHERE))
    deadline = time.monotonic() + seconds
    found: list[Entry] = []
    transactions = read_backwards(storage)
    try:
        while len(found) < count and (transaction := next(transactions, None)) is not None:
            # What it changed takes most of the time, and one may have changed millions.
            oids = bytearray()
            memory -= ENTRY_OVERHEAD
            for oid in transaction.oids():
                oids += oid
                if len(oids) > memory or time.monotonic() > deadline:
                    return found[::-1]
            memory -= len(oids)
            found.append((transaction.tid, bytes(oids)))
    except (StorageError, OSError) as error:
        logger.warning("storage %r: its last transactions cannot be read: %s", access.name, error)
    finally:
        transactions.close()
    return found[::-1]


def newest_tid(access: StorageAccess) -> bytes | None:
    """Return the last complete transaction of a storage; None if there is none, or it is not known.

    What it changed is not looked at: that may be most of the database.
    """
    storage = wrapped_by_blobs(access.storage)
    if can_read_directly(storage):
        try:
            with closing(read_backwards(storage)) as transactions:
                transaction = next(transactions, None)
            return None if transaction is None else transaction.tid
        except (StorageError, OSError) as error:
            logger.debug("storage %r: it is asked itself: %s", access.name, error)
    newest = access.last_invalidations(1)
    return newest[-1][0] if newest else None

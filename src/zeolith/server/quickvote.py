"""Votes that may be taken on the event loop.

A vote may take long — conflict resolution runs an application's code, blobs are brought to disk, a
pack or a look through the undo log keeps the storage's lock — and then belongs on the commit
thread.  Most transactions are a few small records that nobody else has touched: for those the
storage needs less time than two changes of thread, and the loop takes the vote as it takes a load.
"""

from __future__ import annotations

from .access import ConflictFound, StorageAccess
from .replay import Replay, Vote
from .transactions import Transaction

MAX_OPERATIONS = 8
"""Operations of a transaction that is small."""

MAX_SIZE = 32 * 1024
"""Bytes of its log.  The storage copies them between files in memory."""


def vote_quickly(access: StorageAccess, transaction: Transaction, replay: Replay) -> Vote | None:
    """Take the vote on *transaction* if that is short, and return it; None if it is not.

    Only for the transaction that has the commit lock, and while nothing else keeps the storage
    busy.

    :param replay: of that transaction; of no use any more if None is returned.
    :raises Exception: whatever the storage raises; it has forgotten the transaction then.
    """
    if not is_small(access, transaction):
        return None
    access.may_resolve = False
    try:
        return replay.run()
    except ConflictFound:
        # To find that out by itself would take each vote a look at each object.
        return None
    finally:
        access.may_resolve = True


def is_small(access: StorageAccess, transaction: Transaction) -> bool:
    """Return whether the vote on *transaction* is known to be short unless there is a conflict."""
    log = transaction.log
    return (
        access.is_local
        and access.is_fast
        and log.has_only_stores
        and log.count <= MAX_OPERATIONS
        and log.size <= MAX_SIZE
        and not transaction.blobs
        and not transaction.rounds
        and transaction.tid is None
        and transaction.status == " "
    )

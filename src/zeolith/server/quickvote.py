"""Which votes may be taken on the event loop.

A vote may take long — conflict resolution runs an application's code, blobs are brought to disk, a
pack or a look through the undo log keeps the storage's lock — and then belongs on the commit
thread.  Most transactions are a few small records that nobody else has touched: for those the
storage needs less time than two changes of thread, and the loop takes the vote as it takes a load.
"""

from __future__ import annotations

from ZODB.POSException import POSKeyError

from ..protocol.messages import Store
from ..types import MAX_TID, NO_TID
from .access import StorageAccess
from .transactions import Transaction

MAX_OPERATIONS = 8
"""Operations of a transaction that is small."""

MAX_SIZE = 32 * 1024
"""Bytes of its log.  The storage copies them between files in memory."""


def is_quick(access: StorageAccess, transaction: Transaction) -> bool:
    """Return whether the vote on *transaction* is known to be short.

    Only to be asked about the transaction that has the commit lock: what it finds stays true
    until the storage has voted.  The caller knows whether anything else keeps the storage busy.
    """
    log = transaction.log
    if (
        not access.is_local
        or not access.is_fast
        or log.count > MAX_OPERATIONS
        or log.size > MAX_SIZE
        or transaction.blobs
        or transaction.rounds
        or transaction.tid is not None
        or transaction.status != " "
    ):
        return False
    return all(
        isinstance(operation, Store)
        and (operation.serial or NO_TID) == _current(access, operation.oid)
        for operation in log
    )


def _current(access: StorageAccess, oid: bytes) -> bytes:
    """Return the transaction that wrote *oid* last."""
    try:
        revision = access.load_before(oid, MAX_TID)
    except POSKeyError:
        return NO_TID
    return NO_TID if revision is None else revision[1]

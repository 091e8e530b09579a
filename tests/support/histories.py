"""What a storage itself says of its transactions, and storages with many of them."""

from __future__ import annotations

import random
from typing import Any

from ZODB.Connection import TransactionMetaData
from ZODB.POSException import POSKeyError
from ZODB.utils import load_current

Z64 = bytes(8)

Listed = list[tuple[bytes, tuple[bytes, ...]]]


def listed(storage: Any, after: bytes = Z64) -> Listed:
    """Return the transactions of *storage* after a tid, with their objects, as ZODB's iterator
    lists them."""
    return [
        (transaction.tid, tuple(sorted({record.oid for record in transaction})))
        for transaction in storage.iterator()
        if transaction.tid > after
    ]


def commit(storage: Any, *oids: bytes, data: bytes = b"data") -> bytes:
    """Commit new revisions of *oids* directly; return the transaction's id."""
    meta = TransactionMetaData(user=b"somebody", description=b"something", extension={"a": 1})
    storage.tpc_begin(meta)
    for oid in oids:
        try:
            serial = load_current(storage, oid)[1]
        except POSKeyError:
            serial = Z64
        storage.store(oid, serial, data, "", meta)
    storage.tpc_vote(meta)
    tid: bytes = storage.tpc_finish(meta)
    return tid


def fill(storage: Any, transactions: int, *, objects: int = 20, seed: int = 1) -> list[bytes]:
    """Commit transactions of one to five of so many objects; return their ids."""
    draw = random.Random(seed)
    return [
        commit(
            storage,
            *(
                number.to_bytes(8, "big")
                for number in draw.sample(range(objects), draw.randint(1, 5))
            ),
            data=b"d" * draw.choice((1, 50, 2000)),
        )
        for _ in range(transactions)
    ]

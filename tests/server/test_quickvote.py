"""Which votes may be taken on the loop."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ZODB.Connection import TransactionMetaData
from ZODB.FileStorage import FileStorage

from zeolith.protocol.messages import CheckCurrentSerial, Store, Undo
from zeolith.server.access import StorageAccess
from zeolith.server.quickvote import MAX_OPERATIONS, MAX_SIZE, is_quick
from zeolith.server.transactions import Transaction, UploadedBlob
from zeolith.types import NO_TID

NEW, KNOWN = bytes(7) + b"\1", bytes(7) + b"\2"


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[Any]:
    storage = FileStorage(str(tmp_path / "data.fs"))
    meta = TransactionMetaData()
    storage.tpc_begin(meta)
    storage.store(KNOWN, NO_TID, b"known", "", meta)
    storage.tpc_vote(meta)
    storage.tpc_finish(meta)
    yield storage
    storage.close()


@pytest.fixture
def access(storage: Any) -> Iterator[StorageAccess]:
    access = StorageAccess("1", storage)
    yield access
    access.close()


def transaction_of(*operations: Any) -> Transaction:
    transaction = Transaction(1, TransactionMetaData(), 1 << 20)
    for operation in operations:
        transaction.log.append(operation)
    return transaction


def test_few_small_records_without_conflict_are_quick(access: StorageAccess) -> None:
    serial = access.last_transaction()
    for operations in (
        [Store(NEW, None, b"x", 1)],
        [Store(NEW, NO_TID, b"x", 1)],
        [Store(KNOWN, serial, b"x", 1)],
        [Store(KNOWN, serial, b"x", 1), Store(NEW, None, b"y", 1)],
        [],
    ):
        assert is_quick(access, transaction_of(*operations))


def test_what_may_take_long_is_not_quick(access: StorageAccess) -> None:
    serial = access.last_transaction()
    one = Store(NEW, None, b"x", 1)
    for operations in (
        [Store(KNOWN, NO_TID, b"conflict", 1)],
        [Store(NEW, serial, b"conflict", 1)],
        [one, Store(KNOWN, b"\1" * 8, b"conflict", 1)],
        [CheckCurrentSerial(KNOWN, serial, 1)],
        [one, Undo(b"x", 1)],
        [one] * (MAX_OPERATIONS + 1),
        [Store(NEW, None, bytes(MAX_SIZE), 1)],
    ):
        assert not is_quick(access, transaction_of(*operations))


@pytest.mark.parametrize("what", ["blobs", "rounds", "tid", "status"])
def test_unusual_transactions_are_not_quick(access: StorageAccess, what: str) -> None:
    transaction = transaction_of(Store(NEW, None, b"x", 1))
    values: dict[str, Any] = {
        "blobs": [UploadedBlob(NEW, None, b"x", "/nowhere")],
        "rounds": 1,
        "tid": b"\1" * 8,
        "status": "p",
    }
    setattr(transaction, what, values[what])
    assert not is_quick(access, transaction)


def test_only_storages_known_to_be_fast_are_asked(storage: Any) -> None:
    class Slow(FileStorage):
        pass

    transaction = transaction_of(Store(NEW, None, b"x", 1))
    for loads in ("workers", "loop"):
        slow = object.__new__(Slow)
        slow.__dict__.update(storage.__dict__)
        assert not is_quick(StorageAccess("1", slow, loads), transaction)
    assert not is_quick(StorageAccess("1", storage, "workers"), transaction)

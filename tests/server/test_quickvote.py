"""Which votes may be taken on the loop."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ZODB.Connection import TransactionMetaData
from ZODB.DemoStorage import DemoStorage
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage

from zeolith.protocol.messages import CheckCurrentSerial, Store, Undo
from zeolith.server.access import StorageAccess
from zeolith.server.quickvote import MAX_OPERATIONS, MAX_SIZE, is_small, vote_quickly
from zeolith.server.replay import Replay, Vote
from zeolith.server.transactions import Transaction, UploadedBlob
from zeolith.types import MAX_TID, NO_TID

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


def quick_vote(access: StorageAccess, transaction: Transaction) -> Vote | None:
    replay = Replay(access, transaction, access.last_transaction(), collect_conflicts=False)
    return vote_quickly(access, transaction, replay)


def test_few_small_records_without_conflict_are_quick(access: StorageAccess) -> None:
    serial = access.last_transaction()
    for operations in (
        [Store(NEW, None, b"x", 1)],
        [Store(NEW, NO_TID, b"x", 1)],
        [Store(KNOWN, serial, b"x", 1)],
        [Store(KNOWN, serial, b"x", 1), Store(NEW, None, b"y", 1)],
        [],
    ):
        transaction = transaction_of(*operations)
        assert quick_vote(access, transaction) == Vote([], [])
        assert transaction.changed == tuple(operation.oid for operation in operations)
        access.abort(transaction.meta)


def test_what_may_take_long_is_not_quick(access: StorageAccess) -> None:
    serial = access.last_transaction()
    one = Store(NEW, None, b"x", 1)
    for operations in (
        [CheckCurrentSerial(KNOWN, serial, 1)],
        [one, Undo(b"x", 1)],
        [one] * (MAX_OPERATIONS + 1),
        [Store(NEW, None, bytes(MAX_SIZE), 1)],
    ):
        assert quick_vote(access, transaction_of(*operations)) is None


def test_a_conflict_is_left_to_the_commit_thread(access: StorageAccess, storage: Any) -> None:
    resolved: list[bytes] = []

    def resolve(oid: bytes, *rest: Any) -> bytes:
        resolved.append(oid)
        return b"resolved"

    storage.__dict__.pop("tryToResolveConflict")
    storage.tryToResolveConflict = resolve
    access = StorageAccess("1", storage)
    transaction = transaction_of(Store(NEW, None, b"x", 1), Store(KNOWN, b"\1" * 8, b"late", 1))
    assert quick_vote(access, transaction) is None
    assert not resolved
    # Nothing is left of the attempt, and the next one resolves.
    vote = Replay(access, transaction, access.last_transaction(), collect_conflicts=False).run()
    assert vote == Vote([KNOWN], [])
    assert resolved == [KNOWN]
    storage.tpc_finish(transaction.meta)
    assert storage.loadBefore(KNOWN, MAX_TID)[0] == b"resolved"


def test_a_conflict_in_a_wrapped_storage_is_left_too(storage: Any) -> None:
    demo = DemoStorage(base=storage, changes=MappingStorage())
    access = StorageAccess("1", demo)
    transaction = transaction_of(Store(KNOWN, b"\1" * 8, b"late", 1))
    assert is_small(access, transaction)
    assert quick_vote(access, transaction) is None
    access.abort(transaction.meta)


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
    assert not is_small(access, transaction)


def test_only_storages_known_to_be_fast_are_asked(storage: Any) -> None:
    class Slow(FileStorage):
        pass

    transaction = transaction_of(Store(NEW, None, b"x", 1))
    for loads in ("workers", "loop"):
        slow = object.__new__(Slow)
        slow.__dict__.update(storage.__dict__)
        assert not is_small(StorageAccess("1", slow, loads), transaction)
    assert not is_small(StorageAccess("1", storage, "workers"), transaction)

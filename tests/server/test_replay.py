"""Transactions put into storages, without any network."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.storages import hook
from ZODB.Connection import TransactionMetaData
from ZODB.FileStorage import FileStorage
from ZODB.POSException import (
    ConflictError,
    POSKeyError,
    ReadConflictError,
    StorageTransactionError,
    Unsupported,
)
from ZODB.tests.ConflictResolution import PCounter
from ZODB.tests.StorageTestBase import zodb_pickle

from zeolith.protocol.limits import DEFAULT_LIMITS
from zeolith.protocol.messages import (
    CheckCurrentSerial,
    DeleteObject,
    Restore,
    Store,
    TpcBegin,
    Undo,
)
from zeolith.protocol.values import Prefix
from zeolith.server.access import StorageAccess
from zeolith.server.replay import Replay, Vote
from zeolith.server.transactions import Transaction, UploadedBlob, begin_transaction
from zeolith.server.voted import LIST_NAME
from zeolith.types import MAX_TID, NO_TID


def oid(number: int) -> bytes:
    return number.to_bytes(8, "big")


class Bed:
    """A FileStorage, and transactions for it."""

    def __init__(self, storage: FileStorage) -> None:
        self.storage = storage
        self.access = StorageAccess("1", storage)

    def transaction(self, *operations: Any, **fields: Any) -> Transaction:
        found = Transaction(1, TransactionMetaData(), 1 << 20)
        for operation in operations:
            found.log.append(operation)
        for name, value in fields.items():
            setattr(found, name, value)
        return found

    def vote(self, transaction: Transaction, collect: bool = False) -> Vote:
        return Replay(self.access, transaction, self.last, collect).run()

    @property
    def last(self) -> bytes:
        tid: bytes = self.storage.lastTransaction()
        return tid

    def commit(self, *operations: Any, **fields: Any) -> bytes:
        transaction = self.transaction(*operations, **fields)
        assert self.vote(transaction).conflicts == []
        tid: bytes = self.storage.tpc_finish(transaction.meta)
        transaction.discard()
        return tid

    def load(self, number: int) -> Any:
        return self.storage.loadBefore(oid(number), MAX_TID)

    def assert_free(self) -> None:
        """Nobody holds the storage's commit lock, and it takes transactions."""
        assert self.storage.tpc_transaction() is None
        number = 1 << 40
        self.commit(Store(oid(number), self.serial(number), b"free", 1))

    def serial(self, number: int) -> bytes:
        try:
            tid: bytes = self.storage.getTid(oid(number))
        except POSKeyError:
            return NO_TID
        return tid


@pytest.fixture
def bed(files: FileStorage) -> Iterator[Bed]:
    yield Bed(files)
    files.close()


def test_what_changed_is_named(bed: Bed) -> None:
    first = bed.commit(Store(oid(1), NO_TID, b"1", 1), Store(oid(2), None, b"2", 1))
    transaction = bed.transaction(
        CheckCurrentSerial(oid(2), first, 1),
        Store(oid(3), NO_TID, b"3", 1),
        Store(oid(1), first, b"1b", 1),
        Restore(oid(4), first, b"4", None, 1),
        DeleteObject(oid(2), first, 1),
    )
    assert bed.vote(transaction) == Vote([], [])
    assert transaction.changed == (oid(3), oid(1), oid(4), oid(2))
    bed.storage.tpc_finish(transaction.meta)
    assert bed.load(1)[0] == b"1b"
    with pytest.raises(POSKeyError):
        bed.load(2)


def test_an_undo_names_what_it_changed(bed: Bed) -> None:
    first = bed.commit(Store(oid(1), NO_TID, b"old", 1))
    bed.commit(Store(oid(1), first, b"new", 1))
    (entry,) = bed.storage.undoLog(0, 1)
    transaction = bed.transaction(Undo(entry["id"], 1))
    assert bed.vote(transaction) == Vote([oid(1)], [])
    assert transaction.changed == (oid(1),)
    bed.storage.tpc_finish(transaction.meta)
    assert bed.load(1)[0] == b"old"


@pytest.mark.parametrize(
    ("operation", "error"),
    [
        (Store(oid(1), b"1" * 8, b"x", 1), ConflictError),
        (CheckCurrentSerial(oid(1), b"1" * 8, 1), ReadConflictError),
        (DeleteObject(oid(1), b"1" * 8, 1), ConflictError),
        (DeleteObject(oid(9), b"1" * 8, 1), POSKeyError),
    ],
)
def test_b_an_error_frees_the_storage(bed: Bed, operation: Any, error: type[Exception]) -> None:
    """lp 374737."""
    bed.commit(Store(oid(1), NO_TID, b"1", 1))
    with pytest.raises(error):
        bed.vote(bed.transaction(Store(oid(2), NO_TID, b"2", 1), operation))
    bed.assert_free()
    with pytest.raises(POSKeyError):
        bed.load(2)


@pytest.mark.parametrize("method", ["tpc_begin", "store", "tpc_vote"])
def test_b_a_full_disk_in_the_vote_frees_the_storage(bed: Bed, method: str) -> None:
    def fail(*args: Any) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    with hook(bed.storage, method, after=fail), pytest.raises(OSError, match="no space"):
        bed.vote(bed.transaction(Store(oid(1), NO_TID, b"1", 1)))
    bed.assert_free()


def test_what_a_storage_cannot_do(bed: Bed, tmp_path: Path) -> None:
    from ZODB.MappingStorage import MappingStorage

    access = StorageAccess("memory", MappingStorage())
    transaction = bed.transaction(DeleteObject(oid(1), NO_TID, 1))
    with pytest.raises(Unsupported, match="'memory' does not support deleteObject"):
        Replay(access, transaction, NO_TID, False).run()
    assert access.storage.tpc_transaction() is None


def test_copying_keeps_tid_and_status(bed: Bed) -> None:
    later = (int.from_bytes(bed.commit(), "big") + 1000).to_bytes(8, "big")
    restored = Restore(oid(1), later, b"x", None, 1)
    assert bed.commit(restored, tid=later, status="p") == later
    last = list(bed.storage.iterator(later))[-1]
    assert (last.tid, last.status) == (later, "p")


@pytest.mark.parametrize("delta", [0, -1])
def test_r3_a_transaction_cannot_be_inserted_before_the_last(bed: Bed, delta: int) -> None:
    last = bed.commit(Store(oid(1), NO_TID, b"1", 1))
    tid = (int.from_bytes(last, "big") + delta).to_bytes(8, "big")
    with pytest.raises(StorageTransactionError, match=last.hex()):
        bed.vote(bed.transaction(Restore(oid(2), tid, b"x", None, 1), tid=tid))
    bed.assert_free()


# -- conflicts ---------------------------------------------------------------------------------


def counters(bed: Bed) -> tuple[bytes, bytes, bytes]:
    """Return two changes of one counter, and the tid at which both began."""
    counter = PCounter()
    counter.inc(1)
    first = bed.commit(Store(oid(1), NO_TID, zodb_pickle(counter), 1))
    counter.inc(5)
    one = zodb_pickle(counter)
    counter.inc(2)
    return one, zodb_pickle(counter), first


def test_conflicts_are_resolved_by_the_storage(bed: Bed) -> None:
    one, two, first = counters(bed)
    bed.commit(Store(oid(1), first, one, 1))
    transaction = bed.transaction(Store(oid(1), first, two, 1))
    assert bed.vote(transaction) == Vote([oid(1)], [])
    bed.storage.tpc_abort(transaction.meta)


def test_conflicts_are_left_to_the_client(bed: Bed) -> None:
    bed.access.resolver = None
    one, two, first = counters(bed)
    second = bed.commit(Store(oid(1), first, one, 1))
    transaction = bed.transaction(Store(oid(1), first, two, 1), Store(oid(2), NO_TID, b"other", 1))
    vote = bed.vote(transaction, collect=True)
    assert vote == Vote([], [{"oid": oid(1), "serials": (second, first), "data": two}])
    # While the client thinks, others can commit.
    bed.assert_free()
    transaction.replaced[oid(1)] = transaction.log.count
    transaction.log.append(Store(oid(1), second, b"resolved", 1))
    assert bed.vote(transaction, collect=True) == Vote([], [])
    bed.storage.tpc_finish(transaction.meta)
    assert bed.load(1)[0] == b"resolved"
    assert bed.load(2)[0] == b"other"


def test_a_conflict_found_by_the_storages_vote(bed: Bed) -> None:
    def conflict(meta: Any) -> None:
        raise ConflictError(oid=oid(1), serials=(b"2" * 8, b"1" * 8), data=b"mine")

    transaction = bed.transaction(Store(oid(1), NO_TID, b"mine", 1))
    with hook(bed.storage, "tpc_vote", before=conflict):
        vote = bed.vote(transaction, collect=True)
    assert vote.conflicts == [{"oid": oid(1), "serials": (b"2" * 8, b"1" * 8), "data": b"mine"}]
    bed.assert_free()


# -- blobs -------------------------------------------------------------------------------------


def upload(bed: Bed, number: int, data: bytes, serial: bytes = NO_TID) -> UploadedBlob:
    path = os.path.join(bed.access.temporary_directory(), f"upload-{number}")
    Path(path).write_bytes(data)
    return UploadedBlob(oid(number), serial, b"record %d" % number, path)


def blob_files(bed: Bed) -> list[Path]:
    return sorted(
        path
        for path in Path(bed.storage.blob_dir).rglob("*")
        # The list goes with the end of the commit, which the tests leave to the storage.
        if path.is_file() and path.name not in (".layout", LIST_NAME)
    )


def test_blobs_are_stored(bed: Bed) -> None:
    tid = bed.commit(blobs=[upload(bed, 1, b"one"), upload(bed, 2, b"two")])
    assert Path(bed.storage.loadBlob(oid(1), tid)).read_bytes() == b"one"
    assert Path(bed.storage.loadBlob(oid(2), tid)).read_bytes() == b"two"
    assert len(blob_files(bed)) == 2


def test_b_a_conflict_with_blobs_leaves_nothing_behind(bed: Bed) -> None:
    """3.9.1: a conflict while committing blobs stopped all commits."""
    bed.commit(Store(oid(2), NO_TID, b"2", 1))
    transaction = bed.transaction(blobs=[upload(bed, 1, b"one"), upload(bed, 2, b"two")])
    with pytest.raises(ConflictError):
        bed.vote(transaction)
    transaction.discard()
    assert blob_files(bed) == []
    bed.assert_free()


def test_r4_a_disk_that_refuses_a_blob_fails_the_vote(
    bed: Bed, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, "input/output error")

    transaction = bed.transaction(blobs=[upload(bed, 1, b"one")])
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="input/output"):
            bed.vote(transaction)
    transaction.discard()
    assert blob_files(bed) == []
    bed.assert_free()


def test_c_blobs_survive_a_round_of_conflict_resolution(bed: Bed) -> None:
    """The storage takes an uploaded file over, and its abort removes it."""
    bed.access.resolver = None

    def conflict(meta: Any) -> None:
        raise ConflictError(oid=oid(3), serials=(b"2" * 8, b"1" * 8), data=b"mine")

    transaction = bed.transaction(Store(oid(3), NO_TID, b"mine", 1), blobs=[upload(bed, 1, b"one")])
    with hook(bed.storage, "tpc_vote", before=conflict):
        assert bed.vote(transaction, collect=True).conflicts
    transaction.rounds += 1
    assert bed.vote(transaction, collect=True) == Vote([], [])
    tid = bed.storage.tpc_finish(transaction.meta)
    transaction.discard()
    assert Path(bed.storage.loadBlob(oid(1), tid)).read_bytes() == b"one"
    assert len(blob_files(bed)) == 1


# -- beginning ---------------------------------------------------------------------------------


def begin(extension: Any, **fields: Any) -> Transaction:
    request = TpcBegin(7, b"user", b"description", extension)._replace(**fields)
    return begin_transaction(request, 1 << 20, DEFAULT_LIMITS)


def test_d_extension_bytes_are_kept_bit_for_bit() -> None:
    """zrs#6, ZEO#159."""
    found = begin(b"\x80\x03}q\x00X\x01\x00\x00\x00aq\x01K\x01s.")
    assert found.meta.extension_bytes == b"\x80\x03}q\x00X\x01\x00\x00\x00aq\x01K\x01s."
    assert found.meta.extension == {"a": 1}


@pytest.mark.parametrize("extension", [{}, b"", None])
def test_no_extension(extension: Any) -> None:
    found = begin(extension)
    assert found.meta.extension_bytes == b""
    assert (found.meta.user, found.meta.description) == (b"user", b"description")


def test_text_becomes_bytes() -> None:
    meta = begin({"a": "b"}, user="jürgen", description="x").meta
    assert (meta.user, meta.description) == ("jürgen".encode(), b"x")
    assert meta.extension == {"a": "b"}


@pytest.mark.parametrize(
    "extension",
    [
        b"cos\nsystem\n(S'true'\ntR.",
        b"garbage",
        b"\x80\x03K\x01.",
        {"path": Prefix(("a",))},
    ],
)
def test_e_extension_data_that_storages_would_unpickle(extension: Any) -> None:
    """Whoever looks at the undo log would run what a client has put there."""
    with pytest.raises(ValueError, match="extension data"):
        begin(extension)

"""The log of a server that has just started."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.server.conftest import Connect, Serve
from tests.support.histories import Z64, commit, fill, listed
from tests.support.raw import oid_of
from ZODB.blob import BlobStorage
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage

from zeolith.protocol.messages import GetInvalidations, LastTransaction
from zeolith.server.access import StorageAccess
from zeolith.server.filehistory import read_backwards
from zeolith.server.invalidations import ENTRY_OVERHEAD, Entry, split
from zeolith.server.refilling import REFILL_ELSEWHERE, last_entries, newest_tid

MEMORY = 1 << 20


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[FileStorage]:
    found = FileStorage(str(tmp_path / "Data.fs"))
    yield found
    found.close()


def told(entries: list[Entry]) -> list[tuple[bytes, tuple[bytes, ...]]]:
    return [(tid, tuple(sorted(set(split(oids))))) for tid, oids in entries]


def test_the_last_transactions_in_order(storage: FileStorage) -> None:
    access = StorageAccess("1", storage)
    assert last_entries(access, 10, MEMORY) == []
    fill(storage, 40)
    for count in (0, 1, 39, 40, 1000):
        assert told(last_entries(access, count, MEMORY)) == listed(storage)[max(0, 40 - count) :]


def test_inside_a_blob_storage(storage: FileStorage, tmp_path: Path) -> None:
    fill(storage, 5)
    wrapped = BlobStorage(str(tmp_path / "blobs"), storage)
    assert told(last_entries(StorageAccess("1", wrapped), 3, MEMORY)) == listed(storage)[2:]


def test_a_vote_that_is_not_finished_is_no_transaction(storage: FileStorage) -> None:
    from ZODB.Connection import TransactionMetaData

    fill(storage, 3)
    meta = TransactionMetaData()
    storage.tpc_begin(meta)
    storage.store(oid_of(900), Z64, b"data", "", meta)
    storage.tpc_vote(meta)
    assert told(last_entries(StorageAccess("1", storage), 10, MEMORY)) == listed(storage)
    storage.tpc_abort(meta)


def test_r8_no_more_memory_than_the_log_may_take(storage: FileStorage) -> None:
    for _ in range(5):
        commit(storage, *map(oid_of, range(100)))
    access = StorageAccess("1", storage)
    one = 800 + ENTRY_OVERHEAD
    for memory, count in ((one - 1, 0), (one, 1), (2 * one, 2), (3 * one - 1, 2)):
        assert told(last_entries(access, 10, memory)) == listed(storage)[5 - count :]


def test_no_more_time_than_there_is(storage: FileStorage) -> None:
    fill(storage, 10)
    assert last_entries(StorageAccess("1", storage), 10, MEMORY, seconds=-1.0) == []


def test_damage_does_not_keep_a_server_from_starting(
    storage: FileStorage, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fill(storage, 10)
    expected = listed(storage)
    places = [transaction._tpos for transaction in storage.iterator()]
    with open(tmp_path / "Data.fs", "r+b") as file:
        file.seek(places[6] + 8)
        file.write(b"\xff" * 8)
    assert told(last_entries(StorageAccess("1", storage), 10, MEMORY)) == expected[7:]
    assert "its last transactions cannot be read: the database file is damaged" in caplog.text


def test_the_file_is_released(storage: FileStorage) -> None:
    import os

    fill(storage, 3)
    before = os.listdir("/proc/self/fd")
    transactions = read_backwards(storage)
    next(transactions)
    transactions.close()
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_other_storages_are_asked_for_a_few() -> None:
    asked: list[int] = []

    class Listing(MappingStorage):
        def lastInvalidations(self, count: int) -> list[Any]:  # noqa: N802 - ZODB's name
            asked.append(count)
            return [(b"1" * 8, [(oid_of(1), ""), (oid_of(2), "")]), (b"2" * 8, [oid_of(3)])]

    access = StorageAccess("1", Listing())
    assert last_entries(access, 10_000, MEMORY) == [
        (b"1" * 8, oid_of(1) + oid_of(2)),
        (b"2" * 8, oid_of(3)),
    ]
    assert asked == [REFILL_ELSEWHERE]


def test_r6_after_a_restart_clients_are_told(serve: Serve, raw: Connect, tmp_path: Path) -> None:
    """From memory: the storage need not be asked."""
    path = str(tmp_path / "again.fs")
    storage = FileStorage(path)
    tids = fill(storage, 300)
    expected = {oid for _, oids in listed(storage, tids[9]) for oid in oids}
    storage.close()
    client = raw(serve(FileStorage(path), invalidation_age=None).address)
    tid, oids = client.call(GetInvalidations(tids[9]))
    assert tid == tids[-1]
    assert set(oids) == expected


@pytest.mark.parametrize("is_wrapped", [False, True], ids=["plain", "with blobs"])
def test_a_huge_last_transaction_does_not_make_the_start_longer(
    serve: Serve, raw: Connect, tmp_path: Path, storage: FileStorage, is_wrapped: bool
) -> None:
    """It has no room in the log; which one it is must be known, what it changed need not."""

    def refuse(count: int) -> Any:
        raise AssertionError("it would read all that the transaction has written")

    tids = [*fill(storage, 3), commit(storage, *map(oid_of, range(100)))]
    storage.close()
    storage = FileStorage(str(tmp_path / "Data.fs"))
    storage.lastInvalidations = refuse
    served = BlobStorage(str(tmp_path / "blobs"), storage) if is_wrapped else storage
    client = raw(serve(served, invalidation_memory=500).address)
    assert client.call(LastTransaction()) == tids[-1]
    tid, oids = client.call(GetInvalidations(tids[-2]))
    assert (tid, sorted(oids)) == (tids[-1], sorted(map(oid_of, range(100))))


def test_the_last_transaction_of_each_storage(tmp_path: Path, storage: FileStorage) -> None:
    assert newest_tid(StorageAccess("1", storage)) is None
    tids = fill(storage, 3)
    assert newest_tid(StorageAccess("1", storage)) == tids[-1]
    assert newest_tid(StorageAccess("1", MappingStorage())) is None
    with open(tmp_path / "Data.fs", "r+b") as file:
        # The copy of its length: from the end nobody finds where it begins.
        file.seek(-8, 2)
        file.write(bytes(8))
    storage.lastInvalidations = lambda count: [(tids[-1], [])]
    assert newest_tid(StorageAccess("1", storage)) == tids[-1]

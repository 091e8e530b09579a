"""Commits beside other calls, and what must not keep the next one from its turn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ZODB.Connection import TransactionMetaData
from ZODB.POSException import ConflictError, StorageTransactionError, Unsupported

from tests.support.raw import oid_of
from tests.support.waiting import Background, promptly
from zeolith.client import transaction
from zeolith.client.committer import MAX_VOTES
from zeolith.protocol.faults import serialize_fault
from zeolith.protocol.messages import (
    Call,
    InvalidateTransaction,
    LoadBefore,
    Pack,
    TpcFinish,
    Vote,
)
from zeolith.types import MAX_TID

from .conftest import Attach
from .scripted import tid

OID = oid_of(1)


def next_vote(server: Any) -> Any:
    while True:
        message = server.next()
        if isinstance(message, Call) and isinstance(message.request, Vote):
            return message


def test_a_conflict_does_not_wait_for_a_long_call_of_another_thread(attach: Attach) -> None:
    """Whoever waits for the pack is the one that reads."""
    storage, server = attach()
    loading = Background(lambda: storage.loadBefore(OID, MAX_TID))
    server.reply(server.expect(LoadBefore), (b"stale", tid(1), None))
    loading.result()
    packing = Background(storage.pack)
    pack = server.expect(Pack)
    meta = TransactionMetaData()
    storage.tpc_begin(meta)
    storage.store(OID, tid(1), b"data", "", meta)
    voting = Background(lambda: storage.tpc_vote(meta))
    conflict = ConflictError("changed", oid=OID, serials=(tid(2), tid(1)))
    server.fault(next_vote(server), *serialize_fault(conflict))
    with promptly(5), pytest.raises(ConflictError):
        voting.result(10)
    assert storage._cache.load_before(OID, MAX_TID) is None
    server.reply(pack, None)
    packing.result()


def test_a_defect_at_the_end_of_a_transaction_does_not_keep_the_next_one_out(
    attach: Attach, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, server = attach()

    def fail(channel: Any) -> None:
        raise RuntimeError("a defect")

    first, second = TransactionMetaData(), TransactionMetaData()
    storage.tpc_begin(first)
    with monkeypatch.context() as patches:
        patches.setattr(storage._iterators, "give_back", fail)
        aborting = Background(lambda: storage.tpc_abort(first))
        server.next()  # tpc_begin
        server.reply(server.next_call_named("tpc_abort"), None)
        with pytest.raises(RuntimeError, match="a defect"):
            aborting.result()
    with promptly(5):
        Background(lambda: storage.tpc_begin(second)).result(10)
    assert storage.tpc_transaction() is second


def test_an_answer_behind_a_later_invalidation_leaves_nothing_stale(attach: Attach) -> None:
    """Class A (ZEO#195): no server should do that, but a commit must not fail for it."""
    storage, server = attach()
    meta = TransactionMetaData()
    storage.tpc_begin(meta)
    storage.store(OID, bytes(8), b"ours", "", meta)
    shown: list[bytes] = []

    def commit() -> bytes:
        storage.tpc_vote(meta)
        return storage.tpc_finish(meta, shown.append)

    committing = Background(commit)
    server.reply(next_vote(server), [])
    finish = server.expect(TpcFinish)
    server.send(
        server.notice_bytes(InvalidateTransaction(tid(3), [OID])),
        server.reply_bytes(finish, tid(2)),
    )
    assert committing.result() == tid(2)
    assert shown == [tid(2)]
    assert storage._cache.load_before(OID, MAX_TID) is None
    assert storage.lastTransaction() == tid(3)


# -- conflicts that the server leaves to us ----------------------------------------------------


def conflict(data: bytes, committed: int) -> dict[str, Any]:
    return {"oid": OID, "serials": (tid(committed), tid(1)), "data": data}


def begin(storage: Any, data: bytes) -> TransactionMetaData:
    meta = TransactionMetaData()
    storage.tpc_begin(meta)
    storage.store(OID, tid(1), data, "", meta)
    return meta


def test_a_conflict_is_resolved_here_and_voted_for_again(attach: Attach) -> None:
    storage, server = attach()
    asked: list[Any] = []

    def resolve(oid: bytes, committed: bytes, read: bytes, data: bytes) -> bytes:
        asked.append((oid, committed, read, data))
        return data + b" merged"

    storage.tryToResolveConflict = resolve
    meta = begin(storage, b"ours")
    voting = Background(lambda: storage.tpc_vote(meta))
    server.reply(next_vote(server), [conflict(b"ours", 2)])
    again = server.next()
    assert again.request[:3] == (OID, tid(2), b"ours merged")  # type: ignore[union-attr]
    server.reply(next_vote(server), [conflict(b"ours merged", 3)])
    server.reply(next_vote(server), [])
    assert voting.result() == [OID, OID]
    assert asked == [
        (OID, tid(2), tid(1), b"ours"),
        (OID, tid(3), tid(1), b"ours merged"),
    ]
    finishing = Background(lambda: storage.tpc_finish(meta))
    server.reply(server.expect(TpcFinish), tid(4))
    finishing.result()
    assert storage.loadBefore(OID, MAX_TID) == (b"ours merged merged", tid(4), None)


def test_an_object_that_changes_during_every_vote_is_given_up(attach: Attach) -> None:
    storage, server = attach()
    storage.tryToResolveConflict = lambda oid, committed, read, data: data
    meta = begin(storage, b"ours")
    voting = Background(lambda: storage.tpc_vote(meta))
    for number in range(MAX_VOTES):
        server.reply(next_vote(server), [conflict(b"ours", 2 + number)])
    with pytest.raises(ConflictError, match="changed again") as caught:
        voting.result()
    assert caught.value.oid == OID


def test_what_the_server_resolved_is_loaded_when_it_is_needed(attach: Attach) -> None:
    storage, server = attach()
    meta = begin(storage, b"ours")
    voting = Background(lambda: storage.tpc_vote(meta))
    server.reply(next_vote(server), [OID])
    assert voting.result() == [OID]
    finishing = Background(lambda: storage.tpc_finish(meta))
    server.reply(server.expect(TpcFinish), tid(2))
    finishing.result()
    loading = Background(lambda: storage.loadBefore(OID, MAX_TID))
    server.reply(server.expect(LoadBefore), (b"theirs and ours", tid(2), None))
    assert loading.result() == (b"theirs and ours", tid(2), None)


# -- out of order ------------------------------------------------------------------------------


def test_a_transaction_that_is_not_being_committed_is_refused(attach: Attach) -> None:
    storage, _ = attach()
    meta, other = TransactionMetaData(), TransactionMetaData()
    storage.tpc_begin(meta)
    with pytest.raises(StorageTransactionError, match="Duplicate"):
        storage.tpc_begin(meta)
    for step in (
        lambda: storage.store(OID, tid(1), b"", "", other),
        lambda: storage.deleteObject(OID, tid(1), other),
        lambda: storage.undo(tid(1), other),
        lambda: storage.checkCurrentSerialInTransaction(OID, tid(1), other),
        lambda: storage.restore(OID, tid(1), b"", "", None, other),
        lambda: storage.tpc_vote(other),
        lambda: storage.tpc_finish(other),
    ):
        with pytest.raises(StorageTransactionError):
            step()
    # Aborting what was never begun is nothing, and costs the other one nothing.
    storage.tpc_abort(other)
    assert storage.tpc_transaction() is meta


def test_a_blob_without_a_directory_is_refused(attach: Attach, tmp_path: Path) -> None:
    storage, _ = attach()
    blob = tmp_path / "blob"
    blob.write_bytes(b"data")
    meta = TransactionMetaData()
    storage.tpc_begin(meta)
    with pytest.raises(Unsupported, match="blob_dir"):
        storage.storeBlob(OID, tid(1), b"record", str(blob), "", meta)
    for use in (
        lambda: storage.loadBlob(OID, tid(1)),
        storage.temporaryDirectory,
        lambda: storage.openCommittedBlobFile(OID, tid(1)),
    ):
        with pytest.raises(Unsupported, match="blob_dir"):
            use()
    assert blob.exists()


def test_records_beyond_the_mark_are_not_kept_in_memory_rule_r8(
    attach: Attach, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transaction, "KEEP_MARK", 10)
    monkeypatch.setattr(transaction, "KEEP_SHARE", 5)
    storage, server = attach()
    meta = TransactionMetaData()
    storage.tpc_begin(meta)
    storage.store(OID, tid(1), b"12345678", "", meta)
    storage.store(oid_of(2), tid(1), b"12345678", "", meta)

    def commit() -> None:
        storage.tpc_vote(meta)
        storage.tpc_finish(meta)

    committing = Background(commit)
    server.reply(next_vote(server), [])
    server.reply(server.expect(TpcFinish), tid(2))
    committing.result()
    assert storage._cache.load_before(OID, MAX_TID) == (b"12345678", tid(2), None)
    assert storage._cache.load_before(oid_of(2), MAX_TID) is None

"""Commits beside other calls, and what must not keep the next one from its turn."""

from __future__ import annotations

from typing import Any

import pytest
from ZODB.Connection import TransactionMetaData
from ZODB.POSException import ConflictError

from tests.support.raw import oid_of
from tests.support.waiting import Background, promptly
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

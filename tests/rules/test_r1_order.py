"""R1: what reveals a transaction leaves the server after the invalidations up to it."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from typing import Any

import pytest
from tests.rules.conftest import Connect, Serve
from tests.rules.ordering import eight_writers, violations
from tests.support.raw import Z64, oid_of
from tests.support.storages import gate
from tests.support.waiting import Background
from ZODB.Connection import TransactionMetaData
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage

from zeolith.protocol.messages import (
    GetInvalidations,
    LastTransaction,
    LoadBefore,
    TpcFinish,
    Vote,
)
from zeolith.types import MAX_TID


def test_r1_eight_writers_see_every_transaction_in_order(
    files: FileStorage, serve: Serve, raw: Connect, loop: str
) -> None:
    """F row 1: eight writers in tight loops; ZEO 6.2 violates this hundreds of times."""
    eight_writers(serve(files, loop=loop), raw)


@pytest.mark.parametrize("question", ["last", "load", "missed"])
def test_r1_a_reply_cannot_overtake_the_invalidation_it_reveals(
    mapping: MappingStorage, serve: Serve, raw: Connect, loop: str, question: str
) -> None:
    """The question is asked while the transaction is being finished on another thread."""
    server = serve(mapping, loop=loop)
    writer, observer = raw(server.address), raw(server.address)
    first = writer.commit({oid_of(1): (Z64, b"one")})
    observer.ping()
    writer.begin()
    writer.store(oid_of(1), b"two", first)
    writer.vote()
    with gate(mapping, "tpc_finish", after=True) as finished:
        # Visible in the storage, and the server does not know it yet.
        finish = writer.ask(TpcFinish(1))
        finished.wait_reached()
        asked = {
            "last": LastTransaction(),
            "load": LoadBefore(oid_of(1), MAX_TID),
            "missed": GetInvalidations(first),
        }[question]
        msgid = observer.ask(asked)
        answer = Background(lambda: observer.answer(msgid))
        # The server may answer with the old state now, or hold the answer back.
        threading.Event().wait(0.1)
        finished.open()
        value: Any = answer.result()
        second = writer.answer(finish)
    if question == "missed":
        if value[0] >= second:
            # An answer that names the transaction is as good as its invalidation.
            assert oid_of(1) in value[1]
    else:
        assert violations(observer, {msgid: question}) == []
    observer.ping()
    assert observer.invalidations() == [(first, [oid_of(1)]), (second, [oid_of(1)])]


def test_r1_a_reply_sent_before_the_loop_hears_of_the_commit(
    mapping: MappingStorage, serve: Serve, raw: Connect, loop: str, stack: ExitStack
) -> None:
    """The loop is busy with a load while the commit thread publishes: the load's reply, written
    right after, still comes after the invalidation."""
    server = serve(mapping, loop=loop, loads="loop")
    writer, observer, other = (raw(server.address) for _ in range(3))
    first = writer.commit({oid_of(1): (Z64, b"one"), oid_of(2): (Z64, b"other")})
    writer.begin()
    writer.store(oid_of(1), b"two", first)
    writer.vote()
    finishing = stack.enter_context(gate(mapping, "tpc_finish"))
    busy = stack.enter_context(gate(mapping, "lastTransaction"))
    finish = writer.ask(TpcFinish(1))
    finishing.wait_reached()
    question = observer.ask(LastTransaction())
    answer = Background(lambda: observer.answer(question))
    # Where the server knows its last transaction without the storage, nobody comes here.
    busy.reached.wait(0.2)
    finishing.open()
    threading.Event().wait(0.05)
    busy.open()
    second = writer.answer(finish)
    answer.result()
    assert violations(observer, {question: "last"}) == []
    other.ping()
    assert other.invalidations()[-1] == (second, [oid_of(1)])


def test_r1_the_committer_hears_of_all_before_its_own(
    mapping: MappingStorage, serve: Serve, raw: Connect, loop: str
) -> None:
    """The reply to a commit comes after the invalidations of all transactions before it."""
    server = serve(mapping, loop=loop)
    one, two = raw(server.address), raw(server.address)
    kinds = {}
    serial = other = Z64
    for turn in range(20):
        one.begin()
        one.store(oid_of(1), b"%d" % turn, serial)
        two.begin()
        two.store(oid_of(2), b"%d" % turn, other)
        one.vote()
        second = two.ask(Vote(1))
        finish = one.ask(TpcFinish(1))
        # The second vote is granted as soon as the lock is free; the finish follows at once.
        two.answer(second)
        last = two.ask(TpcFinish(1))
        kinds[last] = "finish"
        serial = one.answer(finish)
        other = two.answer(last)
    assert violations(two, kinds) == []
    assert len(two.invalidations()) == 20


def test_r1_new_clients_miss_nothing(
    mapping: MappingStorage, serve: Serve, raw: Connect, loop: str
) -> None:
    """A (ZEO#209): whatever a client's registration did not name is announced to it."""
    server = serve(mapping, loop=loop)
    writer = raw(server.address)
    stop = threading.Event()
    tids: list[bytes] = []

    def commit() -> None:
        serial = Z64
        while not stop.is_set():
            serial = writer.commit({oid_of(1): (serial, b"x")})
            tids.append(serial)

    thread = Background(commit)
    try:
        newcomers = [raw(server.address) for _ in range(30)]
    finally:
        stop.set()
    thread.result()
    for client in newcomers:
        client.ping()
        assert [tid for tid, _ in client.invalidations()] == [t for t in tids if t > client.tid]


def commit_behind(storage: MappingStorage, oid: bytes, serial: bytes, data: bytes) -> bytes:
    """Change a storage behind its server's back; the server is not told yet."""
    meta = TransactionMetaData()
    storage.tpc_begin(meta)
    storage.store(oid, serial, data, "", meta)
    storage.tpc_vote(meta)
    tid: bytes = storage.tpc_finish(meta)
    return tid


def test_r1_a_storage_that_changes_by_itself_announces_before_it_shows(
    mapping: MappingStorage, serve: Serve, raw: Connect, loop: str
) -> None:
    """The loop is busy reading when another thread publishes: the answer that it writes next
    comes after the invalidation, though nothing has run on the loop in between."""
    told: list[Any] = []
    mapping.registerDB = told.append
    asked = LoadBefore(oid_of(1), b"\x7e" * 8)
    # The server looks the method up when it starts.
    with gate(mapping, "loadBefore", when=lambda oid, tid: tid == asked.tid) as reading:
        server = serve(mapping, loop=loop, loads="loop")
        observer = raw(server.address)
        first = raw(server.address).commit({oid_of(1): (Z64, b"one")})
        load = observer.ask(asked)
        reading.wait_reached()
        second = commit_behind(mapping, oid_of(1), first, b"two")
        told[0].invalidate(second, [oid_of(1)])
        reading.open()
        observer.answer(load)
    observer.ping()
    assert violations(observer, {load: "load"}) == []
    assert observer.invalidations()[-1] == (second, [oid_of(1)])


def test_r1_the_last_transaction_is_the_last_announced(
    mapping: MappingStorage, serve: Serve, raw: Connect, loop: str
) -> None:
    """A storage has changed and will say so in a moment."""
    told: list[Any] = []
    mapping.registerDB = told.append
    server = serve(mapping, loop=loop)
    observer = raw(server.address)
    first = raw(server.address).commit({oid_of(1): (Z64, b"one")})
    second = commit_behind(mapping, oid_of(1), first, b"two")
    assert observer.call(LastTransaction()) == first
    told[0].invalidate(second, [oid_of(1)])
    last = observer.ask(LastTransaction())
    assert observer.answer(last) == second
    assert violations(observer, {last: "last"}) == []


def test_r1_a_commit_is_answered_after_what_the_storage_announced_before_it(
    mapping: MappingStorage, serve: Serve, raw: Connect, loop: str
) -> None:
    """The storage says that it has changed while a commit is being finished; when that is done,
    the committer hears of the earlier change first."""
    told: list[Any] = []
    mapping.registerDB = told.append
    server = serve(mapping, loop=loop)
    writer, observer = raw(server.address), raw(server.address)
    first = writer.commit({oid_of(1): (Z64, b"one")})
    between = (int.from_bytes(first, "big") + 1).to_bytes(8, "big")
    writer.begin()
    writer.store(oid_of(1), b"two", first)
    writer.vote()
    with gate(mapping, "tpc_finish") as finishing:
        finish = writer.ask(TpcFinish(1))
        finishing.wait_reached()
        told[0].invalidate(between, [oid_of(9)])
        finishing.open()
        second = writer.answer(finish)
    assert first < between < second
    assert violations(writer, {finish: "finish"}) == []
    assert writer.invalidations() == [(between, [oid_of(9)])]
    observer.ping()
    assert [tid for tid, _oids in observer.invalidations()] == [first, between, second]

"""R1: what reveals a transaction leaves the server after the invalidations up to it."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from typing import Any

import pytest
from tests.rules.conftest import Connect, Serve
from tests.support.raw import Z64, RawClient, oid_of
from tests.support.storages import gate
from tests.support.waiting import Background
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage

from zeolith.protocol.messages import (
    GetInvalidations,
    InvalidateTransaction,
    LastTransaction,
    LoadBefore,
    Notice,
    Reply,
    TpcFinish,
    Vote,
)
from zeolith.types import MAX_TID


def violations(client: RawClient, kinds: dict[Any, str]) -> list[str]:
    """Return what a client's inbox reveals too early.

    :param kinds: message id → kind of the call: ``finish``, ``last`` or ``load``.
    """
    found = []
    known = client.tid
    for message in client.inbox:
        if isinstance(message, Notice) and isinstance(message.request, InvalidateTransaction):
            if message.request.tid <= known:
                found.append(f"invalidation {message.request.tid.hex()} after {known.hex()}")
            known = max(known, message.request.tid)
        elif isinstance(message, Reply):
            kind = kinds.get(message.msgid)
            if kind == "finish":
                if message.value <= known:
                    found.append(f"own {message.value.hex()} after {known.hex()}")
                known = max(known, message.value)
            elif kind == "last" and message.value > known:
                found.append(f"lastTransaction {message.value.hex()} before its invalidation")
            elif kind == "load" and message.value is not None:
                _data, start, end = message.value
                if max(start, end or Z64) > known:
                    found.append(f"load of {(end or start).hex()} before its invalidation")
    return found


COMMITS = 40


def write_from(client: RawClient, number: int, serial: bytes, kinds: dict[Any, str]) -> None:
    """Commit revisions of one object, and keep asking what the server knows."""
    for turn in range(COMMITS):
        client.begin()
        client.store(oid_of(number), b"%d" % turn, serial)
        vote = client.ask(Vote(1))
        last = client.ask(LastTransaction())
        load = client.ask(LoadBefore(oid_of(number % 8 + 1), MAX_TID))
        client.answer(vote)
        finish = client.ask(TpcFinish(1))
        later = client.ask(LastTransaction())
        # The same key twice at one time is one slot of a real client; ask for another tid.
        again = client.ask(LoadBefore(oid_of((number + 1) % 8 + 1), b"\x7e" + turn.to_bytes(7)))
        kinds.update({last: "last", later: "last", finish: "finish", load: "load", again: "load"})
        serial = client.answer(finish)
        for question in (last, load, later, again):
            client.answer(question)


def test_r1_eight_writers_see_every_transaction_in_order(
    files: FileStorage, serve: Serve, raw: Connect, loop: str
) -> None:
    """F row 1: eight writers in tight loops; ZEO 6.2 violates this hundreds of times."""
    server = serve(files, loop=loop)
    first = raw(server.address)
    first.commit({oid_of(number): (Z64, b"first") for number in range(1, 9)})
    serials = {number: first.load(oid_of(number))[1] for number in range(1, 9)}
    clients = [raw(server.address) for _ in range(8)]
    kinds: list[dict[Any, str]] = [{} for _ in clients]

    def run(index: int) -> None:
        client, number = clients[index], index + 1
        serial = serials[number]
        client.begin()
        client.store(oid_of(number), b"start", serial)
        client.vote()
        finish = client.ask(TpcFinish(1))
        kinds[index][finish] = "finish"
        write_from(client, number, client.answer(finish), kinds[index])

    threads = [Background(lambda index=index: run(index)) for index in range(8)]  # type: ignore[misc]
    for thread in threads:
        thread.result(90)
    for client in clients:
        client.ping()
    for client, kind in zip(clients, kinds):
        assert violations(client, kind) == []
    # Nothing is missing either: everybody knows of all transactions.
    seen = []
    for client, kind in zip(clients, kinds):
        tids = {tid for tid, _oids in client.invalidations()}
        tids |= {
            message.value
            for message in client.inbox
            if isinstance(message, Reply) and kind.get(message.msgid) == "finish"
        }
        seen.append(tids)
    assert all(tids == seen[0] for tids in seen)
    assert len(seen[0]) == 8 * (COMMITS + 1)


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

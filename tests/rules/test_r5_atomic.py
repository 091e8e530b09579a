"""R5: other clients see all of a transaction or none of it."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from tests.rules.conftest import Connect, Serve
from tests.rules.ordering import violations
from tests.support.raw import Z64, RawClient, fault_of, oid_of
from tests.support.storages import gate
from tests.support.waiting import Background
from ZODB.MappingStorage import MappingStorage
from ZODB.POSException import POSKeyError

from zeolith.protocol.messages import LoadBefore, TpcFinish
from zeolith.types import MAX_TID


@pytest.mark.parametrize("after", [False, True])
def test_r5_loads_during_a_finish_are_of_one_state(
    mapping: MappingStorage, serve: Serve, raw: Connect, loop: str, after: bool
) -> None:
    """Two objects are asked for before and after the storage's moment of visibility."""
    server = serve(mapping, loop=loop)
    writer, observer = raw(server.address), raw(server.address)
    first = writer.commit({oid_of(n): (Z64, b"old") for n in (1, 2)})
    writer.begin()
    for number in (1, 2):
        writer.store(oid_of(number), b"new", first)
    writer.vote()
    with gate(mapping, "tpc_finish", after=after) as finishing:
        finish = writer.ask(TpcFinish(1))
        finishing.wait_reached()
        loads = [observer.ask(LoadBefore(oid_of(n), MAX_TID)) for n in (1, 2)]
        answers = Background(lambda: [observer.answer(load) for load in loads])
        answers.join(0.1)
        finishing.open()
        found: Any = answers.result()
        second = writer.answer(finish)
    assert found in (
        [(b"old", first, None)] * 2,
        [(b"old", first, second)] * 2,
        [(b"new", second, None)] * 2,
    )
    # An old state that is called current has to come before the invalidation, or the client would
    # keep it for ever.
    observer.ping()
    assert observer.invalidations()[-1][0] == second
    assert violations(observer, dict.fromkeys(loads, "load")) == []


def test_r5_readers_under_load_never_see_half(
    mapping: MappingStorage, serve: Serve, raw: Connect, loop: str
) -> None:
    """A reader that asks for the state before one tid gets one transaction's values."""
    server = serve(mapping, loop=loop)
    writer, reader = raw(server.address), raw(server.address)
    objects = [oid_of(number) for number in range(1, 6)]
    serial = writer.commit(dict.fromkeys(objects, (Z64, b"0")))
    stop = threading.Event()

    def commit() -> None:
        tid, turn = serial, 0
        while not stop.is_set():
            turn += 1
            tid = writer.commit(dict.fromkeys(objects, (tid, b"%d" % turn)))

    thread = Background(commit)
    try:
        for _ in range(200):
            before = (int.from_bytes(known(reader), "big") + 1).to_bytes(8, "big")
            found = [reader.load(oid, before)[:2] for oid in objects]
            assert len(set(found)) == 1
    finally:
        stop.set()
    thread.result()


def known(client: RawClient) -> bytes:
    """Return the last transaction that a client has been told of."""
    client.ping()
    return max([client.tid, *(tid for tid, _oids in client.invalidations())])


def test_r5_nothing_is_visible_before_the_finish(
    mapping: MappingStorage, serve: Serve, raw: Connect
) -> None:
    server = serve(mapping)
    writer, observer = raw(server.address), raw(server.address)
    writer.begin()
    writer.store(oid_of(1), b"data")
    writer.vote()
    assert fault_of(lambda: observer.load(oid_of(1))) == POSKeyError.__name__
    observer.ping()
    assert observer.invalidations() == []
    tid = writer.finish()
    observer.ping()
    assert observer.invalidations() == [(tid, [oid_of(1)])]


def test_r5_created_objects_are_announced(
    mapping: MappingStorage, serve: Serve, raw: Connect
) -> None:
    """A (ZEO#160): watchers and negative caches depend on the oids of new objects."""
    server = serve(mapping)
    writer, observer = raw(server.address), raw(server.address)
    tid = writer.commit({oid_of(n): (Z64, b"x") for n in (1, 2)})
    observer.ping()
    ((told, oids),) = observer.invalidations()
    assert (told, sorted(oids)) == (tid, [oid_of(1), oid_of(2)])


def test_r5_an_empty_commit_is_announced(
    mapping: MappingStorage, serve: Serve, raw: Connect
) -> None:
    server = serve(mapping)
    writer, observer = raw(server.address), raw(server.address)
    tid = writer.commit({})
    observer.ping()
    assert observer.invalidations() == [(tid, [])]

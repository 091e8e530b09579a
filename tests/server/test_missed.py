"""What a client is told that it missed: from the log, from the storage, within bounds."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.server.conftest import Connect, Serve
from tests.support.histories import Z64, commit, fill, listed
from tests.support.raw import RawClient, oid_of
from tests.support.storages import gate, hook
from tests.support.waiting import wait_until
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage
from ZODB.serialize import referencesf

from zeolith.protocol.messages import GetInvalidations
from zeolith.server import missed
from zeolith.server.access import StorageAccess
from zeolith.server.missed import read_missed

X = oid_of(7)


@pytest.fixture(params=["file", "mapping"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    kind = request.param
    found = FileStorage(str(tmp_path / "Data.fs")) if kind == "file" else MappingStorage()
    yield found
    found.close()


def changed_after(storage: Any, tid: bytes) -> set[bytes]:
    return {oid for _, oids in listed(storage, tid) for oid in oids}


def test_what_the_storage_says_is_complete(storage: Any) -> None:
    tids = fill(storage, 30)
    access = StorageAccess("1", storage)
    for tid in (Z64, *tids[:-1:7]):
        found = read_missed(access, tid, tids[-1])
        assert found is not None
        assert found[0] == tids[-1]
        assert sorted(found[1]) == sorted(changed_after(storage, tid))


def test_r1_nothing_is_told_that_was_not_announced(storage: Any) -> None:
    tids = fill(storage, 5)
    commit(storage, oid_of(1000))
    found = read_missed(StorageAccess("1", storage), tids[2], tids[-1])
    assert found is not None
    assert found[0] == tids[-1]
    assert oid_of(1000) not in found[1]


def test_after_a_pack_nothing_is_missing(tmp_path: Path) -> None:
    storage = FileStorage(str(tmp_path / "Data.fs"), pack_gc=False)
    try:
        tids = fill(storage, 30)
        expected = changed_after(storage, tids[9])
        storage.pack(time.time(), referencesf)
        found = read_missed(StorageAccess("1", storage), tids[9], tids[-1])
        assert found is not None
        assert set(found[1]) == expected
    finally:
        storage.close()


def test_r8_the_work_is_bounded(storage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tids = fill(storage, 10)
    access = StorageAccess("1", storage)
    assert read_missed(access, Z64, tids[-1], seconds=-1.0) is None
    count = len(changed_after(storage, Z64))
    monkeypatch.setattr(missed, "MISSED_OBJECTS", count)
    assert read_missed(access, Z64, tids[-1]) is not None
    monkeypatch.setattr(missed, "MISSED_OBJECTS", count - 1)
    assert read_missed(access, Z64, tids[-1]) is None


def test_a_storage_that_fails_says_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The client verifies what it has; it would not get in otherwise."""
    path = tmp_path / "Data.fs"
    storage = FileStorage(str(path))
    try:
        tids = fill(storage, 3)
        with open(path, "r+b") as file:
            file.seek(-30, 2)
            file.write(bytes(30))
        assert read_missed(StorageAccess("1", storage), tids[0], tids[-1]) is None
        assert "its history cannot be read: the database file is damaged" in caplog.text
    finally:
        storage.close()


@pytest.mark.parametrize("quick", [missed.QUICK_BYTES, -1], ids=["loop", "worker"])
def test_the_log_is_asked_first(
    serve: Serve, raw: Connect, monkeypatch: pytest.MonkeyPatch, quick: int
) -> None:
    """Much of it on a worker, while others are served."""
    monkeypatch.setattr(missed, "QUICK_BYTES", quick)
    client = raw(serve(MappingStorage()).address)
    tids = [client.commit({oid_of(n): (Z64, b"x")}) for n in range(5)]
    tid, oids = client.call(GetInvalidations(tids[1]))
    assert tid == tids[-1]
    assert sorted(oids) == [oid_of(n) for n in range(2, 5)]
    monkeypatch.setattr(missed, "MISSED_OBJECTS", 2)
    assert client.call(GetInvalidations(tids[1])) is None


@pytest.mark.parametrize(("age", "is_told"), [(600.0, True), (0.0, False), (None, False)])
def test_how_far_the_storage_is_asked(
    serve: Serve, raw: Connect, storage: Any, age: float | None, is_told: bool
) -> None:
    client = raw(serve(storage, invalidation_queue_size=2, invalidation_age=age).address)
    tids = [client.commit({oid_of(n): (Z64, b"x")}) for n in range(20)]
    answer = client.call(GetInvalidations(tids[3]))
    if is_told:
        assert answer[0] == tids[-1]
        assert set(answer[1]) == changed_after(storage, tids[3])
    else:
        assert answer is None
    assert client.call(GetInvalidations(tids[-2])) is not None
    # Forty years ago.
    assert client.call(GetInvalidations(b"\x01" + tids[0][1:])) is None


def test_others_are_served_while_the_storage_is_read(serve: Serve, raw: Connect) -> None:
    storage = MappingStorage()
    tids = fill(storage, 5)
    server = serve(storage, invalidation_queue_size=0)
    asking, other = raw(server.address), raw(server.address)
    with gate(storage, "iterator") as stop:
        question = asking.ask(GetInvalidations(tids[0]))
        stop.wait_reached()
        tid = other.commit({X: (Z64, b"x")})
        assert other.load(X)[1] == tid
        # So does the client that asks; what was announced since it is told in the usual way.
        assert asking.load(X)[1] == tid
        assert asking.invalidations() == [(tid, [X])]
        stop.open()
        answer = asking.answer(question)
    assert answer[0] == tids[-1]
    assert X not in answer[1]


def test_r7_those_who_ask_the_same_share_one_reading(serve: Serve, raw: Connect) -> None:
    """After a night a whole site comes at once."""
    storage = MappingStorage()
    tids = fill(storage, 5)
    server = serve(storage, invalidation_queue_size=0)
    service = server._services["1"]
    clients = [raw(server.address) for _ in range(5)]
    read = []
    with (
        gate(storage, "iterator") as stop,
        hook(storage, "iterator", before=lambda *args: read.append(args)),
    ):
        questions = [client.ask(GetInvalidations(tids[0])) for client in clients]
        stop.wait_reached()
        wait_until(lambda: service.verifying == len(clients))
        stop.open()
        answers = [client.answer(asked) for client, asked in zip(clients, questions)]
    expected = changed_after(storage, tids[0])
    assert [(tid, set(oids)) for tid, oids in answers] == [(tids[-1], expected)] * len(clients)
    assert len(read) == 1
    # What was read is kept no longer than it is needed (R8).
    wait_until(lambda: not service.readings)
    # Whoever asks after another transaction shares nothing that was read before it.
    tid = clients[0].commit({oid_of(1000): (Z64, b"x")})
    answer = clients[1].call(GetInvalidations(tids[0]))
    assert answer[0] == tid
    assert set(answer[1]) == {*expected, oid_of(1000)}


def test_r1_a_reading_is_shared_only_by_those_who_missed_the_same(
    serve: Serve, raw: Connect
) -> None:
    """Who comes later was not told of what was announced before it came."""
    storage = MappingStorage()
    tids = fill(storage, 5)
    server = serve(storage, invalidation_queue_size=0)
    first = raw(server.address)
    with gate(storage, "iterator") as stop, RawClient(server.address) as writer:
        question = first.ask(GetInvalidations(tids[0]))
        stop.wait_reached()
        tid = writer.commit({X: (Z64, b"x")})
        second = raw(server.address)
        asked = second.ask(GetInvalidations(tids[0]))
        wait_until(lambda: server._services["1"].verifying == 2)
        stop.open()
        assert first.answer(question)[0] == tids[-1]
        answer = second.answer(asked)
    assert answer[0] == tid
    assert X in answer[1]


def test_r7_one_client_has_one_question_at_a_time(serve: Serve, raw: Connect) -> None:
    """However much it asks, the threads are there for others, too."""
    storage = MappingStorage()
    tids = fill(storage, 9)
    server = serve(storage, invalidation_queue_size=0)
    greedy, other = raw(server.address), raw(server.address)
    with gate(storage, "iterator", when=lambda start, stop: start != following(tids[-2])) as stop:
        questions = [greedy.ask(GetInvalidations(tid)) for tid in tids[:6]]
        stop.wait_reached()
        assert other.call(GetInvalidations(tids[-2]))[0] == tids[-1]
        stop.open()
        assert {greedy.answer(asked)[0] for asked in questions} == {tids[-1]}


def test_nothing_is_read_for_a_client_that_is_gone(serve: Serve, raw: Connect) -> None:
    """One that waited for too long, and asks again on another connection."""
    storage = MappingStorage()
    tids = fill(storage, 9)
    server = serve(storage, invalidation_queue_size=0)
    service = server._services["1"]
    client = raw(server.address)
    read = []
    with (
        gate(storage, "iterator") as stop,
        hook(storage, "iterator", before=lambda *args: read.append(args)),
    ):
        for tid in tids[:6]:
            client.send((client.next_id(), GetInvalidations(tid)))
        stop.wait_reached()
        wait_until(lambda: service.verifying == 6)
        client.close()
        wait_until(lambda: not len(service.publisher))
        stop.open()
        wait_until(lambda: service.verifying == 0)
    assert len(read) == 1


def test_r8_a_huge_transaction_takes_no_longer_either(storage: Any) -> None:
    """Its objects are read one by one, and some storages take long for each."""
    tids = [commit(storage, oid_of(1)), commit(storage, *map(oid_of, range(2000)))]
    access = StorageAccess("1", storage)
    clock = itertools.count()
    with pytest.MonkeyPatch.context() as patch:
        # Each look at the clock is a second later.
        patch.setattr(missed, "time", SimpleNamespace(monotonic=lambda: float(next(clock))))
        assert read_missed(access, tids[0], tids[-1], seconds=100.0) is None
    assert next(clock) < 200


def following(tid: bytes) -> bytes:
    return (int.from_bytes(tid, "big") + 1).to_bytes(8, "big")

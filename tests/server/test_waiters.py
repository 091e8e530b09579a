"""Waiting for a transaction: who is told, when, and for how long somebody is remembered."""

from __future__ import annotations

import logging
import threading

import pytest
from tests.server.conftest import Connect, Serve
from tests.support.processes import running_server
from tests.support.raw import Z64, RemoteFault, oid_of
from tests.support.storages import gate
from tests.support.waiting import Background, promptly, wait_until
from ZODB.MappingStorage import MappingStorage

from zeolith.protocol import messages as m
from zeolith.protocol.greeting import Coding
from zeolith.protocol.loadrequests import MAX_SYNC_TIME, SyncTo
from zeolith.server.waiters import Waiters
from zeolith.types import MAX_TID


def tid_of(number: int) -> bytes:
    return number.to_bytes(8, "big")


def later(tid: bytes, seconds: int) -> bytes:
    """Return a transaction id of about *seconds* later."""
    return (int.from_bytes(tid) + seconds * (1 << 32) // 60).to_bytes(8)


@pytest.fixture
def own(raw: Connect) -> Connect:
    """Open raw clients that speak Zeolith's own protocol."""
    return lambda *args, **kw: raw(*args, coding=Coding.OWN, **kw)


# -- the waiters alone -------------------------------------------------------------------------


def test_they_are_released_in_the_order_of_their_transactions() -> None:
    waiters = Waiters()
    told: list[int] = []
    for number in (5, 2, 9, 2, 7):
        waiters.add(tid_of(number), "owner", lambda number=number: told.append(number))  # type: ignore[misc]
    waiters.release(tid_of(1))
    assert told == []
    waiters.release(tid_of(5))
    assert told == [2, 2, 5]
    waiters.release(tid_of(5))
    assert len(waiters) == 2
    waiters.release(MAX_TID)
    assert told == [2, 2, 5, 7, 9]
    assert len(waiters) == 0


def test_who_gives_up_is_not_told() -> None:
    waiters = Waiters()
    told: list[str] = []
    one = waiters.add(tid_of(1), "a", lambda: told.append("one"))
    waiters.add(tid_of(1), "a", lambda: told.append("two"))
    waiters.add(tid_of(1), "b", lambda: told.append("three"))
    assert waiters.remove(one)
    assert not waiters.remove(one)
    waiters.forget("a")
    waiters.release(MAX_TID)
    assert told == ["three"]


def test_a_defect_of_one_does_not_keep_the_others_waiting(
    caplog: pytest.LogCaptureFixture,
) -> None:
    waiters = Waiters()
    told: list[str] = []

    def defect() -> None:
        raise RuntimeError("a defect")

    waiters.add(tid_of(1), "a", defect)
    waiters.add(tid_of(2), "b", lambda: told.append("other"))
    with caplog.at_level(logging.ERROR):
        waiters.release(MAX_TID)
    assert told == ["other"]
    assert "a defect" in caplog.text


def test_one_who_is_told_may_make_others_wait() -> None:
    waiters = Waiters()
    told: list[str] = []

    def again() -> None:
        told.append("first")
        waiters.add(tid_of(1), "a", lambda: told.append("second"))
        waiters.release(tid_of(1))

    waiters.add(tid_of(1), "a", again)
    waiters.release(tid_of(1))
    assert told == ["first", "second"]


# -- at a server -------------------------------------------------------------------------------


def test_what_is_known_is_answered_at_once(
    mapping: MappingStorage, serve: Serve, own: Connect, loop: str
) -> None:
    client = own(serve(mapping, loop=loop).address)
    tid = client.commit({oid_of(1): (Z64, b"data")})
    for wanted in (Z64, tid):
        assert client.call(SyncTo(wanted, 60.0)) == tid
        assert client.call(SyncTo(wanted, 0)) == tid
    assert client.call(SyncTo(later(tid, 1), 0)) is None


def test_r1_the_answer_comes_after_the_invalidations(
    mapping: MappingStorage, serve: Serve, own: Connect, loop: str
) -> None:
    server = serve(mapping, loop=loop)
    writer, waiting = own(server.address), own(server.address)
    first = writer.commit({oid_of(1): (Z64, b"one")})
    asked = waiting.ask(SyncTo(later(first, 0)[:7] + b"\xff", 60))
    publisher = server._services["1"].publisher
    wait_until(lambda: len(publisher.waiters) == 1)
    second = writer.commit({oid_of(1): (first, b"two")})
    assert waiting.answer(asked) == second
    assert waiting.inbox[-1] == m.Reply(asked, second)
    assert waiting.invalidations() == [(first, [oid_of(1)]), (second, [oid_of(1)])]
    assert len(publisher.waiters) == 0


def test_r1_nobody_is_told_of_a_transaction_that_is_being_finished(
    mapping: MappingStorage, serve: Serve, own: Connect, loop: str
) -> None:
    server = serve(mapping, loop=loop)
    writer, waiting, other = (own(server.address) for _ in range(3))
    first = writer.commit({oid_of(1): (Z64, b"one")})
    wanted = later(first, 0)[:7] + b"\xff"
    early = waiting.ask(SyncTo(wanted, 60))
    wait_until(lambda: len(server._services["1"].publisher.waiters) == 1)
    writer.begin()
    writer.store(oid_of(1), b"two", first)
    writer.vote()
    with gate(mapping, "tpc_finish", after=True) as finished:
        finish = writer.ask(m.TpcFinish(1))
        finished.wait_reached()
        late = other.ask(SyncTo(wanted, 60))
        answer = Background(lambda: other.answer(late))
        threading.Event().wait(0.1)
        # The storage has it, but it may not be on disk.
        assert len(server._services["1"].publisher.waiters) == 1
        finished.open()
        second = writer.answer(finish)
        assert waiting.answer(early) == answer.result() == second
    for client in (waiting, other):
        kinds = [type(message) for message in client.inbox]
        assert kinds == [m.Reply, m.Notice, m.Notice, m.Reply]


def test_nothing_if_it_does_not_come_in_time(
    mapping: MappingStorage, serve: Serve, own: Connect, loop: str
) -> None:
    server = serve(mapping, loop=loop)
    client = own(server.address)
    tid = client.commit({oid_of(1): (Z64, b"data")})
    assert client.call(SyncTo(MAX_TID, 0.05)) is None
    assert len(server._services["1"].publisher.waiters) == 0
    # It was no more than a question.
    assert client.call(SyncTo(tid, 0.05)) == tid


@pytest.mark.parametrize("seconds", [-1, MAX_SYNC_TIME + 1, float("nan"), float("inf"), None])
def test_times_that_are_none_are_refused(
    mapping: MappingStorage, serve: Serve, own: Connect, seconds: float
) -> None:
    client = own(serve(mapping).address)
    with pytest.raises(RemoteFault, match="seconds"):
        client.call(SyncTo(MAX_TID, seconds))


@pytest.mark.parametrize("tid", [b"short", "text", None])
def test_ids_that_are_none_are_refused(
    mapping: MappingStorage, serve: Serve, own: Connect, tid: bytes
) -> None:
    client = own(serve(mapping).address)
    with pytest.raises(RemoteFault, match="tid"):
        client.call(SyncTo(tid, 1))


def test_who_leaves_is_forgotten(
    mapping: MappingStorage, serve: Serve, own: Connect, loop: str
) -> None:
    server = serve(mapping, loop=loop)
    client, other = own(server.address), own(server.address)
    publisher = server._services["1"].publisher
    for _ in range(5):
        client.ask(SyncTo(MAX_TID, 60))
    other.ask(SyncTo(MAX_TID, 60))
    wait_until(lambda: len(publisher.waiters) == 6)
    client.close()
    wait_until(lambda: len(publisher.waiters) == 1)


def test_r8_one_client_does_not_wait_for_any_number(
    mapping: MappingStorage, serve: Serve, own: Connect, loop: str
) -> None:
    server = serve(mapping, loop=loop, max_outstanding=10)
    greedy, other = own(server.address), own(server.address)
    publisher = server._services["1"].publisher
    for _ in range(100):
        greedy.ask(SyncTo(MAX_TID, 60))
    wait_until(lambda: len(publisher.waiters) == 10)
    with promptly(5):
        for _ in range(20):
            other.ping()
    assert len(publisher.waiters) == 10


def test_with_a_place_free_again_the_next_is_heard(
    mapping: MappingStorage, serve: Serve, own: Connect
) -> None:
    server = serve(mapping, max_outstanding=2)
    client = own(server.address)
    asked = [client.ask(SyncTo(MAX_TID, seconds)) for seconds in (0.05, 60, 0.05)]
    last = client.ask(m.Ping())
    assert client.answer(asked[0]) is None
    assert client.answer(asked[2]) is None
    assert client.answer(last) is None


def test_who_was_told_has_its_place_free_again(
    mapping: MappingStorage, serve: Serve, own: Connect
) -> None:
    server = serve(mapping, max_outstanding=2)
    client, writer = own(server.address), own(server.address)
    tid = writer.commit({oid_of(1): (Z64, b"data")})
    publisher = server._services["1"].publisher
    for turn in range(5):
        asked = client.ask(SyncTo(later(tid, 0)[:7] + b"\xff", 60))
        wait_until(lambda: len(publisher.waiters) == 1)
        tid = writer.commit({oid_of(1): (tid, b"%d" % turn)})
        assert client.answer(asked) == tid


def test_a_server_that_stops_does_not_wait(mapping: MappingStorage, own: Connect) -> None:
    with promptly(10):
        with running_server(mapping) as server:
            client = own(server.address)
            client.ask(SyncTo(MAX_TID, 60))
            wait_until(lambda: len(server._services["1"].publisher.waiters) == 1)
        client.wait_closed()

"""Waiting until a client knows a transaction: whom it asks, and when it gives up."""

from __future__ import annotations

import threading
from contextlib import suppress
from functools import partial
from typing import Any

import pytest

from tests.client.conftest import Attach, Open
from tests.support.raw import Closed, FakeConnection, FakeServer
from tests.support.waiting import Background, promptly, wait_until
from zeolith.client.syncing import MAX_ASKING, Progress
from zeolith.errors import ClientDisconnected, ClientStorageError, NotReached
from zeolith.protocol.framing import frame
from zeolith.protocol.greeting import Coding
from zeolith.protocol.loadrequests import MAX_SYNC_TIME, SyncTo
from zeolith.protocol.messages import InvalidateTransaction, Ping


def tid_of(number: int) -> bytes:
    return number.to_bytes(8, "big")


T1, T2, T3 = map(tid_of, (1, 2, 3))


def test_what_is_known_costs_no_call(attach: Attach) -> None:
    storage, server = attach()
    asked = len(server.inbox)
    assert storage.sync_to(bytes(8)) == T1
    assert storage.sync_to(T1) == T1
    assert storage.sync_to(T1, timeout=0) == T1
    server.notify(InvalidateTransaction(T2, []))
    wait_until(lambda: storage.lastTransaction() == T2)
    assert storage.sync_to(T2, 0) == T2
    assert len(server.inbox) == asked


def test_the_server_is_asked_once_and_answers_when_it_is_there(attach: Attach) -> None:
    storage, server = attach()
    waiting = Background(partial(storage.sync_to, T2, 20))
    call = server.expect(SyncTo)
    assert call.request.tid == T2
    assert 0 < call.request.seconds <= 20
    server.send(server.notice_bytes(InvalidateTransaction(T3, [T1])), server.reply_bytes(call, T3))
    assert waiting.result() == T3
    assert storage.lastTransaction() == T3


def test_long_waits_are_asked_for_in_parts(attach: Attach) -> None:
    storage, server = attach()
    waiting = Background(partial(storage.sync_to, T2, 10 * MAX_SYNC_TIME))
    for _ in range(3):
        call = server.expect(SyncTo)
        assert call.request.seconds == MAX_SYNC_TIME
        server.reply(call, None)
    call = server.expect(SyncTo)
    server.send(server.notice_bytes(InvalidateTransaction(T2, [])), server.reply_bytes(call, T2))
    assert waiting.result() == T2


def test_an_error_after_the_time_names_both(attach: Attach) -> None:
    storage, server = attach()
    waiting = Background(partial(storage.sync_to, T2, 0.05))

    def answer_all() -> None:
        with suppress(Closed):
            while True:
                server.reply(server.expect(SyncTo), None)

    answering = Background(answer_all)
    with pytest.raises(NotReached, match=f"{T2.hex()}.*{T1.hex()}") as caught:
        waiting.result()
    assert (caught.value.tid, caught.value.last_tid) == (T2, T1)
    assert isinstance(caught.value, ClientStorageError)
    with pytest.raises(NotReached):
        storage.sync_to(T2, 0)
    storage.close()
    answering.result()


def test_our_own_commit_may_be_on_its_way(attach: Attach) -> None:
    """The server names it before the client has its answer."""
    storage, server = attach()
    waiting = Background(partial(storage.sync_to, T2, 20))
    server.reply(server.expect(SyncTo), T2)
    server.notify(InvalidateTransaction(T2, []))
    assert waiting.result() == T2


def test_the_next_connection_is_asked_again(fake: FakeServer, attach: Attach) -> None:
    storage, server = attach()
    waiting = Background(partial(storage.sync_to, T3, 20))
    server.expect(SyncTo)
    server.reset()
    again = fake.accept()
    again.admit(T2)
    call = again.expect(SyncTo)
    again.send(again.notice_bytes(InvalidateTransaction(T3, [])), again.reply_bytes(call, T3))
    assert waiting.result() == T3


def test_the_next_connection_may_know_it(fake: FakeServer, attach: Attach) -> None:
    storage, server = attach()
    waiting = Background(partial(storage.sync_to, T3, 20))
    server.expect(SyncTo)
    server.reset()
    again = fake.accept()
    again.admit(T3)
    assert waiting.result() == T3


def test_without_a_server_the_error_is_that(attach: Attach, fake: FakeServer) -> None:
    storage, _ = attach()
    fake.close()
    wait_until(lambda: not storage.is_connected())
    with pytest.raises(ClientDisconnected):
        storage.sync_to(T2, 0.05)


def test_closing_ends_the_waiting(attach: Attach) -> None:
    storage, server = attach()
    waiting = [Background(partial(storage.sync_to, T2, 60)) for _ in range(3)]
    for _ in waiting:
        server.expect(SyncTo)
    with promptly(10):
        storage.close()
        for thread in waiting:
            with pytest.raises(ClientDisconnected):
                thread.result()


def test_wait_timeout_is_the_default(attach: Attach) -> None:
    storage, server = attach(wait_timeout=7)
    waiting = Background(partial(storage.sync_to, T2))
    call = server.expect(SyncTo)
    assert 6 < call.request.seconds <= 7
    server.send(server.notice_bytes(InvalidateTransaction(T2, [])), server.reply_bytes(call, T2))
    waiting.result()


@pytest.mark.parametrize("tid", [b"", b"short", "12345678", None, 1])
def test_what_is_no_transaction_id(attach: Attach, tid: Any) -> None:
    storage, _ = attach()
    with pytest.raises((TypeError, ValueError)):
        storage.sync_to(tid)


@pytest.mark.parametrize("timeout", [-1, float("nan"), float("inf"), 1e30, "5", True])
def test_what_is_no_timeout(attach: Attach, timeout: Any) -> None:
    storage, server = attach()
    asked = len(server.inbox)
    with pytest.raises((TypeError, ValueError), match="timeout is"):
        storage.sync_to(T2, timeout)
    assert len(server.inbox) == asked


def test_no_more_threads_ask_than_a_server_hears(attach: Attach) -> None:
    """The others wait for the announcement, and commits go on meanwhile."""
    storage, server = attach()
    asking = [Background(partial(storage.sync_to, T2, 30)) for _ in range(MAX_ASKING)]
    calls = [server.expect(SyncTo) for _ in asking]
    more = [Background(partial(storage.sync_to, T2, 30)) for _ in range(10)]
    wait_until(lambda: storage._link.progress._waiting == 10)
    server.send(
        server.notice_bytes(InvalidateTransaction(T2, [])),
        *[server.reply_bytes(call, T2) for call in calls],
    )
    assert {thread.result() for thread in asking + more} == {T2}
    again = Background(partial(storage.sync_to, T3, 30))
    call = server.expect(SyncTo)
    server.send(server.notice_bytes(InvalidateTransaction(T3, [])), server.reply_bytes(call, T3))
    assert again.result() == T3


# -- servers of ZEO's ---------------------------------------------------------------------------


@pytest.fixture
def zeo(fake: FakeServer, client: Open) -> tuple[Any, FakeConnection]:
    """A storage and its server, which speaks ZEO's protocol only."""
    opening = Background(lambda: client(fake.address))
    connection = fake.accept(Coding.MSGPACK)
    connection.socket.sendall(frame(b"M5"))
    while connection.peer.codec is None:
        connection._receive()
    connection.admit_registered(T1)
    return opening.result(), connection


def test_zeo_s_server_is_pinged_once_and_then_listened_to(
    zeo: tuple[Any, FakeConnection],
) -> None:
    storage, server = zeo
    waiting = Background(partial(storage.sync_to, T3, 20))
    ping = server.next_call()
    assert ping.request == Ping()
    server.reply(ping, None)
    wait_until(lambda: storage._link.progress._waiting == 1)
    asked = len(server.inbox)
    server.notify(InvalidateTransaction(T2, []))
    wait_until(lambda: storage.lastTransaction() == T2)
    with promptly(10):
        server.notify(InvalidateTransaction(T3, []))
        assert waiting.result() == T3
    assert len(server.inbox) == asked


def test_zeo_s_server_knows_it_already(zeo: tuple[Any, FakeConnection]) -> None:
    storage, server = zeo
    waiting = Background(partial(storage.sync_to, T2, 20))
    call = server.next_call()
    assert call.request == Ping()
    server.send(server.notice_bytes(InvalidateTransaction(T2, [])), server.reply_bytes(call, None))
    assert waiting.result() == T2


def test_zeo_s_server_does_not_come_to_it(zeo: tuple[Any, FakeConnection]) -> None:
    storage, server = zeo
    waiting = Background(partial(storage.sync_to, T2, 0.1))
    server.reply(server.next_call(), None)
    with pytest.raises(NotReached):
        waiting.result()


def test_closing_ends_the_listening(zeo: tuple[Any, FakeConnection]) -> None:
    storage, server = zeo
    waiting = Background(partial(storage.sync_to, T2, 60))
    server.reply(server.next_call(), None)
    wait_until(lambda: storage._link.progress._waiting == 1)
    with promptly(10):
        storage.close()
        with pytest.raises(ClientDisconnected):
            waiting.result()


# -- telling -----------------------------------------------------------------------------------


def test_progress_wakes_those_who_wait() -> None:
    progress = Progress()
    reached = [False]
    waiting = [Background(lambda: progress.wait_for(lambda: reached[0], 20)) for _ in range(5)]
    wait_until(lambda: progress._waiting == 5)
    progress.tell()
    assert progress._waiting == 5
    reached[0] = True
    progress.tell()
    assert [thread.result() for thread in waiting] == [True] * 5
    assert progress._waiting == 0
    assert progress.wait_for(lambda: False, 0) is False


def test_no_telling_is_lost() -> None:
    """Whatever the order of looking and telling, nobody sleeps over it."""
    progress = Progress()
    for _ in range(300):
        reached = threading.Event()
        waiting = Background(lambda: progress.wait_for(reached.is_set, 20))  # noqa: B023
        reached.set()
        progress.tell()
        assert waiting.result()

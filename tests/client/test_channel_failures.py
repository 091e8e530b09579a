"""What an interrupt, a defect or a bad argument in one thread means for the others."""

from __future__ import annotations

import logging
import threading
from typing import Any

import pytest
from ZODB.POSException import POSKeyError

from zeolith.errors import ClientDisconnected
from zeolith.protocol.messages import InvalidateTransaction, Ping

OID, OTHER, TID, START = (bytes([0] * 7 + [n]) for n in (1, 2, 200, 100))


class NoTurn:
    """A lock whose waiter is interrupted."""

    def __init__(self, until: threading.Event | None = None) -> None:
        self._until = until
        self.is_waited_for = threading.Event()

    def __enter__(self) -> None:
        self.is_waited_for.set()
        if self._until is not None:
            assert self._until.wait(10)
        raise KeyboardInterrupt

    def __exit__(self, *exc: object) -> None:
        pass


def test_an_interrupt_while_sending_fails_those_who_share_the_load(
    line: Any, background: Any
) -> None:
    sending, go_on = threading.Event(), threading.Event()

    def interrupted(data: bytes) -> None:
        sending.set()
        assert go_on.wait(10)
        raise KeyboardInterrupt

    line.wire.send = interrupted
    first = background(line.channel.load_before, OID, TID)
    assert sending.wait(10)
    others = [background(line.channel.load_before, OID, TID) for _ in range(3)]
    while line.channel.follower_count < 2 or not line.channel.is_being_read:
        pass
    go_on.set()
    with pytest.raises(KeyboardInterrupt):
        first.result()
    for other in others:
        with pytest.raises(ClientDisconnected):
            other.result()


def test_an_interrupt_before_sending_fails_those_who_share_the_load(
    line: Any, background: Any
) -> None:
    go_on = threading.Event()
    line.channel._sending = turn = NoTurn(go_on)
    first = background(line.channel.load_before, OID, TID)
    assert turn.is_waited_for.wait(10)
    others = [background(line.channel.load_before, OID, TID) for _ in range(3)]
    while line.channel.follower_count < 2 or not line.channel.is_being_read:
        pass
    go_on.set()
    with pytest.raises(KeyboardInterrupt):
        first.result()
    for other in others:
        with pytest.raises(ClientDisconnected):
            other.result()


def test_an_interrupted_prefetch_fails_those_who_share_its_loads(
    line: Any, background: Any
) -> None:
    go_on = threading.Event()
    line.channel._sending = turn = NoTurn(go_on)
    prefetch = background(line.channel.request_loads, [OID, OTHER], TID)
    assert turn.is_waited_for.wait(10)
    load = background(line.channel.load_before, OTHER, TID)
    while not line.channel.is_being_read:
        pass
    go_on.set()
    with pytest.raises(KeyboardInterrupt):
        prefetch.result()
    with pytest.raises(ClientDisconnected):
        load.result()


def test_an_interrupt_reaches_only_the_thread_it_was_meant_for(line: Any) -> None:
    line.channel.close(KeyboardInterrupt())
    with pytest.raises(ClientDisconnected):
        line.channel.load_before(OID, TID)
    with pytest.raises(ClientDisconnected):
        line.channel.call(Ping())


@pytest.mark.parametrize(
    ("oid", "tid", "error"),
    [
        (b"short", TID, POSKeyError),
        ("no bytes", TID, TypeError),
        (None, TID, TypeError),
        (OID, b"short", ValueError),
    ],
)
def test_what_is_no_id_fails_its_caller_and_nobody_else(
    line: Any, background: Any, oid: Any, tid: Any, error: type[Exception]
) -> None:
    for _ in range(2):
        with pytest.raises(error):
            line.channel.load_before(oid, tid)
        with pytest.raises(error):
            line.channel.request_loads([OTHER, oid], tid)
    assert line.wire.sent.empty()
    load = background(line.channel.load_before, OTHER, TID)
    line.server.say(line.server.codec.loaded(line.server.next_call().request, b"x", START, None))
    assert load.result() == (b"x", START, None)


def test_waiting_calls_fail_even_if_the_receiver_cannot_take_the_end(
    line: Any, background: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def defect(channel: Any, cause: BaseException) -> None:
        raise RuntimeError("a defect")

    line.receiver.broken = defect
    calls = [background(line.channel.call, Ping()) for _ in range(3)]
    for _ in calls:
        line.server.next_call()
    line.server.say(b"")
    for call in calls:
        with pytest.raises(ClientDisconnected):
            call.result()
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert "a defect" in caplog.text


def test_nothing_is_read_after_the_end_rule_r2(line: Any, background: Any) -> None:
    """One thread is about to end the connection, another one reads: what it could not handle
    must not be followed by what came later."""
    ending, go_on = threading.Event(), threading.Event()

    def slow(channel: Any, cause: BaseException) -> None:
        ending.set()
        assert go_on.wait(10)

    line.receiver.broken = slow
    call = background(line.channel.call, Ping())
    line.server.next_call()
    assert line.wire.reading.acquire(timeout=10)
    closing = background(line.channel.close, ClientDisconnected("closed"))
    assert ending.wait(10)
    line.server.say(line.server.codec.notice(InvalidateTransaction(TID, [OID])))
    reads_again = line.wire.reading.acquire(timeout=0.3)
    go_on.set()
    closing.result()
    with pytest.raises(ClientDisconnected):
        call.result()
    assert not reads_again
    assert line.receiver.events == []


def test_holding_back_readers_ends_with_an_error_too(line: Any, background: Any) -> None:
    def fail() -> None:
        with line.channel.hold_reading():
            calls.append(background(line.channel.call, Ping()))
            while not line.channel.follower_count:
                pass
            raise RuntimeError("a defect")

    calls: list[Any] = []
    with pytest.raises(RuntimeError, match="a defect"):
        fail()
    line.server.say(line.server.codec.reply(line.server.next_call().msgid, None))
    assert calls[0].result() is None

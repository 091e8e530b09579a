"""The reading role and the order of events, without a network."""

from __future__ import annotations

from typing import Any

import pytest
from ZODB.POSException import POSKeyError

from zeolith.client.channel import Channel
from zeolith.errors import ClientDisconnected, ProtocolViolation
from zeolith.protocol.greeting import Coding
from zeolith.protocol.messages import (
    Call,
    GetInfo,
    InvalidateTransaction,
    LoadBefore,
    Notice,
    Ping,
    Store,
    TpcFinish,
)
from zeolith.protocol.peers import ServerPeer

from .conftest import MemoryWire, Recorder

OID, OTHER, TID, START = (bytes([0] * 7 + [n]) for n in (1, 2, 200, 100))


@pytest.mark.parametrize("rest", [b"x", b"\0\0\0\1\x05", b"\xff" * 4, b"\0\0\0\2M5"])
def test_bytes_behind_a_greeting_are_refused_before_anything_is_said(rest: bytes) -> None:
    wire = MemoryWire()
    wire.arriving.put(ServerPeer(Coding.MSGPACK).greeting() + rest)
    with pytest.raises(ProtocolViolation, match=r"bytes after the first message|exceeds"):
        Channel(wire, Recorder(), "memory").greet()
    assert wire.sent.empty()


def test_a_load_returns_what_the_server_says_and_tells_the_receiver_first(
    line: Any, background: Any
) -> None:
    load = background(line.channel.load_before, OID, TID)
    call = line.server.next_call()
    assert call == Call((OID, TID), LoadBefore(OID, TID))
    line.server.say(line.server.codec.loaded(call.request, b"data", START, None))
    assert load.result() == (b"data", START, None)
    assert line.receiver.events == [("loaded", OID, START, None, b"data")]


def test_a_load_of_nothing_is_none_and_not_kept(line: Any, background: Any) -> None:
    load = background(line.channel.load_before, OID, TID)
    call = line.server.next_call()
    line.server.say(line.server.codec.reply(call.msgid, None))
    assert load.result() is None
    assert line.receiver.events == []


def test_an_error_is_raised_as_its_class(line: Any, background: Any) -> None:
    load = background(line.channel.load_before, OID, TID)
    call = line.server.next_call()
    line.server.say(line.server.codec.fault(call.msgid, "ZODB.POSException.POSKeyError", (OID,)))
    with pytest.raises(POSKeyError):
        load.result()


def test_threads_that_want_the_same_share_one_request(line: Any, background: Any) -> None:
    loads = [background(line.channel.load_before, OID, TID)]
    call = line.server.next_call()
    assert line.wire.reading.acquire(timeout=10)
    loads += [background(line.channel.load_before, OID, TID) for _ in range(3)]
    # Another request of another thread shows that the first three have sent nothing.
    while line.channel.follower_count < 3:
        pass
    ping = background(line.channel.call, Ping())
    assert line.server.next_call().request == Ping()
    line.server.say(line.server.codec.loaded(call.request, b"data", START, None))
    assert [load.result() for load in loads] == [(b"data", START, None)] * 4
    line.server.say(line.server.codec.reply(1, None))
    assert ping.result() is None
    assert len(line.receiver.events) == 1


def test_followers_get_answers_that_the_leader_reads_in_any_order(
    line: Any, background: Any
) -> None:
    leader = background(line.channel.call, Ping())
    first = line.server.next_call()
    assert line.wire.reading.acquire(timeout=10)
    followers = {}
    for number in range(5):
        oid = bytes([0] * 7 + [number])
        followers[oid] = background(line.channel.load_before, oid, TID)
        line.server.next_call()
    for oid in reversed(list(followers)):
        line.server.say(line.server.codec.loaded(LoadBefore(oid, TID), oid, START, None))
    for oid, load in followers.items():
        assert load.result() == (oid, START, None)
    line.server.say(line.server.codec.reply(first.msgid, "pong"))
    assert leader.result() == "pong"


def test_the_leader_hands_the_role_on_when_it_leaves(line: Any, background: Any) -> None:
    leader = background(line.channel.call, Ping())
    first = line.server.next_call()
    assert line.wire.reading.acquire(timeout=10)
    follower = background(line.channel.load_before, OID, TID)
    second = line.server.next_call()
    line.server.say(line.server.codec.reply(first.msgid, None))
    assert leader.result() is None
    line.server.say(line.server.codec.loaded(second.request, b"x", START, None))
    assert follower.result() == (b"x", START, None)


def test_messages_are_handled_in_the_order_of_arrival_rule_r2(line: Any, background: Any) -> None:
    load = background(line.channel.load_before, OID, TID)
    call = line.server.next_call()
    codec = line.server.codec
    line.server.say(
        codec.notice(InvalidateTransaction(START, [OTHER])),
        codec.loaded(call.request, b"x", START, None),
        codec.notice(InvalidateTransaction(TID, [OID])),
    )
    assert load.result() == (b"x", START, None)
    kinds = [event[0] for event in line.receiver.events]
    assert kinds == [START, "loaded", TID]


def test_what_the_reader_does_with_an_answer_precedes_the_next_message(
    line: Any, background: Any
) -> None:
    seen: list[Any] = []

    def finished(tid: bytes) -> None:
        seen.append((tid, list(line.receiver.events)))

    finish = background(line.channel.call, TpcFinish(1), finished)
    call = line.server.next_call()
    codec = line.server.codec
    line.server.say(
        codec.notice(InvalidateTransaction(START, [OTHER])),
        codec.reply(call.msgid, TID),
        codec.notice(InvalidateTransaction(b"\1" + TID[1:], [OID])),
    )
    assert finish.result() == TID
    assert [tid for tid, _ in seen] == [TID]
    assert [event.tid for event in seen[0][1]] == [START]


def test_a_failing_reply_hook_fails_its_call_and_ends_the_connection(
    line: Any, background: Any
) -> None:
    def fail(value: Any) -> None:
        raise RuntimeError("cannot take it in")

    finish = background(line.channel.call, TpcFinish(1), fail)
    call = line.server.next_call()
    line.server.say(line.server.codec.reply(call.msgid, TID))
    with pytest.raises(RuntimeError, match="cannot take it in"):
        finish.result()
    assert line.channel.is_broken
    assert line.receiver.events == [("broken", "cannot take it in")]


def test_a_receiver_that_cannot_keep_an_object_ends_the_connection(
    line: Any, background: Any
) -> None:
    def fail() -> None:
        raise RuntimeError("no room")

    line.receiver.on_loaded = fail
    load = background(line.channel.load_before, OID, TID)
    call = line.server.next_call()
    line.server.say(line.server.codec.loaded(call.request, b"x", START, None))
    with pytest.raises(RuntimeError, match="no room"):
        load.result()
    assert line.channel.is_broken


def test_notices_are_collected_and_sent_before_the_next_call(line: Any, background: Any) -> None:
    line.channel.post(Store(OID, None, b"1", 7))
    line.channel.post(Store(OTHER, None, b"2", 7))
    assert line.wire.sent.empty()
    call = background(line.channel.call, GetInfo())
    assert line.server.next_notice() == Store(OID, None, b"1", 7)
    assert line.server.next_notice() == Store(OTHER, None, b"2", 7)
    line.server.say(line.server.codec.reply(line.server.next_call().msgid, {}))
    assert call.result() == {}


def test_many_notices_are_sent_without_a_call(line: Any) -> None:
    data = b"x" * 10_000
    for number in range(7):
        line.channel.post(Store(bytes([0] * 7 + [number]), None, data, 7))
    assert [line.server.next_notice()[0][7] for _ in range(7)] == list(range(7))


def test_prefetched_objects_arrive_without_anybody_waiting(line: Any, background: Any) -> None:
    line.channel.request_loads([OID, OTHER], TID)
    assert line.wire.sent.qsize() == 1
    calls = [line.server.next_call(), line.server.next_call()]
    joined = background(line.channel.load_before, OTHER, TID)
    for call in calls:
        line.server.say(line.server.codec.loaded(call.request, b"x", START, None))
    assert joined.result() == (b"x", START, None)
    assert len(line.receiver.events) == 2


def test_the_watcher_reads_only_when_nobody_leads(line: Any, background: Any) -> None:
    line.server.say(line.server.codec.notice(InvalidateTransaction(TID, [OID])))
    assert line.channel.read_if_ready()
    assert [(event.tid, list(event.oids)) for event in line.receiver.events] == [(TID, [OID])]
    assert not line.channel.read_if_ready()
    leader = background(line.channel.call, Ping())
    call = line.server.next_call()
    while not line.channel.is_being_read:
        pass
    assert not line.channel.read_if_ready()
    line.server.say(line.server.codec.reply(call.msgid, None))
    assert leader.result() is None


def test_the_end_of_the_connection_fails_every_waiting_call(line: Any, background: Any) -> None:
    calls = [background(line.channel.call, Ping())]
    line.server.next_call()
    for number in range(4):
        calls.append(background(line.channel.load_before, bytes([0] * 7 + [number]), TID))
        line.server.next_call()
    line.channel.close(ClientDisconnected("gone"))
    for call in calls:
        with pytest.raises(ClientDisconnected, match="gone"):
            call.result()
    with pytest.raises(ClientDisconnected):
        line.channel.load_before(OID, TID)
    with pytest.raises(ClientDisconnected):
        line.channel.call(Ping())
    with pytest.raises(ClientDisconnected):
        line.channel.post(Store(OID, None, b"", 1))
    with pytest.raises(ClientDisconnected):
        line.channel.request_loads([OID], TID)
    assert line.receiver.events == [("broken", "gone")]
    line.channel.release()
    assert line.wire.is_closed


def test_a_server_that_closes_is_a_lost_connection(line: Any, background: Any) -> None:
    call = background(line.channel.call, Ping())
    line.server.next_call()
    line.server.say(b"")
    with pytest.raises(ClientDisconnected, match="closed the connection"):
        call.result()


def test_a_failing_send_is_a_lost_connection(line: Any) -> None:
    line.wire.failure = BrokenPipeError("pipe")
    with pytest.raises(ClientDisconnected, match="pipe"):
        line.channel.load_before(OID, TID)
    assert line.receiver.events == [("broken", "pipe")]


def test_an_interrupt_while_sending_reaches_the_caller_and_ends_the_connection(line: Any) -> None:
    line.wire.failure = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        line.channel.load_before(OID, TID)
    assert line.channel.is_broken


@pytest.mark.parametrize("what", ["reply", "fault", "garbage", "call"])
def test_a_server_that_breaks_the_protocol_is_left(line: Any, background: Any, what: str) -> None:
    call = background(line.channel.call, Ping())
    line.server.next_call()
    codec = line.server.codec
    line.server.say(
        {
            "reply": codec.reply(99, None),
            "fault": codec.fault(99, "builtins.KeyError", ()),
            "garbage": b"\0\0\0\3abc",
            "call": codec.call(5, Ping()),
        }[what]
    )
    with pytest.raises(ClientDisconnected):
        call.result()
    assert line.channel.is_broken


def test_heartbeats_take_waiting_notices_along(line: Any) -> None:
    line.channel.post(Store(OID, None, b"1", 7))
    line.channel.heartbeat()
    assert isinstance(line.server.next_event(), Notice)
    assert type(line.server.next_event()).__name__ == "Heartbeat"

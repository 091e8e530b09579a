"""Many loads in one message: who gets the answers, and what happens to those who wait for them."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from ZODB.POSException import POSKeyError

from tests.client.conftest import Attach, Background, Line, MemoryWire, Recorder, ServerEnd
from tests.support.interrupts import interrupted_at
from tests.support.waiting import Background as Waiting
from tests.support.waiting import wait_until
from zeolith.client import channel as channel_module
from zeolith.client import slots as slots_module
from zeolith.client.channel import Channel
from zeolith.errors import ClientDisconnected
from zeolith.protocol.greeting import Coding
from zeolith.protocol.loadrequests import LoadedMany, LoadMany, Record
from zeolith.protocol.messages import InvalidateTransaction, LoadBefore
from zeolith.protocol.peers import ServerPeer
from zeolith.types import MAX_TID

TID, START, END = (bytes([0] * 7 + [n]) for n in (200, 100, 150))
OIDS = [bytes([0] * 7 + [n]) for n in range(1, 6)]
A, B, C, D, E = OIDS


def open_line() -> Line:
    """Return a registered channel that speaks Zeolith's own protocol."""
    wire = MemoryWire()
    receiver = Recorder()
    channel = Channel(wire, receiver, "memory")
    peer = ServerPeer(Coding.MSGPACK)
    wire.arriving.put(peer.greeting())
    channel.greet()
    assert wire.reading.acquire(timeout=10)
    peer.receive(wire.sent.get(timeout=10))
    wire.arriving.put(peer.welcome())
    assert channel.read_if_ready()
    assert wire.reading.acquire(timeout=10)
    peer.registered()
    channel.registered()
    return Line(channel, receiver, wire, ServerEnd(wire, peer))


@pytest.fixture
def own() -> Line:
    return open_line()


def record(oid: bytes, end: bytes | None = None) -> Record:
    return oid, START, end, b"data of " + oid


def answers(line: Line, *oids: bytes) -> bytes:
    return line.server.codec.notice(LoadedMany(TID, [record(oid) for oid in oids]))


def test_one_message_asks_and_any_messages_answer(own: Line) -> None:
    own.channel.request_loads(OIDS, TID)
    assert own.server.next_notice() == LoadMany(TID, tuple(OIDS))
    codec = own.server.codec
    own.server.say(
        codec.notice(LoadedMany(TID, [record(C), record(A, END)])),
        codec.loaded((B, TID), b"alone", START, None),
        codec.fault((D, TID), "ZODB.POSException.POSKeyError", (D,)),
        codec.reply((E, TID), None),
    )
    own.channel.read_if_ready()
    assert own.receiver.events == [
        ("loaded", *record(C)),
        ("loaded", *record(A, END)),
        ("loaded", B, START, None, b"alone"),
    ]
    # All are answered: whoever asks now asks anew.
    own.channel.request_loads(OIDS, TID)
    assert own.server.next_notice() == LoadMany(TID, tuple(OIDS))


def test_ids_of_a_class_made_from_bytes_are_bytes(own: Line) -> None:
    class Id(bytes):
        pass

    own.channel.request_loads([Id(A), B], Id(TID))
    assert own.server.next_notice() == LoadMany(TID, (A, B))
    own.channel.request_loads([Id(C)], TID)
    assert own.server.next_call().request == LoadBefore(C, TID)
    own.server.say(answers(own, A, B, C))
    own.channel.read_if_ready()
    assert not own.channel.is_broken


@pytest.mark.parametrize("oid", [None, "12345678", 7, bytearray(8), b"short", b"a longer one"])
def test_what_is_no_id_leaves_no_trace(own: Line, oid: Any) -> None:
    with pytest.raises((TypeError, POSKeyError)):
        own.channel.request_loads([A, oid], TID)
    assert not own.channel.is_broken
    assert not own.channel._slots
    own.channel.request_loads([A, B], TID)
    assert own.server.next_notice() == LoadMany(TID, (A, B))


def test_a_single_object_is_asked_for_alone(own: Line) -> None:
    own.channel.request_loads([A], TID)
    assert own.server.next_call().request == LoadBefore(A, TID)


def test_what_is_on_its_way_is_not_asked_for_again(own: Line) -> None:
    own.channel.request_loads([A, B, A], TID)
    assert own.server.next_notice() == LoadMany(TID, (A, B))
    own.channel.request_loads([A, B, C, D], TID)
    assert own.server.next_notice() == LoadMany(TID, (C, D))
    own.channel.request_loads([A, B], END)
    assert own.server.next_notice() == LoadMany(END, (A, B))
    own.channel.request_loads([A, B, C, D], TID)
    assert own.wire.sent.empty()


def test_a_thread_waits_for_one_of_them_on_its_way(own: Line, background: Any) -> None:
    own.channel.request_loads(OIDS, TID)
    assert own.server.next_notice() == LoadMany(TID, tuple(OIDS))
    loads = {oid: background(own.channel.load_before, oid, TID) for oid in (B, D)}
    wait_until(lambda: own.channel.follower_count == 1)
    own.server.say(answers(own, A, B))
    assert loads[B].result() == (b"data of " + B, START, None)
    own.server.say(answers(own, C, D, E))
    assert loads[D].result() == (b"data of " + D, START, None)
    assert own.wire.sent.empty()
    assert len(own.receiver.events) == len(OIDS)


def test_the_receiver_has_all_before_anybody_is_told(own: Line, background: Any) -> None:
    """Rule R2: what is behind the answer finds the cache filled."""
    seen: list[int] = []
    own.channel.request_loads([A, B], TID)
    load = background(own.channel.load_before, A, TID)
    assert own.wire.reading.acquire(timeout=10)
    (slot,) = [own.channel._slots[(A, TID)]]
    own.receiver.on_loaded = lambda: seen.append(slot.done)
    own.server.next_notice()
    own.server.say(answers(own, A, B), own.server.codec.notice(InvalidateTransaction(TID, [A])))
    assert load.result() == (b"data of " + A, START, None)
    assert seen == [False, False]
    assert [event[0] for event in own.receiver.events] == ["loaded", "loaded", TID]


@pytest.mark.parametrize(
    "oids", [(A, B), (C,), (A, A)], ids=["one asked", "none asked", "one twice"]
)
def test_answers_to_no_question_end_the_connection(own: Line, oids: tuple[bytes, ...]) -> None:
    own.channel.request_loads([A, E], TID)
    own.server.next_notice()
    own.server.say(answers(own, *oids))
    own.channel.read_if_ready()
    assert own.channel.is_broken
    kind, cause = own.receiver.events[-1]
    assert kind == "broken"
    assert "to no call" in cause or "to one call" in cause
    assert not own.channel._slots


def test_a_break_in_the_middle_fails_those_who_still_wait(own: Line, background: Any) -> None:
    own.channel.request_loads(OIDS, TID)
    own.server.next_notice()
    loads = {oid: background(own.channel.load_before, oid, TID) for oid in (A, E)}
    wait_until(lambda: own.channel.follower_count == 1)
    own.server.say(answers(own, A, B, C))
    assert loads[A].result() == (b"data of " + A, START, None)
    own.server.say(b"")
    with pytest.raises(ClientDisconnected):
        loads[E].result()
    assert not own.channel._slots


def test_waiting_threads_ask_the_next_connection(fake: Any, attach: Attach) -> None:
    storage, server = attach()
    storage.prefetch(OIDS, TID)
    assert server.expect(LoadMany).request.oids == tuple(OIDS)
    loads = {oid: Waiting(partial(storage.loadBefore, oid, TID)) for oid in (A, D, E)}
    server.notify(LoadedMany(TID, [record(A), record(B)]))
    assert loads[A].result() == (b"data of " + A, START, None)
    server.reset()
    again = fake.accept()
    again.admit(START)
    for _ in range(2):
        call = again.expect(LoadBefore)
        again.reply(call, (b"anew", START, None))
    assert loads[D].result() == loads[E].result() == (b"anew", START, None)
    assert storage.loadBefore(B, TID) == (b"data of " + B, START, None)


def test_an_error_is_for_one_of_them_only(attach: Attach) -> None:
    storage, server = attach()
    storage.prefetch([A, B], MAX_TID)
    server.expect(LoadMany)
    load = Waiting(partial(storage.loadBefore, A, MAX_TID))
    assert server.peer.codec is not None
    server.send(
        server.peer.codec.fault((A, MAX_TID), "ZODB.POSException.POSKeyError", (A,)),
        server.notice_bytes(LoadedMany(MAX_TID, [record(B)])),
    )
    with pytest.raises(POSKeyError):
        load.result()
    wait_until(lambda: storage._cache.load_before(B, MAX_TID) is not None)
    assert storage.loadBefore(B, MAX_TID) == (b"data of " + B, START, None)


class AnsweringWire(MemoryWire):
    """A wire with a server that answers what it gets at once."""

    def __init__(self) -> None:
        super().__init__()
        self.peer = ServerPeer(Coding.MSGPACK)
        self.arriving.put(self.peer.greeting())

    def send(self, data: bytes) -> None:
        for event in self.peer.receive(data):
            request: Any = getattr(event, "request", None)
            codec = self.peer.codec
            assert codec is not None
            if isinstance(request, LoadMany):
                found = [record(oid) for oid in request.oids]
                self.arriving.put(codec.notice(LoadedMany(request.tid, found)))
            elif isinstance(request, LoadBefore):
                _, start, end, found_data = record(request.oid)
                self.arriving.put(codec.reply(tuple(request), (found_data, start, end)))
            else:
                self.arriving.put(self.peer.welcome())
                self.peer.registered()


def open_answering() -> Channel:
    channel = Channel(AnsweringWire(), Recorder(), "memory")
    channel.greet()
    channel.read_if_ready()
    channel.registered()
    return channel


def test_an_interrupt_at_any_step_of_reading_leaves_nobody_waiting() -> None:
    """The reader is interrupted while it hands out answers, one of which another thread wants."""
    step, is_reached = 0, True
    while is_reached:
        step += 1
        channel = open_answering()
        wire = channel.wire
        assert isinstance(wire, AnsweringWire)
        channel.request_loads([A, B, C, D], TID)
        ask, channel._ask_to_lead = channel._ask_to_lead, lambda: None  # type: ignore[method-assign]
        with channel.hold_reading():
            other = Background(channel.load_before, B, TID)
            wait_until(lambda: channel.follower_count == 1)  # noqa: B023 - called before the next
        channel._ask_to_lead = ask  # type: ignore[method-assign]
        load = partial(channel.load_before, D, TID)
        is_reached = interrupted_at(step, load, [channel_module, slots_module])
        if not wire.arriving.empty():
            channel._ask_to_lead()  # this thread has not come as far as taking over
        try:
            assert other.result() == (b"data of " + B, START, None), step
        except ClientDisconnected:
            assert isinstance(channel._cause, KeyboardInterrupt), step
        for oid in (A, C, D):
            try:
                assert channel.load_before(oid, TID) == (b"data of " + oid, START, None), step
            except ClientDisconnected:
                assert isinstance(channel._cause, KeyboardInterrupt), step
        assert not channel._slots, step
    assert step > 10


@pytest.mark.parametrize("part", [1, 4, 5, 12, 30, 60, 61, -1])
def test_an_answer_that_is_cut_off_counts_for_nothing(fake: Any, attach: Attach, part: int) -> None:
    storage, server = attach()
    storage.prefetch([A, B], TID)
    server.expect(LoadMany)
    loads = [Waiting(partial(storage.loadBefore, oid, TID)) for oid in (A, B)]
    wait_until(lambda: storage._link.channel().follower_count == 1)
    server.send(server.notice_bytes(LoadedMany(TID, [record(A), record(B)]))[:part])
    server.reset()
    again = fake.accept()
    again.admit(START)
    for _ in loads:
        again.reply(again.expect(LoadBefore), (b"anew", START, None))
    assert [load.result() for load in loads] == [(b"anew", START, None)] * 2

"""An interrupt at every step of a call, one after another: nobody may wait for ever after it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from zeolith.client import channel as channel_module
from zeolith.client import slots as slots_module
from zeolith.client.channel import Channel
from zeolith.errors import ClientDisconnected, ClientStorageError
from zeolith.protocol.messages import Call, LoadBefore, Ping, SetClientLabel
from zeolith.protocol.peers import Event

from ..support.interrupts import interrupted_at
from ..support.promptwire import PromptWire
from ..support.waiting import Background, wait_until
from .conftest import Recorder

OID, OTHER, TID, START = (bytes([0] * 7 + [n]) for n in (1, 2, 200, 100))
ANSWER = (b"data", START, None)


class LoadingWire(PromptWire):
    """Its server, which is one of ZEO's protocol, has one object."""

    def __init__(self) -> None:
        super().__init__(b"\0\0\0\x02M5")
        self.requests = 0

    def send(self, data: bytes) -> None:
        super().send(data)
        self.requests += 1

    def handle(self, event: Event) -> None:
        codec = self.peer.codec
        assert codec is not None
        if not isinstance(event, Call):
            self.peer.registered()
        elif isinstance(event.request, LoadBefore):
            oid, tid = event.request
            self.arriving.append(codec.loaded((oid, tid), *ANSWER))
        else:
            self.arriving.append(codec.reply(event.msgid, None))


def open_channel() -> Channel:
    channel = Channel(LoadingWire(), Recorder(), "memory")
    channel.greet()
    channel.registered()
    return channel


def load(channel: Channel) -> None:
    channel.load_before(OID, TID)


def call(channel: Channel) -> None:
    channel.call(Ping(), lambda value: None)


def prefetch(channel: Channel) -> None:
    channel.request_loads([OID, OTHER], TID)


def post(channel: Channel) -> None:
    channel.post(SetClientLabel("label"))


@pytest.mark.parametrize("action", [load, call, prefetch])
def test_an_interrupt_at_any_step_leaves_nobody_waiting(action: Callable[[Channel], None]) -> None:
    step, is_reached = 0, True
    while is_reached:
        step += 1
        channel = open_channel()
        is_reached = interrupted_at(step, partial(action, channel), [channel_module, slots_module])
        # Whoever comes next gets an answer, or is told that the connection has ended.
        assert not channel.is_being_read, step
        assert not channel.follower_count, step
        for oid in (OID, OTHER):
            try:
                assert channel.load_before(oid, TID) == ANSWER, step
            except ClientDisconnected:
                assert isinstance(channel._cause, KeyboardInterrupt), step
        assert not channel._slots, step
    assert step > 10


def test_an_interrupted_reader_leaves_nobody_else_waiting() -> None:
    """The other one's answer comes first, so the interrupt may find it in the reader's hands."""
    step, is_reached = 0, True
    while is_reached:
        step += 1
        channel = open_channel()
        wire = channel.wire
        assert isinstance(wire, LoadingWire)
        ask, channel._ask_to_lead = channel._ask_to_lead, lambda: None  # type: ignore[method-assign]
        with channel.hold_reading():
            other = Background(partial(channel.load_before, OTHER, TID))
            wait_until(lambda: channel.follower_count == 1)  # noqa: B023 - called before the next
        channel._ask_to_lead = ask  # type: ignore[method-assign]
        requests = wire.requests
        is_reached = interrupted_at(step, partial(load, channel), [channel_module, slots_module])
        if wire.requests == requests:
            channel._ask_to_lead()  # as above: this thread has not come as far as taking over
        try:
            assert other.result() == ANSWER, step
        except ClientDisconnected:
            assert isinstance(channel._cause, KeyboardInterrupt), step
    assert step > 10


def test_a_finalizer_in_the_middle_of_reading_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would wait for the answer that its own thread is about to read."""
    channel = open_channel()
    refused: list[Exception] = []

    def loaded(self: Recorder, *args: object) -> None:
        for use in (load, call, prefetch):
            with pytest.raises(ClientStorageError, match="in the middle of another call") as caught:
                use(channel)
            refused.append(caught.value)

    monkeypatch.setattr(Recorder, "loaded", loaded)
    assert channel.load_before(OID, TID) == ANSWER
    assert len(refused) == 3


def test_a_finalizer_in_the_middle_of_sending_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    channel = open_channel()
    send = channel.wire.send
    refused: list[Exception] = []

    def sending(data: bytes) -> None:
        for use in (load, call, prefetch, post, Channel.flush):
            with pytest.raises(ClientStorageError, match="in the middle of another call") as caught:
                use(channel)
            refused.append(caught.value)
        send(data)

    monkeypatch.setattr(channel.wire, "send", sending)
    assert channel.load_before(OID, TID) == ANSWER
    assert len(refused) == 5


def test_a_signal_handler_may_call_while_its_thread_follows() -> None:
    """The outer call is answered all the same, and asked to lead when its turn has come."""
    channel = open_channel()
    nested: list[object] = []

    class Nesting(dict[object, None]):
        """The followers: the first to enlist makes a call of its own, as a handler would."""

        def __setitem__(self, lock: object, value: None) -> None:
            super().__setitem__(lock, value)
            if not nested:
                nested.append(None)
                nested[0] = channel.load_before(OTHER, TID)

    channel._followers = Nesting()  # type: ignore[assignment]
    with channel.hold_reading():
        outer = Background(partial(load, channel))
        wait_until(lambda: channel.follower_count == 2)
    # The watcher's part: the outer call may be asked to lead, and cannot from within the other.
    wait_until(lambda: [channel.read_if_ready()] and not outer.is_alive())
    outer.result()
    assert nested == [ANSWER]
    assert not channel.follower_count

"""Interrupts at each step of a stream."""

from __future__ import annotations

from functools import partial

import pytest

from zeolith.client import channel as channel_module
from zeolith.client import incoming as incoming_module
from zeolith.client import outgoing as outgoing_module
from zeolith.client import slots as slots_module
from zeolith.client import streams as streams_module
from zeolith.client.channel import Channel
from zeolith.errors import (
    ClientStorageError,
)
from zeolith.protocol.checksums import ALGORITHMS, DIGEST_SIZE
from zeolith.protocol.greeting import Coding
from zeolith.protocol.hello import Terms
from zeolith.protocol.limits import FIRST_UPLOAD, STREAM_FRAME
from zeolith.protocol.messages import Call, Notice, Ping, Register, Request
from zeolith.protocol.peers import Event, Hello, ServerPeer
from zeolith.protocol.streamrequests import (
    AttachBlob,
    ForgetUpload,
    OpenBlob,
    OpenUpload,
    StreamCancel,
    StreamCredit,
    StreamData,
    StreamEnd,
    StreamFault,
)
from zeolith.protocol.wholes import Whole

from ..support.interrupts import interrupted_at
from ..support.promptwire import PromptWire
from .conftest import Recorder
from .streaming import FRAME, Sink, open_request

TERMS = Terms(checksums=ALGORITHMS, transactions=2)


class StreamingWire(PromptWire):
    """Its server sends a blob of six messages to who asks for one, and takes uploads."""

    def __init__(self) -> None:
        super().__init__()
        self.open: dict[int, int] = {}
        self.uploads: dict[int, int] = {}
        self.ended: list[Request] = []
        self.attached: list[AttachBlob] = []

    def handle(self, event: Event) -> None:
        if isinstance(event, Hello):
            self.arriving.append(self.peer.welcome())
        elif isinstance(event, Call):
            self._answer(event)
        else:
            assert isinstance(event, Notice)
            self._take(event.request)

    def _say(self, *requests: Request) -> None:
        codec = self.peer.codec
        assert codec is not None
        self.arriving += map(codec.notice, requests)

    def _answer(self, call: Call) -> None:
        codec = self.peer.codec
        assert codec is not None
        request = call.request
        if isinstance(request, Register):
            self.peer.registered()
        offset = {"offset": 4 * STREAM_FRAME} if isinstance(request, OpenUpload) else None
        self.arriving.append(codec.reply(call.msgid, offset))
        if offset is not None:
            self._take(request)
        if isinstance(request, OpenBlob):
            self.open[request.stream] = 6 * STREAM_FRAME
            self._send(request.stream, 4 * STREAM_FRAME)

    def _send(self, number: int, credit: int) -> None:
        while credit and self.open[number]:
            credit -= STREAM_FRAME
            self.open[number] -= STREAM_FRAME
            self._say(StreamData(number, FRAME))
        if not self.open[number]:
            del self.open[number]
            self._say(StreamEnd(number))

    def _take(self, request: Request) -> None:
        number = request[0]
        if isinstance(request, StreamCredit) and number in self.open:
            self._send(number, request.size)
        elif isinstance(request, StreamCancel) and self.open.pop(number, 0):
            self._say(StreamEnd(number))
        elif isinstance(request, OpenUpload):
            assert number == FIRST_UPLOAD + len(self.ended)
            assert number not in self.uploads, "opened behind its data"
        elif isinstance(request, StreamData):
            assert number == FIRST_UPLOAD + len(self.ended)
            self.uploads[number] = self.uploads.get(number, 0) + len(request.data)
            self._say(StreamCredit(number, len(request.data)))
        elif isinstance(request, (StreamEnd, StreamFault)):
            assert number == FIRST_UPLOAD + len(self.ended), "a number was left out"
            self.ended.append(request)
        elif isinstance(request, ForgetUpload) and number == FIRST_UPLOAD + len(self.ended):
            self.ended.append(request)
        elif isinstance(request, AttachBlob):
            self.attached.append(request)


def prompt_channel() -> tuple[Channel, StreamingWire]:
    wire = StreamingWire()
    channel = Channel(wire, Recorder(), "memory")
    channel.greet()
    channel.call(Register("1", False))
    channel.registered()
    return channel, wire


class WholeWire(StreamingWire):
    """Its server verifies blobs, and sends short ones at once."""

    def __init__(self) -> None:
        super().__init__()
        self.peer = ServerPeer(Coding.MSGPACK, terms=TERMS)
        self.has_objected = False
        self.arriving = [self.peer.greeting()]

    def handle(self, event: Event) -> None:
        try:
            super().handle(event)
        except AssertionError:
            self.has_objected = True  # that ends the connection, as many an interrupt does
            raise

    def _answer(self, call: Call) -> None:
        request = call.request
        if not isinstance(request, OpenBlob):
            super()._answer(call)
            return
        codec = self.peer.codec
        assert codec is not None
        reply = codec.reply(call.msgid, {"size": len(FRAME)})
        data = codec.notice(StreamData(request.stream, FRAME))
        end = codec.notice(StreamEnd(request.stream, bytes(DIGEST_SIZE)))
        self.arriving.append(reply + data + end)


MODULES = (channel_module, slots_module, streams_module, incoming_module, outgoing_module)


def test_an_interrupt_at_any_step_of_a_fetch() -> None:
    """Afterwards the connection has ended, or the next fetch gets all of its stream."""
    step = survivors = 0
    while True:
        step += 1
        channel, wire = prompt_channel()
        fetch = partial(channel.streams.fetch, open_request, Sink())
        if not interrupted_at(step, fetch, MODULES):
            break
        sink = Sink()
        try:
            channel.streams.fetch(open_request, sink)
            survivors += 1
        except ClientStorageError:
            assert channel.is_broken
        else:
            assert len(sink.data) == 6 * STREAM_FRAME
            channel.call(Ping())
            assert wire.open == {}, "a stream was left open"
    assert step > 100
    assert survivors > 10


def test_an_interrupt_at_any_step_of_the_fetch_of_a_short_blob(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    taken: list[int] = []
    handle = streams_module.Streams.handle_whole

    def note(streams: streams_module.Streams, whole: Whole) -> None:
        taken.append(whole.number)
        handle(streams, whole)

    monkeypatch.setattr(streams_module.Streams, "handle_whole", note)
    step = survivors = 0
    while True:
        step += 1
        wire = WholeWire()
        channel = Channel(wire, Recorder(), "memory", TERMS)
        channel.greet()
        channel.call(Register("1", False))
        channel.registered()
        fetch = partial(channel.streams.fetch, open_request, Sink())
        if not interrupted_at(step, fetch, MODULES):
            break
        sink = Sink()
        try:
            assert channel.streams.fetch(open_request, sink) == bytes(DIGEST_SIZE)
            channel.call(Ping())
            survivors += 1
        except ClientStorageError:
            assert channel.is_broken
        else:
            assert sink.data == FRAME
            assert not channel.streams.is_receiving, "a stream was left open"
    assert taken
    assert step > 50
    assert survivors > 10


def test_an_interrupt_at_any_step_of_an_upload() -> None:
    step = survivors = 0
    while True:
        step += 1
        channel, wire = prompt_channel()
        if not interrupted_at(step, partial(channel.streams.upload, [FRAME] * 10), MODULES):
            break
        try:
            number, size = channel.streams.upload([FRAME] * 10)
            channel.flush()
        except ClientStorageError:
            assert channel.is_broken
        else:
            if not channel.is_broken and wire.uploads.get(number) == size:
                survivors += 1
    assert step > 100
    assert survivors > 10


@pytest.mark.parametrize("is_new", [True, False])
def test_an_interrupt_at_any_step_of_an_upload_that_goes_on(is_new: bool) -> None:
    step = survivors = 0
    size = (10 if is_new else 6) * STREAM_FRAME

    def send(channel: Channel) -> tuple[int, int]:
        def parts_from(offset: int) -> list[bytes]:
            assert offset == 10 * STREAM_FRAME - size
            return [FRAME] * (size // STREAM_FRAME)

        return channel.streams.go_on(bytes(16), is_new, parts_from, lambda number: None)

    while True:
        step += 1
        channel, wire = prompt_channel()
        if not interrupted_at(step, partial(send, channel), MODULES):
            break
        try:
            number, whole = send(channel)
            channel.flush()
        except ClientStorageError:
            assert channel.is_broken
        else:
            assert whole == 10 * STREAM_FRAME
            if not channel.is_broken and wire.uploads.get(number) == size:
                survivors += 1
    assert step > 100
    assert survivors > 10


@pytest.mark.parametrize("data", [FRAME, b""], ids=["short", "empty"])
def test_an_interrupt_at_any_step_of_a_short_upload(data: bytes) -> None:
    """What was begun and is not attached is forgotten, and the next one has the next number."""
    numbers: list[int] = []

    def send(channel: Channel) -> None:
        def attached(number: int) -> AttachBlob:
            return AttachBlob(number, bytes(8), None, b"record", 1, len(data), bytes(DIGEST_SIZE))

        streams = channel.streams
        if not streams.upload_whole(data, attached, numbers.append):
            number, _ = streams.upload([data] if data else [], numbers.append)
            channel.post(attached(number))

    step = survivors = 0
    while True:
        step += 1
        wire = WholeWire()
        channel = Channel(wire, Recorder(), "memory", TERMS)
        channel.greet()
        channel.call(Register("1", False))
        channel.registered()
        numbers.clear()
        if not interrupted_at(step, partial(send, channel), MODULES):
            break
        try:
            for number in numbers:
                channel.streams.forget(number)
            send(channel)
            channel.call(Ping())
        except ClientStorageError:
            assert channel.is_broken
        else:
            survivors += 1
            assert wire.attached[-1].stream == numbers[-1]
            assert wire.uploads.get(numbers[-1], 0) == len(data)
        assert not wire.has_objected
    assert step > 20
    assert survivors > 10

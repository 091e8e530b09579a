"""Short blobs that come at once, or in pieces, on a connection without TLS."""

from __future__ import annotations

import random
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from zeolith.client.channel import Channel
from zeolith.client.inlet import INLET_SIZE
from zeolith.client.wire import PlainWire
from zeolith.errors import ClientDisconnected, ServerError, StreamViolation
from zeolith.protocol.checksums import ALGORITHMS, DIGEST_SIZE
from zeolith.protocol.greeting import Coding
from zeolith.protocol.hello import Terms
from zeolith.protocol.messages import Call, Info, Ping
from zeolith.protocol.peers import ServerPeer
from zeolith.protocol.streamlayouts import data_head
from zeolith.protocol.streamrequests import OpenBlob, StreamEnd, StreamFault
from zeolith.protocol.wholes import MAX_WHOLE

from ..support.waiting import Background, wait_until
from .conftest import Recorder
from .streaming import Sink, open_request

CHECKSUM = bytes(range(DIGEST_SIZE))
TERMS = Terms(checksums=ALGORITHMS)


class Pieces(PlainWire):
    """Takes so many bytes at a time, however many there are."""

    piece = 1 << 20

    def fill(self, view: memoryview) -> int:
        return super().fill(view[: self.piece])

    def receive(self, size: int = 1 << 16) -> bytes:
        return super().receive(min(size, self.piece))


class Opaque:
    """A wire that is not known to be plain, as with TLS."""

    def __init__(self, wire: Pieces) -> None:
        self._wire = wire

    def __getattr__(self, name: str) -> Any:
        return getattr(self._wire, name)


class Pair:
    """A channel that is ready, and a server that is the test."""

    def __init__(self, ours: socket.socket, theirs: socket.socket, is_opaque: bool = False) -> None:
        self.socket = theirs
        self.peer = ServerPeer(Coding.MSGPACK, terms=TERMS)
        self.receiver = Recorder()
        self.wire = Pieces(ours)
        wire: Any = Opaque(self.wire) if is_opaque else self.wire
        self.channel = Channel(wire, self.receiver, "pair", TERMS)
        theirs.sendall(self.peer.greeting())
        self.channel.greet()
        self.peer.receive(theirs.recv(4096))
        assert self.peer.codec is not None
        self.codec = self.peer.codec
        self.peer.registered()
        theirs.sendall(self.peer.welcome() + self.codec.notice(Info({"length": 1, "size": 2})))
        while not self.receiver.events:
            self.channel._read()
        self.channel.registered()
        self.receiver.events.clear()

    def next_call(self) -> Call:
        while True:
            for event in self.peer.receive(self.socket.recv(4096)):
                assert isinstance(event, Call)
                return event

    def write(self, call: Call, data: bytes) -> bytes:
        """Return all of a blob."""
        assert isinstance(call.request, OpenBlob)
        return b"".join(
            (
                self.codec.reply(call.msgid, {"size": len(data)}),
                data_head(call.request.stream, len(data)) + data,
                self.codec.notice(StreamEnd(call.request.stream, CHECKSUM)),
            )
        )

    def fetch(self, sink: Sink) -> Background:
        return Background(lambda: self.channel.streams.fetch(open_request, sink))


@pytest.fixture
def is_opaque() -> bool:
    return False


@pytest.fixture
def pair(is_opaque: bool) -> Iterator[Pair]:
    with ExitStack() as stack:
        ours, theirs = (stack.enter_context(each) for each in socket.socketpair())
        theirs.settimeout(30)
        found = Pair(ours, theirs, is_opaque)
        yield found
        found.channel.close(ConnectionResetError("the end"))


def refuse(*_: Any) -> Any:
    raise AssertionError("it was taken to pieces")


@pytest.mark.parametrize("size", [1, 300, 50_000, MAX_WHOLE])
def test_one_is_taken_as_it_is(pair: Pair, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(type(pair.channel._peer), "receive", refuse)
    for number in range(3):
        sink, data = Sink(), bytes([number]) * size
        fetching = pair.fetch(sink)
        pair.socket.sendall(pair.write(pair.next_call(), data))
        assert fetching.result() == CHECKSUM
        assert (sink.data, sink.answer) == (data, {"size": size})
    assert not pair.channel.streams.is_receiving


@pytest.mark.parametrize("piece", [1, 7, 22, 40, 71, 1000, 30_000])
def test_in_pieces_of_any_size(pair: Pair, piece: int) -> None:
    pair.wire.piece = piece
    for number in range(3):
        sink, data = Sink(), bytes([number]) * (piece + 300)
        fetching = pair.fetch(sink)
        pair.socket.sendall(pair.write(pair.next_call(), data))
        assert fetching.result() == CHECKSUM
        assert sink.data == data


def test_several_in_pieces_that_cut_them_anywhere(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is begun is kept until it is whole."""
    pair.wire.piece = 5_000
    sinks = [Sink() for _ in range(4)]
    fetching, calls = [], []
    for sink in sinks:
        fetching.append(pair.fetch(sink))
        calls.append(pair.next_call())
    monkeypatch.setattr(type(pair.channel._peer), "receive", refuse)
    sizes = (3_000, 20_000, 1_960, 700)
    for number, size in enumerate(sizes):
        pair.socket.sendall(pair.write(calls[number], bytes([number]) * size))
    for number, size in enumerate(sizes):
        fetching[number].result()
        assert sinks[number].data == bytes([number]) * size


def test_the_memory_is_one(pair: Pair) -> None:
    """R8"""
    seen = set()
    for number in range(20):
        sink = Sink()
        fetching = pair.fetch(sink)
        pair.socket.sendall(pair.write(pair.next_call(), bytes([number]) * MAX_WHOLE))
        fetching.result()
        assert sink.data == bytes([number]) * MAX_WHOLE
        memory = pair.channel._inlet._memory
        assert len(memory) == INLET_SIZE
        seen.add(id(memory.obj))
    assert len(seen) == 1


def test_what_comes_behind_it_is_handled(pair: Pair) -> None:
    """R2: in the order of arrival."""
    events = pair.receiver.events

    class Noting(Sink):
        def take(self, data: bytes | memoryview) -> int:
            events.append(bytes(data[:1]))
            return super().take(data)

    sinks = [Noting(), Noting()]
    fetching, calls = [], []
    for sink in sinks:
        fetching.append(pair.fetch(sink))
        calls.append(pair.next_call())
    infos = [Info({"length": number}) for number in range(3)]
    said = [pair.codec.notice(info) for info in infos]
    blobs = [pair.write(call, data * 300) for call, data in zip(calls, (b"a", b"b"), strict=True)]
    pair.socket.sendall(said[0] + blobs[0] + said[1] + blobs[1] + said[2])
    for each in fetching:
        each.result()
    while len(events) < 5:
        pair.channel._read()
    assert events == [infos[0], b"a", infos[1], b"b", infos[2]]
    assert {sink.data for sink in sinks} == {b"a" * 300, b"b" * 300}


@pytest.mark.parametrize("is_opaque", [False, True], ids=["plain", "opaque"])
@pytest.mark.parametrize("seed", range(20))
def test_r2_wherever_it_is_cut(pair: Pair, seed: int) -> None:
    """Blobs, a fault, parts of blobs, answers and notices are handled as they were sent."""
    lot = random.Random(seed)
    channel, codec, events = pair.channel, pair.codec, pair.receiver.events
    expected: list[Any] = []
    sent: list[bytes] = []
    for number in range(12):
        data = bytes([number]) * lot.choice((1, 100, 5_000, 40_000, MAX_WHOLE, MAX_WHOLE + 1))
        parts: list[tuple[int, int]] = []

        def take(data: bytes | memoryview, parts: list[tuple[int, int]] = parts) -> int:
            # What comes in parts is one thing, from the first to the last.
            parts.append((data[0], len(data)))
            events.append((data[0], sum(size for _, size in parts)))
            return len(data)

        stream = channel.streams.begin(take, len(data))
        slot = channel.start(open_request(stream.number, len(data)), None)
        slot.on_reply = lambda value, number=number: events.append((number, value))
        call = pair.next_call()
        kind = lot.choice(("whole", "whole", "whole", "parts", "fault", "between"))
        info = Info({"length": number})
        answer, head = codec.reply(call.msgid, {"size": len(data)}), data_head(stream.number, 1)
        end = codec.notice(StreamEnd(stream.number, CHECKSUM))
        expected.append((number, {"size": len(data)}))
        expected.append((number, len(data)))
        if kind == "parts" and len(data) > 1:
            rest = data_head(stream.number, len(data) - 1) + data[1:]
            sent.append(answer + head + data[:1] + rest + end)
        else:
            whole = data_head(stream.number, len(data)) + data
            if kind == "fault":
                end = codec.notice(StreamFault(stream.number, "builtins.OSError", (5, "x")))
            if kind == "between":
                end = codec.notice(info) + end
                expected.append(info)
            sent.append(answer + whole + end)
        if lot.random() < 0.3:
            info = Info({"length": 100 + number})
            sent.append(codec.notice(info))
            expected.append(info)

    sending = Background(lambda: pair.socket.sendall(b"".join(sent)))
    while channel.streams.is_receiving or len(_steps(events)) < len(expected):
        pair.wire.piece = lot.choice((1, 9, 50, 3_000, 70_000, 1 << 20))
        channel._read()
        assert not channel.is_broken
    sending.result()
    assert _steps(events) == expected


def _steps(events: list[Any]) -> list[Any]:
    """Return *events*, and of the parts of one blob in a row the last."""
    found: list[Any] = []
    for event in events:
        if found and _is_part(event) and _is_part(found[-1]) and event[0] == found[-1][0]:
            found.pop()
        found.append(event)
    return found


def _is_part(event: Any) -> bool:
    return type(event) is tuple and type(event[1]) is int


def test_what_comes_behind_one_that_was_kept_is_handled_by_who_reads_next(pair: Pair) -> None:
    """Whoever wanted it has gone, and the watcher reads."""
    sink = Sink()
    fetching = pair.fetch(sink)
    call = pair.next_call()
    pinging = Background(lambda: pair.channel.call(Ping()))
    ping = pair.next_call()
    sent = pair.write(call, b"x" * 300)
    pair.socket.sendall(pair.codec.reply(ping.msgid, None))
    pinging.result()
    pair.socket.sendall(sent[:200])
    wait_until(lambda: pair.channel._inlet.kept)
    assert sink.data == b""
    pair.socket.sendall(sent[200:] + pair.codec.notice(Info({"length": 7})))
    fetching.result()
    while not pair.receiver.events:
        pair.channel._read()
    assert sink.data == b"x" * 300


def test_r7_what_comes_before_its_end_is_handled_at_once(pair: Pair) -> None:
    """The end may take long, if the server has to sum the blob up; others have their answers."""
    sink = Sink()
    fetching = pair.fetch(sink)
    call = pair.next_call()
    pinging = Background(lambda: pair.channel.call(Ping()))
    ping = pair.next_call()
    sent = pair.write(call, b"x" * 300)
    end = len(CHECKSUM) + 9
    pair.socket.sendall(sent[:-end])
    wait_until(lambda: pair.channel._inlet.kept)
    pair.socket.sendall(pair.codec.reply(ping.msgid, None))
    pinging.result(timeout=10)
    pair.socket.sendall(sent[-end:])
    assert fetching.result() == CHECKSUM
    assert sink.data == b"x" * 300


def test_a_fault_in_place_of_the_end(pair: Pair) -> None:
    sink = Sink()
    fetching = pair.fetch(sink)
    call = pair.next_call()
    sent = pair.write(call, b"x" * 300)
    assert isinstance(call.request, OpenBlob)
    fault = StreamFault(call.request.stream, "builtins.OSError", (5, "Input/output error"))
    pair.wire.piece = 200
    pair.socket.sendall(sent[: -len(CHECKSUM) - 9] + pair.codec.notice(fault))
    with pytest.raises(ServerError, match="OSError"):
        fetching.result()
    assert sink.data == b"x" * 300
    # The connection goes on.
    again = pair.fetch(sink)
    pair.socket.sendall(pair.write(pair.next_call(), b"y"))
    again.result()


def test_a_connection_that_ends_within(pair: Pair) -> None:
    fetching = pair.fetch(Sink())
    sent = pair.write(pair.next_call(), b"x" * 300)
    pair.socket.sendall(sent[:-1])
    pair.socket.close()
    with pytest.raises(ClientDisconnected):
        fetching.result()


def other_call(call: Call) -> Call:
    return call._replace(msgid=call.msgid + 1)


def other_stream(call: Call) -> Call:
    assert isinstance(call.request, OpenBlob)
    return call._replace(request=call.request._replace(stream=call.request.stream + 1))


@pytest.mark.parametrize(
    ("change", "problem"),
    [(other_call, "an answer to no call"), (other_stream, "nobody has opened it")],
)
def test_what_nobody_has_asked_for(
    pair: Pair, change: Callable[[Call], Call], problem: str
) -> None:
    fetching = pair.fetch(Sink())
    pair.socket.sendall(pair.write(change(pair.next_call()), b"data"))
    with pytest.raises(ClientDisconnected, match=problem):
        fetching.result()


def test_the_answer_is_there_before_the_data(pair: Pair) -> None:
    """Another thread may look at both at any moment."""
    seen: list[Any] = []

    def take(data: bytes | memoryview) -> int:
        seen.append((slot.done, slot.value))
        return len(data)

    stream = pair.channel.streams.begin(take, 1000)
    slot = pair.channel.start(open_request(stream.number, 1000), None)
    pair.socket.sendall(pair.write(pair.next_call(), b"x" * 300))
    pair.channel.result(slot)
    assert seen == [(True, {"size": 300})]


def test_r8_more_than_there_is_credit_for(pair: Pair) -> None:
    stream = pair.channel.streams.begin(len, 299)
    request = open_request(stream.number, 299)
    slot = pair.channel.start(request, None)
    pair.socket.sendall(pair.write(pair.next_call(), b"x" * 300))
    pair.channel.result(slot)
    with pytest.raises(ClientDisconnected) as caught:
        pair.channel.call(Ping())
    assert isinstance(caught.value.__cause__, StreamViolation)


def test_who_is_interrupted_taking_it_in_leaves_nobody_waiting(pair: Pair) -> None:
    class Interrupted(Sink):
        def take(self, data: bytes | memoryview) -> int:
            raise KeyboardInterrupt

    fetching = pair.fetch(Interrupted())
    call = pair.next_call()
    pinging = Background(lambda: pair.channel.call(Ping()))
    pair.next_call()
    pair.socket.sendall(pair.write(call, b"x" * 300))
    with pytest.raises((KeyboardInterrupt, ClientDisconnected)):
        fetching.result()
    with pytest.raises((KeyboardInterrupt, ClientDisconnected)):
        pinging.result()


def test_one_that_another_thread_reads(pair: Pair) -> None:
    pinging = Background(lambda: pair.channel.call(Ping()))
    ping = pair.next_call()
    sink = Sink()
    fetching = pair.fetch(sink)
    pair.socket.sendall(pair.write(pair.next_call(), b"x" * 300))
    assert fetching.result() == CHECKSUM
    assert sink.data == b"x" * 300
    pair.socket.sendall(pair.codec.reply(ping.msgid, None))
    assert pinging.result() is None

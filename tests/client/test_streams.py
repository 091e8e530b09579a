"""The streams of one connection, without a network."""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any

import pytest

from zeolith.client import channel as channel_module
from zeolith.client import streams as streams_module
from zeolith.client.channel import Channel
from zeolith.client.streams import MAX_DOWNLOADS, TOTAL_WINDOW
from zeolith.errors import (
    ClientDisconnected,
    ClientStorageError,
    ServerError,
    StreamViolation,
)
from zeolith.protocol.greeting import Coding
from zeolith.protocol.limits import FIRST_UPLOAD, MAX_STREAMS, STREAM_FRAME, STREAM_WINDOW
from zeolith.protocol.messages import Call, Info, Notice, Ping, Register, Request
from zeolith.protocol.peers import Event, Hello, ServerPeer
from zeolith.protocol.streamrequests import (
    OpenBlob,
    StreamCancel,
    StreamCredit,
    StreamData,
    StreamEnd,
    StreamFault,
)
from zeolith.protocol.streams import Receiver

from ..support.interrupts import interrupted_at
from ..support.promptwire import PromptWire
from ..support.waiting import Background, wait_until
from .conftest import Line, MemoryWire, Recorder, ServerEnd

OID, TID = bytes(7) + b"\1", bytes(7) + b"\x64"
FRAME = b"f" * STREAM_FRAME


def open_request(number: int, credit: int) -> OpenBlob:
    return OpenBlob(number, OID, TID, 0, credit)


class Sink:
    """Keeps what comes."""

    def __init__(self, consumes: bool = True) -> None:
        self.data = b""
        self.answer: Any = None
        self.is_wanted = True
        self._consumes = consumes

    def opened(self, answer: Any) -> None:
        self.answer = answer

    def take(self, data: bytes) -> int:
        self.data += data
        return len(data) if self._consumes else 0


@pytest.fixture
def line() -> Line:
    """A registered channel that speaks Zeolith's own protocol."""
    wire = MemoryWire()
    receiver = Recorder()
    channel = Channel(wire, receiver, "memory")
    server = ServerEnd(wire, ServerPeer(Coding.MSGPACK))
    wire.arriving.put(server.peer.greeting())
    channel.greet()
    assert isinstance(server.next_event(), Hello)
    server.peer.registered()
    server.say(server.peer.welcome())
    server.say(server.codec.notice(Info({"length": 1, "size": 2})))
    while not receiver.events:
        channel._read()
    channel.registered()
    receiver.events.clear()
    return Line(channel, receiver, wire, server)


def say(line: Line, *requests: Request) -> None:
    line.server.say(*(line.server.codec.notice(request) for request in requests))


def answer(line: Line, value: Any) -> OpenBlob:
    """Answer the client's next call; return its request."""
    call = line.server.next_call()
    line.server.say(line.server.codec.reply(call.msgid, value))
    assert isinstance(call.request, OpenBlob)
    return call.request


# -- from the server ---------------------------------------------------------------------------


def test_a_stream_is_taken_by_whoever_reads(line: Line) -> None:
    sink = Sink()
    fetching = Background(lambda: line.channel.streams.fetch(open_request, sink))
    request = answer(line, {"size": 7})
    say(line, StreamData(request.stream, b"abc"), StreamData(request.stream, b"defg"))
    say(line, StreamEnd(request.stream))
    fetching.result()
    assert (sink.data, sink.answer) == (b"abcdefg", {"size": 7})
    assert line.receiver.events == []
    assert line.wire.sent.empty()  # No credit was needed, and nothing was cancelled.


def test_credit_is_given_when_half_of_the_window_is_used_up(line: Line) -> None:
    sink = Sink()
    fetching = Background(lambda: line.channel.streams.fetch(open_request, sink))
    request = answer(line, {"size": 1 << 30})
    assert request.credit == STREAM_WINDOW
    for turn in range(1, 4):
        say(line, *[StreamData(request.stream, FRAME)] * (STREAM_WINDOW // STREAM_FRAME // 2))
        assert line.server.next_notice() == StreamCredit(request.stream, STREAM_WINDOW // 2)
        assert len(sink.data) == turn * STREAM_WINDOW // 2
    say(line, StreamEnd(request.stream))
    fetching.result()


def test_other_calls_are_answered_while_a_stream_flows(line: Line) -> None:
    """The thread that waits for the stream leads; the other one follows."""
    sink = Sink()
    fetching = Background(lambda: line.channel.streams.fetch(open_request, sink))
    request = answer(line, {"size": 3})
    pinging = Background(lambda: line.channel.call(Ping()))
    call = line.server.next_call()
    say(line, StreamData(request.stream, b"ab"))
    line.server.say(line.server.codec.reply(call.msgid, None))
    assert pinging.result() is None
    assert fetching.is_alive()
    say(line, StreamData(request.stream, b"c"), StreamEnd(request.stream))
    fetching.result()
    assert sink.data == b"abc"


def test_a_follower_gives_credit_for_its_own_stream(line: Line) -> None:
    """Another thread leads: it must not be the one that waits for the socket."""
    pinging = Background(lambda: line.channel.call(Ping()))
    call = line.server.next_call()
    assert line.wire.reading.acquire(timeout=10)
    sink = Sink()
    fetching = Background(lambda: line.channel.streams.fetch(open_request, sink))
    request = answer(line, {"size": 1 << 20})
    say(line, *[StreamData(request.stream, FRAME)] * 4)
    assert line.server.next_notice() == StreamCredit(request.stream, 4 * STREAM_FRAME)
    assert pinging.is_alive()
    say(line, StreamEnd(request.stream))
    fetching.result()
    line.server.say(line.server.codec.reply(call.msgid, None))
    pinging.result()


def test_what_the_server_says_instead_of_opening(line: Line) -> None:
    fetching = Background(lambda: line.channel.streams.fetch(open_request, Sink()))
    call = line.server.next_call()
    line.server.say(line.server.codec.fault(call.msgid, "builtins.KeyError", ("x",)))
    with pytest.raises(KeyError):
        fetching.result()
    # There is no such stream.
    say(line, StreamData(0, b"x"))
    with pytest.raises(ClientDisconnected, match="nobody has opened"):
        line.channel.call(Ping())


def test_what_the_server_says_instead_of_the_end(line: Line) -> None:
    fetching = Background(lambda: line.channel.streams.fetch(open_request, Sink()))
    request = answer(line, {"size": 3})
    say(line, StreamFault(request.stream, "builtins.OSError", (5, "Input/output error")))
    with pytest.raises(ServerError, match="OSError"):
        fetching.result()
    assert not line.channel.is_broken


def test_a_time_limit_of_a_thread_leaves_the_connection_to_others(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Raised by a signal handler while the thread waits for the answer: data may follow that."""

    def interrupt(slot: Any) -> None:
        raise TimeoutError("a time limit")

    monkeypatch.setattr(line.channel, "_await", interrupt)
    with pytest.raises(TimeoutError, match="a time limit"):
        line.channel.streams.fetch(open_request, Sink())
    monkeypatch.undo()
    request = answer(line, {"size": 3})
    assert line.server.next_notice() == StreamCancel(request.stream)
    say(line, StreamData(request.stream, b"abc"), StreamEnd(request.stream))
    while line.channel.read_if_ready():
        pass
    assert not line.channel.is_broken
    assert not line.channel.streams._incoming


def test_whoever_sees_the_end_sees_why(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    """Iterators look without a lock, and take an end without an error for a good one."""
    stream = line.channel.streams.prepare(len)
    seen: list[Exception | None] = []
    monkeypatch.setattr(Receiver, "end", lambda self: seen.append(stream.error))
    error = ServerError("builtins.OSError", ())
    stream.end(error)
    assert seen == [error]


def test_a_sink_that_wants_no_more_cancels_its_stream(line: Line) -> None:
    sink = Sink()
    fetching = Background(lambda: line.channel.streams.fetch(open_request, sink))
    request = answer(line, {"size": 1 << 20})
    sink.is_wanted = False
    say(line, *[StreamData(request.stream, FRAME)] * 4)
    assert line.server.next_notice() == StreamCancel(request.stream)
    fetching.result()
    taken = len(sink.data)
    # Nothing that was on its way is taken, and all of it is legal.
    say(line, StreamData(request.stream, FRAME), StreamEnd(request.stream))
    pinging = Background(lambda: line.channel.call(Ping()))
    line.server.say(line.server.codec.reply(line.server.next_call().msgid, None))
    pinging.result()
    assert len(sink.data) == taken


def test_an_answer_that_is_refused_cancels_the_stream(line: Line) -> None:
    class Refusing(Sink):
        def opened(self, answer: Any) -> None:
            raise ValueError("not that")

    fetching = Background(lambda: line.channel.streams.fetch(open_request, Refusing()))
    request = answer(line, {})
    with pytest.raises(ValueError, match="not that"):
        fetching.result()
    assert line.server.next_notice() == StreamCancel(request.stream)


def test_the_end_of_the_connection_is_the_end_of_its_streams(line: Line) -> None:
    fetching = [
        Background(lambda: line.channel.streams.fetch(open_request, Sink())) for _ in range(3)
    ]
    for _ in fetching:
        answer(line, {"size": 3})
    line.server.say(b"")
    for each in fetching:
        with pytest.raises(ClientDisconnected):
            each.result()
    with pytest.raises(ClientDisconnected):
        line.channel.streams.fetch(open_request, Sink())


def test_windows_get_smaller_when_there_are_many(line: Line) -> None:
    fetching = []
    given = []
    for _ in range(MAX_DOWNLOADS):
        fetching.append(Background(lambda: line.channel.streams.fetch(open_request, Sink())))
        given.append(answer(line, {"size": 0}).credit)
    assert given[0] == STREAM_WINDOW
    assert given == sorted(given, reverse=True)
    assert given[-1] == max(STREAM_FRAME, TOTAL_WINDOW // MAX_DOWNLOADS)
    # One more has to wait.
    assert not line.channel.streams._downloads.acquire(blocking=False)
    fetching.append(Background(lambda: line.channel.streams.fetch(open_request, Sink())))
    assert line.wire.sent.empty()
    say(line, StreamEnd(0))
    request = answer(line, {"size": 0})
    assert request.stream == MAX_DOWNLOADS
    say(line, *(StreamEnd(number) for number in range(1, MAX_DOWNLOADS + 1)))
    for each in fetching:
        each.result()


def test_a_server_admits_twice_as_many_as_are_fetched_at_once() -> None:
    assert 2 * MAX_DOWNLOADS <= MAX_STREAMS


def test_r8_a_server_cannot_send_beyond_the_credit(line: Line) -> None:
    sink = Sink(consumes=False)

    def open_stream() -> None:
        found = line.channel.streams.prepare(sink.take)
        line.channel.streams.start(found, open_request)
        line.channel.wait_until(found, lambda: found.has_ended)

    waiting = Background(open_stream)
    request = answer(line, None)
    count = request.credit // STREAM_FRAME
    say(line, *[StreamData(request.stream, FRAME)] * (count + 1))
    with pytest.raises(ClientDisconnected, match="with a credit of 0"):
        waiting.result()
    assert len(sink.data) == request.credit


@pytest.mark.parametrize(
    "requests",
    [
        [StreamData(5, b"x")],
        [StreamEnd(5)],
        [StreamFault(5, "x", ())],
        [StreamCredit(FIRST_UPLOAD, 1)],
        [StreamCancel(FIRST_UPLOAD)],
        [StreamCredit(0, 1)],
        [StreamData(FIRST_UPLOAD, b"x")],
    ],
    ids=repr,
)
def test_streams_that_nobody_has_opened(line: Line, requests: list[Request]) -> None:
    say(line, *requests)
    with pytest.raises(ClientDisconnected) as caught:
        line.channel.call(Ping())
    assert isinstance(caught.value.__cause__, StreamViolation)


# -- to the server -----------------------------------------------------------------------------


def test_an_upload(line: Line) -> None:
    assert line.channel.streams.upload([b"abc", FRAME + b"x"]) == (FIRST_UPLOAD, 4 + STREAM_FRAME)
    assert line.channel.streams.upload([]) == (FIRST_UPLOAD + 1, 0)
    line.channel.flush()
    assert [line.server.next_notice() for _ in range(5)] == [
        StreamData(FIRST_UPLOAD, b"abc"),
        StreamData(FIRST_UPLOAD, FRAME),
        StreamData(FIRST_UPLOAD, b"x"),
        StreamEnd(FIRST_UPLOAD),
        StreamEnd(FIRST_UPLOAD + 1),
    ]


def received(line: Line, size: int) -> None:
    """Have *size* bytes of an upload arrive."""
    while size:
        request = line.server.next_notice()
        assert isinstance(request, StreamData), request
        size -= len(request.data)
        assert size >= 0


def test_an_upload_waits_for_credit_and_leads_meanwhile(line: Line) -> None:
    uploading = Background(lambda: line.channel.streams.upload([FRAME] * 10))
    received(line, STREAM_WINDOW)
    assert line.wire.reading.acquire(timeout=10)
    assert uploading.is_alive()
    say(line, StreamCredit(FIRST_UPLOAD, 5))
    received(line, 5)
    say(line, StreamCredit(FIRST_UPLOAD, STREAM_WINDOW))
    assert uploading.result() == (FIRST_UPLOAD, 10 * STREAM_FRAME)
    line.channel.flush()
    received(line, 2 * STREAM_FRAME - 5)
    assert line.server.next_notice() == StreamEnd(FIRST_UPLOAD)
    # What has crossed the end does no harm.
    say(line, StreamCredit(FIRST_UPLOAD, 5), StreamCancel(FIRST_UPLOAD))
    pinging = Background(lambda: line.channel.call(Ping()))
    line.server.say(line.server.codec.reply(line.server.next_call().msgid, None))
    pinging.result()


def test_an_upload_that_follows_gets_its_credit(line: Line) -> None:
    pinging = Background(lambda: line.channel.call(Ping()))
    call = line.server.next_call()
    assert line.wire.reading.acquire(timeout=10)
    uploading = Background(lambda: line.channel.streams.upload([FRAME] * 10))
    received(line, STREAM_WINDOW)
    wait_until(lambda: line.channel.follower_count)
    say(line, StreamCredit(FIRST_UPLOAD, STREAM_WINDOW))
    uploading.result()
    assert pinging.is_alive()
    line.server.say(line.server.codec.reply(call.msgid, None))
    pinging.result()


def test_an_upload_that_is_cancelled_ends(line: Line) -> None:
    uploading = Background(lambda: line.channel.streams.upload([FRAME] * 1000))
    received(line, STREAM_WINDOW)
    say(line, StreamCancel(FIRST_UPLOAD))
    assert uploading.result() == (FIRST_UPLOAD, STREAM_WINDOW)
    line.channel.flush()
    assert line.server.next_notice() == StreamEnd(FIRST_UPLOAD)


def test_a_file_that_cannot_be_read_ends_the_upload_with_a_fault(line: Line) -> None:
    def chunks() -> Any:
        yield b"abc"
        raise OSError(5, "Input/output error", "/secret/path")

    with pytest.raises(OSError, match="secret"):
        line.channel.streams.upload(chunks())
    line.channel.flush()
    assert line.server.next_notice() == StreamData(FIRST_UPLOAD, b"abc")
    assert line.server.next_notice() == StreamFault(FIRST_UPLOAD, "builtins.OSError", ())


def test_an_upload_whose_connection_ends(line: Line) -> None:
    uploading = Background(lambda: line.channel.streams.upload([FRAME] * 1000))
    received(line, STREAM_WINDOW)
    line.server.say(b"")
    with pytest.raises(ClientDisconnected):
        uploading.result()


def test_a_server_that_takes_only_short_messages(line: Line) -> None:
    line.channel._codec.max_payload = 1024
    line.channel.streams.upload([b"x" * 3000])
    line.channel.flush()
    sizes = []
    while not isinstance(request := line.server.next_notice(), StreamEnd):
        assert isinstance(request, StreamData)
        sizes.append(len(request.data))
    assert sizes == [1019, 1019, 962]


def test_too_much_credit_ends_the_connection(line: Line) -> None:
    uploading = Background(lambda: line.channel.streams.upload([FRAME] * 1000))
    received(line, STREAM_WINDOW)
    say(line, StreamCredit(FIRST_UPLOAD, (1 << 32) - 1))
    with pytest.raises(ClientDisconnected, match="more credit"):
        uploading.result()


def test_numbers_go_round(line: Line) -> None:
    streams = line.channel.streams
    streams._uploads = FIRST_UPLOAD - 1
    assert streams.upload([])[0] == 2**32 - 1
    assert streams.upload([])[0] == FIRST_UPLOAD
    streams._numbers = itertools.count(FIRST_UPLOAD - 1)
    fetching = []
    for expected in (FIRST_UPLOAD - 1, 0):
        fetching.append(Background(lambda: streams.fetch(open_request, Sink())))
        line.channel.flush()
        while not isinstance(event := line.server.next_event(), Call):
            pass
        assert event.request.stream == expected  # type: ignore[attr-defined]
        line.server.say(line.server.codec.reply(event.msgid, None))
    # One that is in use is left out.
    streams._numbers = itertools.count(0)
    fetching.append(Background(lambda: streams.fetch(open_request, Sink())))
    assert answer(line, None).stream == 1
    say(line, *(StreamEnd(number) for number in (FIRST_UPLOAD - 1, 0, 1)))
    for each in fetching:
        each.result()


# -- interrupts --------------------------------------------------------------------------------


class StreamingWire(PromptWire):
    """Its server sends a blob of six messages to who asks for one, and takes uploads."""

    def __init__(self) -> None:
        super().__init__()
        self.open: dict[int, int] = {}
        self.uploads: dict[int, int] = {}
        self.ended: list[Request] = []

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
        self.arriving.append(codec.reply(call.msgid, None))
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
        elif isinstance(request, StreamData):
            assert number == FIRST_UPLOAD + len(self.ended)
            self.uploads[number] = self.uploads.get(number, 0) + len(request.data)
            self._say(StreamCredit(number, len(request.data)))
        elif isinstance(request, (StreamEnd, StreamFault)):
            assert number == FIRST_UPLOAD + len(self.ended), "a number was left out"
            self.ended.append(request)


def prompt_channel() -> tuple[Channel, StreamingWire]:
    wire = StreamingWire()
    channel = Channel(wire, Recorder(), "memory")
    channel.greet()
    channel.call(Register("1", False))
    channel.registered()
    return channel, wire


MODULES = (channel_module, streams_module)


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

"""Streams from the server, seen from a client whose server is the test."""

from __future__ import annotations

from typing import Any

import pytest

from zeolith.client.streams import MAX_DOWNLOADS, TOTAL_WINDOW
from zeolith.errors import (
    ClientDisconnected,
    ServerError,
    StreamViolation,
)
from zeolith.protocol.limits import FIRST_UPLOAD, MAX_STREAMS, STREAM_FRAME, STREAM_WINDOW
from zeolith.protocol.messages import Ping, Request
from zeolith.protocol.streamrequests import (
    StreamCancel,
    StreamCredit,
    StreamData,
    StreamEnd,
    StreamFault,
)
from zeolith.protocol.streams import Receiver

from ..support.waiting import Background
from .conftest import Line
from .streaming import FRAME, Sink, answer, open_request, own_line, say


@pytest.fixture
def line() -> Line:
    return own_line()


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


def test_no_data_are_taken_while_a_sink_prepares(line: Line) -> None:
    """Its file must not be made by two threads."""
    stream = line.channel.streams.prepare(lambda data: len(data))
    held: list[bool] = []
    stream.between(lambda: held.append(stream._lock.locked()))
    assert held == [True]


def test_parts_of_long_messages_are_put_where_the_last_ones_are_not(line: Line) -> None:
    """Those may still be summed up."""
    streams = line.channel.streams
    fetching = Background(lambda: streams.fetch(open_request, Sink()))
    request = answer(line, {"size": 7})
    first, second = (streams.buffer(request.stream, 10) for _ in range(2))
    first[:5], second[:5] = b"first", b"other"
    assert bytes(first[:5]) == b"first"
    assert streams.buffer(request.stream, 3).obj is first.obj
    # No longer than what is to come.
    assert len(streams.buffer(request.stream, 20)) == 20
    say(line, StreamData(request.stream, b"abcdefg"), StreamEnd(request.stream))
    fetching.result()


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
    assert len(line.channel.streams._downloads.holders) == MAX_DOWNLOADS
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

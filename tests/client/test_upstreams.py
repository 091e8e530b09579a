"""Streams to the server, seen from a client whose server is the test."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from zeolith.errors import (
    ClientDisconnected,
)
from zeolith.protocol.limits import FIRST_UPLOAD, STREAM_FRAME, STREAM_WINDOW
from zeolith.protocol.messages import Call, Ping
from zeolith.protocol.streamrequests import (
    StreamCancel,
    StreamCredit,
    StreamData,
    StreamEnd,
    StreamFault,
)

from ..support.waiting import Background, wait_until
from .conftest import Line
from .streaming import FRAME, Sink, answer, open_request, own_line, say


@pytest.fixture
def line() -> Line:
    return own_line()


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

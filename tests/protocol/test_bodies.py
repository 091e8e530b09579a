"""Long messages of data: passed on as they come, whatever pieces they arrive in."""

from __future__ import annotations

from typing import Any

import pytest

from zeolith.errors import StreamViolation
from zeolith.protocol.checksums import ALGORITHMS
from zeolith.protocol.hello import NO_TERMS, Terms
from zeolith.protocol.limits import BULK_FRAME, STREAM_FRAME, Limits
from zeolith.protocol.messages import Notice, Ping
from zeolith.protocol.peers import ServerPeer, Violated
from zeolith.protocol.streamlayouts import DATA_HEAD_SIZE, data_head
from zeolith.protocol.streamrequests import StreamData, StreamEnd

from .test_checksums import meet

TERMS = Terms(checksums=ALGORITHMS)
LONG = bytes(range(256)) * (STREAM_FRAME // 128)  # twice as long as a short one


def long_message(number: int, data: bytes) -> bytes:
    return data_head(number, len(data)) + data


def take(peer: ServerPeer, sent: bytes, size: int) -> tuple[list[Any], dict[int, bytes]]:
    """Feed *sent* in pieces; return what came, data of the same stream together, and the data."""
    events: list[Any] = []
    data: dict[int, bytes] = {}
    for at in range(0, len(sent), size):
        for event in peer.receive(sent[at : at + size]):
            request = event.request if isinstance(event, Notice) else event
            if isinstance(request, StreamData):
                # A view is good until more is received only.
                data[request.stream] = data.get(request.stream, b"") + bytes(request.data)
                request = StreamData(request.stream, b"")
                if events and events[-1] == request:
                    continue
            events.append(request)
    return events, data


@pytest.mark.parametrize("size", [1, 7, 8, 9, 10, 1000, STREAM_FRAME, 1 << 20])
def test_in_pieces_of_any_size_among_other_messages(size: int) -> None:
    ours, theirs = meet(TERMS, TERMS)
    assert theirs.codec is not None
    write = theirs.codec.notice
    short = write(StreamData(2, b"short"))
    call = theirs.codec.call(1, Ping())
    sent = (
        short
        + long_message(1, LONG)
        + call
        + long_message(1, LONG + b"x")
        + long_message(3, LONG)
        + write(StreamEnd(1))
        + short
    )
    events, data = take(ours, sent, size)
    assert data == {1: LONG + LONG + b"x", 2: b"shortshort", 3: LONG}
    kinds = [getattr(event, "stream", "call") for event in events]
    assert kinds == [2, 1, "call", 1, 3, 1, 2]
    assert (ours.pending, ours.body_left) == (0, 0)


def test_nothing_of_it_is_kept() -> None:
    ours, _ = meet(TERMS, TERMS)
    sent = long_message(1, bytes(BULK_FRAME))
    for at in range(0, len(sent), 1000):
        ours.receive(sent[at : at + 1000])
        assert ours.pending == 0
        assert ours.body_left == max(BULK_FRAME + DATA_HEAD_SIZE - at - 1000, 0)


def test_a_view_is_passed_on_as_it_is() -> None:
    ours, _ = meet(TERMS, TERMS)
    ours.receive(data_head(1, len(LONG)))
    view = memoryview(bytearray(LONG))
    (event,) = ours.receive(view)
    assert isinstance(event, Notice)
    assert isinstance(event.request, StreamData)
    assert isinstance(event.request.data, memoryview)
    assert event.request.data.obj is view.obj


@pytest.mark.parametrize("size", [1, 9, 1 << 20])
def test_one_that_is_too_long(size: int) -> None:
    ours, _ = meet(TERMS, TERMS)
    events, data = take(ours, long_message(1, bytes(BULK_FRAME + 1)), size)
    assert data == {}
    assert isinstance(events[0], Violated)
    assert isinstance(events[0].error, StreamViolation)
    assert ours.receive(b"more") == []


@pytest.mark.parametrize("terms", [(TERMS, NO_TERMS), (NO_TERMS, TERMS), (NO_TERMS, NO_TERMS)])
def test_they_are_legal_only_if_both_have_said_so(terms: tuple[Terms, Terms]) -> None:
    for peer in meet(*terms):
        (violated,) = peer.receive(long_message(1, LONG))
        assert isinstance(violated, Violated)
        assert isinstance(violated.error, StreamViolation)


def test_not_before_the_client_is_admitted() -> None:
    ours, _ = meet(TERMS, TERMS)
    fresh = ServerPeer(ours._coding, Limits(), terms=TERMS)
    (violated,) = fresh.receive(long_message(1, LONG))
    assert isinstance(violated, Violated)


def test_data_that_look_like_a_message_are_data() -> None:
    """A blob may be what somebody has recorded of a network."""
    ours, theirs = meet(TERMS, TERMS)
    assert ours.codec is not None
    assert theirs.codec is not None
    load = theirs.codec.load_before(bytes(8), bytes(8))
    answer = ours.codec.loaded((bytes(8), bytes(8)), b"data of the object", bytes(8), None)
    for peer in (ours, theirs):
        peer.receive(data_head(1, len(LONG)))
    assert ours.receive_load(load) is None
    assert theirs.receive_loaded(answer) is None
    for peer in (ours, theirs):
        peer.receive(LONG)
    assert ours.receive_load(load) == (bytes(8), bytes(8))
    assert theirs.receive_loaded(answer) is not None

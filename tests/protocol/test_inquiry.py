"""An administrator's question: what it says, and that nothing else gets through."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zeolith.errors import FrameTooLarge, IllegalMessage, ProtocolViolation, UndecodableMessage
from zeolith.protocol.framing import frame
from zeolith.protocol.greeting import ZEO_CODINGS, Coding, parse_hello
from zeolith.protocol.hello import MAGIC
from zeolith.protocol.inquiry import (
    MOST_CONNECTIONS,
    PREFIX,
    EstimateInquiry,
    Inquiry,
    KickInquiry,
    StatusInquiry,
    parse_answer,
    parse_inquiry,
    serialize_answer,
    serialize_inquiry,
)
from zeolith.protocol.limits import Limits
from zeolith.protocol.peers import Inquired, Phase, ServerPeer, Violated

texts = st.none() | st.text(max_size=50)
inquiries = st.one_of(
    st.builds(StatusInquiry, texts, st.integers(0, MOST_CONNECTIONS)),
    st.builds(KickInquiry, texts, texts, st.booleans()),
    st.builds(EstimateInquiry, st.text(max_size=50), st.floats(0, 1e11)),
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["ask", "storage", "client", "connections", "x"]), inner)
    ),
    max_leaves=9,
)


@given(inquiries)
def test_round_trip(inquiry: Inquiry) -> None:
    assert parse_inquiry(serialize_inquiry(inquiry)) == inquiry


def test_what_is_not_said_has_its_default() -> None:
    assert parse_inquiry(b'zeolith {"ask": "status"}') == StatusInquiry(None, 100)
    assert parse_inquiry(b'zeolith{"ask":"kick","client":"x"}') == KickInquiry("x", None, False)


@given(st.dictionaries(st.text(), json_values, max_size=5))
def test_answers_round_trip(answer: dict[str, Any]) -> None:
    text = json.dumps(answer)
    assert json.dumps(parse_answer(serialize_answer(answer))) == text


@pytest.mark.parametrize(
    "question",
    [
        {},
        {"ask": None},
        {"ask": "stop"},
        {"ask": ["status"]},
        {"ask": {"status": 1}},
        {"ask": "status", "client": "x"},
        {"ask": "status", "storage": 1},
        {"ask": "status", "connections": -1},
        {"ask": "status", "connections": MOST_CONNECTIONS + 1},
        {"ask": "status", "connections": True},
        {"ask": "status", "connections": 1.5},
        {"ask": "kick", "client": 5},
        {"ask": "kick", "dry_run": 1},
        {"ask": "kick", "__class__": "x"},
        {"ask": "kick", "_replace": None},
        {"ask": "kick", "": None},
        {"ask": "estimate"},
        {"ask": "estimate", "storage": "1"},
        {"ask": "estimate", "time": 5},
        {"ask": "estimate", "storage": None, "time": 5},
        {"ask": "estimate", "storage": "1", "time": -1},
        {"ask": "estimate", "storage": "1", "time": float("nan")},
        {"ask": "estimate", "storage": "1", "time": float("inf")},
        {"ask": "estimate", "storage": "1", "time": 10**400},
        {"ask": "estimate", "storage": "1", "time": True},
    ],
    ids=str,
)
def test_what_cannot_be_asked(question: dict[str, Any]) -> None:
    with pytest.raises(IllegalMessage):
        parse_inquiry(PREFIX + json.dumps(question).encode())


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"status",
        b'["ask"]',
        b"null",
        b'{"ask": "status"',
        b'{"ask": "status"}}',
        b"\xff\xfe\x00",
        b"\0\0\0{",
        b"[" * 1000,
        b'{"a":' * 180,
        b'{"ask": "status", "connections": ' + b"9" * 900 + b"}",
        b'{"ask": "status", "connections": 1e999}',
        b'{"ask": "status", "connections": NaN}',
    ],
    ids=lambda text: repr(text[:30]),
)
def test_what_is_no_question(text: bytes) -> None:
    with pytest.raises((UndecodableMessage, IllegalMessage)) as caught:
        parse_inquiry(PREFIX + text)
    assert len(str(caught.value)) < 200


def test_nesting_that_overflows_the_decoder() -> None:
    """Only an answer can be long enough for that; the limit on a question's size is below it."""
    for text in (b"[" * 200_000, b'{"a":' * 200_000):
        with pytest.raises(UndecodableMessage):
            parse_answer(text)
        with pytest.raises(UndecodableMessage):
            parse_inquiry(PREFIX + text)


@pytest.mark.parametrize("answer", [b"", b"[]", b"1", b"\xff", b'"text"'])
def test_what_is_no_answer(answer: bytes) -> None:
    with pytest.raises(UndecodableMessage):
        parse_answer(answer)


def receive(data: bytes) -> list[Any]:
    """Return the events; assert that a peer is closed after any but an incomplete frame."""
    server = ServerPeer(Coding.PICKLE)
    events: list[Any] = server.receive(data)
    assert server.codec is not None or server.phase is Phase.CLOSED or not events
    return events


@given(st.binary(max_size=200) | json_values.map(lambda value: json.dumps(value).encode()))
def test_garbage_is_a_violation_or_a_question(text: bytes) -> None:
    """Invariant: one event, a question that round-trips, or one of our violations."""
    (event,) = receive(frame(PREFIX + text))
    if isinstance(event, Inquired):
        assert parse_inquiry(serialize_inquiry(event.inquiry)) == event.inquiry
    else:
        assert isinstance(event, Violated)
        assert isinstance(event.error, ProtocolViolation)


@given(inquiries, st.integers(0, 400), st.integers(0, 255))
def test_a_damaged_question(inquiry: Inquiry, place: int, byte: int) -> None:
    damaged = bytearray(frame(serialize_inquiry(inquiry)))
    damaged[place % len(damaged)] = byte
    events = receive(bytes(damaged))
    assert len(events) <= 2


def test_a_long_question_is_refused_before_it_arrives() -> None:
    limit = Limits().max_inquiry_size
    server = ServerPeer(Coding.PICKLE)
    tracemalloc.start()
    try:
        (event,) = server.receive((limit + 1).to_bytes(4, "big"))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert isinstance(event, Violated)
    assert isinstance(event.error, FrameTooLarge)
    assert server.pending == 0
    assert peak < 10_000


def test_no_hello_is_taken_for_a_question() -> None:
    assert [parse_hello(hello) for hello in (b"Z5", b"M5")] == list(ZEO_CODINGS)
    assert not any(hello.startswith(PREFIX) for hello in (b"Z5", b"M5", b"ruok", MAGIC))

"""The fixed layout of a commit's steps means what the general coding of them means."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zeolith.errors import ProtocolViolation
from zeolith.protocol.codec import Codec, make_codec
from zeolith.protocol.framing import HEADER_SIZE, frame
from zeolith.protocol.greeting import Coding
from zeolith.protocol.limits import DEFAULT_LIMITS
from zeolith.protocol.messages import (
    CLIENT_REQUESTS,
    SERVER_REQUESTS,
    WIRE_NAMES,
    Call,
    Info,
    InvalidateTransaction,
    Notice,
    Ping,
    Reply,
    TpcAbort,
    TpcBegin,
    TpcFinish,
    Vote,
)
from zeolith.protocol.steps import pack_call, pack_notice, pack_reply, parse_step

SERVER = make_codec(Coding.MSGPACK, SERVER_REQUESTS, DEFAULT_LIMITS)
CLIENT = make_codec(Coding.MSGPACK, CLIENT_REQUESTS, DEFAULT_LIMITS)

EDGES = [0, 1, 127, 128, 255, 256, 65_535, 65_536, 2**32 - 1, 2**32, 2**63]
numbers = st.one_of(st.sampled_from(EDGES), st.integers(0, 2**63))
calls = st.builds(Vote, numbers) | st.builds(TpcFinish, numbers)
texts = st.one_of(st.binary(max_size=12), st.sampled_from([99, 100, 101, 255, 256]).map(bytes))
begins = st.builds(
    TpcBegin,
    numbers,
    texts,
    texts,
    st.sampled_from([{}, {"a": 1}, b"", b"x"]),
    st.none() | st.binary(min_size=8, max_size=8),
    st.sampled_from([" ", "p", ""]),
)
infos = st.builds(
    lambda length, size: Info({"length": length, "size": size}), numbers, numbers
) | st.sampled_from([Info({}), Info({"size": 1, "length": 2}), Info({"length": 1.5, "size": 0})])
values = st.one_of(
    st.none(),
    st.binary(min_size=7, max_size=9),
    st.sampled_from([[], [b"\1" * 8], 0, False, "", {}, b""]),
)


def by_library(message: Any) -> bytes:
    """The payload as msgpack's own packer writes it."""
    payload: bytes = msgpack.packb(message, use_bin_type=True)
    return payload


def decode(codec: Codec, payload: bytes) -> object:
    """What the general way makes of *payload*."""
    try:
        return Codec.decode(codec, payload)
    except ProtocolViolation as error:
        return type(error)


@given(numbers, calls)
def test_calls_are_written_as_peers_write_them(msgid: int, request: Vote | TpcFinish) -> None:
    payload = by_library((msgid, False, WIRE_NAMES[type(request)], tuple(request)))
    assert SERVER.call(msgid, request) == frame(payload)
    assert (pack_call(msgid, request) is not None) == (max(msgid, request.txn) < 2**32)
    assert SERVER.decode(payload) == decode(SERVER, payload) == Call(msgid, request)


@given(st.one_of(begins, infos))
def test_notices_are_written_as_peers_write_them(request: TpcBegin | Info) -> None:
    payload = by_library((0, True, WIRE_NAMES[type(request)], tuple(request)))
    codec = SERVER if isinstance(request, TpcBegin) else CLIENT
    assert codec.notice(request) == frame(payload)
    assert pack_notice(request) in (None, frame(payload))
    assert codec.decode(payload) == decode(codec, payload) == Notice(request)


@given(numbers, values)
def test_answers_are_written_as_peers_write_them(msgid: int, value: object) -> None:
    payload = by_library((msgid, 0, ".reply", value))
    assert SERVER.reply(msgid, value) == frame(payload)
    decoded = decode(CLIENT, payload)
    assert CLIENT.decode(payload) == decoded
    assert isinstance(decoded, Reply)
    # 0 == False: the types count, too.
    again = CLIENT.decode(payload)
    assert isinstance(again, Reply)
    assert type(again.value) is type(decoded.value)


def test_the_steps_of_a_small_commit_have_layouts() -> None:
    begin = TpcBegin(7, b"user", b"/path", {}, None, " ")
    frames = [
        pack_notice(begin),
        pack_call(8, Vote(7)),
        pack_reply(8, []),
        pack_call(9, TpcFinish(7)),
        pack_notice(Info({"length": 20_000, "size": 7_000_000})),
        pack_reply(9, b"\3" * 8),
        pack_reply(10, None),
    ]
    assert [parse_step(data[HEADER_SIZE:]) for data in frames if data is not None] == [
        Notice(begin),
        Call(8, Vote(7)),
        Reply(8, ()),
        Call(9, TpcFinish(7)),
        Notice(Info({"length": 20_000, "size": 7_000_000})),
        Reply(9, b"\3" * 8),
        Reply(10, None),
    ]


@pytest.mark.parametrize(
    ("msgid", "request_"),
    [(1, Ping()), (1, TpcAbort(1)), (-1, Vote(1)), ("1", Vote(1)), (True, Vote(1))],
)
def test_other_calls_have_none(msgid: object, request_: Any) -> None:
    assert pack_call(msgid, request_) is None


def test_other_notices_have_none() -> None:
    assert pack_notice(InvalidateTransaction(b"\1" * 8, [])) is None


@given(
    st.one_of(
        st.builds(lambda n, r: SERVER.call(n, r), numbers, calls),
        st.builds(lambda r: SERVER.notice(r), begins),
        st.builds(lambda r: CLIENT.notice(r), infos),
        st.builds(lambda n, v: SERVER.reply(n, v), numbers, values),
    ).map(lambda data: data[HEADER_SIZE:]),
    st.data(),
)
def test_a_damaged_step_is_never_read_as_another(payload: bytes, draw: st.DataObject) -> None:
    place = draw.draw(st.integers(0, len(payload) - 1))
    kind = draw.draw(st.sampled_from(["change", "cut", "append"]))
    if kind == "change":
        byte = draw.draw(st.integers(0, 255))
        payload = payload[:place] + bytes([byte]) + payload[place + 1 :]
    elif kind == "cut":
        payload = payload[:place]
    else:
        payload += draw.draw(st.binary(min_size=1, max_size=9))
    found = parse_step(payload)
    if found is not None:
        assert found in (decode(SERVER, payload), decode(CLIENT, payload))

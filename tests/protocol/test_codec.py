"""Every message, both ways, in both codings, beside what ZEO 6.2 writes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from tests.support.wire_cases import (
    CASES,
    OID,
    TID,
    TID2,
    Case,
    as_received,
    name_of,
    serialize,
)
from ZEO.asyncio.marshal import decoder, encoder, server_decoder

from zeolith.errors import IllegalMessage, UndecodableMessage
from zeolith.protocol import msgpacks, pickles
from zeolith.protocol.codec import Codec, ZeoCodec
from zeolith.protocol.codecs import make_codec
from zeolith.protocol.framing import HEADER_SIZE
from zeolith.protocol.greeting import ZEO_CODINGS, Coding
from zeolith.protocol.limits import DEFAULT_LIMITS, Limits
from zeolith.protocol.messages import (
    CLIENT_REQUESTS,
    SERVER_REQUESTS,
    Call,
    Fault,
    Flow,
    Heartbeat,
    LoadBefore,
    Message,
    Notice,
    Ping,
    Reply,
)
from zeolith.protocol.values import Prefix

CODINGS = pytest.mark.parametrize("coding", list(ZEO_CODINGS), ids=lambda coding: coding.name)
EVERY_CASE = pytest.mark.parametrize("case", CASES, ids=name_of)

CODECS = {
    (coding, receiver): make_codec(coding, forms, DEFAULT_LIMITS)
    for coding in ZEO_CODINGS
    for receiver, forms in (("server", SERVER_REQUESTS), ("client", CLIENT_REQUESTS))
}


def payload_of(frame: bytes) -> bytes:
    """Return the payload after checking the length in front of it."""
    payload = frame[HEADER_SIZE:]
    assert int.from_bytes(frame[:HEADER_SIZE], "big") == len(payload)
    return payload


def dumps(coding: Coding, value: Any) -> bytes:
    return pickles.dumps(value) if coding is Coding.PICKLE else msgpacks.dumps(value)


def server_codec(coding: Coding) -> Codec:
    return CODECS[coding, "server"]


@CODINGS
@EVERY_CASE
def test_our_bytes_are_those_of_zeo(coding: Coding, case: Case) -> None:
    frame = serialize(CODECS[coding, case.receiver], case.message)
    assert payload_of(frame) == encoder(coding.value)(*case.wire)


@CODINGS
@EVERY_CASE
def test_what_zeo_writes_is_that_message(coding: Coding, case: Case) -> None:
    message = CODECS[coding, case.receiver].decode(encoder(coding.value)(*case.wire))
    expected = as_received(case.message, coding.value)
    assert message == expected
    assert type(message) is type(expected)


@CODINGS
@EVERY_CASE
def test_zeo_reads_what_we_write(coding: Coding, case: Case) -> None:
    read = (server_decoder if case.receiver == "server" else decoder)(coding.value)
    payload = payload_of(serialize(CODECS[coding, case.receiver], case.message))
    assert read(payload) == as_received(case.wire, coding.value)


@CODINGS
def test_every_request_has_a_case(coding: Coding) -> None:
    named = {case.wire[2] for case in CASES}
    assert named >= set(SERVER_REQUESTS) | set(CLIENT_REQUESTS)


# -- the fixed layouts -------------------------------------------------------------------------


@CODINGS
def test_fixed_layout_of_a_load_is_the_general_one(coding: Coding) -> None:
    codec = server_codec(coding)
    request = LoadBefore(OID, TID)
    assert codec.load_before(OID, TID) == codec.call((OID, TID), request)
    message = codec.decode(payload_of(codec.load_before(OID, TID)))
    assert message == Call((OID, TID), request)
    assert isinstance(message, Call)
    assert type(message.msgid) is LoadBefore  # echoed without being built again


@CODINGS
@pytest.mark.parametrize("end", [None, TID2], ids=["current", "old"])
@pytest.mark.parametrize("size", [0, 1, 8, 255, 256, 300, 65_535, 65_536, 1_000_000])
def test_fixed_layout_of_its_reply_is_the_general_one(
    coding: Coding, size: int, end: bytes | None
) -> None:
    codec = CODECS[coding, "client"]
    data = b"\x08" * size
    frame = codec.loaded(LoadBefore(OID, TID), data, TID, end)
    assert frame == codec.reply((OID, TID), (data, TID, end))
    assert frame == codec.reply(LoadBefore(OID, TID), (data, TID, end))
    assert codec.decode(payload_of(frame)) == Reply((OID, TID), (data, TID, end))


def outcome(decode: Callable[[bytes], Message], payload: bytes) -> object:
    """Return the message, or the class of the error."""
    try:
        return decode(payload)
    except (UndecodableMessage, IllegalMessage) as error:
        return type(error)


@CODINGS
def test_fixed_and_general_decoder_agree_on_damage(coding: Coding) -> None:
    for receiver, frame in (
        ("server", server_codec(coding).load_before(OID, TID)),
        ("client", server_codec(coding).loaded(LoadBefore(OID, TID), b"data", TID, TID2)),
    ):
        codec = CODECS[coding, receiver]
        assert isinstance(codec, ZeoCodec)
        payload = payload_of(frame)
        for at in range(len(payload)):
            for flip in (0x01, 0x80, 0xFF):
                damaged = payload[:at] + bytes([payload[at] ^ flip]) + payload[at + 1 :]
                fixed = outcome(codec.decode, damaged)
                assert fixed == outcome(partial(ZeoCodec.decode, codec), damaged), (at, flip)


@CODINGS
def test_a_load_cut_short_is_refused(coding: Coding) -> None:
    for receiver, frame in (
        ("server", server_codec(coding).load_before(OID, TID)),
        ("client", server_codec(coding).loaded(LoadBefore(OID, TID), b"d" * 300, TID, TID2)),
    ):
        payload = payload_of(frame)
        for size in range(len(payload)):
            with pytest.raises(UndecodableMessage):
                CODECS[coding, receiver].decode(payload[:size])
        with pytest.raises(UndecodableMessage):
            CODECS[coding, receiver].decode(payload + b"\0")


# -- envelopes ---------------------------------------------------------------------------------


@CODINGS
@pytest.mark.parametrize(
    "value",
    [
        None,
        1,
        "text",
        (),
        (1, False, "ping"),
        (1, False, "ping", (), ()),
        {1: 2},
        ([[1]], False, "ping", ()),
        ({}, False, "ping", ()),
        ((1, (2, 3)), False, "ping", ()),
        (tuple(range(9)), False, "ping", ()),
        ("x" * 257, False, "ping", ()),
        (1, 2, "ping", ()),
        (1, None, "ping", ()),
        (1, 2, ".reply", None),
        (1, 2, ".reply", ("name",)),
        (1, 2, ".reply", (1, ())),
    ],
    ids=repr,
)
def test_what_is_no_message_is_refused(coding: Coding, value: Any) -> None:
    with pytest.raises(UndecodableMessage):
        server_codec(coding).decode(dumps(coding, value))


@CODINGS
@pytest.mark.parametrize(
    ("value", "msgid"),
    [
        ((7, False, "eval", ("1",)), 7),
        ((7, False, "__init__", ()), 7),
        ((7, False, None, ()), 7),
        ((7, False, b"ping", ()), 7),
        ((7, False, "ping", (1,)), 7),
        ((7, False, "ping", None), 7),
        ((7, False, "loadBefore", (OID,)), 7),
        ((7, False, "loadBefore", (OID, TID, TID)), 7),
        ((7, False, "loadBefore", (OID, b"short")), 7),
        ((7, False, "loadBefore", (OID.decode("latin-1"), TID)), 7),
        ((7, False, "vote", (True,)), 7),
        ((7, False, "register", (b"1", False)), 7),
        ((7, False, "register", ("1", 2)), 7),
        ((7, False, "invalidateTransaction", (TID, [])), 7),
        ((7, True, "ping", ()), None),
        ((7, True, "eval", ()), None),
        (("x", False, "tpc_begin", (1, b"", b"", [], None, " ")), "x"),
    ],
    ids=repr,
)
def test_illegal_calls_are_told_with_the_message_id_to_refuse(
    coding: Coding, value: Any, msgid: object
) -> None:
    with pytest.raises(IllegalMessage) as caught:
        server_codec(coding).decode(dumps(coding, value))
    assert caught.value.msgid == msgid


def test_a_prefix_is_no_name_though_it_equals_many() -> None:
    for name in (".reply", "ping", ""):
        payload = pickles.dumps((1, 0, Prefix((name,)), ()))
        with pytest.raises(IllegalMessage, match="unknown method"):
            server_codec(Coding.PICKLE).decode(payload)


@CODINGS
@pytest.mark.parametrize("forms", [SERVER_REQUESTS, CLIENT_REQUESTS], ids=["server", "client"])
def test_every_flow_of_every_request(coding: Coding, forms: dict[str, Any]) -> None:
    """A request is accepted as what its form says it may be, and only as that."""
    codec = make_codec(coding, forms, DEFAULT_LIMITS)
    samples = {case.wire[2]: case.wire[3] for case in CASES}
    for form in forms.values():
        for flag, cls, other in ((False, Call, Flow.NOTICE), (True, Notice, Flow.CALL)):
            payload = dumps(coding, (1, flag, form.name, samples[form.name]))
            if form.flow is other:
                with pytest.raises(IllegalMessage):
                    codec.decode(payload)
            else:
                message = codec.decode(payload)
                assert type(message) is cls
                assert type(message[-1]) is form.cls


@CODINGS
@pytest.mark.parametrize("flag", [0, 1])
def test_flags_may_be_numbers(coding: Coding, flag: int) -> None:
    message = server_codec(coding).decode(dumps(coding, (9, flag, "tpc_abort", (1,))))
    assert type(message) is (Notice if flag else Call)


@CODINGS
@pytest.mark.parametrize(
    "msgid", [0, -2, 2**63, 1.5, float("nan"), "x", b"y", None, (1, "a", b"b")]
)
def test_any_small_message_id_is_echoed(coding: Coding, msgid: Any) -> None:
    codec = server_codec(coding)
    message = codec.decode(dumps(coding, (msgid, False, "ping", ())))
    assert isinstance(message, Call)
    assert message.request == Ping()
    assert repr(message.msgid) == repr(msgid)
    for frame in (codec.reply(message.msgid, None), codec.fault(message.msgid, "x.Y", ())):
        echoed = CODECS[coding, "client"].decode(payload_of(frame))
        assert isinstance(echoed, Reply | Fault)
        assert repr(echoed.msgid) == repr(msgid)


@CODINGS
def test_heartbeats_of_both_forms(coding: Coding) -> None:
    codec = server_codec(coding)
    assert codec.decode(dumps(coding, (-1, 0, ".reply", None))) == Heartbeat()
    assert type(codec.decode(dumps(coding, (-1, 0, "keep-alive", None)))) is Heartbeat


@CODINGS
def test_limits_reach_the_decoder(coding: Coding) -> None:
    payload = dumps(coding, (1, True, "iterator_gc", ([1, 2, 3, 4, 5, 6, 7, 8, 9],)))
    assert server_codec(coding).decode(payload)
    for limits in (Limits(max_depth=2), Limits(max_items=10)):
        with pytest.raises(UndecodableMessage):
            make_codec(coding, SERVER_REQUESTS, limits).decode(payload)

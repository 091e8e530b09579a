"""The encoding of Zeolith's own protocol: both ways, damaged, and against its limits."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.wire_cases import (
    ALL_CASES,
    UID,
    Case,
    as_received,
    as_sent,
    name_of,
    serialize,
)

from zeolith.errors import IllegalMessage, MessageTooLarge, UndecodableMessage
from zeolith.protocol import messages as m
from zeolith.protocol import msgpacks, pickles
from zeolith.protocol.additions import OWN_CLIENT_REQUESTS as CLIENT_REQUESTS
from zeolith.protocol.additions import OWN_SERVER_REQUESTS as SERVER_REQUESTS
from zeolith.protocol.additions import requests_to_server
from zeolith.protocol.codecs import make_codec
from zeolith.protocol.framing import frame
from zeolith.protocol.greeting import Coding
from zeolith.protocol.layouts import NOTICE
from zeolith.protocol.limits import DEFAULT_LIMITS, Limits
from zeolith.protocol.loadrequests import LoadedMany, LoadMany
from zeolith.protocol.own import METHODS, OwnCodec
from zeolith.protocol.peers import ClientPeer, ServerPeer, Violated
from zeolith.protocol.streamrequests import STREAM_MESSAGES

OID, TID = b"\0" * 7 + b"\x2a", b"\3" * 8
SERVER, CLIENT = (OwnCodec(forms, DEFAULT_LIMITS) for forms in (SERVER_REQUESTS, CLIENT_REQUESTS))


def codec_of(receiver: str) -> OwnCodec:
    return SERVER if receiver == "server" else CLIENT


@pytest.mark.parametrize("case", ALL_CASES, ids=name_of)
def test_round_trip(case: Case) -> None:
    message = as_sent(case.message, b"O")
    data = serialize(SERVER, message)
    assert data == frame(data[4:])
    assert codec_of(case.receiver).decode(data[4:]) == as_received(message, b"O")


def test_every_request_can_be_sent() -> None:
    classes = {form.cls for forms in (SERVER_REQUESTS, CLIENT_REQUESTS) for form in forms.values()}
    fixed = {m.LoadBefore, m.Vote, m.TpcFinish, m.InvalidateTransaction, LoadMany, LoadedMany}
    fixed |= STREAM_MESSAGES
    assert set(METHODS.values()) == classes - fixed


@pytest.mark.parametrize("case", ALL_CASES, ids=name_of)
def test_no_pickle_is_written(case: Case) -> None:
    if len(repr(case.wire)) < 3_000:
        payload = serialize(SERVER, as_sent(case.message, b"O"))[4:]
        assert not payload.startswith(b"\x80")


@pytest.mark.parametrize("case", ALL_CASES, ids=name_of)
def test_what_is_cut_short_is_refused_or_something_shorter(case: Case) -> None:
    payload = serialize(SERVER, as_sent(case.message, b"O"))[4:]
    codec = codec_of(case.receiver)
    whole = codec.decode(payload)
    for size in range(min(len(payload), 60)):
        try:
            assert codec.decode(payload[:size]) != whole
        except (UndecodableMessage, IllegalMessage):
            pass


_FIXED = [
    "tpc_finish",
    "outcome",
    "vote",
    "loadBefore",
    "info",
    "invalidateTransaction",
    "register",
]


@pytest.mark.parametrize(
    "case", [case for case in ALL_CASES if case.wire[2] in _FIXED], ids=name_of
)
def test_bytes_behind_a_message_are_refused(case: Case) -> None:
    payload = serialize(SERVER, as_sent(case.message, b"O"))[4:]
    with pytest.raises(UndecodableMessage):
        codec_of(case.receiver).decode(payload + b"x")


@pytest.mark.parametrize(
    "payload",
    [
        b"", b"\0", b"z", b"\x80\x03N.", b"\x94\x01\xc2\xa4ping\x90", b"\x05x",
        b"\x02", b"\x01" + bytes(7), b"\x03" + bytes(8), b"\x08" + bytes(9), b"\x30" + bytes(10),
        b"\x04" + bytes(8) + b"\x91\xa1x", b"\x04" + bytes(8) + b"\x92\x01\x90",
        b"\x20" + bytes(8) + b"\x04 " + bytes(12),  # an unknown flag
        b"\x20" + bytes(8) + b"\x02 " + bytes(12),  # the unique id is missing
        b"\x20" + bytes(8) + b"\x02 " + bytes(12 + 15),  # a part of it
        b"\x20" + bytes(8) + b"\x03 " + bytes(12 + 16),  # the tid or a part of the unique id
        b"\x20" + bytes(8) + b"\x02 " + bytes(12 + 17),
        b"\x20" + bytes(8) + b"\x00\x80" + bytes(12),  # a status that is no ASCII
        b"\x20" + bytes(8) + b"\x01 " + bytes(12),  # the tid is missing
        b"\x20" + bytes(8) + b"\x00 " + b"\xff" * 12,
    ],
)  # fmt: skip
def test_what_is_no_message_is_refused(payload: bytes) -> None:
    for codec in (SERVER, CLIENT):
        with pytest.raises(UndecodableMessage):
            codec.decode(payload)


@pytest.mark.parametrize("number", [0, 255, 64, 65])
def test_methods_that_a_server_does_not_have(number: int) -> None:
    payload = b"\x01" + (7).to_bytes(8, "big") + bytes([number]) + b"\x91\x80"
    with pytest.raises(IllegalMessage, match="unknown method") as caught:
        SERVER.decode(payload)
    assert caught.value.msgid == 7


def test_extension_data_is_bytes() -> None:
    begin = m.TpcBegin(1, b"", b"", {"a": 1}, None, " ")
    for write in (SERVER.notice, lambda request: SERVER.call(1, request)):
        with pytest.raises(TypeError, match="extension"):
            write(begin)
    args = msgpacks.dumps(tuple(begin))
    with pytest.raises(IllegalMessage, match="extension"):
        SERVER.decode(bytes([NOTICE, 37]) + args)


def test_texts_of_a_transaction_become_bytes() -> None:
    user: Any = "küche"
    about: Any = "äöü"
    begin = m.TpcBegin(1, user, about, {}, TID, "p")
    expected = m.TpcBegin(1, "küche".encode(), "äöü".encode(), b"", TID, "p")
    assert SERVER.decode(SERVER.notice(begin)[4:]) == m.Notice(expected)
    assert SERVER.decode(SERVER.call(1, begin)[4:]) == m.Call(1, expected)


@pytest.mark.parametrize("msgid", [-1, 1 << 64, "1", None, True, (OID,)])
def test_ids_that_cannot_be_sent(msgid: Any) -> None:
    with pytest.raises(ValueError, match="no id of a call"):
        SERVER.call(msgid, m.Ping())
    with pytest.raises(ValueError, match=r"no id of a call|values to unpack"):
        SERVER.reply(msgid, None)


@pytest.mark.parametrize(
    "request_",
    [
        m.Store(b"short", TID, b"", 1),
        m.Store(OID, b"short", b"", 1),
        m.Store(OID, TID, b"", 1 << 63),
        m.InvalidateTransaction(TID, [b"short"]),
        m.TpcBegin(1, b"", b"", b"", None, "xy"),
        m.TpcBegin(1, b"", b"", b"", None, " ", UID[:15]),
        m.LoadBefore(OID, TID),
    ],
)
def test_requests_that_cannot_be_sent(request_: Any) -> None:
    with pytest.raises(
        ValueError, match=r"no id|no unique id|has eight|no number|one character|cannot be sent"
    ):
        SERVER.notice(request_)


@pytest.mark.parametrize("uid", [UID[:15], UID + b"x", "0123456789abcdef", 16])
def test_unique_ids_that_are_none_are_refused(uid: Any) -> None:
    for number, args in (
        (37, (1, b"", b"", b"", None, " ", uid)),
        (23, (uid, TID)),
    ):
        payload = b"\x01" + bytes(8) + bytes([number]) + msgpacks.dumps(args)
        with pytest.raises(IllegalMessage, match="uid"):
            SERVER.decode(payload)


@pytest.mark.parametrize("coding", [Coding.PICKLE, Coding.MSGPACK])
def test_zeo_s_codings_have_no_unique_ids(coding: Coding) -> None:
    """They neither send nor take one: a ZEO server would end the connection."""
    codec = make_codec(coding, requests_to_server(coding), DEFAULT_LIMITS)
    begin = m.TpcBegin(1, b"", b"", {})
    for write in (codec.notice, lambda request: codec.call(1, request)):
        assert repr(begin) in repr(codec.decode(write(begin)[4:]))
        with pytest.raises(ValueError, match="ZEO's protocol has no place for the unique id"):
            write(begin._replace(uid=UID))
    for uid in (None, UID):
        message: Any = (0, True, "tpc_begin", (1, b"", b"", {}, None, " ", uid))
        payload = pickles.dumps(message) if coding is Coding.PICKLE else msgpacks.dumps(message)
        with pytest.raises(IllegalMessage, match="takes 6 arguments"):
            codec.decode(payload)


# -- limits ------------------------------------------------------------------------------------


def test_the_peer_s_limit_is_kept() -> None:
    codec = OwnCodec(CLIENT_REQUESTS, DEFAULT_LIMITS)
    codec.max_payload = 1_000
    key = (OID, TID)
    assert codec.loaded(key, bytes(975), TID, None)
    assert codec.loaded(key, bytes(967), TID, TID)
    writers: list[Callable[[], bytes]] = [
        lambda: codec.loaded(key, bytes(976), TID, None),
        lambda: codec.loaded(key, bytes(968), TID, TID),
        lambda: codec.reply(key, (bytes(976), TID, None)),
        lambda: codec.reply(1, bytes(1_000)),
        lambda: codec.reply(1, [TID] * 124),
        lambda: codec.fault(1, "x" * 1_000, ()),
        lambda: codec.fault(key, "x" * 1_000, ()),
        lambda: codec.call(1, m.LoadSerial(bytes(1_000), TID)),
        lambda: codec.notice(m.Store(OID, TID, bytes(976), 1)),
        lambda: codec.notice(m.Store(OID, None, bytes(984), 1)),
        lambda: codec.notice(m.TpcBegin(1, bytes(500), bytes(500), b"")),
        lambda: codec.notice(m.Restore(OID, TID, bytes(990), None, 1)),
        # An invalidation goes to many clients; it is looked at for each.
        lambda: codec.check(codec.notice(m.InvalidateTransaction(TID, [OID] * 124))),
    ]
    for write in writers:
        with pytest.raises(MessageTooLarge, match="limit is 1000"):
            write()
    assert codec.notice(m.Store(OID, TID, bytes(975), 1))
    assert codec.check(codec.notice(m.InvalidateTransaction(TID, [OID] * 123)))


def test_lists_of_ids_count_before_they_take_memory() -> None:
    codec = OwnCodec(CLIENT_REQUESTS, Limits(max_items=1_000))
    for kind in (b"\x30", b"\x08"):
        assert codec.decode(kind + bytes(8 + 8_000))
        payload = kind + bytes(8 + 8_000_000)
        tracemalloc.start()
        try:
            with pytest.raises(UndecodableMessage, match="1000 items"):
                codec.decode(payload)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 20_000


def test_limits_reach_the_decoder() -> None:
    deep: Any = ()
    for _ in range(10):
        deep = (deep,)
    payload = SERVER.reply(1, deep)[4:]
    with pytest.raises(UndecodableMessage, match="deep"):
        OwnCodec(CLIENT_REQUESTS, Limits(max_depth=8)).decode(payload)


# -- any bytes ---------------------------------------------------------------------------------

_SMALL = [case for case in ALL_CASES if len(repr(case.wire)) < 3_000]


@settings(max_examples=500)
@given(st.sampled_from([0x01, 0x02, 0x03, 0x04, 0x14, 0x50, *range(0x46)]), st.binary(max_size=120))
def test_any_bytes_are_a_message_or_refused(kind: int, rest: bytes) -> None:
    for codec in (SERVER, CLIENT):
        try:
            message = codec.decode(bytes([kind]) + rest)
        except (UndecodableMessage, IllegalMessage):
            continue
        assert repr(message)
        if isinstance(message, m.Reply):
            hash(message.msgid)


@settings(max_examples=200)
@given(st.booleans(), st.lists(st.binary(max_size=60), max_size=5), st.data())
def test_hostile_peers(is_server: bool, payloads: list[bytes], data: st.DataObject) -> None:
    """At whatever point of the hand-shake: one violation, as the last event, and nothing raised."""
    server, client = ServerPeer(Coding.MSGPACK), ClientPeer()
    stage = data.draw(st.integers(0, 3))
    if stage:
        client.receive(server.greeting())
        hello = client.hello(Coding.OWN)
        if stage > 1:
            server.receive(hello)
            client.receive(server.welcome())
        if stage > 2:
            server.registered()
            client.registered()
    peer: Any = server if is_server else client
    events: list[Any] = []
    for payload in payloads:
        start = data.draw(st.sampled_from([b"", b"zhello\0\1", b"zhello\0\0", b"\x01", b"\x11"]))
        events += peer.receive(frame(start + payload))
    violations = [event for event in events if isinstance(event, Violated)]
    assert violations == ([events[-1]] if violations else [])


@pytest.mark.parametrize(
    "info",
    [{"length": 1.5, "size": 2}, {"length": 1}, {"length": 1, "size": 2, "name": "x"},
     {"length": -1, "size": 2}],
)  # fmt: skip
def test_a_size_that_is_no_two_numbers_is_said_before_the_answer(info: dict[str, Any]) -> None:
    codec = make_codec(Coding.OWN, SERVER_REQUESTS, DEFAULT_LIMITS)
    assert codec.committed(7, TID, info) == codec.notice(m.Info(info)) + codec.reply(7, TID)


def test_a_size_that_is_not_known_is_not_said() -> None:
    codec = make_codec(Coding.OWN, SERVER_REQUESTS, DEFAULT_LIMITS)
    assert codec.committed(7, TID, None) == codec.reply(7, TID)

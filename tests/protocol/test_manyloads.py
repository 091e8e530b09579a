"""Many loads in one message: both ways, against their limits, and any bytes."""

from __future__ import annotations

import struct
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zeolith.errors import MessageTooLarge, UndecodableMessage
from zeolith.protocol.additions import OWN_CLIENT_REQUESTS, OWN_SERVER_REQUESTS
from zeolith.protocol.codec import Codec
from zeolith.protocol.codecs import make_codec
from zeolith.protocol.framing import HEADER_SIZE, FrameReader, frame
from zeolith.protocol.greeting import Coding
from zeolith.protocol.hello import Introduction, serialize_introduction
from zeolith.protocol.layouts import LOAD_MANY, LOADED_MANY
from zeolith.protocol.limits import DEFAULT_LIMITS, MAX_LOADS
from zeolith.protocol.loadrequests import LoadedMany, LoadMany, Record
from zeolith.protocol.manyloads import LOADED_MANY_SIZE, RECORD_SIZE, room_for_records
from zeolith.protocol.messages import SERVER_REQUESTS, Call, LoadBefore, Notice
from zeolith.protocol.own import OwnCodec
from zeolith.protocol.peers import ClientPeer, ServerPeer, Violated

OID, TID, END = b"\0" * 7 + b"\x2a", b"\3" * 8, b"\4" * 8
SERVER, CLIENT = (
    OwnCodec(forms, DEFAULT_LIMITS) for forms in (OWN_SERVER_REQUESTS, OWN_CLIENT_REQUESTS)
)


def oid_of(number: int) -> bytes:
    return number.to_bytes(8, "big")


ids = st.binary(min_size=8, max_size=8)
records = st.lists(
    st.tuples(ids, ids, st.none() | ids.filter(any), st.binary(max_size=50)), min_size=1
)


@given(ids, records)
def test_answers_round_trip(tid: bytes, some: list[Record]) -> None:
    data = SERVER.notice(LoadedMany(tid, some))
    assert data == frame(data[HEADER_SIZE:])
    assert CLIENT.decode(data[HEADER_SIZE:]) == Notice(LoadedMany(tid, some))


@given(ids, st.lists(ids, min_size=1, max_size=100))
def test_questions_round_trip(tid: bytes, oids: list[bytes]) -> None:
    data = CLIENT.notice(LoadMany(tid, oids))
    assert data == frame(data[HEADER_SIZE:])
    assert SERVER.decode(data[HEADER_SIZE:]) == Notice(LoadMany(tid, tuple(oids)))


def asked(codec: Codec, data: bytes) -> list[tuple[bytes, bytes]]:
    """Return what a server makes of *data*: (oid, tid) pairs."""
    found = []
    for payload in FrameReader(1 << 30).feed(data):
        message = codec.decode(payload)
        request = message[-1]  # type: ignore[misc]
        if isinstance(request, LoadMany):
            found += [(oid, request.tid) for oid in request.oids]
        else:
            assert isinstance(request, LoadBefore)
            assert isinstance(message, Call)
            assert message.msgid == tuple(request)
            found.append((request.oid, request.tid))
    return found


@pytest.mark.parametrize("coding", list(Coding))
@pytest.mark.parametrize("count", [1, 2, MAX_LOADS, MAX_LOADS + 1, 3 * MAX_LOADS])
def test_as_many_messages_as_it_takes(coding: Coding, count: int) -> None:
    forms = OWN_SERVER_REQUESTS if coding is Coding.OWN else SERVER_REQUESTS
    codec = make_codec(coding, forms, DEFAULT_LIMITS)
    oids = [oid_of(number) for number in range(count)]
    data = codec.load_many(oids, TID)
    assert asked(codec, data) == [(oid, TID) for oid in oids]
    if coding is Coding.OWN:
        assert len(FrameReader(1 << 20).feed(data)) == -(-count // MAX_LOADS)


def test_what_a_server_takes_at_once_is_kept() -> None:
    codec = OwnCodec(OWN_SERVER_REQUESTS, DEFAULT_LIMITS, max_payload=1_024)
    oids = [oid_of(number) for number in range(1_000)]
    payloads = FrameReader(1_024).feed(codec.load_many(oids, TID))
    assert len(payloads) == 8
    assert asked(codec, b"".join(map(frame, payloads))) == [(oid, TID) for oid in oids]


@pytest.mark.parametrize("count", [0, MAX_LOADS + 1])
def test_what_cannot_be_sent(count: int) -> None:
    with pytest.raises(ValueError, match="at once"):
        CLIENT.notice(LoadMany(TID, [OID] * count))
    with pytest.raises(ValueError, match="in one message"):
        SERVER.notice(LoadedMany(TID, [(OID, TID, None, b"")] * count))
    with pytest.raises(ValueError, match="ids of 8 bytes"):
        CLIENT.notice(LoadMany(TID, [b"short"]))
    with pytest.raises(ValueError, match="no id"):
        CLIENT.notice(LoadMany(b"short", [OID]))


def test_the_client_s_limit_is_kept() -> None:
    codec = OwnCodec(OWN_CLIENT_REQUESTS, DEFAULT_LIMITS, max_payload=1_024)
    room = room_for_records(codec.max_payload)
    data = bytes(room - RECORD_SIZE)
    assert len(codec.notice(LoadedMany(TID, [(OID, TID, None, data)]))) == HEADER_SIZE + 1_024
    with pytest.raises(MessageTooLarge, match="limit is 1024"):
        codec.notice(LoadedMany(TID, [(OID, TID, None, data + b"x")]))
    assert room_for_records(1 << 30) == room_for_records(LOADED_MANY_SIZE)


HEAD = bytes([LOADED_MANY]) + TID
ASK = bytes([LOAD_MANY]) + TID


def record(size: int, data: bytes = b"") -> bytes:
    return OID + TID + bytes(8) + struct.pack(">I", size) + data


@pytest.mark.parametrize(
    "payload",
    [
        ASK[:1], ASK[:8], ASK, ASK + b"x", ASK + OID + b"x", ASK + OID * (MAX_LOADS + 1),
        HEAD[:1], HEAD[:8], HEAD, HEAD + b"x", HEAD + record(0)[:-1],
        HEAD + record(1), HEAD + record(0xFFFFFFFF), HEAD + record(4, b"data") + b"x",
        HEAD + record(4, b"data") + record(1)[:20], HEAD + record(4, b"data") + record(9, b"x"),
        HEAD + record(0) * (MAX_LOADS + 1),
    ],
)  # fmt: skip
def test_hostile_counts_and_lengths_are_refused(payload: bytes) -> None:
    codec = SERVER if payload[0] == LOAD_MANY else CLIENT
    with pytest.raises(UndecodableMessage):
        codec.decode(payload)


def test_the_largest_are_taken() -> None:
    message = SERVER.decode(ASK + OID * MAX_LOADS)
    assert message == Notice(LoadMany(TID, (OID,) * MAX_LOADS))
    message = CLIENT.decode(HEAD + record(0) * MAX_LOADS)
    assert message == Notice(LoadedMany(TID, [(OID, TID, None, b"")] * MAX_LOADS))


@pytest.mark.parametrize("payload", [ASK + OID * 500_000, HEAD + record(0) * 200_000])
def test_too_many_are_refused_before_they_take_memory(payload: bytes) -> None:
    codec = SERVER if payload[0] == LOAD_MANY else CLIENT
    tracemalloc.start()
    try:
        with pytest.raises(UndecodableMessage):
            codec.decode(payload)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2_000_000  # 4,096 records; all of them would take ten times as much


@given(st.sampled_from([ASK, HEAD]), st.binary(max_size=300))
def test_any_bytes_are_a_message_or_refused(head: bytes, rest: bytes) -> None:
    for codec in (SERVER, CLIENT):
        try:
            message = codec.decode(head + rest)
        except UndecodableMessage:
            continue
        assert isinstance(message, Notice)


def test_nothing_of_this_before_the_client_is_admitted() -> None:
    introduction = serialize_introduction(Introduction(1, 1 << 20, "test"))
    server = ServerPeer(Coding.MSGPACK)
    server.receive(frame(introduction))
    (event,) = server.receive(CLIENT.notice(LoadMany(TID, [OID])))
    assert isinstance(event, Violated)
    client = ClientPeer()
    client.receive(ServerPeer(Coding.MSGPACK).greeting())
    client.hello(Coding.OWN)
    client.receive(frame(introduction))
    (event,) = client.receive(SERVER.notice(LoadedMany(TID, [(OID, TID, None, b"")])))
    assert isinstance(event, Violated)


@pytest.mark.parametrize("coding", [Coding.PICKLE, Coding.MSGPACK])
def test_zeo_s_codings_know_nothing_of_it(coding: Coding) -> None:
    codec = make_codec(coding, SERVER_REQUESTS, DEFAULT_LIMITS)
    assert "load_many" not in SERVER_REQUESTS
    with pytest.raises(KeyError):
        codec.notice(LoadMany(TID, [OID]))

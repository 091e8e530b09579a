"""What holds for every value, every way to cut a stream, and every damaged message."""

from __future__ import annotations

import pickle
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.wire_cases import CASES, serialize
from ZEO.asyncio.marshal import encode, encoder

from zeolith.errors import (
    FrameTooLarge,
    IllegalMessage,
    IncompatiblePeer,
    UndecodableMessage,
)
from zeolith.protocol import msgpacks, pickles
from zeolith.protocol.codecs import make_codec
from zeolith.protocol.framing import HEADER_SIZE
from zeolith.protocol.greeting import ZEO_CODINGS, Coding
from zeolith.protocol.limits import DEFAULT_LIMITS, Limits
from zeolith.protocol.messages import CLIENT_REQUESTS, SERVER_REQUESTS, Reply
from zeolith.protocol.peers import ClientPeer, ServerPeer, Violated
from zeolith.protocol.values import is_plain

PERMITTED = (UndecodableMessage, IllegalMessage, FrameTooLarge, IncompatiblePeer)
"""All that may come out of the protocol core, whatever a peer sends."""

texts = st.text(max_size=20)
small = st.integers(-(2**63), 2**64 - 1)
atoms = st.one_of(
    st.none(), st.booleans(), small, st.floats(allow_nan=False), texts, st.binary(max_size=300)
)


def plain(keys: st.SearchStrategy[Any], numbers: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.recursive(
        atoms | numbers,
        lambda inner: st.one_of(
            st.lists(inner, max_size=5),
            st.lists(inner, max_size=5).map(tuple),
            st.dictionaries(keys, inner, max_size=5),
        ),
        max_leaves=25,
    )


any_keys = st.one_of(texts, st.binary(max_size=9), st.integers(), st.tuples(st.integers(), texts))
pickled_values = plain(any_keys, st.integers(-(2**500), 2**500))
packed_values = plain(st.one_of(texts, st.binary(max_size=9), small), st.nothing())


def with_tuples(value: Any) -> Any:
    """Return *value* with tuples for lists."""
    if isinstance(value, list | tuple):
        return tuple(map(with_tuples, value))
    if isinstance(value, dict):
        return {key: with_tuples(item) for key, item in value.items()}
    return value


@given(pickled_values)
def test_pickle_round_trip_is_that_of_zeo(value: Any) -> None:
    payload = pickles.dumps((value,))
    assert payload == encode(value)
    found = pickles.loads(payload, DEFAULT_LIMITS)
    assert repr(found) == repr((value,))


@given(pickled_values, st.sampled_from([2, 3, 4, 5]))
def test_python_s_pickles_are_read(value: Any, protocol: int) -> None:
    found = pickles.loads(pickle.dumps(value, protocol), DEFAULT_LIMITS)
    assert repr(found) == repr(value)


@given(packed_values)
def test_msgpack_round_trip_is_that_of_zeo(value: Any) -> None:
    payload = msgpacks.dumps((value,))
    assert payload == encoder(b"M")(value)
    assert repr(msgpacks.loads(payload, DEFAULT_LIMITS)) == repr((with_tuples(value),))


@given(st.binary(max_size=200))
def test_any_bytes_are_a_pickle_or_undecodable(noise: bytes) -> None:
    for payload in (noise, b"\x80\x03" + noise, b"\x80\x04" + noise + b"."):
        try:
            pickles.loads(payload, DEFAULT_LIMITS)
        except UndecodableMessage:
            pass


_bits = st.sampled_from(
    [
        *(b"(", b")", b"]", b"}", b"\x8f", b"t", b"e", b"u", b"a", b"s", b"\x85", b"\x86", b"\x87"),
        *(
            b"\x90",
            b"\x91",
            b"R",
            b"\x81",
            b"b",
            b"N",
            b"K\x01",
            b"C\x01x",
            b"X\x01\0\0\0k",
            b"q\0",
        ),
        *(b"h\0", b"\x94", b"M\0\1", b"\x8a\x01\x05", b"\x8c\x01s", b"\x93", b"cbuiltins\ndict\n"),
        *(b"cbuiltins\nset\n", b"cbuiltins\nKeyError\n", b"cZopeUndo.Prefix\nPrefix\n"),
        *(b"cZODB.POSException\n_recon\n", b"G" + b"\x7f\xf8" + b"\0" * 6, b"\x95" + b"\0" * 8),
    ]
)


@settings(max_examples=1_000)
@given(st.lists(_bits, max_size=25))
def test_any_sequence_of_opcodes_is_a_value_or_undecodable(bits: list[bytes]) -> None:
    payload = b"\x80\x04" + b"".join(bits) + b"."
    try:
        value = pickles.loads(payload, Limits(max_depth=6))
    except UndecodableMessage:
        return
    assert height(value) <= 6


def height(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(height, [*value, *value.values()]), default=0)
    if isinstance(value, list | tuple | set | frozenset):
        return 1 + max(map(height, value), default=0)
    return 0


@given(st.binary(max_size=200))
def test_any_bytes_are_msgpack_or_undecodable(payload: bytes) -> None:
    """What is accepted is what the library alone makes of it."""
    try:
        value = msgpacks.loads(payload, DEFAULT_LIMITS)
    except UndecodableMessage:
        return
    expected = msgpack.unpackb(payload, raw=False, use_list=False, strict_map_key=False)
    assert repr(value) == repr(expected)
    assert is_plain(value)


# -- damaged messages --------------------------------------------------------------------------

MUTATIONS = ("flip", "insert", "delete", "repeat", "cut", "swap")


def mutate(payload: bytes, kind: str, at: int, extra: bytes) -> bytes:
    at %= len(payload) + 1
    match kind:
        case "flip":
            return (
                payload[:at]
                + bytes(255 - byte for byte in payload[at : at + 1])
                + payload[at + 1 :]
            )
        case "insert":
            return payload[:at] + extra + payload[at:]
        case "delete":
            return payload[:at] + payload[at + len(extra) + 1 :]
        case "repeat":
            return payload[:at] + payload[at : at + 9] * (len(extra) + 2) + payload[at + 9 :]
        case "cut":
            return payload[:at]
        case _:
            return payload[:at] + extra + payload[at + len(extra) :]


mutations = st.lists(
    st.tuples(st.sampled_from(MUTATIONS), st.integers(0, 400), st.binary(max_size=6)),
    min_size=1,
    max_size=4,
)
_SMALL = [case for case in CASES if len(repr(case.wire)) < 3_000]


@settings(max_examples=600)
@given(st.sampled_from(ZEO_CODINGS), st.sampled_from(_SMALL), mutations)
def test_damaged_messages_raise_only_what_is_permitted(
    coding: Coding, case: Any, damage: list[tuple[str, int, bytes]]
) -> None:
    payload = encoder(coding.value)(*case.wire)
    for kind, at, extra in damage:
        payload = mutate(payload, kind, at, extra)
    for forms in (SERVER_REQUESTS, CLIENT_REQUESTS):
        codec = make_codec(coding, forms, DEFAULT_LIMITS)
        try:
            message = codec.decode(payload)
        except PERMITTED:
            continue
        if isinstance(message, Reply):
            hash(message.msgid)
            # Whatever id was accepted can be echoed.
            assert codec.reply(message.msgid, None)


@settings(max_examples=300)
@given(st.sampled_from(ZEO_CODINGS), st.lists(st.sampled_from(_SMALL), max_size=6), st.data())
def test_damaged_streams_end_with_one_violation(
    coding: Coding, cases: list[Any], data: st.DataObject
) -> None:
    limits = Limits(max_message_size=5_000)
    server, client = ServerPeer(coding, limits), ClientPeer(limits)
    client.receive(server.greeting())
    server.receive(client.hello(coding))
    server.registered()
    client.registered()
    for peer in (server, client):
        assert peer.codec is not None
        stream = b"".join(serialize(peer.codec, case.message) for case in cases)
        for kind, at, extra in data.draw(mutations):
            stream = mutate(stream, kind, at, extra)
        whole: list[Any] = []
        while stream:
            size = data.draw(st.integers(1, 500))
            whole += peer.receive(stream[:size])
            stream = stream[size:]
        violations = [event for event in whole if isinstance(event, Violated)]
        assert violations == ([whole[-1]] if violations else [])
        for violation in violations:
            assert isinstance(violation.error, PERMITTED)
            assert peer.receive(b"more") == []


@pytest.mark.parametrize("coding", list(ZEO_CODINGS))
@given(st.data())
def test_chunks_make_no_difference(coding: Coding, data: st.DataObject) -> None:
    codec = make_codec(coding, SERVER_REQUESTS, DEFAULT_LIMITS)
    cases = data.draw(st.lists(st.sampled_from(_SMALL), max_size=5))
    frames = [serialize(codec, case.message) for case in cases if case.receiver == "server"]
    stream = b"".join(frames)
    outcomes = []
    for sizes in (st.just(len(stream) + 1), st.just(1), st.integers(1, 60)):
        server, client = ServerPeer(coding), ClientPeer()
        client.receive(server.greeting())
        server.receive(client.hello(coding))
        server.registered()
        events: list[Any] = []
        at = 0
        while at < len(stream):
            size = data.draw(sizes)
            events += server.receive(stream[at : at + size])
            at += size
        outcomes.append([repr(event) for event in events])
    assert outcomes[0] == outcomes[1] == outcomes[2]
    assert len(stream) == sum(map(len, frames))
    assert all(len(frame) > HEADER_SIZE for frame in frames)

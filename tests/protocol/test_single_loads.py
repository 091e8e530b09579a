"""A load that comes alone is received without events; it must mean what the general way says."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from zeolith.protocol.framing import frame
from zeolith.protocol.greeting import Coding
from zeolith.protocol.limits import Limits
from zeolith.protocol.messages import Call, LoadBefore, Ping, Reply
from zeolith.protocol.peers import ClientPeer, Phase, ServerPeer, Violated

ids = st.binary(min_size=8, max_size=8)
records = st.one_of(
    st.binary(max_size=300), st.sampled_from([254, 255, 256, 65_535, 65_536]).map(bytes)
)
revisions = st.tuples(records, ids, st.none() | ids)
codings = st.sampled_from(Coding)

OID, TID = b"\0" * 7 + b"\5", b"\3" * 8


def connect(coding: Coding, limits: Limits | None = None) -> tuple[ServerPeer, ClientPeer]:
    server = ServerPeer(coding)
    client = ClientPeer() if limits is None else ClientPeer(limits)
    client.receive(server.greeting())
    server.receive(client.hello(coding))
    if coding is Coding.OWN:
        client.receive(server.welcome())
    server.registered()
    client.registered()
    return server, client


@given(codings, ids, ids)
def test_a_single_call_is_received_as_the_event_would_be(
    coding: Coding, oid: bytes, tid: bytes
) -> None:
    server, client = connect(coding)
    assert client.codec is not None
    data = client.codec.load_before(oid, tid)
    assert server.receive_load(data) == (oid, tid)
    assert server.receive(data) == [Call(LoadBefore(oid, tid), LoadBefore(oid, tid))]


@given(codings, ids, ids, revisions)
@example(Coding.PICKLE, OID, TID, (b"", TID, None))
@example(Coding.MSGPACK, OID, TID, (b"x" * 70_000, TID, TID))
def test_a_single_answer_is_received_as_the_event_would_be(
    coding: Coding, oid: bytes, tid: bytes, revision: tuple[bytes, bytes, bytes | None]
) -> None:
    server, client = connect(coding)
    assert server.codec is not None
    data = server.codec.loaded((oid, tid), *revision)
    found = client.receive_loaded(data)
    # What the layout does not cover goes the general way; whatever it covers is the same.
    assert found in (None, ((oid, tid), revision))
    assert found is not None or len(revision[0]) < 10
    assert client.receive(data) == [Reply((oid, tid), revision)]


def _mutations(data: bytes) -> st.SearchStrategy[bytes]:
    places = st.integers(0, len(data) - 1)
    changed = st.tuples(places, st.integers(1, 255)).map(
        lambda c: data[: c[0]] + bytes([data[c[0]] ^ c[1]]) + data[c[0] + 1 :]
    )
    cut = places.map(lambda place: data[:place])
    longer = st.binary(min_size=1, max_size=90).map(lambda more: data + more)
    return st.one_of(changed, cut, longer)


@given(codings, st.data())
def test_a_damaged_call_never_passes_for_another(coding: Coding, draw: st.DataObject) -> None:
    server, client = connect(coding)
    assert client.codec is not None
    data = draw.draw(_mutations(client.codec.load_before(OID, TID)))
    found = server.receive_load(data)
    if found is not None:
        assert server.receive(data) == [Call(LoadBefore(*found), LoadBefore(*found))]


@given(codings, revisions, st.data())
def test_a_damaged_answer_never_passes_for_another(
    coding: Coding, revision: tuple[bytes, bytes, bytes | None], draw: st.DataObject
) -> None:
    server, client = connect(coding)
    assert server.codec is not None
    data = draw.draw(_mutations(server.codec.loaded((OID, TID), *revision)))
    found = client.receive_loaded(data)
    if found is not None:
        assert client.receive(data) == [Reply(*found)]


@pytest.mark.parametrize("coding", Coding)
def test_bytes_behind_an_incomplete_frame_are_part_of_it(coding: Coding) -> None:
    server, client = connect(coding)
    assert client.codec is not None
    assert server.codec is not None
    load = client.codec.load_before(OID, TID)
    ping = client.codec.call(1, Ping())
    assert server.receive(ping[:3]) == []
    assert server.receive_load(load) is None
    answer = server.codec.loaded((OID, TID), b"data of the object", TID, None)
    assert client.receive(answer[:5]) == []
    assert client.receive_loaded(answer) is None


@pytest.mark.parametrize("coding", Coding)
def test_two_messages_at_once_are_events(coding: Coding) -> None:
    server, client = connect(coding)
    assert client.codec is not None
    assert server.codec is not None
    load = client.codec.load_before(OID, TID)
    assert server.receive_load(load + load) is None
    assert len(server.receive(load + load)) == 2
    answer = server.codec.loaded((OID, TID), b"data of the object", TID, None)
    assert client.receive_loaded(answer + answer) is None
    assert len(client.receive(answer + answer)) == 2


@pytest.mark.parametrize("coding", Coding)
def test_nothing_is_loaded_before_registration_or_after_a_violation(coding: Coding) -> None:
    server = ServerPeer(coding)
    client = ClientPeer()
    client.receive(server.greeting())
    hello = client.hello(coding)
    assert client.codec is not None
    load = client.codec.load_before(OID, TID)
    assert server.receive_load(load) is None
    server.receive(hello)
    assert server.receive_load(load) is None
    server.registered()
    assert server.receive_load(load) == (OID, TID)
    assert isinstance(server.receive(frame(b"nonsense"))[-1], Violated)
    assert server.phase is Phase.CLOSED
    assert server.receive_load(load) is None


@pytest.mark.parametrize("coding", Coding)
def test_an_answer_above_the_limit_is_not_received(coding: Coding) -> None:
    server, client = connect(coding, Limits(max_message_size=2_000))
    assert server.codec is not None
    small = server.codec.loaded((OID, TID), bytes(1_900), TID, None)
    server.codec.max_payload = 3_000  # a server that does not care
    large = server.codec.loaded((OID, TID), bytes(2_000), TID, None)
    assert client.receive_loaded(small) is not None
    assert client.receive_loaded(large) is None
    assert isinstance(client.receive(large)[-1], Violated)

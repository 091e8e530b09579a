"""The fixed layout of ``storea`` means what the general coding of it means."""

from __future__ import annotations

import pickle
from typing import Any

import msgpack
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from zeolith.errors import ProtocolViolation
from zeolith.protocol import msgpacks, pickles
from zeolith.protocol.codec import Codec, ZeoCodec
from zeolith.protocol.codecs import make_codec
from zeolith.protocol.framing import HEADER_SIZE, frame
from zeolith.protocol.greeting import ZEO_CODINGS, Coding
from zeolith.protocol.limits import DEFAULT_LIMITS
from zeolith.protocol.messages import SERVER_REQUESTS, Notice, Store
from zeolith.protocol.stores import msgpack_store, pickle_store, unpack_store, unpickle_store

CODECS = {
    coding: make_codec(coding, SERVER_REQUESTS, DEFAULT_LIMITS)  # checked by every test below
    for coding in ZEO_CODINGS
}
WRITERS = {Coding.PICKLE: pickle_store, Coding.MSGPACK: msgpack_store}
READERS = {Coding.PICKLE: unpickle_store, Coding.MSGPACK: unpack_store}
DUMPS = {Coding.PICKLE: pickles.dumps, Coding.MSGPACK: msgpacks.dumps}

ids = st.binary(min_size=8, max_size=8)
records = st.one_of(
    st.binary(max_size=300), st.sampled_from([254, 255, 256, 65_535, 65_536]).map(bytes)
)
txns = st.one_of(
    st.sampled_from([0, 127, 128, 255, 256, 65_535, 65_536, 2**31 - 1, 2**31, 2**63 - 1]),
    st.integers(0, 2**63 - 1),
)
stores = st.builds(Store, ids, ids, records, txns)
codings = st.sampled_from(ZEO_CODINGS)


def written_by_a_peer(coding: Coding, request: Store) -> bytes:
    """The payload as a peer's library writes it."""
    message: Any = (0, True, "storea", tuple(request))
    if coding is Coding.MSGPACK:
        packed: bytes = msgpack.packb(message, use_bin_type=True)
        return packed
    return DUMPS[coding](message)


def decode(codec: Codec, payload: bytes) -> object:
    """What the general way makes of *payload*."""
    try:
        assert isinstance(codec, ZeoCodec)
        return ZeoCodec.decode(codec, payload)
    except ProtocolViolation as error:
        return type(error)


@given(codings, stores)
def test_what_peers_write_is_read_in_the_layout(coding: Coding, request: Store) -> None:
    payload = written_by_a_peer(coding, request)
    if len(request.data) >= 5:  # anything shorter may be left to the general way
        assert READERS[coding](payload) == request
    assert CODECS[coding].decode(payload) == Notice(request)
    assert decode(CODECS[coding], payload) == Notice(request)


@given(codings, stores)
def test_what_we_write_is_what_peers_write(coding: Coding, request: Store) -> None:
    expected = frame(written_by_a_peer(coding, request))
    assert CODECS[coding].notice(request) == expected
    assert WRITERS[coding](request) in (expected, None)
    assert (WRITERS[coding](request) is not None) == (request.txn < 65_536)


@pytest.mark.parametrize("coding", ZEO_CODINGS)
@pytest.mark.parametrize(
    "request_",
    [
        Store(b"\0" * 8, None, b"record", 1),
        Store(b"\0" * 7, b"\0" * 8, b"record", 1),
        Store(b"\0" * 8, b"\0" * 9, b"record", 1),
        Store(b"\0" * 8, b"\0" * 8, b"record", -1),
        Store(b"\0" * 8, b"\0" * 8, b"record", True),
    ],
)
def test_what_does_not_fit_is_written_in_the_general_way(coding: Coding, request_: Store) -> None:
    assert WRITERS[coding](request_) is None
    assert CODECS[coding].notice(request_) == frame(written_by_a_peer(coding, request_))


@given(codings, stores, st.data())
@example(Coding.PICKLE, Store(b"\0" * 8, b"\0" * 8, b"", 0), None)
def test_a_damaged_store_is_never_read_as_another(
    coding: Coding, request: Store, draw: st.DataObject | None
) -> None:
    payload = CODECS[coding].notice(request)[HEADER_SIZE:]
    if draw is not None:
        place = draw.draw(st.integers(0, len(payload) - 1))
        kind = draw.draw(st.sampled_from(["change", "cut", "append"]))
        if kind == "change":
            byte = draw.draw(st.integers(0, 255))
            payload = payload[:place] + bytes([byte]) + payload[place + 1 :]
        elif kind == "cut":
            payload = payload[:place]
        else:
            payload += draw.draw(st.binary(min_size=1, max_size=9))
    found = READERS[coding](payload)
    if found is not None:
        assert decode(CODECS[coding], payload) == Notice(found)


def test_python_reads_the_pickle_layout() -> None:
    request = Store(b"\1" * 8, b"\2" * 8, b"x" * 300, 700)
    payload = pickle_store(request)
    assert payload is not None
    assert pickle.loads(payload[HEADER_SIZE:]) == (0, True, "storea", tuple(request))

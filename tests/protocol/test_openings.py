"""What opens a short blob, and what sends it: the same as the codec reads and writes."""

from __future__ import annotations

import random

import msgpack
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from zeolith.errors import ProtocolViolation
from zeolith.protocol import own
from zeolith.protocol.additions import OWN_SERVER_REQUESTS
from zeolith.protocol.checksums import DIGEST_SIZE
from zeolith.protocol.limits import (
    DEFAULT_LIMITS,
    FIRST_UPLOAD,
    MAX_STREAM_CREDIT,
    STREAM_FRAME,
)
from zeolith.protocol.messages import Call, Message
from zeolith.protocol.openings import OVERHEAD, parse_opening, serialize_whole
from zeolith.protocol.own import OwnCodec
from zeolith.protocol.streamrequests import OpenBlob, StreamData, StreamEnd

OID, TID = b"objectid", b"transact"
CODEC = OwnCodec(OWN_SERVER_REQUESTS, DEFAULT_LIMITS)

GOOD = [
    OpenBlob(0, OID, TID, 0, 0),
    OpenBlob(200, OID, TID, 70_000, 65_536),
    OpenBlob(FIRST_UPLOAD - 1, bytes(8), b"\xff" * 8, (1 << 63) - 1, MAX_STREAM_CREDIT),
]


def pack(*values: object) -> bytes:
    body: bytes = msgpack.packb(values, use_bin_type=True)
    return body


def without(monkeypatch: pytest.MonkeyPatch, payload: bytes) -> Message:
    """Decode as other requests are."""
    with monkeypatch.context() as patch:
        patch.setattr(own, "parse_opening", lambda body: None)
        return CODEC.decode(payload)


@pytest.mark.parametrize("request_", GOOD, ids=["least", "some", "most"])
def test_it_is_read_as_other_requests_are(
    request_: OpenBlob, monkeypatch: pytest.MonkeyPatch
) -> None:
    payload = CODEC.call(77, request_)[4:]
    assert parse_opening(payload[10:]) == request_
    found = CODEC.decode(payload)
    assert found == Call(77, request_) == without(monkeypatch, payload)
    assert type(found) is Call
    assert type(found.request) is OpenBlob


BAD = {
    "stream": pack(FIRST_UPLOAD, OID, TID, 0, 0),
    "negative stream": pack(-1, OID, TID, 0, 0),
    "bool": pack(True, OID, TID, 0, 0),
    "text": pack(0, "objectid", TID, 0, 0),
    "oid": pack(0, OID + b"x", TID, 0, 0),
    "serial": pack(0, OID, TID[:-1], 0, 0),
    "no serial": pack(0, OID, None, 0, 0),
    "offset": pack(0, OID, TID, 1 << 63, 0),
    "negative offset": pack(0, OID, TID, -1, 0),
    "float": pack(0, OID, TID, 0.0, 0),
    "credit": pack(0, OID, TID, 0, MAX_STREAM_CREDIT + 1),
    "negative credit": pack(0, OID, TID, 0, -1),
    "float credit": pack(0, OID, TID, 0, 1.0),
    "four": pack(0, OID, TID, 0),
    "more": pack(0, OID, TID, 0, 0) + b"x",
    "less": pack(0, OID, TID, 0, 0)[:-1],
    "nothing": b"",
    "no key": b"\x95\x81\x80\x00" + pack(0, 0, 0, 0)[1:],
    "many": b"\x95" + b"\xdd\xff\xff\xff\xff" * 8,
    "deep": b"\x95" + b"\x91" * 46,
}


@pytest.mark.parametrize("body", BAD.values(), ids=BAD)
def test_what_is_wrong_is_left_to_the_codec(body: bytes) -> None:
    assert parse_opening(body) is None
    call = CODEC.call(7, GOOD[0])[4:14] + body
    with pytest.raises(ProtocolViolation):
        CODEC.decode(call)


@given(st.binary(max_size=48))
@example(pack(*GOOD[1]))
@example(pack(*GOOD[1])[:-1] + b"\x01")
def test_nothing_is_taken_that_the_codec_refuses(tail: bytes) -> None:
    body = tail if tail[:1] == b"\x95" else b"\x95" + tail
    found = parse_opening(body)
    if found is not None:
        assert CODEC._parse(own._OPEN_BLOB, False, body) == found


def test_damage_is_no_opening_but_another_one() -> None:
    """Each byte changed: what is still taken is what the codec makes of it."""
    lot = random.Random(3)
    good = pack(*GOOD[1])
    for at in range(len(good)):
        for _ in range(8):
            body = good[:at] + lot.randbytes(1) + good[at + 1 :]
            found = parse_opening(body)
            if found is None:
                continue
            assert CODEC._parse(own._OPEN_BLOB, False, body) == found


@pytest.mark.parametrize("size", [1, 300, STREAM_FRAME, 65_536])
def test_what_is_sent_is_three_messages(size: int) -> None:
    data, checksum = bytes(size), bytes(range(DIGEST_SIZE))
    sent = serialize_whole(77, 5, memoryview(data), checksum)
    # A number may have more bytes than it needs, which is no difference to who reads it.
    answer = sent[: 4 + int.from_bytes(sent[:4], "big")]
    assert CODEC.decode(answer[4:]) == (77, {"size": size})
    rest = CODEC.notice(StreamData(5, data)) + CODEC.notice(StreamEnd(5, checksum))
    assert sent == answer + rest
    assert len(answer) <= OVERHEAD
    assert len(CODEC.notice(StreamEnd(5, checksum))) - 4 <= OVERHEAD

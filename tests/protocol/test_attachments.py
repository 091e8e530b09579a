"""What ties an upload to a transaction: the same as the codec reads."""

from __future__ import annotations

import random
from typing import Any

import msgpack
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from zeolith.errors import ProtocolViolation
from zeolith.protocol import own
from zeolith.protocol.additions import OWN_SERVER_REQUESTS
from zeolith.protocol.attachments import parse_attachment
from zeolith.protocol.limits import DEFAULT_LIMITS, FIRST_UPLOAD, MAX_STREAM_NUMBER
from zeolith.protocol.messages import Notice
from zeolith.protocol.own import OwnCodec
from zeolith.protocol.streamrequests import AttachBlob

OID, TID, SUM = b"objectid", b"transact", bytes(range(32))
CODEC = OwnCodec(OWN_SERVER_REQUESTS, DEFAULT_LIMITS)
NUMBER = FIRST_UPLOAD + 7

GOOD = {
    "least": AttachBlob(FIRST_UPLOAD, bytes(8), None, b"", 0, 0, bytes(32)),
    "some": AttachBlob(NUMBER, OID, TID, b"record", 77, 50_000, SUM),
    "most": AttachBlob(
        MAX_STREAM_NUMBER, b"\xff" * 8, TID, bytes(65_535), (1 << 63) - 1, (1 << 63) - 1, SUM
    ),
    "255": AttachBlob(NUMBER, OID, None, bytes(255), -1, 300, SUM),
    "256": AttachBlob(NUMBER, OID, None, bytes(256), -(1 << 40), 70_000, SUM),
}

OTHER = {
    "long record": AttachBlob(NUMBER, OID, None, bytes(65_536), 1, 1, SUM),
    "no checksum": AttachBlob(NUMBER, OID, TID, b"record", 77, 50_000),
}


def pack(*values: object) -> bytes:
    body: bytes = msgpack.packb(values, use_bin_type=True)
    return body


def generic(body: bytes) -> Any:
    return CODEC._parse(own._ATTACH_BLOB, True, body)


@pytest.mark.parametrize("request_", GOOD.values(), ids=GOOD)
def test_it_is_read_as_other_requests_are(request_: AttachBlob) -> None:
    payload = CODEC.notice(request_)[4:]
    assert parse_attachment(payload[2:]) == request_ == generic(payload[2:])
    found = CODEC.decode(payload)
    assert found == Notice(request_)
    assert type(found) is Notice
    assert type(found.request) is AttachBlob


@pytest.mark.parametrize("request_", OTHER.values(), ids=OTHER)
def test_what_is_not_as_mostly_is_left_to_the_codec(request_: AttachBlob) -> None:
    payload = CODEC.notice(request_)[4:]
    assert parse_attachment(payload[2:]) is None
    assert CODEC.decode(payload) == Notice(request_)


BAD = {
    "stream": pack(FIRST_UPLOAD - 1, OID, TID, b"", 0, 0, SUM),
    "no number": pack(1 << 32, OID, TID, b"", 0, 0, SUM),
    "text": pack(NUMBER, "objectid", TID, b"", 0, 0, SUM),
    "oid": pack(NUMBER, OID + b"x", TID, b"", 0, 0, SUM),
    "serial": pack(NUMBER, OID, TID[:-1], b"", 0, 0, SUM),
    "record": pack(NUMBER, OID, TID, "text", 0, 0, SUM),
    "txn": pack(NUMBER, OID, TID, b"", None, 0, SUM),
    "bool": pack(NUMBER, OID, TID, b"", True, 0, SUM),
    "size": pack(NUMBER, OID, TID, b"", 0, -1, SUM),
    "great size": pack(NUMBER, OID, TID, b"", 0, 1 << 63, SUM),
    "float": pack(NUMBER, OID, TID, b"", 0, 1.0, SUM),
    "checksum": pack(NUMBER, OID, TID, b"", 0, 0, SUM[:-1]),
    "more": pack(NUMBER, OID, TID, b"", 0, 0, SUM) + b"x",
    "less": pack(NUMBER, OID, TID, b"", 0, 0, SUM)[:-1],
    "eight": pack(NUMBER, OID, TID, b"", 0, 0, SUM, 0),
    "one number": pack(NUMBER, OID, TID, b"", 0, SUM, SUM),
    "nothing": b"",
}


@pytest.mark.parametrize("body", BAD.values(), ids=BAD)
def test_what_is_wrong_is_left_to_the_codec(body: bytes) -> None:
    assert parse_attachment(body) is None
    with pytest.raises(ProtocolViolation):
        CODEC.decode(CODEC.notice(GOOD["some"])[4:6] + body)


def test_a_short_one_of_any_length() -> None:
    good = pack(*GOOD["some"])
    for size in range(len(good)):
        assert parse_attachment(good[:size]) is None


@given(st.binary(max_size=100))
@example(pack(*GOOD["some"]))
def test_nothing_is_taken_that_the_codec_refuses(tail: bytes) -> None:
    head = pack(*GOOD["some"])[:16]
    for body in (tail, head + tail, head + tail + b"\xc4\x20" + SUM):
        found = parse_attachment(body)
        if found is not None:
            assert generic(body) == found


@pytest.mark.parametrize("kind", GOOD)
def test_damage_is_none_or_another_one(kind: str) -> None:
    """Each byte changed: what is still taken is what the codec makes of it."""
    lot = random.Random(3)
    good = pack(*GOOD[kind])
    for at in [*range(min(len(good), 60)), *range(max(len(good) - 60, 0), len(good))]:
        for _ in range(8):
            body = good[:at] + lot.randbytes(1) + good[at + 1 :]
            found = parse_attachment(body)
            if found is not None:
                assert generic(body) == found

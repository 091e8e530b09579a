"""The messages of streams: both ways, damaged, and against their limits."""

from __future__ import annotations

from typing import Any

import pytest

from zeolith.errors import (
    IllegalMessage,
    MessageTooLarge,
    ProtocolViolation,
    StreamViolation,
    UndecodableMessage,
)
from zeolith.protocol.additions import OWN_CLIENT_REQUESTS, OWN_SERVER_REQUESTS
from zeolith.protocol.framing import frame
from zeolith.protocol.limits import (
    BULK_FRAME,
    DEFAULT_LIMITS,
    FIRST_UPLOAD,
    MAX_STREAM_CREDIT,
    MAX_STREAM_NUMBER,
    STREAM_FRAME,
)
from zeolith.protocol.messages import Call, Notice
from zeolith.protocol.own import OwnCodec
from zeolith.protocol.streamlayouts import STREAM_DATA, STREAM_FAULT
from zeolith.protocol.streamrequests import (
    AttachBlob,
    OpenBlob,
    OpenIteration,
    StreamCancel,
    StreamCredit,
    StreamData,
    StreamEnd,
    StreamFault,
)

OID, TID = b"\0" * 7 + b"\x2a", b"\3" * 8
SERVER, CLIENT = (
    OwnCodec(forms, DEFAULT_LIMITS) for forms in (OWN_SERVER_REQUESTS, OWN_CLIENT_REQUESTS)
)
MESSAGES: list[Any] = [
    StreamData(0, b"x"),
    StreamData(MAX_STREAM_NUMBER, b"y" * STREAM_FRAME),
    StreamEnd(1),
    StreamFault(2, "builtins.OSError", (28, "No space left on device")),
    StreamCredit(3, 1),
    StreamCredit(FIRST_UPLOAD, MAX_STREAM_CREDIT),
    StreamCancel(4),
]


@pytest.mark.parametrize("request_", MESSAGES, ids=lambda request: type(request).__name__)
@pytest.mark.parametrize("codec", [SERVER, CLIENT], ids=["server", "client"])
def test_round_trip(codec: OwnCodec, request_: Any) -> None:
    data = codec.notice(request_)
    assert data == frame(data[4:])
    assert codec.decode(data[4:]) == Notice(request_)


@pytest.mark.parametrize("request_", MESSAGES, ids=lambda request: type(request).__name__)
def test_bytes_too_few_or_too_many_are_refused(request_: Any) -> None:
    payload = SERVER.notice(request_)[4:]
    for size in range(min(len(payload), 12)):
        try:
            assert SERVER.decode(payload[:size]) != Notice(request_)
        except ProtocolViolation:
            pass
    if not isinstance(request_, StreamData):
        with pytest.raises(UndecodableMessage):
            SERVER.decode(payload + b"x")


@pytest.mark.parametrize("size", [0, STREAM_FRAME + 1])
def test_data_of_no_legal_size(size: int) -> None:
    payload = bytes([STREAM_DATA, 0, 0, 0, 9]) + bytes(size)
    with pytest.raises(StreamViolation, match=f"stream 9: {size} bytes"):
        CLIENT.decode(payload)


def test_data_are_not_longer_than_the_peer_accepts() -> None:
    codec = OwnCodec(OWN_CLIENT_REQUESTS, DEFAULT_LIMITS, 1024)
    assert codec.decode(codec.notice(StreamData(1, bytes(1019)))[4:])
    with pytest.raises(MessageTooLarge):
        codec.notice(StreamData(1, bytes(1020)))
    with pytest.raises(MessageTooLarge):
        codec.notice(StreamFault(1, "x", (bytes(1024),)))
    with pytest.raises(MessageTooLarge):
        SERVER.notice(StreamData(1, bytes(BULK_FRAME + 1)))


@pytest.mark.parametrize("number", [-1, MAX_STREAM_NUMBER + 1, "1", None, True])
def test_numbers_that_are_none(number: Any) -> None:
    for request in (StreamData(number, b"x"), StreamEnd(number), StreamCredit(number, 1)):
        with pytest.raises(ValueError, match="no number of a stream"):
            SERVER.notice(request)


@pytest.mark.parametrize("body", [b"", b"\x90", b"\x92\x01\x90", b"\x91\xa1x", b"\x92\xa1x"])
def test_a_fault_is_a_name_and_details(body: bytes) -> None:
    with pytest.raises(UndecodableMessage):
        CLIENT.decode(bytes([STREAM_FAULT, 0, 0, 0, 9]) + body)


CALLS: list[Any] = [
    OpenBlob(0, OID, TID, 0, 1),
    OpenBlob(FIRST_UPLOAD - 1, OID, TID, 1 << 40, 0),
    AttachBlob(FIRST_UPLOAD, OID, None, b"record", 1, 1 << 40),
    AttachBlob(MAX_STREAM_NUMBER, OID, TID, b"", -1, 0),
    OpenIteration(1, None, None, MAX_STREAM_CREDIT),
    OpenIteration(1, TID, TID, 1),
]


@pytest.mark.parametrize("request_", CALLS, ids=repr)
def test_calls_about_streams(request_: Any) -> None:
    assert SERVER.decode(CLIENT.call(5, request_)[4:]) == Call(5, request_)
    with pytest.raises(IllegalMessage):
        CLIENT.decode(SERVER.call(5, request_)[4:])


@pytest.mark.parametrize(
    "request_",
    [
        OpenBlob(FIRST_UPLOAD, OID, TID, 0, 1),
        OpenBlob(-1, OID, TID, 0, 1),
        OpenBlob(0, b"short", TID, 0, 1),
        OpenBlob(0, OID, b"short", 0, 1),
        OpenBlob(0, OID, TID, -1, 1),
        OpenBlob(0, OID, TID, 0, MAX_STREAM_CREDIT + 1),
        AttachBlob(FIRST_UPLOAD - 1, OID, TID, b"", 1, 0),
        AttachBlob(FIRST_UPLOAD, OID, b"short", b"", 1, 0),
        AttachBlob(FIRST_UPLOAD, OID, TID, b"", 1, -1),
        OpenIteration(FIRST_UPLOAD, None, None, 1),
        OpenIteration(0, b"short", None, 1),
        OpenIteration(0, None, None, -1),
    ],
    ids=repr,
)
def test_calls_with_what_is_not_legal(request_: Any) -> None:
    with pytest.raises(IllegalMessage, match="malformed"):
        SERVER.decode(CLIENT.call(5, request_)[4:])

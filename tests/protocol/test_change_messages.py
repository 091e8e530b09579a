"""The messages that ask what changed: both ways, damaged, and against their limits."""

from __future__ import annotations

from typing import Any

import pytest
from tests.support.transcripts import read_transcript
from tests.support.wire_cases import serialize

from zeolith.errors import IllegalMessage
from zeolith.protocol import msgpacks
from zeolith.protocol.additions import (
    MAX_PAIRS,
    OWN_CLIENT_REQUESTS,
    OWN_SERVER_REQUESTS,
    PAIR_SIZE,
    ChangesSince,
    VerifyMany,
    requests_to_server,
)
from zeolith.protocol.framing import frame
from zeolith.protocol.greeting import Coding
from zeolith.protocol.limits import DEFAULT_LIMITS
from zeolith.protocol.messages import Call, Request
from zeolith.protocol.own import OwnCodec

OID, TID = b"\0" * 7 + b"\x2a", b"\3" * 8
SERVER = OwnCodec(OWN_SERVER_REQUESTS, DEFAULT_LIMITS)
CLIENT = OwnCodec(OWN_CLIENT_REQUESTS, DEFAULT_LIMITS)

REQUESTS: list[Request] = [
    VerifyMany(b""),
    VerifyMany(OID + TID),
    VerifyMany((OID + TID) * MAX_PAIRS),
    ChangesSince(TID, 1),
    ChangesSince(bytes(8), 10_000, TID + OID),
]


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda request: type(request).__name__)
def test_round_trip(request_: Request) -> None:
    data = CLIENT.call(7, request_)
    assert data == frame(data[4:])
    assert SERVER.decode(data[4:]) == Call(7, request_)


@pytest.mark.parametrize(
    ("number", "arguments"),
    [
        (21, ()),
        (21, (b"x" * 15,)),
        (21, ("x" * 16,)),
        (21, (None,)),
        (21, (b"x" * PAIR_SIZE * (MAX_PAIRS + 1),)),
        (21, (b"", b"")),
        (22, (TID,)),
        (22, (TID, 0)),
        (22, (TID, -1)),
        (22, (TID, 1.5)),
        (22, (TID, True)),
        (22, (TID[:7], 1)),
        (22, (None, 1)),
        (22, (TID, 1, TID)),
        (22, (TID, 1, "x" * 16)),
        (22, (TID, 1, None, None)),
    ],
)
def test_what_does_not_fit_is_refused_and_answered(number: int, arguments: tuple[Any, ...]) -> None:
    payload = b"\x01" + (7).to_bytes(8, "big") + bytes([number]) + msgpacks.dumps(arguments)
    with pytest.raises(IllegalMessage) as caught:
        SERVER.decode(payload)
    assert caught.value.msgid == 7


@pytest.mark.parametrize("number", [21, 22])
def test_they_are_calls_of_clients_only(number: int) -> None:
    arguments = msgpacks.dumps((b"",) if number == 21 else (TID, 1))
    with pytest.raises(IllegalMessage, match="not legal as a notice"):
        SERVER.decode(bytes([2, number]) + arguments)
    with pytest.raises(IllegalMessage, match="unknown method"):
        CLIENT.decode(bytes([2, number]) + arguments)


@pytest.mark.parametrize("coding", [Coding.PICKLE, Coding.MSGPACK])
def test_zeo_s_codings_do_not_have_them(coding: Coding) -> None:
    assert not {"verify_many", "changes_since"} & set(requests_to_server(coding))


def test_the_recorded_transcript() -> None:
    """It is read as it was meant, and what is written today is the same bytes."""
    steps = read_transcript("v1-changes")
    assert {step.frame[13] for step in steps if step.is_from_client} == {21, 22}
    for step in steps:
        message = (SERVER if step.is_from_client else CLIENT).decode(step.frame[4:])
        assert repr(message) == step.meaning
        assert serialize(SERVER, message) == step.frame

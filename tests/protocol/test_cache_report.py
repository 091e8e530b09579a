"""The message in which a client says how its cache does."""

from __future__ import annotations

from typing import Any

import pytest

from zeolith.errors import IllegalMessage
from zeolith.protocol import msgpacks
from zeolith.protocol.additions import (
    OWN_CLIENT_REQUESTS,
    OWN_SERVER_REQUESTS,
    CacheReport,
    requests_to_server,
)
from zeolith.protocol.greeting import Coding
from zeolith.protocol.limits import DEFAULT_LIMITS
from zeolith.protocol.messages import Notice
from zeolith.protocol.own import OwnCodec

SERVER = OwnCodec(OWN_SERVER_REQUESTS, DEFAULT_LIMITS)
CLIENT = OwnCodec(OWN_CLIENT_REQUESTS, DEFAULT_LIMITS)


@pytest.mark.parametrize("numbers", [(0, 0, 0, 0, 0), (1, 2, 3, 4, (1 << 64) - 1)])
def test_round_trip(numbers: tuple[int, int, int, int, int]) -> None:
    report = CacheReport(*numbers)
    data = CLIENT.notice(report)
    assert SERVER.decode(data[4:]) == Notice(report)


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        (1, 2, 3, 4),
        (1, 2, 3, 4, 5, 6),
        (-1, 2, 3, 4, 5),
        (1, 2, 3, 4, -5),
        (1, 2.0, 3, 4, 5),
        (1, 2, None, 4, 5),
        (1, 2, 3, True, 5),
        (1, 2, 3, b"4", 5),
        (1, 2, 3, "4", 5),
    ],
)
def test_what_is_no_report(arguments: tuple[Any, ...]) -> None:
    payload = CLIENT.notice(CacheReport(0, 0, 0, 0, 0))[4:6] + msgpacks.dumps(arguments)
    with pytest.raises(IllegalMessage):
        SERVER.decode(payload)


def test_nobody_asks_for_an_answer() -> None:
    with pytest.raises(IllegalMessage):
        SERVER.decode(CLIENT.call(7, CacheReport(0, 0, 0, 0, 0))[4:])


def test_only_a_client_says_it_and_only_in_our_protocol() -> None:
    with pytest.raises(IllegalMessage):
        CLIENT.decode(CLIENT.notice(CacheReport(0, 0, 0, 0, 0))[4:])
    for coding in (Coding.PICKLE, Coding.MSGPACK):
        assert "cache_report" not in requests_to_server(coding)

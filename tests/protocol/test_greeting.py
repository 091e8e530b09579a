"""The first frame of each side, and what ZEO 6.2 makes of ours."""

from __future__ import annotations

from typing import Any

import pytest
from ZEO.asyncio.client import Protocol
from ZEO.asyncio.server import ServerProtocol

from zeolith.errors import IncompatiblePeer
from zeolith.protocol.greeting import (
    MARKER,
    OWN_VERSIONS,
    ZEO_CODINGS,
    Coding,
    Greeting,
    parse_greeting,
    parse_hello,
    serialize_greeting,
    serialize_hello,
)


@pytest.mark.parametrize("coding", ZEO_CODINGS)
def test_round_trip(coding: Coding) -> None:
    expected = Greeting(coding, is_zeolith=True, versions=OWN_VERSIONS)
    assert parse_greeting(serialize_greeting(coding)) == expected
    assert parse_greeting(serialize_greeting(coding, ())) == Greeting(coding, True)
    assert parse_hello(serialize_hello(coding)) is coding


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (b"Z5", Greeting(Coding.PICKLE, False)),
        (b"M5", Greeting(Coding.MSGPACK, False)),
        (b"Z6", Greeting(Coding.PICKLE, False)),
        (b"M5" + MARKER, Greeting(Coding.MSGPACK, True)),
        (b"M5" + MARKER + b" 2", Greeting(Coding.MSGPACK, True, (2,))),
        (b"Z5" + MARKER + b" 1,2,65535", Greeting(Coding.PICKLE, True, (1, 2, 65535))),
        (b"Z5" + MARKER + b" 1 what is to come", Greeting(Coding.PICKLE, True, (1,))),
        # What is no list of versions says that there are none.
        (b"Z5" + MARKER + b" 1,x", Greeting(Coding.PICKLE, True)),
        (b"Z5" + MARKER + b" 65536", Greeting(Coding.PICKLE, True)),
        (b"Z5" + MARKER + b" ", Greeting(Coding.PICKLE, True)),
        (b"Z5" + MARKER + b" -1", Greeting(Coding.PICKLE, True)),
        (b"Z5" + MARKER + b"1", Greeting(Coding.PICKLE, True)),
        (b"Z5 1", Greeting(Coding.PICKLE, False)),
        (b"Z5 someone else", Greeting(Coding.PICKLE, False)),
    ],
)
def test_greetings_of_servers(payload: bytes, expected: Greeting) -> None:
    assert parse_greeting(payload) == expected


@pytest.mark.parametrize(
    ("versions", "version"), [((), None), ((2,), None), ((1,), 1), ((1, 2), 1), ((3, 1), 1)]
)
def test_the_newest_common_version_is_chosen(
    versions: tuple[int, ...], version: int | None
) -> None:
    assert Greeting(Coding.PICKLE, True, versions).version == version


@pytest.mark.parametrize("payload", [b"", b"Z", b"5", b"Z4", b"Z3101", b"X5", b"z5", b"HTTP/1.1"])
def test_other_greetings_are_refused(payload: bytes) -> None:
    with pytest.raises(IncompatiblePeer, match="greeting"):
        parse_greeting(payload)


@pytest.mark.parametrize(
    "payload", [b"", b"Z", b"5", b"Z4", b"Z6", b"Z3101", b"X5", b"Z5 ", b"Z5" + MARKER, b"\0\0"]
)
def test_other_hellos_are_refused(payload: bytes) -> None:
    with pytest.raises(IncompatiblePeer, match="hello"):
        parse_hello(payload)


class _Refused(Exception):
    pass


class _Client:
    """As much of ZEO's client as the hand-shake of its connection calls."""

    def register_failed(self, protocol: Any, error: Exception) -> None:
        raise _Refused(error)


def _zeo_client_answer(greeting: bytes) -> bytes:
    """Return what ZEO 6.2's client answers to a server's *greeting*."""
    written: list[bytes] = []
    protocol = Protocol.__new__(Protocol)
    protocol.client = _Client()
    protocol.write_message = written.append

    class _ReachedError(Exception):
        pass

    def stop() -> None:
        raise _ReachedError

    # The next step would start a task in an event loop.
    protocol.verify_connection = stop
    with pytest.raises(_ReachedError):
        protocol.finish_connection(greeting)
    return written[0]


@pytest.mark.parametrize("coding", ZEO_CODINGS)
def test_zeo_client_takes_the_smaller_version_and_so_accepts_our_greeting(coding: Coding) -> None:
    answer = _zeo_client_answer(serialize_greeting(coding))
    assert answer == coding.value + b"5"
    assert parse_hello(answer) is coding


def test_the_zeo_client_used_here_does_refuse_old_servers() -> None:
    with pytest.raises(_Refused):
        _zeo_client_answer(b"Z4")


@pytest.mark.parametrize("coding", ZEO_CODINGS)
def test_zeo_server_accepts_our_hello(coding: Coding) -> None:
    connected: list[Any] = []

    class _Storage:
        notify_connected = staticmethod(connected.append)

    server = ServerProtocol(None, "here", _Storage(), msgpack=False)
    server.finish_connection(serialize_hello(coding))
    assert connected == [server]
    assert server.protocol_version == coding.value + b"5"

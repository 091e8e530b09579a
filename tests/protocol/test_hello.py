"""The hellos of Zeolith's own protocol, and what an admission says."""

from __future__ import annotations

from typing import Any

import pytest

from zeolith.errors import (
    FrameTooLarge,
    IllegalMessage,
    IncompatiblePeer,
    UndecodableMessage,
    UnknownVersion,
)
from zeolith.protocol import msgpacks
from zeolith.protocol.framing import frame
from zeolith.protocol.greeting import Coding
from zeolith.protocol.hello import (
    MAGIC,
    MIN_MESSAGE,
    Admission,
    Database,
    Introduction,
    Terms,
    most_transactions,
    parse_admission,
    parse_answer,
    parse_introduction,
    serialize_admission,
    serialize_introduction,
    serialize_refusal,
)
from zeolith.protocol.limits import DEFAULT_LIMITS, MAX_TRANSACTIONS
from zeolith.protocol.messages import Call, Ping, Register
from zeolith.protocol.peers import (
    ClientPeer,
    Hello,
    Phase,
    ServerPeer,
    Violated,
    Welcomed,
)

TID = b"\3" * 8

_NO_SILENCE: tuple[Any, ...] = (0, 0.9, -1, 86_401, 1e9, True, "60", b"", [], float("nan"))


def hello(version: int = 1, **said: Any) -> bytes:
    said.setdefault("limits", {"message": 5_000})
    return MAGIC + version.to_bytes(2, "big") + msgpacks.dumps(said)


def test_round_trip() -> None:
    said = Introduction(1, 70_000, "zeolith 0.1", {"load-many": {"most": 5}, "x": {}})
    assert parse_introduction(serialize_introduction(said), DEFAULT_LIMITS) == said
    assert parse_answer(serialize_introduction(said), 1, DEFAULT_LIMITS) == said


@pytest.mark.parametrize("silence", [None, 1, 60.5, 86_400])
def test_how_long_a_peer_may_be_silent(silence: float | None) -> None:
    said = Introduction(1, 5_000, silence=silence)
    payload = serialize_introduction(said)
    assert parse_introduction(payload, DEFAULT_LIMITS) == said
    assert (b"silence" in payload) is (silence is not None)


def test_terms_are_what_the_hello_says() -> None:
    terms = Terms(60, True)
    server, client = ServerPeer(Coding.PICKLE, terms=terms), ClientPeer(terms=Terms())
    client.receive(server.greeting())
    (hello,) = server.receive(client.hello(Coding.OWN))
    assert isinstance(hello, Hello)
    assert hello.introduction is not None
    assert (hello.introduction.silence, hello.introduction.capabilities) == (None, {})
    (welcomed,) = client.receive(server.welcome())
    assert isinstance(welcomed, Welcomed)
    found = welcomed.introduction
    assert (found.silence, found.capabilities) == (60, {"zstd": {}})


def test_how_many_transactions_a_server_takes_at_once() -> None:
    for said, found in ((1, 1), (5, 5), (MAX_TRANSACTIONS + 1, MAX_TRANSACTIONS)):
        server = ServerPeer(Coding.PICKLE, terms=Terms(transactions=said))
        client = ClientPeer()
        client.receive(server.greeting())
        server.receive(client.hello(Coding.OWN))
        client.receive(server.welcome())
        assert client.codec is not None
        assert client.codec.transactions == found
    assert most_transactions({}) == 1
    assert most_transactions({"transactions": {"most": 7, "later": None}}) == 7


@pytest.mark.parametrize("parts", [{}, {"most": 0}, {"most": "5"}, {"most": True}])
def test_a_number_of_transactions_that_is_none(parts: dict[str, Any]) -> None:
    with pytest.raises(IllegalMessage, match="most transactions at once"):
        most_transactions({"transactions": parts})


def test_what_is_not_known_is_passed_over() -> None:
    payload = hello(
        limits={"message": 5_000, "streams": None}, later=[1, {"x": b""}], capabilities={"new": {}}
    )
    assert parse_introduction(payload, DEFAULT_LIMITS) == Introduction(1, 5_000, "", {"new": {}})


def test_what_is_said_of_logging_in() -> None:
    must = Introduction(1, 5_000, login=("scram-sha-256", "later"), realm="ZEO")
    may = Introduction(1, 5_000, may_login=("scram-sha-256",))
    for said in (must, may):
        payload = serialize_introduction(said)
        assert parse_introduction(payload, DEFAULT_LIMITS) == said
        assert parse_answer(payload, 1, DEFAULT_LIMITS) == said
    assert must.mechanisms == ("scram-sha-256", "later")
    assert may.mechanisms == ("scram-sha-256",)


def test_names_cannot_feign_lines_of_a_log() -> None:
    found = parse_introduction(hello(program="a\nb" + "x" * 500), DEFAULT_LIMITS)
    assert found.program == "a?b" + "x" * 197


@pytest.mark.parametrize("version", [2, 65_535])
def test_unknown_versions_are_refused_with_both_sides_named(version: int) -> None:
    # The rest is not looked at: another version may write it in another way.
    payload = MAGIC + version.to_bytes(2, "big") + b"\xc1"
    with pytest.raises(UnknownVersion, match=f"version {version} .* speaks 1") as caught:
        parse_introduction(payload, DEFAULT_LIMITS)
    refusal = serialize_refusal(caught.value)
    with pytest.raises(IncompatiblePeer, match=f"version {version} .* speaks 1"):
        parse_answer(refusal, version, DEFAULT_LIMITS)


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ({"limits": None}, "limits is not a map"),
        ({"limits": {}}, "limit"),
        ({"limits": {"message": MIN_MESSAGE - 1}}, "below"),
        ({"limits": {"message": 1e9}}, "limit"),
        ({"limits": {"message": True}}, "limit"),
        *(
            ({"limits": {"message": 5_000, "silence": value}}, "1 to 86400 seconds")
            for value in _NO_SILENCE
        ),
        ({"program": 5}, "name"),
        ({"capabilities": []}, "capabilities"),
        ({"capabilities": {"x": 1}}, "capability"),
        ({"capabilities": {1: {}}}, "capability"),
        ({"login": "scram"}, "login"),
        ({"login": [5]}, "name"),
    ],
)
def test_hellos_that_are_not_legal(said: dict[str, Any], problem: str) -> None:
    with pytest.raises(IllegalMessage, match=problem):
        parse_introduction(hello(**said), DEFAULT_LIMITS)


@pytest.mark.parametrize("payload", [MAGIC, MAGIC + b"\0", b"M5", b"\0" * 20])
def test_what_is_no_hello(payload: bytes) -> None:
    with pytest.raises(IllegalMessage):
        parse_introduction(payload, DEFAULT_LIMITS)
    with pytest.raises(IllegalMessage):
        parse_answer(payload, 1, DEFAULT_LIMITS)


@pytest.mark.parametrize("body", [b"", b"\x90", b"\x81", b"\xdf\xff\xff\xff\xff", b"\x80x"])
def test_bodies_that_are_no_map(body: bytes) -> None:
    with pytest.raises((IllegalMessage, UndecodableMessage)):
        parse_introduction(MAGIC + b"\0\1" + body, DEFAULT_LIMITS)


def test_an_answer_in_another_version() -> None:
    with pytest.raises(IncompatiblePeer, match="asked for version 1, the server answers in 2"):
        parse_answer(hello(2), 1, DEFAULT_LIMITS)


# -- in the peers ------------------------------------------------------------------------------


def error_of(events: list[Any]) -> Exception:
    (event,) = events
    assert isinstance(event, Violated)
    return event.error


def test_a_server_that_sends_something_before_its_hello() -> None:
    client = ClientPeer()
    client.receive(ServerPeer(Coding.PICKLE).greeting())
    client.hello(Coding.OWN)
    assert isinstance(error_of(client.receive(frame(b"\x05"))), IllegalMessage)
    assert client.phase is Phase.CLOSED


def test_a_second_hello_is_no_message() -> None:
    server, client = ServerPeer(Coding.PICKLE), ClientPeer()
    client.receive(server.greeting())
    first = client.hello(Coding.OWN)
    server.receive(first)
    assert isinstance(error_of(server.receive(first)), UndecodableMessage)


def test_hellos_are_short() -> None:
    for length in (b"\0\0\x10\x01", b"\xff\xff\xff\xff"):
        client = ClientPeer()
        client.receive(ServerPeer(Coding.PICKLE).greeting())
        client.hello(Coding.OWN)
        for peer in (client, ServerPeer(Coding.PICKLE)):
            assert isinstance(error_of(peer.receive(length)), FrameTooLarge)


def test_nothing_but_a_registration_may_follow_a_hello() -> None:
    server, client = ServerPeer(Coding.PICKLE), ClientPeer()
    client.receive(server.greeting())
    stream = client.hello(Coding.OWN)
    assert client.codec is not None
    events = server.receive(stream + client.codec.call(1, Ping()))
    assert isinstance(error_of(events[1:]), IllegalMessage)


def test_each_side_keeps_to_the_limit_of_the_other() -> None:
    server, client = ServerPeer(Coding.PICKLE), ClientPeer()
    client.receive(server.greeting())
    client.hello(Coding.OWN)
    assert client.codec is not None
    # Before the server has spoken, a registration can be sent.
    register = client.codec.call(1, Register("1", True))
    client.receive(frame(hello(limits={"message": 2_000})))
    assert client.codec.max_payload == 2_000
    events = server.receive(frame(hello(limits={"message": 3_000})) + register)
    assert events[1:] == [Call(1, Register("1", True))]
    assert server.codec is not None
    assert server.codec.max_payload == 3_000


# -- admission ---------------------------------------------------------------------------------


@pytest.mark.parametrize("tid", [TID, None])
@pytest.mark.parametrize("database", [None, Database("some id", 7)])
def test_admissions(tid: bytes | None, database: Database | None) -> None:
    admission = Admission(tid, database)
    assert parse_admission(serialize_admission(admission)) == admission


def test_admissions_by_zeo_servers() -> None:
    assert parse_admission(TID) == Admission(TID, None)
    assert parse_admission(None) == Admission(None, None)


@pytest.mark.parametrize(
    "value",
    [
        b"short", 5, [], {"tid": 5}, {"tid": TID, "identity": b"x", "epoch": 1},
        {"tid": TID, "identity": "x"}, {"tid": TID, "identity": "", "epoch": 1},
        {"tid": TID, "identity": "x", "epoch": "1"},
    ],
)  # fmt: skip
def test_what_is_no_admission(value: Any) -> None:
    with pytest.raises(IllegalMessage):
        parse_admission(value)

"""Two cores back to back, and every pair of phase and message."""

from __future__ import annotations

import random
import tracemalloc
from typing import Any

import pytest
from tests.support.wire_cases import CASES, Case, as_received, as_sent, name_of, serialize

from zeolith.errors import (
    FrameTooLarge,
    IllegalMessage,
    IncompatiblePeer,
    ProtocolViolation,
    UndecodableMessage,
)
from zeolith.protocol.codecs import make_codec
from zeolith.protocol.framing import frame
from zeolith.protocol.greeting import OWN_VERSIONS, STATUS_PROBE, Coding, Greeting
from zeolith.protocol.hello import Introduction
from zeolith.protocol.inquiry import KickInquiry, StatusInquiry, serialize_inquiry
from zeolith.protocol.limits import Limits
from zeolith.protocol.login import LoginReply, LoginStep
from zeolith.protocol.messages import (
    SERVER_REQUESTS,
    Call,
    Fault,
    Heartbeat,
    LoadBefore,
    Notice,
    Ping,
    Register,
    Reply,
)
from zeolith.protocol.peers import (
    LEGAL,
    ClientPeer,
    Event,
    Greeted,
    Hello,
    Inquired,
    Phase,
    Probe,
    ServerPeer,
    Violated,
    Welcomed,
)

OID, TID = b"\0" * 8, b"\3" * 8
CODINGS = pytest.mark.parametrize("coding", list(Coding), ids=lambda coding: coding.name)


def connect(coding: Coding, limits: Limits = Limits()) -> tuple[ServerPeer, ClientPeer]:  # noqa: B008
    """Return two peers after their hand-shake."""
    server, client = ServerPeer(Coding.PICKLE, limits), ClientPeer(limits)
    greeted = Greeted(Greeting(Coding.PICKLE, True, OWN_VERSIONS))
    assert client.receive(server.greeting()) == [greeted]
    (hello,) = server.receive(client.hello(coding))
    assert hello == Hello(coding, introduction_of(coding, limits))
    if coding is Coding.OWN:
        welcomed = Welcomed(Introduction(1, limits.max_message_size, ""))
        assert client.receive(server.welcome()) == [welcomed]
    return server, client


def introduction_of(coding: Coding, limits: Limits) -> Introduction | None:
    """Return what a client says of itself that chooses *coding*."""
    return Introduction(1, limits.max_message_size) if coding is Coding.OWN else None


def admit(server: ServerPeer, client: ClientPeer) -> None:
    server.registered()
    client.registered()


def violation(events: list[Event]) -> ProtocolViolation:
    """Return the error of the violation that must be the last event, and the only one."""
    assert [type(event) is Violated for event in events] == [False] * (len(events) - 1) + [True]
    last = events[-1]
    assert isinstance(last, Violated)
    return last.error


# -- a conversation ----------------------------------------------------------------------------


@CODINGS
def test_conversation(coding: Coding) -> None:
    server, client = connect(coding)
    assert server.codec is not None
    assert client.codec is not None
    assert server.codec.coding is client.codec.coding is coding
    call = Call(1, Register("1", False))
    assert server.receive(client.codec.call(*call)) == [call]
    admit(server, client)
    assert client.receive(server.codec.reply(1, TID)) == [Reply(1, TID)]
    key = LoadBefore(OID, TID)
    assert server.receive(client.codec.load_before(*key)) == [Call(key, key)]
    answer = server.codec.loaded(key, b"data", TID, None)
    assert client.receive(answer) == [Reply((OID, TID), (b"data", TID, None))]
    fault = Fault((OID, TID), "ZODB.POSException.POSKeyError", (OID,))
    assert client.receive(server.codec.fault(key, fault.name, fault.details)) == [fault]
    assert server.receive(client.codec.heartbeat()) == [Heartbeat()]
    assert server.pending == client.pending == 0
    assert server.phase is client.phase is Phase.OPEN


@CODINGS
@pytest.mark.parametrize("seed", range(5))
def test_stream_of_every_message_in_random_pieces(coding: Coding, seed: int) -> None:
    server, client = connect(coding)
    admit(server, client)
    choice = random.Random(seed)
    for role, peer in (("server", server), ("client", client)):
        assert peer.codec is not None
        cases = [case for case in CASES if case.receiver == role and case.wire[2] != "register"]
        messages = [as_sent(case.message, coding.value) for case in cases]
        stream = b"".join(serialize(peer.codec, message) for message in messages)
        events: list[Event] = []
        at = 0
        while at < len(stream):
            step = choice.choice((1, 2, 5, 30, 400, 9_000, 100_000))
            events += peer.receive(stream[at : at + step])
            at += step
        assert events == [as_received(message, coding.value) for message in messages]


@CODINGS
def test_hello_and_registration_in_one_segment(coding: Coding) -> None:
    """The registration is longer than a greeting may be: its limit comes with the hello."""
    client = ClientPeer()
    client.receive(ServerPeer(coding).greeting())
    hello = client.hello(coding)
    assert client.codec is not None
    register = Call(1, Register("s" * 100, False))
    stream = hello + client.codec.call(*register)
    for cut in range(len(stream) + 1):
        server = ServerPeer(coding)
        events = server.receive(stream[:cut]) + server.receive(stream[cut:])
        assert events == [Hello(coding, introduction_of(coding, Limits())), register]


@CODINGS
def test_a_client_may_register_again_until_it_is_admitted(coding: Coding) -> None:
    """With read_only_fallback it does, after a ReadOnlyError."""
    server, client = connect(coding)
    assert client.codec is not None
    for read_only in (False, True):
        call = Call(1, Register("1", read_only))
        assert server.receive(client.codec.call(*call)) == [call]
    server.registered()
    error = violation(server.receive(client.codec.call(2, Register("1", True))))
    assert isinstance(error, IllegalMessage)
    assert error.msgid == 2


# -- the hand-shake ----------------------------------------------------------------------------


def test_probe() -> None:
    server = ServerPeer(Coding.PICKLE)
    assert server.receive(frame(STATUS_PROBE)) == [Probe()]
    assert server.phase is Phase.CLOSED
    assert server.codec is None
    assert server.receive(frame(b"Z5")) == []


def test_bytes_after_a_probe() -> None:
    server = ServerPeer(Coding.PICKLE)
    events = server.receive(frame(STATUS_PROBE) + frame(b"Z5"))
    assert events[0] == Probe()
    assert isinstance(violation(events), IllegalMessage)


@pytest.mark.parametrize("inquiry", [StatusInquiry("1", 7), KickInquiry("a label")])
def test_inquiry(inquiry: StatusInquiry | KickInquiry) -> None:
    payload = frame(serialize_inquiry(inquiry))
    for cut in range(len(payload)):
        server = ServerPeer(Coding.PICKLE)
        events = server.receive(payload[:cut]) + server.receive(payload[cut:])
        assert events == [Inquired(inquiry)]
        assert server.phase is Phase.CLOSED
        assert server.codec is None
        assert server.receive(frame(b"Z5")) == []


def test_bytes_after_an_inquiry() -> None:
    server = ServerPeer(Coding.PICKLE)
    events = server.receive(frame(serialize_inquiry(StatusInquiry())) + b"\0")
    assert events[0] == Inquired(StatusInquiry())
    assert isinstance(violation(events), IllegalMessage)


@CODINGS
def test_inquiry_after_hello(coding: Coding) -> None:
    """An administrator's question has its place, and it is not among a client's messages."""
    server, _ = connect(coding)
    payload = frame(serialize_inquiry(KickInquiry()))
    assert isinstance(violation(server.receive(payload)), UndecodableMessage)


@pytest.mark.parametrize("payload", [b"", b"Z4", b"X5", b"GET / HTTP/1.1\r\n"])
def test_wrong_hello(payload: bytes) -> None:
    server = ServerPeer(Coding.PICKLE)
    assert isinstance(violation(server.receive(frame(payload))), IncompatiblePeer)
    assert server.phase is Phase.CLOSED


def test_wrong_greeting() -> None:
    client = ClientPeer()
    assert isinstance(violation(client.receive(frame(b"Z4"))), IncompatiblePeer)


@pytest.mark.parametrize("extra", [frame(b""), frame(b"Z5"), b"\0"])
def test_server_that_does_not_wait_for_the_answer(extra: bytes) -> None:
    client = ClientPeer()
    assert isinstance(violation(client.receive(frame(b"Z5") + extra)), IllegalMessage)


@pytest.mark.parametrize(
    ("peer", "limit"),
    [
        (ServerPeer(Coding.PICKLE), Limits().max_inquiry_size),
        (ClientPeer(), Limits().max_greeting_size),
    ],
    ids=["server", "client"],
)
def test_first_frame_is_short(peer: ServerPeer | ClientPeer, limit: int) -> None:
    """F: a length of 4 GiB, which ZEO 6.2 buffers before registration, is refused at once."""
    error = violation(peer.receive(b"\xff\xff\xff\xff"))
    assert isinstance(error, FrameTooLarge)
    assert error.limit == limit <= 4096


# -- legality ----------------------------------------------------------------------------------

PHASES = (Phase.REGISTERING, Phase.OPEN)


@CODINGS
@pytest.mark.parametrize("phase", PHASES, ids=lambda phase: phase.name)
@pytest.mark.parametrize("receiver", ["server", "client"])
@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_every_phase_and_message(coding: Coding, phase: Phase, receiver: str, case: Case) -> None:
    server, client = connect(coding)
    if phase is Phase.OPEN:
        admit(server, client)
    peer: Any = server if receiver == "server" else client
    sender: Any = client if receiver == "server" else server
    message = as_sent(case.message, coding.value)
    frame_ = serialize(sender.codec, message)
    events = peer.receive(frame_)
    kind = type(message[-1]) if isinstance(message, Call | Notice) else type(message)
    # A side knows only the requests it may get; replies pass for whoever awaits one.
    is_legal = kind in LEGAL[receiver, phase]
    if kind is Heartbeat and receiver == "client":
        # ZEO's servers send none.
        is_legal = coding is Coding.OWN
    if is_legal:
        assert events == [as_received(message, coding.value)]
        assert peer.phase is phase
    else:
        is_large = len(frame_) > Limits().max_register_size
        refusal = FrameTooLarge if is_large and phase is Phase.REGISTERING else IllegalMessage
        assert isinstance(violation(events), refusal if receiver == "server" else IllegalMessage)
        assert peer.phase is Phase.CLOSED


def test_table_of_what_is_legal() -> None:
    """The table itself: nothing but a registration comes first, and answers go to clients."""
    assert LEGAL["server", Phase.REGISTERING] == {Register, Heartbeat}
    assert Register not in LEGAL["server", Phase.OPEN]
    assert {Ping, LoadBefore, Heartbeat} < LEGAL["server", Phase.OPEN]
    assert LEGAL["server", Phase.GREETING] == {Hello, Probe, Inquired}
    assert LEGAL["client", Phase.GREETING] == {Greeted}
    for (role, phase), kinds in LEGAL.items():
        is_answered = role == "client" and phase in PHASES
        assert {Reply, Fault} <= kinds if is_answered else not {Reply, Fault} & kinds
        assert (Heartbeat in kinds) is (phase in PHASES)
    assert set(LEGAL) == {
        *((role, phase) for role in ("server", "client") for phase in (Phase.GREETING, *PHASES)),
        ("client", Phase.WELCOMING),
        ("client", Phase.LOGGING_IN),
        ("server", Phase.LOGGING_IN),
    }
    assert LEGAL["client", Phase.WELCOMING] == {Welcomed}
    assert LEGAL["client", Phase.LOGGING_IN] == {LoginReply}
    assert LEGAL["server", Phase.LOGGING_IN] == {LoginStep}


@CODINGS
def test_violation_is_the_last_event_and_the_end(coding: Coding) -> None:
    server, client = connect(coding)
    admit(server, client)
    assert client.codec is not None
    ping = client.codec.call(1, Ping())
    garbage = frame(b"garbage")
    events = server.receive(ping + ping + garbage + ping)
    assert events[:2] == [Call(1, Ping()), Call(1, Ping())]
    assert len(events) == 3
    assert isinstance(violation(events), UndecodableMessage)
    assert server.receive(ping) == []
    assert server.phase is Phase.CLOSED


@CODINGS
def test_oversized_frame_after_good_ones(coding: Coding) -> None:
    server, client = connect(coding, Limits(max_message_size=2_000))
    admit(server, client)
    assert client.codec is not None
    ping = client.codec.call(1, Ping())
    events = server.receive(ping + frame(b"x" * 2_001))
    assert events[0] == Call(1, Ping())
    error = violation(events)
    assert isinstance(error, FrameTooLarge)
    assert (error.announced, error.limit) == (2_001, 2_000)


@CODINGS
def test_frames_are_small_until_the_client_is_admitted(coding: Coding) -> None:
    """F: before it registers, nobody gets the server to take much."""
    large = frame(bytes(Limits().max_register_size + 1))
    server, client = connect(coding)
    assert isinstance(violation(server.receive(large[:4])), FrameTooLarge)
    server, client = connect(coding)
    admit(server, client)
    assert server.receive(large[:-1]) == []
    assert client.receive(large[:-1]) == []


@CODINGS
def test_illegal_call_tells_its_message_id(coding: Coding) -> None:
    server, client = connect(coding)
    assert client.codec is not None
    error = violation(server.receive(client.codec.call(17, Ping())))
    assert isinstance(error, IllegalMessage)
    assert error.msgid == 17
    assert "Ping" in str(error)
    assert "registering" in str(error)


@CODINGS
def test_connections_share_their_tables(coding: Coding) -> None:
    """A server has thousands of connections, and a table takes kilobytes."""
    one, two = connect(coding), connect(coding)
    for left, right in zip(one, two, strict=True):
        admit(*one)
        admit(*two)
        assert left._legal is right._legal
        tracemalloc.start()
        try:
            codec = make_codec(coding, SERVER_REQUESTS, Limits())
            assert tracemalloc.get_traced_memory()[0] < 1_000
        finally:
            tracemalloc.stop()
        assert codec.coding is coding

"""Logging in between two cores: any pieces, any order, hostile peers on either side."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.transcripts import read_transcript

from zeolith.errors import (
    FrameTooLarge,
    IllegalMessage,
    LoginDelayed,
    LoginRefused,
    LoginRequired,
    ProtocolViolation,
    UndecodableMessage,
)
from zeolith.protocol import msgpacks
from zeolith.protocol.framing import frame
from zeolith.protocol.greeting import Coding
from zeolith.protocol.inquiry import StatusInquiry, serialize_inquiry
from zeolith.protocol.limits import DEFAULT_LIMITS
from zeolith.protocol.login import (
    MAGIC,
    LoginReply,
    LoginStep,
    mechanisms,
    parse_reply,
    parse_step,
    serialize_reply,
    serialize_step,
)
from zeolith.protocol.messages import Call, GetInfo, LoadBefore, Ping, Register
from zeolith.protocol.peers import (
    ClientPeer,
    Event,
    Greeted,
    Hello,
    Inquired,
    Phase,
    ServerPeer,
    Violated,
    Welcomed,
)
from zeolith.protocol.scram import (
    PLAIN,
    PLUS,
    ClientExchange,
    ServerExchange,
    make_secret,
    salted_password,
)

STEP = LoginStep(b"first", PLAIN)
PROGRAM = "zeolith 0.1"


def server(*, must: bool = True) -> ServerPeer:
    peer = ServerPeer(Coding.MSGPACK)
    peer.know_users(mechanisms(False), "ZEO", must_log_in=must)
    return peer


def client() -> ClientPeer:
    peer = ClientPeer()
    peer.receive(server().greeting())
    return peer


def hello() -> bytes:
    return client().hello(Coding.OWN)


def codec() -> Any:
    peer = client()
    peer.hello(Coding.OWN)
    return peer.codec


def error_of(events: list[Event]) -> ProtocolViolation:
    last = events[-1]
    assert isinstance(last, Violated)
    return last.error


@given(st.lists(st.integers(1, 60), min_size=1))
def test_a_login_in_any_pieces(sizes: list[int]) -> None:
    ours, theirs = server(), ClientPeer()

    def deliver(to: Any, data: bytes) -> list[Event]:
        events: list[Event] = []
        at, turn = 0, 0
        while at < len(data):
            size = sizes[turn % len(sizes)]
            events += to.receive(data[at : at + size])
            at, turn = at + size, turn + 1
        return events

    deliver(theirs, ours.greeting())
    (found,) = deliver(ours, theirs.hello(Coding.OWN))
    assert isinstance(found, Hello)
    assert ours.phase is Phase.LOGGING_IN
    (welcomed,) = deliver(theirs, ours.welcome())
    assert isinstance(welcomed, Welcomed)
    assert welcomed.introduction.login == (PLAIN,)
    assert welcomed.introduction.realm == "ZEO"
    assert deliver(ours, theirs.login_step(STEP)) == [STEP]
    reply = LoginReply(b"challenge")
    assert deliver(theirs, ours.login_reply(reply)) == [reply]
    last = LoginStep(b"last")
    assert deliver(ours, theirs.login_step(last)) == [last]
    done = LoginReply(b"final", is_done=True)
    assert deliver(theirs, ours.login_reply(done)) == [done]
    theirs.logged_in()
    assert theirs.codec is not None
    register = Call(1, Register("s" * 5000, False))  # longer than a log-in may be
    assert deliver(ours, theirs.codec.call(*register)) == [register]
    assert ours.phase is theirs.phase is Phase.REGISTERING


def test_after_a_login_an_administrator_may_ask() -> None:
    ours = server()
    ours.receive(hello())
    ours.receive(client().login_step(STEP))
    ours.login_reply(LoginReply(b"", is_done=True))
    question = StatusInquiry("1", 5)
    assert ours.receive(frame(serialize_inquiry(question))) == [Inquired(question)]
    assert ours.phase is Phase.CLOSED


def test_a_recorded_login() -> None:
    """Both sides write what was recorded; the password is pencil."""
    ours, theirs = ServerPeer(Coding.MSGPACK, program=PROGRAM), ClientPeer(program=PROGRAM)
    ours.know_users((PLAIN,), "ZEO", must_log_in=True)
    one = ClientExchange("alice", partial(salted_password, "pencil"), "clientnonce")
    secret = make_secret("pencil", b"0123456789abcdef", 4096)
    steps = read_transcript("v1-login")
    written = [ours.greeting()]
    for step in steps:
        (event,) = (ours if step.is_from_client else theirs).receive(step.frame)
        assert repr(event) == step.meaning
        if isinstance(event, Greeted):
            written.append(theirs.hello(Coding.OWN))
        elif isinstance(event, Hello):
            written.append(ours.welcome())
        elif isinstance(event, Welcomed):
            written.append(theirs.login_step(LoginStep(one.first(), one.mechanism)))
        elif isinstance(event, LoginStep) and event.mechanism is not None:
            other = ServerExchange(event.mechanism, event.data)
            challenge = LoginReply(other.challenge(secret, "servernonce"))
            written.append(ours.login_reply(challenge))
        elif isinstance(event, LoginStep):
            written.append(ours.login_reply(LoginReply(other.finish(event.data), is_done=True)))
        elif isinstance(event, LoginReply) and not event.is_done:
            written.append(theirs.login_step(LoginStep(one.answer(event.data or b""))))
        elif isinstance(event, LoginReply):
            one.check(event.data or b"")
            theirs.logged_in()
            assert theirs.codec is not None
            written.append(theirs.codec.call(1, Register("1", False)))
    assert written == [step.frame for step in steps]


# -- R9: nothing passes before -----------------------------------------------------------------


def beginnings() -> list[bytes]:
    own = codec()
    return [
        frame(b"Z5"),
        frame(b"M5"),
        frame(b"ruok"),
        frame(serialize_inquiry(StatusInquiry())),
        client().login_step(STEP),  # without a hello
        own.call(1, Register("1", False)),
        hello() + own.call(1, Register("1", False)),
        hello() + frame(serialize_inquiry(StatusInquiry())),
        hello() + own.call(1, Ping()),
        hello() + own.load_before(bytes(8), b"\x7f" + b"\xff" * 7),
        hello() + own.heartbeat(),
        hello() + client().login_step(STEP) + own.call(1, Register("1", False)),
        hello() + frame(b"x" * 4097),
        hello() + frame(b""),
        hello() + hello(),
    ]


@pytest.mark.parametrize("data", beginnings())
def test_r9_nothing_passes_before_a_login(data: bytes) -> None:
    """Sent at once, byte by byte, or frame by frame: no request becomes an event."""
    for size in (len(data), 1, 7):
        ours = server()
        events: list[Event] = []
        for at in range(0, len(data), size):
            events += ours.receive(data[at : at + size])
        for event in events:
            assert isinstance(event, Hello | LoginStep | Violated)
        assert isinstance(
            error_of(events), LoginRequired | IllegalMessage | FrameTooLarge | UndecodableMessage
        )
        assert ours.phase is Phase.CLOSED


def test_r9_a_refusal_lets_nothing_pass() -> None:
    ours = server()
    ours.receive(hello())
    ours.receive(client().login_step(STEP))
    ours.login_reply(LoginReply(error="no"))
    assert isinstance(error_of(ours.receive(codec().call(1, Register("1", False)))), LoginRequired)


def test_r9_a_challenge_lets_nothing_pass() -> None:
    ours = server()
    ours.receive(hello())
    ours.receive(client().login_step(STEP))
    ours.login_reply(LoginReply(b"challenge"))
    assert isinstance(error_of(ours.receive(codec().call(1, Register("1", False)))), LoginRequired)


@given(st.binary(max_size=200))
def test_r9_noise_lets_nothing_pass(noise: bytes) -> None:
    ours = server()
    ours.receive(hello())
    for event in ours.receive(noise) + ours.receive(frame(noise)):
        assert isinstance(event, LoginStep | Violated)


def test_what_is_long_is_refused_before_it_has_come() -> None:
    ours = server()
    ours.receive(hello())
    assert isinstance(error_of(ours.receive(b"\0\0\x10\x01")), FrameTooLarge)


# -- who may log in, but need not --------------------------------------------------------------


def test_who_is_known_already_need_not() -> None:
    own = codec()
    register = Call(1, Register("1", False))
    for cut in range(len(hello()) + 20):
        ours = server(must=False)
        data = hello() + own.call(*register)
        events = ours.receive(data[:cut]) + ours.receive(data[cut:])
        assert [type(event) for event in events] == [Hello, Call]
        assert ours.phase is Phase.REGISTERING


def test_who_is_known_already_may() -> None:
    ours = server(must=False)
    ours.receive(hello())
    assert ours.receive(client().login_step(STEP)) == [STEP]
    ours.login_reply(LoginReply(b"", is_done=True))
    register = Call(1, Register("1", False))
    assert ours.receive(codec().call(*register)) == [register]


def test_who_is_known_already_may_ask() -> None:
    for before in (b"", hello()):
        ours = server(must=False)
        events = ours.receive(before + frame(serialize_inquiry(StatusInquiry())))
        assert events[-1] == Inquired(StatusInquiry())


def test_who_is_known_already_does_no_more_than_register() -> None:
    load = LoadBefore(bytes(8), b"\x7f" * 8)
    for msgid, request in ((1, Ping()), (1, GetInfo()), (load, load)):
        ours = server(must=False)
        events = ours.receive(hello() + codec().call(msgid, request))
        assert isinstance(error_of(events), IllegalMessage)


def test_zeo_clients_that_are_known() -> None:
    ours = server(must=False)
    (event,) = ours.receive(frame(b"M5"))
    assert event == Hello(Coding.MSGPACK)
    assert ours.phase is Phase.REGISTERING


def test_without_users_nobody_logs_in() -> None:
    ours = ServerPeer(Coding.MSGPACK)
    ours.receive(hello())
    assert isinstance(error_of(ours.receive(client().login_step(STEP))), UndecodableMessage)
    assert b"login" not in ServerPeer(Coding.MSGPACK).greeting()


# -- a hostile server --------------------------------------------------------------------------


def test_a_server_that_sends_messages_in_the_middle_of_a_login() -> None:
    theirs = client()
    theirs.hello(Coding.OWN)
    ours = server()
    ours.receive(hello())
    theirs.receive(ours.welcome())
    theirs.login_step(STEP)
    assert ours.codec is not None
    assert isinstance(error_of(theirs.receive(ours.codec.heartbeat())), IllegalMessage)


def test_a_server_that_says_more_than_it_was_asked() -> None:
    theirs = client()
    theirs.login_step(STEP)
    reply = frame(serialize_reply(LoginReply(b"x")))
    assert isinstance(error_of(theirs.receive(reply + reply)), IllegalMessage)


# -- the messages ------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [STEP, LoginStep(b""), LoginStep(b"\0" * 3000, PLUS)])
def test_steps(step: LoginStep) -> None:
    assert parse_step(serialize_step(step), DEFAULT_LIMITS) == step


@pytest.mark.parametrize(
    "reply",
    [
        LoginReply(b"x"), LoginReply(b"", is_done=True), LoginReply(error="no"),
        LoginReply(error="later", wait=5.5), LoginReply(error="later", wait=0),
    ],
)  # fmt: skip
def test_replies(reply: LoginReply) -> None:
    assert parse_reply(serialize_reply(reply), DEFAULT_LIMITS) == reply


def test_refusals_are_errors() -> None:
    assert isinstance(LoginReply(error="no").to_error(), LoginRefused)
    later = LoginReply(error="no", wait=7).to_error()
    assert isinstance(later, LoginDelayed)
    assert "7 s" in str(later)


def test_refusals_cannot_feign_lines() -> None:
    found = parse_reply(serialize_reply(LoginReply(error="a\nb" + "x" * 999)), DEFAULT_LIMITS)
    assert found.error == "a?b" + "x" * 497


@pytest.mark.parametrize(
    "said",
    [
        5, [], {}, {"data": "text"}, {"data": None}, {"data": 5}, {"error": 5}, {"error": b"x"},
        {"data": b"", "wait": "x"}, {"error": "x", "wait": -1},
        {"error": "x", "wait": float("inf")}, {"error": "x", "wait": float("nan")},
    ],
)  # fmt: skip
def test_replies_that_say_nothing(said: Any) -> None:
    with pytest.raises(IllegalMessage):
        parse_reply(MAGIC + msgpacks.dumps(said), DEFAULT_LIMITS)


@pytest.mark.parametrize(
    "said", [5, [], {}, {"data": "x"}, {"mechanism": PLAIN}, {"data": b"", "mechanism": b"x"}]
)
def test_steps_that_say_nothing(said: Any) -> None:
    with pytest.raises(IllegalMessage):
        parse_step(MAGIC + msgpacks.dumps(said), DEFAULT_LIMITS)


def test_more_than_messages_of_a_login() -> None:
    with pytest.raises(IllegalMessage):
        parse_reply(b"something else", DEFAULT_LIMITS)
    for parse in (parse_reply, parse_step):
        with pytest.raises(UndecodableMessage):
            parse(MAGIC + b"\xc1", DEFAULT_LIMITS)

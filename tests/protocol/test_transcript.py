"""Reading along: what is heard is what the receivers understand, and nothing can disturb it."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.transcripts import read_transcript
from tests.support.wire_cases import ALL_CASES, CASES, as_received, as_sent, serialize

from zeolith.errors import FrameTooLarge, IllegalMessage, IncompatiblePeer, UndecodableMessage
from zeolith.protocol import descriptions, transcript
from zeolith.protocol import messages as m
from zeolith.protocol.compression import COMPRESSED
from zeolith.protocol.descriptions import describe
from zeolith.protocol.framing import frame, pack_length
from zeolith.protocol.greeting import Coding, serialize_greeting
from zeolith.protocol.hello import MAGIC
from zeolith.protocol.inquiry import StatusInquiry, serialize_answer, serialize_inquiry
from zeolith.protocol.login import LoginReply, LoginStep
from zeolith.protocol.peers import (
    ClientPeer,
    Greeted,
    Hello,
    Inquired,
    Probe,
    ServerPeer,
    Violated,
    Welcomed,
)
from zeolith.protocol.transcript import (
    MAX_CALLS,
    MAX_DECODED,
    Answered,
    Encrypted,
    Entry,
    TooLong,
    Transcript,
)

OID, TID = b"\0" * 7 + b"\x2a", b"\3" * 8
SERVER_GREETING = frame(serialize_greeting(Coding.MSGPACK))


class Pair:
    """Two peers, and who reads along."""

    def __init__(self, coding: Coding) -> None:
        self.heard = Transcript()
        self.server, self.client = ServerPeer(Coding.PICKLE), ClientPeer()
        self.say(False, self.server.greeting())
        self.say(True, self.client.hello(coding))
        if coding is Coding.OWN:
            self.say(False, self.server.welcome())
        assert self.server.codec is not None
        assert self.client.codec is not None
        self.say(True, self.client.codec.call(1, m.Register("1", False)))
        self.say(False, self.server.codec.reply(1, TID))
        self.server.registered()
        self.client.registered()

    def say(self, is_from_client: bool, data: bytes) -> list[Entry]:
        """Have one side say *data* to the other; return what is heard of it."""
        heard = self.heard.feed(is_from_client, data)
        receiver: Any = self.server if is_from_client else self.client
        assert [entry.event for entry in heard] == receiver.receive(data)
        return heard


@pytest.mark.parametrize("coding", Coding)
def test_each_message_is_heard_as_its_receiver_understands_it(coding: Coding) -> None:
    pair = Pair(coding)
    letter = coding.value
    for case in ALL_CASES if coding is Coding.OWN else CASES:
        if case.wire[2] == "register":
            continue
        is_from_client = case.receiver == "server"
        codec = (pair.client if is_from_client else pair.server).codec
        assert codec is not None
        message = as_sent(case.message, letter)
        data = serialize(codec, message)
        (entry,) = pair.say(is_from_client, data)
        assert entry.event == as_received(message, letter)
        assert (entry.is_from_client, entry.size) == (is_from_client, len(data))


@pytest.mark.parametrize("name", ["v1-session", "v1-later-peers"])
@pytest.mark.parametrize("size", [1, 3, 10_000])
def test_recorded_sessions(name: str, size: int) -> None:
    heard = Transcript()
    for step in read_transcript(name):
        found = []
        for at in range(0, len(step.frame), size):
            found += heard.feed(step.is_from_client, step.frame[at : at + size])
        assert [repr(entry.event) for entry in found] == [step.meaning]
        assert [entry.size for entry in found] == [len(step.frame)]


def test_answers_are_put_beside_their_calls() -> None:
    pair = Pair(Coding.OWN)
    assert pair.client.codec is not None
    assert pair.server.codec is not None
    pair.say(True, pair.client.codec.call(7, m.NewOids(1)))
    pair.say(True, pair.client.codec.call(8, m.GetTid(OID)))
    (second,) = pair.say(False, pair.server.codec.reply(8, TID))
    (first,) = pair.say(False, pair.server.codec.fault(7, "builtins.KeyError", ()))
    assert (first.asked, second.asked) == (m.NewOids, m.GetTid)
    (stray,) = pair.say(False, pair.server.codec.reply(7, TID))
    assert stray.asked is None


def test_calls_without_answers_are_forgotten_in_the_end() -> None:
    pair = Pair(Coding.OWN)
    assert pair.client.codec is not None
    assert pair.server.codec is not None
    for number in range(10, MAX_CALLS + 11):
        pair.heard.feed(True, pair.client.codec.call(number, m.Ping()))
    asked = [
        pair.heard.feed(False, pair.server.codec.reply(number, None))[0].asked
        for number in (10, 11, MAX_CALLS + 10)
    ]
    assert asked == [None, m.Ping, m.Ping]


# -- beginnings --------------------------------------------------------------------------------


def events_of(entries: list[Entry]) -> list[Any]:
    return [entry.event for entry in entries]


@pytest.mark.parametrize(
    ("question", "cls"),
    [(b"ruok", Probe), (serialize_inquiry(StatusInquiry("1", 5)), Inquired)],
)
def test_inquiries(question: bytes, cls: type[Any]) -> None:
    heard = Transcript()
    heard.feed(False, SERVER_GREETING)
    (asked,) = heard.feed(True, frame(question))
    assert isinstance(asked.event, cls)
    # As long as it likes to be: 64 KB before a registration hold for messages only.
    answer = {"storages": ["x" * 100_000]}
    (answered,) = heard.feed(False, frame(serialize_answer(answer)))
    assert answered.event == Answered(answer)
    assert heard.feed(True, b"more") == []
    assert heard.undecoded(True) == 4


def test_answers_that_are_no_json() -> None:
    heard = Transcript()
    heard.feed(False, SERVER_GREETING)
    heard.feed(True, frame(b"ruok"))
    (answered,) = heard.feed(False, frame(b"imok"))
    assert isinstance(answered.event, Violated)


def test_a_client_that_does_not_wait_for_the_greeting() -> None:
    heard, client = Transcript(), ClientPeer()
    server = ServerPeer(Coding.MSGPACK)
    client.receive(server.greeting())
    hello = client.hello(Coding.OWN)
    assert client.codec is not None
    server.receive(hello)
    assert server.codec is not None
    heard.feed(True, hello + client.codec.call(1, m.Register("1", False)))
    found = heard.feed(
        False, server.greeting() + server.welcome() + server.codec.reply(1, {"tid": TID})
    )
    kinds = [type(event) for event in events_of(found)]
    assert kinds == [Greeted, Welcomed, m.Reply]
    (load,) = heard.feed(True, client.codec.load_before(OID, TID))
    assert isinstance(load.event, m.Call)


def test_a_refused_version() -> None:
    asked, refused = read_transcript("v1-refusal")
    heard = Transcript()
    heard.feed(False, SERVER_GREETING)
    (hello,) = heard.feed(True, asked.frame)
    assert isinstance(hello.event, Violated)
    (refusal,) = heard.feed(False, refused.frame)
    assert repr(refusal.event) == refused.meaning


@pytest.mark.parametrize("size", [1, 4, 1_000])
def test_tls(size: int) -> None:
    heard = Transcript()
    stream = bytes.fromhex("16030100c8010000c40303") + bytes(190)
    found = []
    for at in range(0, len(stream), size):
        found += heard.feed(True, stream[at : at + size])
    assert found == [Entry(True, Encrypted(), 4)]
    assert heard.feed(False, bytes.fromhex("160303007a")) == []
    assert heard.undecoded(True) == len(stream) - 4
    assert heard.undecoded(False) == 5


# -- what is not legal ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("is_from_client", "data", "error"),
    [
        (True, frame(b"Z4"), IncompatiblePeer),
        (True, b"GET / HTTP/1.1\r\n\r\n", FrameTooLarge),
        (True, frame(MAGIC + b"\0\1\x90"), IllegalMessage),
        (False, frame(b"hello"), IncompatiblePeer),
        (False, b"HTTP/1.1 400\r\n", FrameTooLarge),
    ],
)
def test_who_begins_otherwise(is_from_client: bool, data: bytes, error: type[Any]) -> None:
    heard = Transcript()
    if is_from_client:
        heard.feed(False, SERVER_GREETING)
    found = heard.feed(is_from_client, data + b"and more")
    assert isinstance(found[0].event, Violated)
    assert isinstance(found[0].event.error, error)
    assert found[0].size + heard.undecoded(is_from_client) == len(data) + 8
    assert heard.feed(is_from_client, b"x") == []


def test_only_the_side_that_broke_the_protocol_is_given_up() -> None:
    pair = Pair(Coding.OWN)
    assert pair.client.codec is not None
    assert pair.server.codec is not None
    call = pair.client.codec.call(9, m.Ping())
    (bad,) = pair.heard.feed(True, frame(b"\xee"))
    assert isinstance(bad.event, Violated)
    assert isinstance(bad.event.error, UndecodableMessage)
    assert pair.heard.feed(True, call) == []
    assert pair.heard.undecoded(True) == len(call)
    (fault,) = pair.heard.feed(False, pair.server.codec.fault(9, "builtins.KeyError", ()))
    assert isinstance(fault.event, m.Fault)
    assert pair.heard.undecoded(False) == 0


def test_what_is_legal_in_another_phase_only() -> None:
    heard, client = Transcript(), ClientPeer()
    heard.feed(False, SERVER_GREETING)
    client.receive(SERVER_GREETING)
    heard.feed(True, client.hello(Coding.MSGPACK))
    assert client.codec is not None
    (found,) = heard.feed(True, client.codec.call(1, m.GetInfo()))
    assert isinstance(found.event, Violated)
    assert isinstance(found.event.error, IllegalMessage)


# -- bounds --------------------------------------------------------------------------------------


@pytest.mark.parametrize("coding", Coding)
def test_long_messages_are_not_kept(coding: Coding) -> None:
    pair = Pair(coding)
    assert pair.client.codec is not None
    extra = 40 * MAX_DECODED
    tracemalloc.start()
    try:
        found = pair.heard.feed(True, pack_length(extra) + b"\x21")
        for _ in range(40):
            found += pair.heard.feed(True, bytes(MAX_DECODED - 1))
        found += pair.heard.feed(True, bytes(39) + pair.client.codec.call(5, m.Ping()))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    kind = 0x21 if coding is Coding.OWN else None
    assert events_of(found) == [TooLong(kind), m.Call(5, m.Ping())]
    assert found[0].size == extra + 4
    assert peak < 3 * MAX_DECODED


def test_the_longest_that_is_shown() -> None:
    pair = Pair(Coding.OWN)
    assert pair.client.codec is not None
    for size, expected in ((MAX_DECODED, m.Notice), (MAX_DECODED + 1, TooLong)):
        store = m.Store(OID, TID, bytes(size - 25), 1)
        (entry,) = pair.heard.feed(True, pair.client.codec.notice(store))
        assert isinstance(entry.event, expected)
        assert entry.size == size + 4


@settings(max_examples=300)
@given(
    st.lists(
        st.tuples(
            st.booleans(),
            st.sampled_from(
                [b"", SERVER_GREETING, frame(b"M5"), frame(b"ruok"), frame(b"\x05"), b"\0\0\0",
                 *(step.frame for step in read_transcript("v1-session"))]
            ),
            st.binary(max_size=30),
        ),
        max_size=12,
    )
)  # fmt: skip
def test_nothing_disturbs_it(said: list[tuple[bool, bytes, bytes]]) -> None:
    """Every byte is accounted for: as that of a message, as undecoded, or as one that waits."""
    heard = Transcript()
    total = {True: 0, False: 0}
    sizes = {True: 0, False: 0}
    for is_from_client, known, noise in said:
        data = known + noise
        total[is_from_client] += len(data)
        for entry in heard.feed(is_from_client, data):
            assert entry.is_from_client is is_from_client
            if not isinstance(entry.event, TooLong):
                sizes[is_from_client] += entry.size
    for side in (True, False):
        rest = total[side] - sizes[side] - heard.undecoded(side)
        assert rest >= 0
        if heard.undecoded(side):
            assert rest == 0


@pytest.mark.parametrize("must_log_in", [True, False])
def test_a_login_is_heard_without_what_is_said(must_log_in: bool) -> None:
    heard, client = Transcript(), ClientPeer()
    server = ServerPeer(Coding.MSGPACK)
    server.know_users(("SCRAM-SHA-256",), "ZEO", must_log_in=must_log_in)
    lines: list[str] = []

    def say(is_from_client: bool, data: bytes) -> None:
        events = (server if is_from_client else client).receive(data)
        found = heard.feed(is_from_client, data)
        assert [entry.event for entry in found] == events
        lines.extend(describe(entry, with_data=True) for entry in found)

    say(False, server.greeting())
    say(True, client.hello(Coding.OWN))
    say(False, server.welcome())
    say(True, client.login_step(LoginStep(b"a secret", "SCRAM-SHA-256")))
    say(False, server.login_reply(LoginReply(b"a secret")))
    say(True, client.login_step(LoginStep(b"a secret")))
    say(False, server.login_reply(LoginReply(b"a secret", is_done=True)))
    client.logged_in()
    assert client.codec is not None
    assert server.codec is not None
    say(True, client.codec.call(1, m.Register("1", False)))
    say(False, server.codec.reply(1, TID))
    assert lines[3:7] == [
        "log-in SCRAM-SHA-256, 8 bytes",
        "log-in is challenged, 8 bytes",
        "log-in goes on, 8 bytes",
        "log-in succeeds, 8 bytes",
    ]
    assert lines[7].startswith("call 1 register")
    assert lines[8].startswith("reply 1 register")
    refused = heard.feed(True, frame(serialize_inquiry(StatusInquiry())))
    assert isinstance(refused[0].event, Violated)


def test_a_refused_login_is_heard_with_the_reason() -> None:
    entry = Entry(False, LoginReply(error="not today"), 30)
    assert describe(entry) == "log-in not today, 0 bytes"


def test_hellos_are_heard_with_what_they_say() -> None:
    heard = Transcript()
    heard.feed(False, SERVER_GREETING)
    client = ClientPeer(program="a program")
    client.receive(SERVER_GREETING)
    (entry,) = heard.feed(True, client.hello(Coding.OWN))
    assert isinstance(entry.event, Hello)
    assert entry.event.introduction is not None
    assert entry.event.introduction.program == "a program"


@pytest.mark.parametrize("is_there", [True, False])
def test_compressed_messages(is_there: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the library they are passed on like all others, and nothing else suffers."""
    monkeypatch.setattr(transcript, "is_available", lambda: is_there)
    monkeypatch.setattr(descriptions, "is_available", lambda: is_there)
    heard = Transcript()
    for step in read_transcript("v1-link"):
        (entry,) = heard.feed(step.is_from_client, step.frame)
        if step.frame[4] == COMPRESSED and not is_there:
            assert entry.event == TooLong(COMPRESSED)
            assert describe(entry).endswith("compressed: to be shown it takes zeolith[zstd]")
        else:
            assert repr(entry.event) == step.meaning
        assert entry.size == len(step.frame)

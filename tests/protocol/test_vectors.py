"""Recorded transcripts: what was written once is read for ever, and still written in that way."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from tests.support.transcripts import VECTORS, Step, read_transcript
from tests.support.wire_cases import serialize
from tools.examples import with_examples

from zeolith.protocol.compression import COMPRESSED, compress, decompress
from zeolith.protocol.framing import MAX_PAYLOAD, frame
from zeolith.protocol.greeting import Coding
from zeolith.protocol.hello import NO_TERMS, Terms
from zeolith.protocol.messages import Call, Fault, Heartbeat, Notice, Register, Reply
from zeolith.protocol.own import KINDS, METHODS
from zeolith.protocol.peers import ClientPeer, Greeted, Hello, ServerPeer, Violated, Welcomed

DOCUMENT = Path(__file__).parents[2] / "docs" / "protocol.md"
PROGRAM = "zeolith 0.1"
MESSAGES = (Call, Notice, Reply, Fault, Heartbeat)


class Pair:
    """Two peers, of which each is fed what the other is recorded to have sent."""

    def __init__(self, server_terms: Terms = NO_TERMS, client_terms: Terms = NO_TERMS) -> None:
        self.server = ServerPeer(Coding.MSGPACK, program=PROGRAM, terms=server_terms)
        self.client = ClientPeer(program=PROGRAM, terms=client_terms)
        self.written: list[bytes] = [self.server.greeting()]

    def take(self, step: Step, size: int) -> list[Any]:
        """Feed one frame in pieces of *size*; note what our side would write in its place."""
        peer: Any = self.server if step.is_from_client else self.client
        events: list[Any] = []
        for at in range(0, len(step.frame), size):
            events += peer.receive(step.frame[at : at + size])
        for event in events:
            if isinstance(event, Greeted):
                version = event.greeting.version
                coding = event.greeting.coding if version is None else Coding.OWN
                self.written.append(self.client.hello(coding))
            elif isinstance(event, Hello) and event.introduction is not None:
                self.written.append(self.server.welcome())
            elif isinstance(event, MESSAGES):
                sender: Any = self.client if step.is_from_client else self.server
                self.written.append(serialize(sender.codec, event))
                if isinstance(event, Reply) and event.msgid == 1:
                    self.server.registered()
                    self.client.registered()
        return events


SESSIONS = ("v1-session", "v1-loads", "v1-outcome", "v1-streams")


@pytest.mark.parametrize("name", SESSIONS)
@pytest.mark.parametrize("size", [1, 7, 1_000])
def test_a_session(name: str, size: int) -> None:
    """Everything is read as it was meant, and what we write today is the same bytes."""
    pair = Pair()
    steps = read_transcript(name)
    for step in steps:
        assert [repr(event) for event in pair.take(step, size)] == [step.meaning]
    # The server's hello was written when the client's came, before the registration behind it.
    assert sorted(pair.written) == sorted(step.frame for step in steps)


def test_every_kind_is_in_a_session() -> None:
    kinds = {step.frame[4] for name in SESSIONS for step in read_transcript(name)}
    assert kinds >= KINDS - {
        *(0x02, COMPRESSED),  # how a message is compressed may change; see below
    }


@pytest.mark.parametrize("size", [1, 7, 1_000])
def test_heartbeats_and_compression(size: int) -> None:
    """What is compressed need not be the same bytes for ever, but is read for ever."""
    pair = Pair(Terms(120, True), Terms(60, True))
    steps = read_transcript("v1-link")
    for step in steps:
        assert [repr(event) for event in pair.take(step, size)] == [step.meaning]
    assert sorted(pair.written) == sorted(opened(step.frame) for step in steps)
    for step in steps:
        if step.frame[4] == COMPRESSED:
            assert opened(compress(opened(step.frame))) == opened(step.frame)


@pytest.mark.parametrize("size", [1, 7, 1_000])
def test_blobs_with_checksums(size: int) -> None:
    terms = Terms(checksums=("sha256",))
    pair = Pair(terms, terms)
    steps = read_transcript("v1-blobs")
    for step in steps:
        assert [repr(event) for event in pair.take(step, size)] == [step.meaning]
    assert sorted(pair.written) == sorted(step.frame for step in steps)


@pytest.mark.parametrize("name", ["v1-cut", "v1-resumed"])
@pytest.mark.parametrize("size", [1, 7, 1_000])
def test_an_upload_on_two_connections(name: str, size: int) -> None:
    pair = Pair(Terms(checksums=("sha256",), keeps=60), Terms(checksums=("sha256",)))
    steps = read_transcript(name)
    for step in steps:
        assert [repr(event) for event in pair.take(step, size)] == [step.meaning]
    assert sorted(pair.written) == sorted(step.frame for step in steps)


@pytest.mark.parametrize("size", [1, 7, 1_000])
def test_several_transactions_at_once(size: int) -> None:
    pair = Pair(Terms(transactions=32))
    steps = read_transcript("v1-together")
    for step in steps:
        assert [repr(event) for event in pair.take(step, size)] == [step.meaning]
    assert sorted(pair.written) == sorted(step.frame for step in steps)
    assert pair.client.codec is not None
    assert pair.client.codec.transactions == 32


def opened(frame_: bytes) -> bytes:
    """Return *frame_* as it was before it was compressed."""
    payload = frame_[4:]
    return frame(decompress(payload, MAX_PAYLOAD)) if payload[0] == COMPRESSED else frame_


def test_programs_that_know_more() -> None:
    pair = Pair()
    for step in read_transcript("v1-later-peers"):
        (event,) = pair.take(step, 1_000)
        assert repr(event) == step.meaning
    assert isinstance(event, Welcomed)
    assert pair.client.codec is not None
    assert pair.client.codec.max_payload == MAX_PAYLOAD


def test_a_refusal() -> None:
    asked, refused = read_transcript("v1-refusal")
    (event,) = ServerPeer(Coding.PICKLE).receive(asked.frame)
    assert isinstance(event, Violated)
    assert repr(event) == asked.meaning
    client = ClientPeer()
    client.receive(ServerPeer(Coding.PICKLE).greeting())
    client.hello(Coding.OWN)
    (event,) = client.receive(refused.frame)
    assert repr(event) == refused.meaning


def test_servers_without_a_common_version_are_spoken_to_as_before() -> None:
    steps = read_transcript("v1-fallback")
    assert len(steps) % 2 == 0
    for greeting, hello in zip(steps[::2], steps[1::2], strict=True):
        (event,) = ClientPeer().receive(greeting.frame)
        assert repr(event) == greeting.meaning
        assert isinstance(event, Greeted)
        assert event.greeting.version is None
        assert repr(ServerPeer(Coding.MSGPACK).receive(hello.frame)[0]) == hello.meaning


def test_every_transcript_is_replayed() -> None:
    names = {path.stem for path in VECTORS.iterdir()}
    others = {
        "v1-blobs",
        "v1-cut",
        "v1-resumed",
        "v1-together",
        "v1-link",
        "v1-later-peers",
        "v1-refusal",
        "v1-fallback",
        "v1-changes",
        "v1-login",
    }
    assert names == {*SESSIONS, *others}
    assert all(
        step.frame == frame(step.frame[4:]) for name in names for step in read_transcript(name)
    )


# -- the document ------------------------------------------------------------------------------


def test_the_document_s_examples_are_recorded() -> None:
    """``make reference`` writes them."""
    text = DOCUMENT.read_text()
    assert text == with_examples(text)
    names = re.findall(r"^```vectors ([\w-]+)", text, re.M)
    assert {"v1-session", "v1-streams", "v1-loads", "v1-outcome"} <= set(names)
    assert text.count("```vectors") == len(names)


def test_examples_that_are_not_recorded_are_found() -> None:
    text = "```vectors v1-session: Loads\nC 00\n```"
    assert with_examples(text).startswith("```vectors v1-session: Loads\n# Loads: ")
    with pytest.raises(SystemExit, match="0 parts"):
        with_examples("```vectors v1-session: no such remark\n```")


def test_the_document_s_tables_are_the_code_s() -> None:
    from zeolith.protocol.additions import NAMES

    text = DOCUMENT.read_text()
    numbers = {
        int(number): name for number, name in re.findall(r"^\| (\d+) \| `(\w+)` \|", text, re.M)
    }
    assert numbers == {number: NAMES[cls] for number, cls in METHODS.items()}
    kinds = {int(kind, 16) for kind in re.findall(r"^\| `0x(\w\w)` \|", text, re.M)}
    assert kinds == KINDS
    assert METHODS[1] is Register


def test_the_document_says_what_each_method_takes() -> None:
    """Of all: those of ZEO's protocol in its tables, the others in one of their own."""
    from zeolith.protocol.additions import OWN_CLIENT_REQUESTS, OWN_SERVER_REQUESTS

    text = DOCUMENT.read_text()
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \| (.*?) \|$", text, re.M)
    found = {name for names, _ in rows for name in re.findall(r"\w+", names)}
    kinds = {"load_many", "loaded_many"}  # they have kinds, and a section
    assert found >= {*OWN_SERVER_REQUESTS, *OWN_CLIENT_REQUESTS} - kinds

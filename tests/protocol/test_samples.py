"""No message goes untested: each has a sample, and what holds for one holds for all of them.

Driven by the tables of the code: a new method or kind fails the first two tests until
``tests/support/wire_cases.py`` has cases of it.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.wire_cases import ALL_CASES, CASES, Case, as_received, as_sent, serialize

from zeolith.protocol import messages as m
from zeolith.protocol.additions import OWN_CLIENT_REQUESTS, OWN_SERVER_REQUESTS
from zeolith.protocol.compression import COMPRESSED
from zeolith.protocol.greeting import Coding
from zeolith.protocol.hello import Terms
from zeolith.protocol.limits import DEFAULT_LIMITS
from zeolith.protocol.messages import CLIENT_REQUESTS, SERVER_REQUESTS
from zeolith.protocol.own import KINDS, OwnCodec
from zeolith.protocol.peers import ClientPeer, ServerPeer, Welcomed

TID = b"\3" * 8
CODEC = OwnCodec(OWN_SERVER_REQUESTS, DEFAULT_LIMITS)


def requests_of(cases: list[Case]) -> set[type[Any]]:
    return {type(case.message[-1]) for case in cases if isinstance(case.message, m.Call | m.Notice)}


@pytest.mark.parametrize(
    ("cases", "tables"),
    [
        (CASES, (SERVER_REQUESTS, CLIENT_REQUESTS)),
        (ALL_CASES, (OWN_SERVER_REQUESTS, OWN_CLIENT_REQUESTS)),
    ],
    ids=["ZEO", "own"],
)
def test_every_request_has_a_sample(cases: list[Case], tables: Any) -> None:
    assert requests_of(cases) == {form.cls for table in tables for form in table.values()}


def test_every_kind_has_a_sample() -> None:
    kinds = {serialize(CODEC, as_sent(case.message, b"O"))[4] for case in ALL_CASES}
    # A compressed message is any other one.
    assert kinds == KINDS - {COMPRESSED}


# -- two cores back to back ----------------------------------------------------------------------

_LEGAL = [case for case in ALL_CASES if case.wire[2] != "register"]
_LETTERS = {coding: coding.value for coding in Coding}


def cases_for(coding: Coding) -> list[Case]:
    return [case for case in (_LEGAL if coding is Coding.OWN else CASES) if case in _LEGAL]


class Wire:
    """Two peers, and the bytes on their way, which arrive in any pieces and in any interleaving of
    the two directions."""

    def __init__(self, data: st.DataObject) -> None:
        self.data = data
        terms = Terms(60, True)
        self.peers: dict[str, Any] = {
            "server": ServerPeer(Coding.PICKLE, terms=terms),
            "client": ClientPeer(terms=terms),
        }
        self.waiting: dict[str, bytes] = {"server": b"", "client": b""}
        self.arrived: dict[str, list[Any]] = {"server": [], "client": []}

    def send(self, receiver: str, frame: bytes) -> None:
        self.waiting[receiver] += frame

    def deliver(self) -> None:
        """Let everything arrive."""
        while ways := [name for name, stream in self.waiting.items() if stream]:
            self.deliver_some(self.data.draw(st.sampled_from(ways)))

    def deliver_some(self, receiver: str) -> None:
        size = self.data.draw(st.sampled_from([1, 2, 5, 17, 60, 300, 4_096, 100_000]))
        stream = self.waiting[receiver]
        self.waiting[receiver] = stream[size:]
        self.arrived[receiver] += self.peers[receiver].receive(stream[:size])

    def take(self, receiver: str) -> list[Any]:
        found, self.arrived[receiver] = self.arrived[receiver], []
        return found

    def connect(self, coding: Coding) -> None:
        server, client = self.peers["server"], self.peers["client"]
        self.send("client", server.greeting())
        self.deliver()
        self.send("server", client.hello(coding))
        register = m.Call(1, m.Register("1", True))
        self.send("server", client.codec.call(*register))
        self.deliver()
        assert self.take("server")[1:] == [register]
        if coding is Coding.OWN:
            self.send("client", server.welcome())
        self.send("client", server.codec.reply(1, TID))
        self.deliver()
        *_, welcomed, reply = self.take("client")
        assert isinstance(welcomed, Welcomed) == (coding is Coding.OWN)
        assert reply == m.Reply(1, TID)
        server.registered()
        client.registered()


@pytest.mark.parametrize("coding", Coding)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_two_cores_back_to_back(coding: Coding, data: st.DataObject) -> None:
    """Random messages of both sides, legal ones, some of them compressed, in random pieces: all
    arrive, in order."""
    wire = Wire(data)
    wire.connect(coding)
    sent: dict[str, list[Any]] = {"server": [], "client": []}
    choices = [case for case in cases_for(coding) if len(repr(case.wire)) < 80_000]
    for case in data.draw(st.lists(st.sampled_from(choices), max_size=12)):
        sender = "client" if case.receiver == "server" else "server"
        message = as_sent(case.message, _LETTERS[coding])
        codec = wire.peers[sender].codec
        frame = serialize(codec, message)
        if codec.compress is not None and data.draw(st.booleans()):
            frame = codec.compress(frame)
        wire.send(case.receiver, frame)
        sent[case.receiver].append(as_received(message, _LETTERS[coding]))
        if data.draw(st.booleans()) and wire.waiting[case.receiver]:
            wire.deliver_some(case.receiver)
    wire.deliver()
    assert wire.arrived == sent
    assert all(peer.pending == 0 for peer in wire.peers.values())


@pytest.mark.parametrize("size", [1, 7, 100_000])
@pytest.mark.parametrize("coding", Coding)
def test_every_sample_arrives(coding: Coding, size: int) -> None:
    """All of them in one connection, whatever the random ones leave out."""
    server, client = ServerPeer(Coding.PICKLE), ClientPeer()
    client.receive(server.greeting())
    server.receive(client.hello(coding))
    if coding is Coding.OWN:
        client.receive(server.welcome())
    server.registered()
    client.registered()
    peers: dict[str, Any] = {"server": (server, client), "client": (client, server)}
    for receiver, (peer, sender) in peers.items():
        messages = [
            as_sent(case.message, _LETTERS[coding])
            for case in cases_for(coding)
            if case.receiver == receiver
        ]
        stream = b"".join(serialize(sender.codec, message) for message in messages)
        arrived: list[Any] = []
        for at in range(0, len(stream), size):
            arrived += peer.receive(stream[at : at + size])
        assert arrived == [as_received(message, _LETTERS[coding]) for message in messages]

"""Streams of a client whose server is the test."""

from __future__ import annotations

from typing import Any

from zeolith.client.channel import Channel
from zeolith.protocol.greeting import Coding
from zeolith.protocol.limits import STREAM_FRAME
from zeolith.protocol.messages import Info, Request
from zeolith.protocol.peers import Hello, ServerPeer
from zeolith.protocol.streamrequests import (
    OpenBlob,
)

from .conftest import Line, MemoryWire, Recorder, ServerEnd

OID, TID = bytes(7) + b"\1", bytes(7) + b"\x64"
FRAME = b"f" * STREAM_FRAME


def open_request(number: int, credit: int) -> OpenBlob:
    return OpenBlob(number, OID, TID, 0, credit)


class Sink:
    """Keeps what comes."""

    def __init__(self, consumes: bool = True) -> None:
        self.data = b""
        self.answer: Any = None
        self.is_wanted = True
        self.was_asked = False
        self._consumes = consumes

    def asked(self) -> None:
        self.was_asked = True

    def opened(self, answer: Any) -> None:
        assert self.was_asked
        self.answer = answer

    def take(self, data: bytes | memoryview) -> int:
        self.data += data
        return len(data) if self._consumes else 0


def own_line() -> Line:
    """Return a registered channel that speaks Zeolith's own protocol."""
    wire = MemoryWire()
    receiver = Recorder()
    channel = Channel(wire, receiver, "memory")
    server = ServerEnd(wire, ServerPeer(Coding.MSGPACK))
    wire.arriving.put(server.peer.greeting())
    channel.greet()
    assert isinstance(server.next_event(), Hello)
    server.peer.registered()
    server.say(server.peer.welcome())
    server.say(server.codec.notice(Info({"length": 1, "size": 2})))
    while not receiver.events:
        channel._read()
    channel.registered()
    receiver.events.clear()
    return Line(channel, receiver, wire, server)


def say(line: Line, *requests: Request) -> None:
    line.server.say(*(line.server.codec.notice(request) for request in requests))


def answer(line: Line, value: Any) -> OpenBlob:
    """Answer the client's next call; return its request."""
    call = line.server.next_call()
    line.server.say(line.server.codec.reply(call.msgid, value))
    assert isinstance(call.request, OpenBlob)
    return call.request

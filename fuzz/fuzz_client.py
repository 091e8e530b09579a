"""Fuzz the client against a hostile server: whole connections of its core, without sockets.

Invariant: whatever a server sends, in whatever pieces,

1. a call returns, or raises an error that is in the tree of :mod:`zeolith.errors`, of the operating
   system, of ZODB, or that the server's own fault stands for; nothing else;
2. a call that has returned or raised leaves nobody waiting, and the connection can be closed;
3. what arrives leaves the cache in order: it answers, with revisions that can be true;
4. what the client says in the meantime is whole frames.

Usage: ``python -m fuzz.fuzz_client [seconds [seed]]``; with ``--record`` the sessions are recorded
that mutation begins with.  Ends with status 1 if the invariant is broken, and keeps the session in
``corpus/client``.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any, Final
from unittest.mock import patch

from ZODB.POSException import POSError

from fuzz import sessions
from fuzz.sessions import Session
from zeolith.cache.log import MINIMUM_SIZE
from zeolith.cache.ring import RingCache
from zeolith.client.channel import Channel
from zeolith.errors import ClientDisconnected, ZeolithError
from zeolith.protocol import messages as m
from zeolith.protocol.additions import ChangesSince, VerifyMany
from zeolith.protocol.faults import parse_fault
from zeolith.protocol.framing import HEADER_SIZE, MAX_PAYLOAD, FrameReader, frame
from zeolith.protocol.greeting import Coding
from zeolith.protocol.hello import (
    Admission,
    Database,
    Terms,
    parse_admission,
    serialize_admission,
)
from zeolith.protocol.limits import FIRST_UPLOAD
from zeolith.protocol.loadrequests import LoadedMany
from zeolith.protocol.peers import ClientPeer, ServerPeer
from zeolith.protocol.streamrequests import StreamCancel, StreamCredit, StreamData, StreamEnd
from zeolith.types import MAX_TID

DIRECTORY = sessions.CORPUS / "client"
OID, OTHER = bytes(7) + b"\1", bytes(7) + b"\2"
TID, LATER = b"\3" * 8, b"\4" * 8

TERMS: Final = Terms(60.0)

PERMITTED: Final = (ZeolithError, POSError, OSError)
"""Besides what a fault of the server stands for."""


class Broken(AssertionError):
    """The invariant does not hold."""


class ScriptedWire:
    """What a server says, in pieces, whatever it is told; then it closes the connection."""

    peer_name = ("192.0.2.1", 8100)

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self._pieces = list(pieces)
        self.sent = bytearray()
        self.is_aborted = False

    def send(self, data: bytes) -> None:
        if self.is_aborted:
            raise BrokenPipeError("aborted")
        self.sent += data

    def receive(self) -> bytes:
        if self.is_aborted or not self._pieces:
            return b""
        return self._pieces.pop(0)

    def is_readable(self, timeout: float | None) -> bool:
        return True

    def is_writable(self) -> bool:
        return True

    def set_timeout(self, timeout: float | None) -> None:
        pass

    def abort(self) -> None:
        self.is_aborted = True

    def close(self) -> None:
        self.is_aborted = True


class Store:
    """Takes what arrives to a cache, as a client's link does."""

    def __init__(self) -> None:
        self.broken_times = 0
        self.cache = RingCache(MINIMUM_SIZE)
        self.loaded = self.cache.store
        self.loaded_many = self.cache.store_many

    def noticed(self, request: m.Request) -> None:
        if isinstance(request, m.InvalidateTransaction):
            is_late = request.tid <= self.cache.last_tid()
            for oid in request.oids:
                self.cache.invalidate(oid, None if is_late else request.tid)
            if not is_late:
                self.cache.set_last_tid(request.tid)

    def broken(self, channel: Channel, cause: BaseException) -> None:
        self.broken_times += 1

    def check(self) -> None:
        """Assert that the cache answers, and with nothing but what can be true."""
        for oid in (OID, OTHER):
            for tid in (MAX_TID, LATER, TID):
                found = self.cache.load_before(oid, tid)
                if found is None:
                    continue
                data, start, end = found
                if type(data) is not bytes or not start < tid or (end is not None and end < tid):
                    raise Broken(f"the cache has {found} for {oid.hex()} before {tid.hex()}")


class Faults:
    """Remembers which errors stand for faults of the server."""

    def __init__(self) -> None:
        self.made: list[BaseException] = []

    def parse(self, name: str, details: Any) -> Exception:
        """Stand for :func:`.parse_fault`."""
        error = parse_fault(name, details)
        self.made.append(error)
        return error


def check(session: Session, choice: random.Random) -> list[BaseException]:
    """Assert the invariant for *session*; return the errors that its calls raised."""
    wire, store, faults = ScriptedWire(_pieces(session, choice)), Store(), Faults()
    errors: list[BaseException] = []
    with patch("zeolith.client.channel.parse_fault", faults.parse), closing(store.cache):
        channel = Channel(wire, store, "hostile", TERMS)
        if _attempt(channel.greet, faults, errors):
            for step in _steps(channel):
                if not _attempt(step, faults, errors) and channel.is_broken:
                    break
        if channel.is_being_read or channel.follower_count:
            raise Broken("somebody is left waiting")
        channel.close(ClientDisconnected("closed"))
        channel.release()
        store.check()
    if store.broken_times > 1:
        raise Broken("the end was told twice")
    reader = FrameReader(MAX_PAYLOAD)
    reader.feed(bytes(wire.sent))
    if reader.pending:
        raise Broken("half a frame was written")
    return errors


def _pieces(session: Session, choice: random.Random) -> list[bytes]:
    """Return the frames of *session* as they arrive: mostly one at a time, because what comes
    before it is asked for is no answer."""
    pieces: list[bytes] = []
    for data in map(frame, session):
        match choice.random():
            case chance if chance < 0.02 and pieces:
                pieces[-1] += data
            case chance if chance < 0.04:
                pieces.append(sessions.mutate_bytes(choice, data))  # lengths, too
            case chance if chance < 0.2:
                pieces += sessions.in_pieces(choice, data)
            case _:
                pieces.append(data)
    return [piece for piece in pieces if piece]


def _attempt(step: Callable[[], object], faults: Faults, errors: list[BaseException]) -> bool:
    try:
        step()
    except Exception as error:
        errors.append(error)
        if isinstance(error, PERMITTED) or any(error is made for made in faults.made):
            return False
        raise
    return True


def _steps(channel: Channel) -> list[Callable[[], object]]:
    """Return what a client does on a connection; the numbers of its calls are always the same."""

    def register() -> None:
        parse_admission(channel.call(m.Register("1", False)))
        channel.registered()

    steps: list[Callable[[], object]] = [
        register,
        lambda: channel.call(m.GetInfo()),
        lambda: channel.load_before(OID, MAX_TID),
        lambda: channel.load_before(OTHER, LATER),
        lambda: channel.call(m.LastTransaction()),
        lambda: channel.call(m.NewOids(2)),
        lambda: channel.post(m.TpcBegin(5, b"", b"", b"" if channel.speaks_own else {}, None, " ")),
        lambda: channel.call(m.Vote(5)),
        lambda: channel.call(m.TpcFinish(5)),
    ]
    if channel.speaks_own:
        steps += [
            lambda: channel.request_loads([OID, OTHER], MAX_TID),
            lambda: channel.call(VerifyMany(OID + TID)),
            lambda: channel.call(ChangesSince(TID, 10, b"")),
            lambda: channel.call(m.UndoLog(0, -1)),
        ]
    steps.append(lambda: channel.call(m.Ping()))
    return steps


# -- recorded sessions ---------------------------------------------------------------------------


def _record(coding: Coding) -> list[Session]:
    """Return what a server says to the steps above, whole and without the last answers."""
    server = ServerPeer(Coding.MSGPACK if coding is Coding.OWN else coding, terms=TERMS)
    client = ClientPeer(terms=TERMS)
    client.receive(server.greeting())
    server.receive(client.hello(coding))
    codec = server.codec
    assert codec is not None
    is_own = coding is Coding.OWN
    admission = Admission(TID, Database("5a1b2c3d-0000-4000-8000-000000000001", 1))
    info = {"length": 1, "size": 2, "name": "x", "supportsUndo": True, "interfaces": ()}
    # Without the marker of ours, it is as if it came from ZEO's server.
    greeting = server.greeting() if is_own else frame(coding.value + b"5")
    frames = [
        greeting,
        *([server.welcome()] if is_own else []),
        codec.reply(1, serialize_admission(admission) if is_own else TID),
        codec.reply(2, info),
        codec.notice(m.InvalidateTransaction(LATER, [OID])),
        codec.loaded((OID, MAX_TID), b"data", TID, None),
        codec.loaded((OTHER, LATER), b"older", TID, LATER),
        codec.reply(3, LATER),
        codec.reply(4, [OID, OTHER]),
        codec.notice(m.Info({"length": 2, "size": 3})),
        codec.reply(5, []),
        codec.reply(6, LATER),
    ]
    if is_own:
        frames += [
            codec.notice(
                LoadedMany(MAX_TID, [(OID, TID, None, b"data"), (OTHER, TID, LATER, b"")])
            ),
            codec.reply(7, (TID, OID)),
            codec.reply(8, (LATER, False, [(LATER, OID, OTHER)])),
            codec.fault(9, "ZODB.POSException.ReadConflictError", ("x",)),
            codec.notice(StreamData(1, b"data")),
            codec.notice(StreamCredit(FIRST_UPLOAD, 100)),
            codec.notice(StreamEnd(1)),
            codec.notice(StreamCancel(FIRST_UPLOAD)),
            codec.heartbeat(),
        ]
    frames.append(codec.reply(10 if is_own else 7, None))
    said = [data[HEADER_SIZE:] for data in frames]
    fault = codec.fault(2, "builtins.KeyError", ("x",))[HEADER_SIZE:]
    at = 3 if is_own else 2
    return [said, [*said[:at], fault, *said[at + 1 :]]]


def recorded() -> dict[str, Session]:
    """Return the sessions that mutation begins with."""
    return {
        f"{coding.name.lower()}-{name}": session
        for coding in Coding
        for name, session in zip(("all", "fault"), _record(coding), strict=True)
    }


def main(argv: Sequence[str]) -> int:
    """Run the fuzzer; return the exit status."""
    if argv[1:] == ["--record"]:
        for name, session in recorded().items():
            sessions.save(DIRECTORY, name, session, "recorded: python -m fuzz.fuzz_client --record")
        return 0
    return sessions.main(argv, "the client", DIRECTORY, _check)


def _check(session: Session, choice: random.Random) -> None:
    check(session, choice)


if __name__ == "__main__":
    sys.exit(main(sys.argv))

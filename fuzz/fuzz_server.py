"""Fuzz the server from its network side: whole sessions, over a storage in memory, without sockets.

Invariant: whatever a client sends, in whatever pieces,

1. nothing but an answer, a refusal or the end of its connection comes of it: no exception reaches
   the loop, and no error that a handler did not expect is logged;
2. what the server says is whole frames, which a client's decoder accepts;
3. when the connection has ended, nothing of it is left: no transaction, no bytes that wait, no
   place in the crowd, no file of an upload besides those that are parked;
4. another client is served meanwhile and afterwards, and can commit.

Usage: ``python -m fuzz.fuzz_server [seconds [seed]]``; with ``--record`` the sessions are recorded
that mutation begins with.  Ends with status 1 if the invariant is broken, and keeps the session in
``corpus/server``.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ZODB.blob import BlobStorage
from ZODB.MappingStorage import MappingStorage

from fuzz import sessions
from fuzz.sessions import Session
from zeolith.protocol import messages as m
from zeolith.protocol import streamrequests as s
from zeolith.protocol.additions import ChangesSince, VerifyMany, requests_to_client
from zeolith.protocol.codecs import make_codec
from zeolith.protocol.framing import HEADER_SIZE, MAX_PAYLOAD, FrameReader, frame
from zeolith.protocol.greeting import STATUS_PROBE, Coding
from zeolith.protocol.hello import MAGIC, NO_TERMS, Terms
from zeolith.protocol.inquiry import StatusInquiry, serialize_inquiry
from zeolith.protocol.limits import DEFAULT_LIMITS, FIRST_UPLOAD, Limits
from zeolith.protocol.loadrequests import LoadMany, SyncTo
from zeolith.protocol.outcome import Outcome
from zeolith.protocol.peers import ClientPeer
from zeolith.server.inbox import Inbox
from zeolith.server.lobby import Lobby
from zeolith.server.options import ServerOptions
from zeolith.server.service import Pools, StorageService
from zeolith.server.transport import Connection
from zeolith.types import MAX_TID

DIRECTORY = sessions.CORPUS / "server"
OID, MINE, Z64 = bytes(7) + b"\1", bytes(6) + b"\x70\0", bytes(8)
BLOB = b"cZODB.blob\nBlob\n."

PATIENCE = 20.0
"""Seconds after which a session has hung."""

SESSIONS_PER_SERVER = 200
"""Then a new one is made: what is committed stays in memory."""

LIMITS = Limits(max_message_size=1_000_000)


class Broken(AssertionError):
    """The invariant does not hold."""


class Transport:
    """What the server writes to."""

    def __init__(self, number: int) -> None:
        self.peername = ("192.0.2.1", number)
        self.written = bytearray()
        self.is_closed = False

    def write(self, data: bytes) -> None:
        if self.is_closed:
            raise Broken("written after the end")
        self.written += data

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self.peername if name == "peername" else default

    def set_write_buffer_limits(self, high: int) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        pass

    resume_reading = pause_reading

    def close(self) -> None:
        self.is_closed = True

    abort = close


class Findings(logging.Handler):
    """Keeps what the server did not expect."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info is not None and record.exc_info[1] is not None:
            self.found.append(f"{record.getMessage()}: {record.exc_info[1]!r}")

    def from_loop(self, loop: Any, context: dict[str, Any]) -> None:
        """Take what reached the loop."""
        self.found.append(f"{context.get('message')}: {context.get('exception')!r}")


class Bench:
    """A server without sockets, and one client that behaves."""

    def __init__(self) -> None:
        self.directory = tempfile.TemporaryDirectory(prefix="zeolith-fuzz-")
        self.loop = asyncio.new_event_loop()
        self.findings = Findings()
        self.loop.set_exception_handler(self.findings.from_loop)
        logging.getLogger("zeolith").addHandler(self.findings)
        options = ServerOptions(
            address=("127.0.0.1", 0),
            limits=LIMITS,
            max_blob_size=1 << 20,
            workers=2,
            # Nothing may be left out.
            peer_log_lines=10**9,
        )
        self.inbox = Inbox()
        self.pools = Pools(options, self.inbox)
        storage = BlobStorage(self.directory.name, MappingStorage())
        self.service = StorageService(
            "1", storage, options, self.inbox, self.pools, self._storage_failed
        )
        self.service.prepare()
        self.service.open(self.loop)
        self.inbox.open(self.loop)
        self.lobby = Lobby(self.loop, options, {"1": self.service})
        self.connections = 0
        self.witness, self.wire = self.connect()
        self.peer = ClientPeer()
        self.peer.receive(bytes(self.wire.written))
        self.wire.written.clear()
        self._say(self.peer.hello(Coding.OWN))
        assert self.peer.codec is not None
        self.codec = self.peer.codec
        self.commits = 0
        self.ask(m.Register("1", False))
        self.peer.registered()

    def _storage_failed(self) -> None:
        self.findings.found.append("the storage is out of service")

    def close(self) -> None:
        """Stop threads, and remove files."""
        logging.getLogger("zeolith").removeHandler(self.findings)
        for connection in list(self.lobby.connections):
            connection.connection_lost(None)
        self.settle()
        self.lobby.pulse.stop()
        self.lobby.overdue.stop()
        self.lobby.close_logs()
        self.pools.close()
        self.service.close(PATIENCE)
        self.inbox.close()
        self.loop.close()
        self.directory.cleanup()

    def connect(self) -> tuple[Connection, Transport]:
        self.connections += 1
        connection, transport = Connection(self.lobby), Transport(self.connections % 65536)
        connection.connection_made(transport)
        return connection, transport

    # -- time --------------------------------------------------------------------------------------

    def turn(self) -> None:
        """Let the loop do what is due."""
        self.loop.run_until_complete(asyncio.sleep(0))

    def settle(self) -> None:
        """Let all work end that is under way."""
        deadline = time.monotonic() + PATIENCE
        pools = (self.pools.quick, self.pools.slow, self.pools.loads, self.service._commits)
        calm = 0
        # What has ended may start something else.
        while calm < 5:
            calm = calm + 1 if all(pool.is_idle for pool in pools) else 0
            if time.monotonic() > deadline:
                raise Broken("work does not end")
            self.turn()

    # -- the client that behaves -------------------------------------------------------------------

    def _say(self, data: bytes) -> None:
        if self.wire.is_closed:
            raise Broken("another client's connection was ended")
        self.witness.data_received(data)

    def ask(self, request: Any) -> Any:
        """Return the answer to a call of the client that behaves."""
        if isinstance(request, m.LoadBefore):
            self._say(self.codec.load_before(request.oid, request.tid))
        else:
            self._say(self.codec.call(7, request))
        deadline = time.monotonic() + PATIENCE
        while True:
            events = self.peer.receive(bytes(self.wire.written))
            self.wire.written.clear()
            for event in events:
                if isinstance(event, m.Reply):
                    return event.value
                if isinstance(event, m.Fault):
                    raise Broken(f"another client is refused: {event.name} {event.details!r}")
            if time.monotonic() > deadline:
                raise Broken(f"another client gets no answer to {type(request).__name__}")
            self.turn()

    def commit(self) -> None:
        """Commit as another client."""
        # Whatever the other one may have done to it.
        serial = self.ask(m.LoadBefore(MINE, MAX_TID))[1] if self.commits else Z64
        self._say(self.codec.notice(m.TpcBegin(1, b"", b"", b"", None, " ")))
        self._say(self.codec.notice(m.Store(MINE, serial, b"mine", 1)))
        self.ask(m.Vote(1))
        self.ask(m.TpcFinish(1))
        self.commits += 1


class Fuzzer:
    """Checks sessions, on a server for each few hundred."""

    def __init__(self) -> None:
        self._bench: Bench | None = None
        self._count = 0

    def __enter__(self) -> Fuzzer:
        return self

    def __exit__(self, *exc: object) -> None:
        self._close()

    def _close(self) -> None:
        bench, self._bench = self._bench, None
        if bench is not None:
            bench.close()

    @property
    def bench(self) -> Bench:
        """The server in use."""
        if self._count % SESSIONS_PER_SERVER == 0:
            self._close()
        self._count += 1
        if self._bench is None:
            self._bench = Bench()
        return self._bench

    def check(self, session: Session, choice: random.Random) -> bytes:
        """Assert the invariant for *session*; return what the server said."""
        bench = self.bench
        connection, transport = bench.connect()
        pieces = list(map(frame, session))
        # Some wait for answers, without which no transaction gets to its end.
        is_patient = choice.random() < 0.6
        if not is_patient:
            stream = b"".join(pieces)
            if choice.random() < 0.3:
                stream = sessions.mutate_bytes(choice, stream)  # lengths, too
            pieces = sessions.in_pieces(choice, stream)
        for piece in pieces:
            if transport.is_closed:
                break
            connection.data_received(piece)
            if is_patient:
                bench.settle()
            elif choice.random() < 0.5:
                bench.turn()
        if choice.random() < 0.7:
            bench.settle()
        bench.ask(m.Ping())
        coding = None
        if connection.session is not None:
            coding = connection.session.codec.coding
        transport.is_closed = True
        connection.connection_lost(None)
        bench.settle()
        _check_said(bytes(transport.written), coding)
        _check_rest(bench)
        if choice.random() < 0.2:
            bench.commit()
        if bench.findings.found:
            raise Broken(bench.findings.found[0])
        return bytes(transport.written)


def _check_said(data: bytes, coding: Coding | None) -> None:
    reader = FrameReader(MAX_PAYLOAD)
    frames = reader.feed(data)
    if reader.pending:
        raise Broken("half a frame was written")
    if coding is None:
        return
    codec = make_codec(coding, requests_to_client(coding), DEFAULT_LIMITS)
    codec.takes_compressed = True
    for payload in frames[1:]:
        if not payload.startswith(MAGIC):
            codec.decode(payload)


def _check_rest(bench: Bench) -> None:
    lobby = bench.lobby
    rest = {
        "connections": len(lobby.connections) - 1,
        "places": lobby.crowd.count - 1,
        "bytes": lobby.incoming,
        "transactions": bench.service.stats.active_txns,
        "subscribers": len(bench.service.publisher) - 1,
    }
    if any(rest.values()):
        raise Broken(f"something is left of the connection: {rest}")
    left = [*Path(bench.directory.name).rglob("zeolith-upload-*")]
    if len(left) != len(bench.service.parking):
        raise Broken(f"files are left of the connection, besides those that are parked: {left}")


# -- recorded sessions ---------------------------------------------------------------------------


def _record(coding: Coding, *messages: Any, terms: Terms = NO_TERMS) -> Session:
    """Return the session of a client that registers and says *messages*."""
    peer = ClientPeer(terms=terms)
    peer.receive(frame(b"M5 zeolith 1"))
    hello = peer.hello(coding)
    assert peer.codec is not None
    codec = peer.codec
    frames = [hello, codec.call(1, m.Register("1", False))]
    for number, message in enumerate(messages, start=2):
        if isinstance(message, m.LoadBefore):
            frames.append(codec.load_before(message.oid, message.tid))
        elif isinstance(message, tuple) and type(message) is tuple:
            frames.append(codec.call(number, message[0]))
        else:
            frames.append(codec.notice(message))
    return [data[HEADER_SIZE:] for data in frames]


def recorded() -> dict[str, Session]:
    """Return the sessions that mutation begins with."""
    begin: list[Any] = [m.TpcBegin(5, b"user", b"about", {}, None, " "), m.Store(OID, Z64, b"x", 5)]
    vote: list[Any] = [(m.Vote(5),), (m.TpcFinish(5),)]
    blob: list[Any] = [
        m.StoreBlobStart(),
        m.StoreBlobChunk(b"blob"),
        m.StoreBlobEnd(OID, Z64, BLOB, 5),
    ]
    load = m.LoadBefore(OID, MAX_TID)
    said: dict[str, list[Any]] = {
        "reads": [load, (m.GetInfo(),), (m.LastTransaction(),), (m.Ping(),), load],
        "questions": [
            (m.ServerStatus(),),
            (m.GetInvalidations(Z64),),
            (m.GetTid(OID),),
            (m.LoadSerial(OID, Z64),),
            (m.History(OID, 2),),
            (m.NewOids(3),),
            m.SetClientLabel("label"),
        ],
        "commit": [*begin, *vote, load],
        "check": [*begin, m.CheckCurrentSerial(OID, Z64, 5), *vote],
        "abort": [*begin, (m.Vote(5),), (m.TpcAbort(5),), *begin, m.TpcAbort(5)],
        "blob": [*begin, *blob, *vote, (m.SendBlob(OID, Z64),)],
        "iterate": [
            (m.IteratorStart(None, None),),
            (m.IteratorNext(0),),
            (m.IteratorRecordStart(0, Z64),),
            (m.IteratorRecordNext(1),),
            (m.IteratorGc([0, 1]),),
        ],
    }
    found = {
        f"{coding.name.lower()}-{name}": _record(coding, *_as_sent(coding, messages))
        for coding in Coding
        for name, messages in said.items()
        if not (coding is Coding.OWN and name == "blob")
    }
    found["own-blob"] = _record(
        Coding.OWN,
        *_as_sent(Coding.OWN, begin),
        s.StreamData(FIRST_UPLOAD, b"blob"),
        s.StreamEnd(FIRST_UPLOAD),
        s.AttachBlob(FIRST_UPLOAD, OID, None, BLOB, 5, 4),
        *vote,
        (s.OpenBlob(1, OID, Z64, 0, 1000),),
        s.StreamCredit(1, 1000),
        s.StreamCancel(1),
    )
    # The second leaves a part, with which the first may go on.
    part = (s.OpenUpload(FIRST_UPLOAD, bytes(16)),), s.StreamData(FIRST_UPLOAD, b"blob")
    attach = s.AttachBlob(FIRST_UPLOAD, OID, None, BLOB, 5, 4, hashlib.sha256(b"blob").digest())
    found["own-upload"] = _record(
        Coding.OWN,
        *_as_sent(Coding.OWN, begin),
        *part,
        s.StreamEnd(FIRST_UPLOAD),
        attach,
        *vote,
        terms=Terms(checksums=("sha256",)),
    )
    found["own-part"] = _record(
        Coding.OWN,
        s.OpenUpload(FIRST_UPLOAD, bytes(range(16))),
        s.StreamData(FIRST_UPLOAD, b"blob"),
        (s.OpenUpload(FIRST_UPLOAD + 1, bytes(16)),),
        s.StreamData(FIRST_UPLOAD + 1, b"bl"),
        terms=Terms(checksums=("sha256",)),
    )
    found["own-together"] = _record(
        Coding.OWN,
        *_as_sent(Coding.OWN, begin),
        s.StreamData(FIRST_UPLOAD, b"blob"),
        m.TpcBegin(6, b"", b"", b"", None, " "),
        m.Store(bytes(7) + b"\2", None, b"x", 6),
        (m.Vote(6),),
        (m.TpcFinish(6),),
        s.StreamEnd(FIRST_UPLOAD),
        s.ForgetUpload(FIRST_UPLOAD),
        s.StreamData(FIRST_UPLOAD + 1, b"blob"),
        s.ForgetUpload(FIRST_UPLOAD + 1),
        s.ForgetUpload(FIRST_UPLOAD + 2),
        *vote,
    )
    found["own-more"] = _record(
        Coding.OWN,
        LoadMany(MAX_TID, [OID, Z64]),
        (VerifyMany(OID + Z64),),
        (ChangesSince(Z64, 10, b""),),
        (Outcome(bytes(16), Z64),),
        (SyncTo(Z64, 0.0),),
        (s.OpenIteration(1, None, None, 1000),),
    )
    found["status"] = [serialize_inquiry(StatusInquiry("1", 5))]
    found["ruok"] = [STATUS_PROBE]
    return found


def _as_sent(coding: Coding, messages: Sequence[Any]) -> list[Any]:
    """Return *messages* with extension data as that protocol has it."""
    return [
        message._replace(extension=b"")
        if coding is Coding.OWN and isinstance(message, m.TpcBegin)
        else message
        for message in messages
    ]


def main(argv: Sequence[str]) -> int:
    """Run the fuzzer; return the exit status."""
    if argv[1:] == ["--record"]:
        for name, session in recorded().items():
            sessions.save(DIRECTORY, name, session, "recorded: python -m fuzz.fuzz_server --record")
        return 0
    logging.getLogger("zeolith").propagate = False
    with Fuzzer() as fuzzer, suppress(KeyboardInterrupt):
        return sessions.main(argv, "the server", DIRECTORY, lambda *args: void(fuzzer.check(*args)))
    return 0


def void(_: object) -> None:
    """Return nothing."""


if __name__ == "__main__":
    sys.exit(main(sys.argv))

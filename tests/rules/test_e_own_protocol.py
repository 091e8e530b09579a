"""Class E, in Zeolith's own protocol: hostile clients and hostile servers, played by the test.

Whatever one side does, the other gives up that connection with an error that says why, keeps its
memory, and goes on with everybody else.
"""

from __future__ import annotations

import random
import re
import struct
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, TypeAlias

import msgpack
import pytest
from tests.rules.conftest import Attach, Open, tid_of
from tests.support.processes import ServerProcess
from tests.support.raw import FakeConnection, FakeServer, RawClient, connect, oid_of
from tests.support.waiting import Background, promptly, wait_until
from tests.support.wire_cases import ALL_CASES, as_sent, serialize

from zeolith.errors import ZeolithError
from zeolith.protocol import messages as m
from zeolith.protocol.framing import frame
from zeolith.protocol.greeting import Coding, serialize_greeting
from zeolith.protocol.hello import Introduction, serialize_introduction
from zeolith.types import MAX_TID

MIB = 1 << 20
OID, OTHER = oid_of(1), oid_of(2)
HELLO = frame(serialize_introduction(Introduction(1, 1 << 20, "hostile")))
REGISTER = frame(b"\x01" + struct.pack(">QB", 1, 1) + msgpack.packb(["1", False]))
LONGEST = struct.pack(">I", 0xFFFFFFFF)


def hello(said: Any, version: int = 1) -> bytes:
    return frame(b"zhello" + version.to_bytes(2, "big") + msgpack.packb(said))


def bomb(count: int = 1 << 30) -> bytes:
    """Return msgpack that announces that many items and has none."""
    return b"\xdd" + struct.pack(">I", count)


# -- hostile clients -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server of its own process that all attacks of this file are made on: it has to live."""
    with ServerProcess(tmp_path_factory.mktemp("victim")) as server:
        with RawClient(server.address) as client:
            client.commit({OID: (bytes(8), b"precious")})
        yield server


@pytest.fixture
def lives(victim: ServerProcess) -> Iterator[ServerProcess]:
    """After the attack the server is there, answers, has grown little and printed no traceback."""
    with RawClient(victim.address, coding=Coding.OWN) as bystander:
        before = victim.memory()
        yield victim
        with promptly(5):
            bystander.ping()
            assert bystander.load(OID)[0] == b"precious"
        assert victim.memory() - before < 40 * MIB
    assert not victim.tracebacks()


AT_FIRST = {
    "no hello": (b"M6", "hello"),
    "a short hello": (b"zhello", "hello"),
    "a hello without limits": (hello({})[4:], "limits is not a map"),
    "a limit of nothing": (hello({"limits": {"message": 0}})[4:], "below 1024"),
    "a limit that is no number": (hello({"limits": {"message": "x"}})[4:], "below 1024"),
    "a hello that announces more than it has": (b"zhello\0\1" + bomb(), "more than there is|short"),
    "a hello that is a list": (b"zhello\0\1\x90", "not a map"),
    "a version of the future": (hello({}, 77)[4:], "version 77"),
    "version zero": (hello({}, 0)[4:], "version 0"),
}

UNREGISTERED = {
    "a load": b"\x10" + OID + MAX_TID,
    "loads of many": b"\x15" + MAX_TID + OID * 100,
    "a call": b"\x01" + struct.pack(">QB", 1, 4) + b"\x90",
    "a store": b"\x22" + bytes(8) + OID + b"x",
    "a second hello": HELLO[4:],
}

ANY_TIME = {
    "nothing": b"",
    "an unknown kind": b"\xee",
    "a hello's kind": b"\x7a",
    "an answer": b"\x06" + bytes(8),
    "a server's notice": b"\x30" + bytes(8),
    "an unknown method": b"\x01" + bytes(8) + b"\xff\x90",
    "a method of the other side": b"\x02\x40\x91\x80",
    "a call without a method": b"\x01" + bytes(8),
    "arguments that announce more than there is": b"\x01" + bytes(8) + b"\x04" + bomb(),
    "arguments that are no list": b"\x01" + bytes(8) + b"\x04\xc0",
    "arguments of the wrong type": b"\x01" + bytes(8) + b"\x06\x91\xa1x",
    "more behind the arguments": b"\x01" + bytes(8) + b"\x04\x90\x90",
    "deep arguments": b"\x01" + bytes(8) + b"\x04" + b"\x91" * 60_000,
    "a heartbeat with something in it": b"\x05x",
}

REGISTERED = {
    "a second registration": REGISTER[4:],
    "a load that is too short": b"\x10" + OID,
    "a load that is too long": b"\x10" + OID + MAX_TID + b"x",
    "half an id to be loaded": b"\x15" + MAX_TID + OID + b"half",
    "many of nothing": b"\x15" + MAX_TID,
    "a beginning whose lengths lie": b"\x20" + bytes(8) + b"\0 " + b"\xff" * 12,
    "a beginning with unknown flags": b"\x20" + bytes(8) + b"\x80 " + bytes(12),
    "a short store": b"\x21" + bytes(20),
    "a vote with something behind it": b"\x23" + bytes(16) + b"x",
}


UPLOAD = 1 << 31


def stream(kind: int, number: int, rest: bytes = b"") -> bytes:
    return frame(struct.pack(">BI", kind, number) + rest)


STREAMS = {
    "data for nobody": stream(0x40, 5, b"x"),
    "no data": stream(0x40, UPLOAD),
    "too long data": stream(0x40, UPLOAD, bytes(32 * 1024 + 1)),
    "another number than the next": stream(0x40, UPLOAD + 1, b"x"),
    "an end of nothing": stream(0x41, 5),
    "an end with something behind it": stream(0x40, UPLOAD, b"x") + stream(0x41, UPLOAD, b"x"),
    "data behind the end": stream(0x40, UPLOAD, b"x") + stream(0x41, UPLOAD) + stream(0x40, UPLOAD),
    "a fault that is none": stream(0x40, UPLOAD, b"x") + stream(0x42, UPLOAD, b"\xc0"),
    "a short credit": stream(0x43, 5, b"\0\0"),
    "too many uploads": b"".join(stream(0x40, UPLOAD + each, b"x") for each in range(65)),
    "something compressed, though nobody can": frame(b"\x50" + struct.pack(">I", 1 << 30) + b"x"),
}


@pytest.mark.parametrize("name", STREAMS)
def test_e_clients_that_break_the_rules_of_streams(lives: ServerProcess, name: str) -> None:
    assert_refused(lives, STREAMS[name], is_registered=True)


def test_e_an_upload_that_is_attached_before_it_has_come(lives: ServerProcess) -> None:
    begin = frame(b"\x20" + struct.pack(">q", 1) + b"\0 " + bytes(12))
    arguments = [UPLOAD, oid_of(66), None, b"record", 1, 2]
    attach = frame(b"\x02" + bytes([54]) + msgpack.packb(arguments))
    data = stream(0x40, UPLOAD, b"x")
    assert_refused(lives, begin + data + attach, is_registered=True)


def talk(server: ServerProcess, data: bytes, is_registered: bool) -> bytes:
    """Say *data* as a client does; return what the server says until it closes the connection."""
    said = b""
    with connect(server.address) as sock:
        sock.settimeout(10)
        if is_registered:
            sock.sendall(HELLO + REGISTER)
            while b"identity" not in said:
                said += sock.recv(1 << 16)
        with suppress(ConnectionError):
            sock.sendall(data)
            while part := sock.recv(1 << 16):
                said += part
    return said


def assert_refused(
    server: ServerProcess, data: bytes, reason: str = "", is_registered: bool = False
) -> bytes:
    """Assert that the server closes the connection over *data*, and says why in its log.

    :param is_registered: say it after a registration.
    """
    lines = len(server.log().splitlines())
    said = talk(server, data, is_registered)
    pattern = rf"connection closed[,:] protocol violated: .*{reason}"

    def is_logged() -> bool:
        return any(re.search(pattern, line) for line in server.log().splitlines()[lines:])

    wait_until(is_logged, f"a line like {pattern!r} in the log")
    assert b"precious" not in said
    return said


@pytest.mark.parametrize("name", AT_FIRST)
def test_e_clients_that_begin_wrongly(lives: ServerProcess, name: str) -> None:
    payload, reason = AT_FIRST[name]
    said = assert_refused(lives, frame(payload) + REGISTER, reason if "version" in reason else "")
    assert said.startswith(frame(serialize_greeting(Coding.PICKLE))[:4])
    # A refusal is for those who may know what it means.
    assert (b"zhello\0\0" in said) == name.startswith(("a version", "version"))


@pytest.mark.parametrize("name", [*UNREGISTERED, *ANY_TIME])
def test_e_clients_that_are_not_registered(lives: ServerProcess, name: str) -> None:
    assert_refused(lives, HELLO + frame({**UNREGISTERED, **ANY_TIME}[name]))


@pytest.mark.parametrize("name", [*REGISTERED, *ANY_TIME])
def test_e_clients_that_are_registered(lives: ServerProcess, name: str) -> None:
    assert_refused(lives, frame({**REGISTERED, **ANY_TIME}[name]), is_registered=True)


def test_e_two_registrations_at_once(lives: ServerProcess) -> None:
    """Each was legal when it was read, because the other had not been answered."""
    assert_refused(lives, HELLO + REGISTER + REGISTER, "Register is not legal while open")


@pytest.mark.parametrize("stage", ["first", "hello", "open"])
def test_e_clients_whose_lengths_lie(lives: ServerProcess, stage: str) -> None:
    data = (HELLO if stage == "hello" else b"") + LONGEST
    assert_refused(lives, data, "exceeds the maximum", is_registered=stage == "open")


def test_e_a_refused_call_is_answered_with_what_is_wrong(lives: ServerProcess) -> None:
    call = b"\x01" + struct.pack(">QB", 99, 6) + b"\x91\xa1x"
    said = assert_refused(lives, frame(call), "getInvalidations", is_registered=True)
    assert b"\x04" + struct.pack(">Q", 99) in said


def test_e_nothing_behind_a_violation_is_done(lives: ServerProcess) -> None:
    commit = [
        frame(b"\x20" + struct.pack(">q", 1) + b"\0 " + bytes(12)),
        frame(b"\x22" + struct.pack(">q", 1) + oid_of(66) + b"smuggled"),
        frame(b"\x23" + struct.pack(">Qq", 5, 1)),
        frame(b"\x24" + struct.pack(">Qq", 6, 1)),
    ]
    assert_refused(lives, frame(b"\xee") + b"".join(commit), is_registered=True)
    with RawClient(lives.address) as client, pytest.raises(Exception, match="POSKeyError"):
        client.load(oid_of(66))


def test_e_damaged_messages_of_all_kinds(lives: ServerProcess) -> None:
    """Every request there is, with random bytes changed, many in a connection."""
    generator = random.Random(20261121)
    with RawClient(lives.address, coding=Coding.OWN) as client:
        assert client.peer.codec is not None
        frames = [
            serialize(client.peer.codec, as_sent(case.message, b"O"))
            for case in ALL_CASES
            # A pack would do what it is for: remove what nothing refers to.
            if case.receiver == "server" and case.wire[2] not in ("pack", "register")
        ]
    for _ in range(150):
        with RawClient(lives.address, coding=Coding.OWN) as client:
            client.socket.settimeout(0.01)
            with suppress(ConnectionError, TimeoutError):
                for _ in range(20):
                    raw = bytearray(generator.choice(frames))
                    for _ in range(generator.randrange(4)):
                        raw[generator.randrange(4, min(len(raw), 40))] = generator.randrange(256)
                    client.socket.sendall(raw)
                client.socket.recv(1 << 16)


# -- hostile servers -----------------------------------------------------------------------------

Attack: TypeAlias = Callable[[FakeConnection], bytes]


def codec_of(server: FakeConnection) -> Any:
    assert server.peer.codec is not None
    return server.peer.codec


INSTEAD_OF_A_HELLO: dict[str, tuple[bytes, str]] = {
    "garbage": (frame(b"\xee\xee"), "no hello"),
    "nothing": (frame(b""), "no hello"),
    "an answer": (frame(b"\x03" + struct.pack(">Q", 1) + b"\xc0"), "no hello"),
    "a heartbeat": (frame(b"\x05"), "no hello"),
    "an invalidation": (frame(b"\x30" + bytes(16)), "no hello"),
    "a refusal": (hello({"error": "not you"}, 0), "the server refuses: not you"),
    "a refusal without a reason": (hello({}, 0), "the server refuses"),
    "a refusal that is none": (frame(b"zhello\0\0\x90"), "not a map"),
    "another version": (hello({"limits": {"message": 5_000}}, 2), "answers in 2"),
    "no limits": (hello({"limits": None}), "limits is not a map"),
    "a limit of nothing": (hello({"limits": {"message": 0}}), "below 1024"),
    "more than there is": (frame(b"zhello\0\1" + bomb()), ""),
    "too long a hello": (struct.pack(">I", 5_000), "exceeds the maximum"),
    "a length that lies": (LONGEST, "exceeds the maximum"),
}


@pytest.mark.parametrize("name", INSTEAD_OF_A_HELLO)
def test_e_servers_that_do_not_say_hello(fake: FakeServer, client: Open, name: str) -> None:
    """The client says what was wrong, and connects as soon as a real server is there."""
    data, reason = INSTEAD_OF_A_HELLO[name]
    storage = client(fake.address, wait=False, wait_timeout=0.2, min_disconnect_poll=0.01)
    server = fake.accept()
    server.socket.sendall(server.peer.greeting())
    while server.peer.codec is None:
        server.peer.receive(server.socket.recv(1 << 16))
    server.socket.sendall(data)
    assert_closed(server)
    wait_until(lambda: storage._link._failure is not None)
    assert reason in str(storage._link._failure)
    with promptly(10), pytest.raises(ZeolithError):
        storage.loadBefore(OID, MAX_TID)
    assert_recovers(fake, storage)


def assert_closed(server: FakeConnection) -> None:
    """Assert that the client ends the connection."""
    with suppress(ConnectionError):
        while server.socket.recv(1 << 16):
            pass


def assert_recovers(fake: FakeServer, storage: Any) -> None:
    """Assert that the client goes on with a server that behaves."""
    server = fake.accept()
    server.admit(tid_of(2))
    wait_until(storage.is_connected)
    loading = Background(lambda: storage.loadBefore(OTHER, MAX_TID))
    server.reply(server.expect(m.LoadBefore), (b"fine", tid_of(1), None))
    assert loading.result() == (b"fine", tid_of(1), None)


KEY = OID + MAX_TID

LATER: dict[str, Attack] = {
    "nothing": lambda server: frame(b""),
    "an unknown kind": lambda server: frame(b"\xee"),
    "a second hello": lambda server: HELLO,
    "a call": lambda server: frame(b"\x01" + bytes(8) + b"\x04\x90"),
    "a client's request": lambda server: frame(b"\x10" + KEY),
    "an unknown notice": lambda server: frame(b"\x02\xff\x90"),
    "an answer to no call": lambda server: codec_of(server).reply(987, None),
    "an id for no call": lambda server: codec_of(server).reply(987, bytes(8)),
    "ids for no call": lambda server: codec_of(server).reply(987, [bytes(8)]),
    "an error for no call": lambda server: codec_of(server).fault(987, "x", ()),
    "a load that nobody asked for": lambda server: codec_of(server).loaded(
        (OTHER, MAX_TID), b"x", tid_of(1), None
    ),
    "nothing for a load that nobody asked for": lambda server: codec_of(server).reply(
        (OTHER, MAX_TID), None
    ),
    "an error for a load that nobody asked for": lambda server: codec_of(server).fault(
        (OTHER, MAX_TID), "x", ()
    ),
    "the right object at the wrong time": lambda server: codec_of(server).loaded(
        (OID, tid_of(1)), b"x", tid_of(0), None
    ),
    "a load that is too short": lambda server: frame(b"\x11" + KEY),
    "an earlier revision that is too short": lambda server: frame(b"\x12" + KEY + bytes(9)),
    "no revision, and something behind it": lambda server: frame(b"\x13" + KEY + b"x"),
    "an error that is none": lambda server: frame(b"\x14" + KEY + b"\x93\x01\x02\x03"),
    "an error that announces more than it has": lambda server: frame(b"\x14" + KEY + bomb()),
    "many loaded, of which the lengths lie": lambda server: frame(
        b"\x16" + MAX_TID + OID + tid_of(1) + bytes(8) + b"\xff\xff\xff\xff" + b"x"
    ),
    "many loaded, and none of them": lambda server: frame(b"\x16" + MAX_TID),
    "many loaded that nobody asked for": lambda server: frame(
        b"\x16" + MAX_TID + OTHER + tid_of(1) + bytes(8) + b"\0\0\0\1x"
    ),
    "half an id in an invalidation": lambda server: frame(b"\x30" + tid_of(2) + b"half"),
    "a list that announces more than it has": lambda server: frame(b"\x03" + bytes(8) + bomb()),
    "an info that is too short": lambda server: frame(b"\x31" + bytes(3)),
    "data of a stream that was not asked for": lambda server: stream(0x40, 5, b"x"),
    "an end of a stream that was not asked for": lambda server: stream(0x41, 5),
    "data of a client's stream": lambda server: stream(0x40, UPLOAD, b"x"),
    "something compressed, though nobody can": lambda server: frame(
        b"\x50" + struct.pack(">I", 1 << 30) + b"x"
    ),
    "a length that lies": lambda server: LONGEST,
}


@pytest.mark.parametrize("name", LATER)
def test_e_servers_that_break_the_protocol_later(
    fake: FakeServer, attach: Attach, name: str
) -> None:
    """The connection ends; what waits is asked again elsewhere, and nothing of this is kept."""
    storage, server = attach(wait_timeout=20, min_disconnect_poll=0.01)
    loading = Background(lambda: storage.loadBefore(OID, MAX_TID))
    server.expect(m.LoadBefore)
    tracemalloc.start()
    try:
        server.socket.sendall(LATER[name](server))
        assert_closed(server)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * MIB
    # The client asks a server that behaves.
    again = fake.accept()
    again.admit(tid_of(2))
    again.reply(again.expect(m.LoadBefore), (b"fine", tid_of(1), None))
    assert loading.result(10) == (b"fine", tid_of(1), None)
    assert storage._cache.load_before(OTHER, MAX_TID) is None

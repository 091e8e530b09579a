"""Class E of the known failures: what a hostile peer can do."""

from __future__ import annotations

import os
import pickle
import random
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.rules.conftest import Attach, Connect, Serve, tid_of
from tests.support.processes import ServerProcess
from tests.support.raw import Z64, Closed, FakeServer, RawClient, connect, fault_of, oid_of
from tests.support.waiting import Background, promptly
from ZODB.FileStorage import FileStorage

from zeolith.errors import ClientDisconnected
from zeolith.protocol.framing import frame
from zeolith.protocol.greeting import Coding
from zeolith.protocol.messages import (
    LoadBefore,
    ReceiveBlobChunk,
    ReceiveBlobStart,
    ReceiveBlobStop,
    SendBlob,
    Store,
    StoreBlobShared,
    TpcAbort,
    TpcBegin,
    Vote,
)
from zeolith.types import MAX_TID

MIB = 1 << 20
RECORD = b"cZODB.blob\nBlob\n."


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server of its own process that all attacks of this file are made on: it has to live."""
    with ServerProcess(tmp_path_factory.mktemp("victim")) as server:
        with RawClient(server.address) as client:
            client.commit({oid_of(1): (Z64, b"precious")})
        yield server


@pytest.fixture(autouse=True)
def _lives(victim: ServerProcess) -> Iterator[None]:
    """After each attack the server is there, answers, has grown little and lost nothing."""
    with RawClient(victim.address) as bystander:
        before = victim.memory()
        yield
        with promptly(5):
            bystander.ping()
            assert bystander.load(oid_of(1))[0] == b"precious"
        assert victim.memory() - before < 40 * MIB


def assert_no_traceback(server: ServerProcess) -> None:
    """A peer's nonsense is ordinary input: a line in the log, not a traceback."""
    found = server.tracebacks()
    assert not found, f"{len(found)}, the last one: {found[-1]}"


def attack(server: ServerProcess, *payloads: bytes, is_registered: bool = False) -> bytes:
    """Send frames after the hello (or the registration); return all the server says until it
    closes the connection."""
    with RawClient(server.address, "1" if is_registered else None) as client:
        return send_until_closed(client, b"".join(map(frame, payloads)))


def send_until_closed(client: RawClient, data: bytes) -> bytes:
    said = b""
    client.socket.settimeout(10)
    try:
        client.socket.sendall(data)
        while part := client.socket.recv(1 << 16):
            said += part
    except ConnectionError:
        pass
    return said


class Evil:
    """Pickles to a call of any function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("is_registered", [False, True])
@pytest.mark.parametrize("place", ["message", "argument", "id"])
@pytest.mark.parametrize("function", [eval, os.mkdir, getattr, object.__new__, __import__])
def test_e_no_pickle_calls_anything(
    victim: ServerProcess, tmp_path: Path, is_registered: bool, place: str, function: Any
) -> None:
    """CVE-2009-0668, and still open on ZEO 6.2: `builtins` was admitted, before registration."""
    mark = tmp_path / "was here"
    evil = {
        eval: Evil(eval, f"__import__('os').mkdir({str(mark)!r})"),
        os.mkdir: Evil(os.mkdir, str(mark)),
        getattr: Evil(getattr, {}, "clear"),
        object.__new__: Evil(pickle.loads, pickle.dumps(Evil(os.mkdir, str(mark)))),
        __import__: Evil(__import__, "antigravity"),
    }[function]
    message: Any = {
        "message": evil,
        "argument": (1, False, "register", ("1", evil)),
        "id": (evil, False, "register", ("1", False)),
    }[place]
    attack(victim, pickle.dumps(message, 3), is_registered=is_registered)
    assert not mark.exists()


def bombs() -> dict[str, bytes]:
    """Small pickles that cost a naive decoder everything."""
    doubling = b"\x80\x03" + b"(" + b"]q\x00" + b"h\x00h\x00\x86q\x00" * 60 + b"t."
    return {
        "nested tuples": b"\x80\x03" + b")" + b"\x85" * 900_000 + b".",
        "nested lists": b"\x80\x03" + b"](" * 400_000 + b"e" * 400_000 + b".",
        "doubling": doubling,
        "a far memo index": b"\x80\x03Nr\xff\xff\xff\x7f.",
        "a long string": b"\x80\x03B\xff\xff\xff\x7fxxx.",
        "a long unicode": b"\x80\x03X\xff\xff\xff\x7fxxx.",
        "a huge integer": b"\x80\x03\x8b\xff\xff\xff\x7f\x01.",
        "deep marks": b"\x80\x03" + b"(" * 900_000 + b".",
        "many dicts": b"\x80\x03(" + b"}" * 900_000 + b"t.",
        "a frame opcode": b"\x80\x04\x95" + struct.pack("<Q", 1 << 60) + b"N.",
        "out of band": b"\x80\x05\x97.",
        "persistent ids": b"\x80\x03Q.",
        "extension codes": b"\x80\x03\x82\x01.",
        "no stop": b"\x80\x03N",
        "nothing": b"",
        "text protocol": b"cos\nsystem\n(S'true'\ntR.",
        "instance": b"(icos\nsystem\n.",
        "object": b"(cos\nsystem\no.",
    }


@pytest.mark.parametrize("name", list(bombs()))
@pytest.mark.parametrize("is_registered", [False, True])
def test_e_pickle_bombs(victim: ServerProcess, name: str, is_registered: bool) -> None:
    """F: one message of a megabyte kills ZEO's server, or hangs it."""
    with promptly(10):
        attack(victim, bombs()[name], is_registered=is_registered)


@pytest.mark.parametrize(
    "payload",
    [
        b"\x94" * 500_000,
        b"\x91" * 900_000 + b"\xc0",
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff",
        b"\xc7\x04\x01abcd",
        b"\xc1",
        b"",
    ],
)
def test_e_msgpack_bombs(victim: ServerProcess, payload: bytes) -> None:
    with RawClient(victim.address, None, coding=Coding.MSGPACK) as client, promptly(10):
        send_until_closed(client, frame(payload))


@pytest.mark.parametrize(
    "name", ["__class__", "close", "_conn", "tpc_begin ", "get_storage", "storage", "notify"]
)
@pytest.mark.parametrize("is_notice", [False, True])
def test_e_names_from_the_wire_are_never_looked_up(
    victim: ServerProcess, name: str, is_notice: bool
) -> None:
    """F: ZEO logs an unknown method, closes the connection, and then goes on with the call."""
    with promptly(10):
        attack(victim, pickle.dumps((7, is_notice, name, ()), 3), is_registered=True)


def test_e_an_unknown_method_stops_what_follows(victim: ServerProcess) -> None:
    """A commit in the same write, behind the unknown call, is not executed."""
    with RawClient(victim.address) as client:
        assert client.peer.codec is not None
        commit = [
            client.encode(TpcBegin(1, b"", b"", {}, None, " ")),
            client.encode(Store(oid_of(66), Z64, b"smuggled", 1)),
            client.encode((8, Vote(1))),
        ]
        unknown = frame(pickle.dumps((7, False, "unknown", ()), 3))
        send_until_closed(client, unknown + b"".join(commit))
    with RawClient(victim.address) as client:
        assert fault_of(lambda: client.load(oid_of(66))) == "POSKeyError"
        with promptly(5):
            client.begin()
            client.vote()
            client.send(TpcAbort(1))


@pytest.mark.parametrize(
    "call",
    [
        ("loadBefore", (oid_of(1), MAX_TID)),
        ("get_info", ()),
        ("lastTransaction", ()),
        ("server_status", ()),
        ("sendBlob", (oid_of(1), Z64)),
        ("new_oids", (1,)),
        ("pack", (0.0, False)),
        ("tpc_begin", (1, b"", b"", {}, None, " ")),
        ("iterator_start", (None, None)),
    ],
)
def test_e_nothing_is_served_before_registration(
    victim: ServerProcess, call: tuple[str, tuple[Any, ...]]
) -> None:
    """CVE-2009-0669: authentication could be bypassed."""
    said = attack(victim, pickle.dumps((1, False, *call), 3))
    assert b"precious" not in said
    assert_no_traceback(victim)


def test_e_registering_twice_is_refused(victim: ServerProcess) -> None:
    register = pickle.dumps((99, False, "register", ("1", False)), 3)
    with promptly(10):
        attack(victim, register, is_registered=True)


def test_e_unknown_storage_is_an_error_without_effects(victim: ServerProcess) -> None:
    assert fault_of(lambda: RawClient(victim.address, "../1").close()) == "ValueError"


# -- blob calls --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind",
    [
        "relative",
        "absolute",
        "of another object",
        "committed",
        "hidden",
        "with a null",
        "empty",
        "a directory",
        "missing",
    ],
)
def test_e_shared_blob_names_cannot_leave_their_directory(
    files: FileStorage, tmp_path: Path, serve: Serve, raw: Connect, kind: str
) -> None:
    """CVE-2009-2701: blob calls could read and remove any file of the server."""
    here = Path(files.fshelper.getPathForOID(oid_of(1), create=True))
    there = Path(files.fshelper.getPathForOID(oid_of(9), create=True))
    victims = {
        "relative": tmp_path / "secret.tmp",
        "absolute": tmp_path / "secret.tmp",
        "of another object": there / "secret.tmp",
        "committed": here / "0x01.blob",
        "hidden": here / ".tmp",
    }
    victim = victims.get(kind, tmp_path / "bystander")
    victim.write_bytes(b"secret")
    (here / "directory.tmp").mkdir()
    name = {
        "absolute": str(victim),
        "with a null": "nul\0.tmp",
        "empty": "",
        "a directory": "directory.tmp",
        "missing": "missing.tmp",
    }.get(kind, os.path.relpath(victim, here))
    server = serve(files)
    client, other = raw(server.address), raw(server.address)
    client.begin()
    client.store(oid_of(1), RECORD)
    try:
        client.send(StoreBlobShared(oid_of(1), Z64, RECORD, name, 1))
        fault = fault_of(lambda: (client.vote(), client.finish()))
    except (Closed, ConnectionError):
        fault = "closed"
    assert fault != "no error"
    assert victim.read_bytes() == b"secret"
    with promptly(5):
        other.commit({oid_of(2): (Z64, b"x")})
    assert fault_of(lambda: other.load(oid_of(1))) == "POSKeyError"


def test_e_a_shared_blob_may_not_be_a_link(
    files: FileStorage, tmp_path: Path, serve: Serve, raw: Connect
) -> None:
    """A link in the blob directory would make the server hand out, or remove, what it points to."""
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    server = serve(files)
    client = raw(server.address)
    directory = Path(files.fshelper.getPathForOID(oid_of(1), create=True))
    (directory / "x.tmp").symlink_to(secret)
    client.begin()
    client.store(oid_of(1), RECORD)
    try:
        client.send(StoreBlobShared(oid_of(1), Z64, RECORD, "x.tmp", 1))
        fault = fault_of(lambda: (client.vote(), client.finish()))
    except (Closed, ConnectionError):
        fault = "closed"
    assert fault != "no error"
    assert secret.read_bytes() == b"secret"


@pytest.mark.parametrize(
    ("oid", "serial"),
    [
        (b"../../..", b"/passwd\0"),
        (oid_of(1), Z64),
        (b"\xff" * 8, b"\xff" * 8),
    ],
)
def test_e_asking_for_blobs_that_are_none(
    files: FileStorage, serve: Serve, raw: Connect, oid: bytes, serial: bytes
) -> None:
    client = raw(serve(files).address)
    assert fault_of(lambda: client.call(SendBlob(oid, serial))) == "POSKeyError"
    client.ping()


@pytest.mark.parametrize("size", [0, 7, 9, 4096])
def test_e_ids_have_eight_bytes(victim: ServerProcess, size: int) -> None:
    for name in ("loadBefore", "sendBlob", "loadSerial"):
        said = attack(
            victim,
            pickle.dumps((1, False, name, (b"/" * size, Z64)), 3),
            is_registered=True,
        )
        assert b"precious" not in said


# -- a hostile server --------------------------------------------------------------------------


def test_e_a_server_cannot_make_the_client_run_code(attach: Attach, tmp_path: Path) -> None:
    storage, server = attach(wait_timeout=0.2)
    mark = tmp_path / "was here"
    loading = Background(lambda: storage.loadBefore(oid_of(1), MAX_TID))
    call = server.expect(LoadBefore)
    evil = pickle.dumps((call.msgid, 0, ".reply", Evil(os.mkdir, str(mark))), 3)
    server.send(frame(evil))
    with promptly(10), pytest.raises(ClientDisconnected):
        loading.result()
    assert not mark.exists()


def test_e_an_error_from_the_server_imports_nothing(attach: Attach) -> None:
    """The class of an error is looked up in a table; its name is text."""
    import sys

    storage, server = attach()
    loading = Background(lambda: storage.loadBefore(oid_of(1), MAX_TID))
    server.fault(server.expect(LoadBefore), "antigravity.Fly", ("away",))
    with pytest.raises(Exception, match="antigravity"):
        loading.result()
    assert "antigravity" not in sys.modules
    assert storage.is_connected()


def test_e_a_server_cannot_fill_the_clients_memory(fake: FakeServer, attach: Attach) -> None:
    storage, server = attach(wait_timeout=0.2)
    loading = Background(lambda: storage.loadBefore(oid_of(1), MAX_TID))
    server.expect(LoadBefore)
    server.send(b"\xff\xff\xff\xff")
    with promptly(10), pytest.raises(ClientDisconnected):
        loading.result()


def test_e_a_server_cannot_write_blobs_nobody_asked_for(attach: Attach, tmp_path: Path) -> None:
    storage, server = attach(blob_dir=str(tmp_path / "client"))
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    server.send(
        server.notice_bytes(ReceiveBlobStart(oid_of(1), tid_of(1))),
        server.notice_bytes(ReceiveBlobChunk(oid_of(1), tid_of(1), b"x" * 1000)),
        server.notice_bytes(ReceiveBlobStop(oid_of(1), tid_of(1))),
    )
    pinging = Background(storage.ping)
    server.reply(server.next_call(), None)
    pinging.result()
    assert sorted(str(path) for path in tmp_path.rglob("*")) == before


# -- fuzzing -----------------------------------------------------------------------------------


def valid_frames(coding: Coding) -> list[bytes]:
    """Return frames of every kind a client sends."""
    from zeolith.protocol import messages as m
    from zeolith.protocol.codecs import make_codec
    from zeolith.protocol.limits import DEFAULT_LIMITS

    codec = make_codec(coding, m.CLIENT_REQUESTS, DEFAULT_LIMITS)
    extension: Any = {"k": [1, "v"]}
    if coding is Coding.OWN:
        extension = pickle.dumps(extension, 3)
    return [
        codec.call(1, m.GetInfo()),
        codec.load_before(oid_of(1), MAX_TID),
        codec.call(2, m.History(oid_of(1), 5)),
        codec.notice(m.TpcBegin(5, b"u", b"d", extension, None, " ")),
        codec.notice(m.Store(oid_of(70), Z64, b"fuzz" * 20, 5)),
        codec.notice(m.StoreBlobStart()),
        codec.notice(m.StoreBlobChunk(b"c" * 30)),
        codec.notice(m.StoreBlobEnd(oid_of(71), Z64, RECORD, 5)),
        codec.notice(m.TpcAbort(5)),
        codec.call(3, m.IteratorStart(None, None)),
        codec.call(4, m.UndoLog(0, -20)),
        codec.heartbeat(),
    ]


@pytest.mark.parametrize("coding", Coding)
def test_e_mutated_messages(victim: ServerProcess, coding: Coding) -> None:
    """Whatever arrives, the server answers or closes; the fixture looks at the consequences."""
    generator = random.Random(20261120)
    frames = valid_frames(coding)
    for _ in range(60):
        with RawClient(victim.address, coding=coding) as client:
            client.socket.settimeout(0.02)
            try:
                for _ in range(20):
                    raw = bytearray(generator.choice(frames))
                    for _ in range(generator.randrange(4)):
                        raw[generator.randrange(4, len(raw))] = generator.randrange(256)
                    client.socket.sendall(raw)
                client.socket.recv(1 << 16)
            except (ConnectionError, TimeoutError):
                pass
    assert_no_traceback(victim)


def test_e_garbage_on_the_port(victim: ServerProcess) -> None:
    generator = random.Random(20261121)
    for _ in range(60):
        with connect(victim.address) as sock:
            sock.settimeout(0.02)
            try:
                sock.sendall(generator.randbytes(generator.randrange(1, 300)))
                sock.recv(1000)
                sock.recv(1000)
            except (ConnectionError, TimeoutError):
                pass
    assert_no_traceback(victim)


def test_e_calls_out_of_order(victim: ServerProcess) -> None:
    """Every pair of transaction calls in the wrong order: an error or the end, never silence."""
    from zeolith.protocol import messages as m

    calls: list[Any] = [
        m.Vote(1),
        m.TpcFinish(1),
        m.TpcAbort(1),
        m.Store(oid_of(80), Z64, b"x", 1),
        m.StoreBlobChunk(b"x"),
        m.StoreBlobEnd(oid_of(81), Z64, RECORD, 1),
        m.Undo(Z64, 1),
        m.IteratorNext(77),
        m.IteratorRecordNext(77),
        m.IteratorGc([77]),
    ]
    for first in calls:
        for second in calls:
            with RawClient(victim.address) as client:
                client.socket.settimeout(5)
                notices = (m.Store, m.StoreBlobChunk, m.StoreBlobEnd, m.Undo, m.IteratorGc)
                try:
                    for request in (first, second):
                        if isinstance(request, notices):
                            client.send(request)
                        else:
                            fault_of(lambda request=request: client.call(request))  # type: ignore[misc]
                    client.ping()
                except (Closed, ConnectionError):
                    pass
    with RawClient(victim.address) as client, promptly(5):
        client.commit({oid_of(90): (Z64, b"x")})
        assert fault_of(lambda: client.load(oid_of(80))) == "POSKeyError"
    assert_no_traceback(victim)

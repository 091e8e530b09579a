"""A client of Zeolith's own protocol, written from ``docs/protocol.md`` alone.

It imports nothing of Zeolith's: sockets, ``struct`` and msgpack are what another language has,
too.  Whoever changes the protocol in a way that such a client notices breaks this; whoever finds
the page not to be enough for something here has found a fault of the page.
"""

from __future__ import annotations

import ast
import hashlib
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
from tests.support.processes import running_server
from ZODB.FileStorage import FileStorage

VERSION = 1
NO_TID, LATEST = bytes(8), b"\x7f" + b"\xff" * 7

# Kinds.
CALL, NOTICE, REPLY, ERROR, HEARTBEAT = 0x01, 0x02, 0x03, 0x04, 0x05
NOTHING, ID, IDS = 0x06, 0x07, 0x08
LOAD, CURRENT, EARLIER, NONE_BEFORE, LOAD_ERROR = 0x10, 0x11, 0x12, 0x13, 0x14
BEGIN, STORE, STORE_NEW, VOTE, FINISH, COMMITTED = 0x20, 0x21, 0x22, 0x23, 0x24, 0x25
LOAD_MANY, LOADED_MANY = 0x15, 0x16
INVALIDATE, INFO = 0x30, 0x31
DATA, END, FAULT, CREDIT, CANCEL = 0x40, 0x41, 0x42, 0x43, 0x44

# Methods.
REGISTER, GET_INFO, LAST_TRANSACTION, PING = 1, 2, 3, 4
GET_INVALIDATIONS, NEW_OIDS, TPC_ABORT = 6, 11, 36
VERIFY_MANY, CHANGES_SINCE, OUTCOME, SYNC_TO = 21, 22, 23, 24
OPEN_BLOB, ATTACH_BLOB, OPEN_UPLOAD = 53, 54, 56
FIRST_UPLOAD = 1 << 31
SERVER_NOTICES = {64: "info"}


class Failed(Exception):
    """The server answers with an error."""


class Client:
    """One connection, with one call at a time."""

    def __init__(
        self,
        address: tuple[str, int],
        storage: str = "1",
        capabilities: dict[str, Any] | None = None,
    ) -> None:
        self.socket = socket.create_connection(address, 30)
        self.received = b""
        self.invalidated: list[tuple[bytes, list[bytes]]] = []
        self.info: Any = None
        self.number = 0
        self.upload_credit = 262_144
        self.downloaded = b""
        self.ended: set[int] = set()
        try:
            self.begin_talking(storage, capabilities or {})
        except BaseException:
            self.close()
            raise

    def begin_talking(self, storage: str, capabilities: dict[str, Any]) -> None:
        self.greeting = self.next_frame()
        coding, marker, versions = self.greeting.split(b" ")[:3]
        assert coding in (b"M5", b"Z5")
        assert marker == b"zeolith"
        assert b"%d" % VERSION in versions.split(b",")
        said = {
            "limits": {"message": 1 << 20},
            "program": "a stranger",
            "capabilities": capabilities,
        }
        self.write(b"zhello" + struct.pack(">H", VERSION) + msgpack.packb(said))
        # Not waiting for the server's hello, which comes before any other frame of it.
        tag = self.send_call(REGISTER, storage, False)
        hello = self.next_frame()
        assert hello[:8] == b"zhello" + struct.pack(">H", VERSION)
        self.hello = msgpack.unpackb(hello[8:])
        self.limit: int = self.hello["limits"]["message"]
        admission = self.answer(tag)
        self.tid: bytes | None = admission["tid"]
        self.database = admission["identity"], admission["epoch"]

    def close(self) -> None:
        self.socket.close()

    # -- frames --------------------------------------------------------------------------------

    def write(self, *payloads: bytes) -> None:
        self.socket.sendall(b"".join(struct.pack(">I", len(each)) + each for each in payloads))

    def next_frame(self) -> bytes:
        return self.take(struct.unpack(">I", self.take(4))[0])

    def take(self, size: int) -> bytes:
        while len(self.received) < size:
            data = self.socket.recv(1 << 16)
            assert data, "the server has closed the connection"
            self.received += data
        found, self.received = self.received[:size], self.received[size:]
        return found

    # -- calls ---------------------------------------------------------------------------------

    def send_call(self, method: int, *arguments: Any) -> int:
        self.number += 1
        head = struct.pack(">BQB", CALL, self.number, method)
        self.write(head + msgpack.packb(arguments))
        return self.number

    def call(self, method: int, *arguments: Any) -> Any:
        return self.answer(self.send_call(method, *arguments))

    def answer(self, tag: int) -> Any:
        """Read until the call of that id is answered."""
        while True:
            payload = self.next_frame()
            kind = payload[0]
            if kind in (REPLY, ERROR, NOTHING, ID, IDS, COMMITTED):
                found = struct.unpack_from(">Q", payload, 1)[0]
                assert found == tag
                body = payload[9:]
                if kind == NOTHING:
                    assert not body
                    return None
                if kind == ID:
                    assert len(body) == 8
                    return body
                if kind == COMMITTED:
                    tid, length, size = struct.unpack(">8sQQ", body)
                    self.info = {"length": length, "size": size}
                    return tid
                if kind == IDS:
                    return split_ids(body)
                if kind == ERROR:
                    raise Failed(*msgpack.unpackb(body, strict_map_key=False))
                return msgpack.unpackb(body, strict_map_key=False)
            self.take_notice(kind, payload[1:])

    def take_notice(self, kind: int, body: bytes) -> None:
        if kind == INVALIDATE:
            self.invalidated.append((body[:8], split_ids(body[8:])))
        elif kind == HEARTBEAT:
            assert not body
        elif kind in (DATA, END, CREDIT):
            (stream,) = struct.unpack_from(">I", body)
            if kind == DATA:
                self.downloaded += body[4:]
            elif kind == END:
                self.ended.add(stream)
            else:
                self.upload_credit += struct.unpack(">I", body[4:])[0]
        elif kind == INFO:
            self.info = dict(zip(("length", "size"), struct.unpack(">QQ", body)))
        else:
            assert kind == NOTICE, hex(kind)
            assert SERVER_NOTICES[body[0]] == "info"
            (self.info,) = msgpack.unpackb(body[1:])

    def load(self, oid: bytes, before: bytes = LATEST) -> tuple[bytes, bytes, bytes | None] | None:
        """Return data, tid and the tid that ended the revision; None if there was none then."""
        self.write(bytes([LOAD]) + oid + before)
        while True:
            payload = self.next_frame()
            kind, body = payload[0], payload[17:]
            if kind in (CURRENT, EARLIER, NONE_BEFORE, LOAD_ERROR):
                assert payload[1:17] == oid + before
                if kind == CURRENT:
                    return body[8:], body[:8], None
                if kind == EARLIER:
                    return body[16:], body[:8], body[8:16]
                if kind == NONE_BEFORE:
                    return None
                raise Failed(*msgpack.unpackb(body))
            self.take_notice(kind, payload[1:])

    def load_many(self, oids: list[bytes]) -> dict[bytes, Any]:
        """Return data and tid of each of *oids*; what the error is called if there is one."""
        self.write(bytes([LOAD_MANY]) + LATEST + b"".join(oids))
        found: dict[bytes, Any] = {}
        while len(found) < len(oids):
            payload = self.next_frame()
            kind, oid, body = payload[0], payload[1:9], payload[17:]
            if kind == LOADED_MANY:
                assert payload[1:9] == LATEST
                at = 9
                while at < len(payload):
                    oid, tid, end, size = struct.unpack_from(">8s8s8sI", payload, at)
                    assert end == bytes(8)
                    at += 28
                    found[oid] = payload[at : at + size], tid
                    at += size
            elif kind == CURRENT:
                found[oid] = body[8:], body[:8]
            elif kind == LOAD_ERROR:
                found[oid] = msgpack.unpackb(body)[0]
            else:
                self.take_notice(kind, payload[1:])
        return found

    # -- streams -------------------------------------------------------------------------------

    def upload(self, stream: int, data: bytes) -> None:
        while data:
            while not self.upload_credit:
                payload = self.next_frame()
                self.take_notice(payload[0], payload[1:])
            part = data[: min(32_768, self.upload_credit)]
            self.upload_credit -= len(part)
            self.write(struct.pack(">BI", DATA, stream) + part)
            data = data[len(part) :]
        self.write(struct.pack(">BI", END, stream))

    def download(self, oid: bytes, tid: bytes, offset: int = 0) -> bytes:
        self.downloaded, stream, credit = b"", 3, 50_000
        size = self.call(OPEN_BLOB, stream, oid, tid, offset, credit)["size"]
        granted = credit
        while stream not in self.ended:
            if len(self.downloaded) == granted:
                self.write(struct.pack(">BII", CREDIT, stream, credit))
                granted += credit
            payload = self.next_frame()
            self.take_notice(payload[0], payload[1:])
        self.ended.discard(stream)
        assert offset + len(self.downloaded) == size
        return self.downloaded

    # -- transactions --------------------------------------------------------------------------

    def begin(
        self, txn: int, user: bytes = b"", about: bytes = b"", unique: bytes | None = None
    ) -> None:
        sizes = struct.pack(">III", len(user), len(about), 0)
        head = struct.pack(">Bq", BEGIN, txn) + bytes([2 if unique else 0]) + b" "
        self.write(head + sizes + user + about + (unique or b""))

    def store(self, txn: int, oid: bytes, data: bytes, tid: bytes | None = None) -> None:
        if tid is None:
            self.write(struct.pack(">Bq", STORE_NEW, txn) + oid + data)
        else:
            self.write(struct.pack(">Bq", STORE, txn) + oid + tid + data)

    def step(self, kind: int, txn: int) -> Any:
        self.number += 1
        self.write(struct.pack(">BQq", kind, self.number, txn))
        return self.answer(self.number)

    def commit(self, txn: int, *records: tuple[bytes, bytes, bytes | None]) -> Any:
        self.begin(txn, b"somebody", b"something")
        for oid, data, tid in records:
            self.store(txn, oid, data, tid)
        resolved = self.step(VOTE, txn)
        assert resolved == []
        return self.step(FINISH, txn)


def split_ids(body: bytes) -> list[bytes]:
    assert len(body) % 8 == 0
    return [body[at : at + 8] for at in range(0, len(body), 8)]


# -- what it is good for -----------------------------------------------------------------------


@pytest.fixture
def address(tmp_path: Path) -> Iterator[tuple[str, int]]:
    storage = FileStorage(str(tmp_path / "Data.fs"), blob_dir=str(tmp_path / "blobs"))
    with running_server(storage) as server:
        yield server.address


@pytest.fixture
def clients(address: tuple[str, int]) -> Iterator[tuple[Client, Client]]:
    first, second = Client(address), Client(address)
    yield first, second
    first.close()
    second.close()


def test_this_file_needs_nothing_of_zeolith() -> None:
    tree = ast.parse(Path(__file__).read_text())
    names = {
        alias.name if isinstance(node, ast.Import) else str(node.module)
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert "struct" in names
    assert not [name for name in names if name.startswith("zeolith")]


def test_the_beginning(clients: tuple[Client, Client]) -> None:
    client, other = clients
    assert client.limit >= 1024
    assert client.tid == NO_TID
    assert client.database == other.database
    identity, epoch = client.database
    assert len(identity) > 10
    assert epoch >= 1
    client.write(bytes([HEARTBEAT]))
    assert client.call(PING) is None
    assert client.call(LAST_TRANSACTION) == NO_TID
    assert client.call(GET_INFO)["interfaces"]


def test_an_unknown_storage(address: tuple[str, int]) -> None:
    with pytest.raises(Failed, match="ValueError"):
        Client(address, "another one")


def test_an_unknown_version(address: tuple[str, int]) -> None:
    with socket.create_connection(address, 30) as sock:
        hello = b"zhello" + struct.pack(">H", 999) + b"whatever a later version has here"
        sock.sendall(struct.pack(">I", len(hello)) + hello)
        said = b""
        while data := sock.recv(1 << 16):
            said += data
    assert said[4:].startswith(b"M5 zeolith ") or said[4:].startswith(b"Z5 zeolith ")
    refusal = said[4 + struct.unpack_from(">I", said)[0] :]
    assert refusal[4:12] == b"zhello\0\0"
    assert "999" in msgpack.unpackb(refusal[12:])["error"]


def test_a_life(clients: tuple[Client, Client]) -> None:
    client, other = clients
    oid, second = client.call(NEW_OIDS, 2)[:2]
    assert len({oid, second}) == 2
    with pytest.raises(Failed, match="POSKeyError"):
        client.load(oid)

    first_tid = client.commit(1, (oid, b"one", None), (second, b"two", None))
    assert client.info["length"] == 2
    assert client.load(oid) == (b"one", first_tid, None)
    assert client.load(oid, first_tid) is None

    # The other one learns of it before anything that shows it.
    assert other.invalidated == []
    assert other.load(oid) == (b"one", first_tid, None)
    assert [(tid, sorted(oids)) for tid, oids in other.invalidated] == [
        (first_tid, sorted([oid, second]))
    ]

    second_tid = other.commit(77, (oid, b"changed", first_tid))
    assert client.load(oid, first_tid[:-1] + b"\0") is None
    assert client.load(oid, second_tid) == (b"one", first_tid, second_tid)
    assert client.invalidated == [(second_tid, [oid])]
    assert client.call(LAST_TRANSACTION) == second_tid
    assert client.call(GET_INVALIDATIONS, first_tid) == [second_tid, [oid]]


def test_a_conflict(clients: tuple[Client, Client]) -> None:
    client, other = clients
    (oid,) = client.call(NEW_OIDS, 1)[:1]
    tid = client.commit(1, (oid, b"one", None))
    newer = other.commit(1, (oid, b"two", tid))
    client.begin(2)
    client.store(2, oid, b"three", tid)
    with pytest.raises(Failed, match="ConflictError") as caught:
        client.step(VOTE, 2)
    name, details = caught.value.args
    assert name == "ZODB.POSException.ConflictError"
    assert details["oid"] == oid
    assert list(details["serials"]) == [newer, tid]
    # A vote that failed has ended the transaction; to abort it does no harm.
    assert client.call(TPC_ABORT, 2) is None
    assert client.commit(3, (oid, b"three", newer))


def test_what_was_wrong_in_a_notice_is_said_by_the_vote(clients: tuple[Client, Client]) -> None:
    client, _ = clients
    client.write(struct.pack(">Bq", BEGIN, 5) + b"\0 " + struct.pack(">III", 0, 0, 5) + b"wrong")
    with pytest.raises(Failed, match="ValueError"):
        client.step(VOTE, 5)
    client.begin(6)
    assert client.call(TPC_ABORT, 6) is None
    with pytest.raises(Failed, match="StorageTransactionError"):
        client.step(VOTE, 6)


def test_many_loads(clients: tuple[Client, Client]) -> None:
    client, other = clients
    oids = client.call(NEW_OIDS, 60)[:60]
    records = {oid: b"%d" % number * 3_000 for number, oid in enumerate(oids)}
    tid = client.commit(1, *((oid, data, None) for oid, data in records.items()))
    missing = client.call(NEW_OIDS, 1)[0]
    found = other.load_many([*oids, missing])
    assert "POSKeyError" in found.pop(missing)
    assert found == {oid: (data, tid) for oid, data in records.items()}
    assert other.invalidated[0][0] == tid


def test_a_blob_both_ways(clients: tuple[Client, Client]) -> None:
    client, other = clients
    (oid,) = client.call(NEW_OIDS, 1)[:1]
    content = bytes(range(256)) * 4_000
    client.begin(1)
    client.upload(FIRST_UPLOAD, content)
    head = struct.pack(">BB", NOTICE, ATTACH_BLOB)
    arguments = [FIRST_UPLOAD, oid, None, b"a record", 1, len(content)]
    client.write(head + msgpack.packb(arguments))
    assert client.step(VOTE, 1) == []
    tid = client.step(FINISH, 1)
    assert other.load(oid) == (b"a record", tid, None)
    assert other.download(oid, tid) == content
    assert other.download(oid, tid, 700_000) == content[700_000:]
    with pytest.raises(Failed, match="POSKeyError"):
        other.download(oid, tid[:-1] + bytes([tid[-1] ^ 1]))


def test_an_upload_that_is_cut_off(address: tuple[str, int]) -> None:
    blobs = {"blobs": {"checksums": ["sha256"], "frame": 32_768}}
    content, identity = bytes(range(256)) * 4_000, os.urandom(16)
    first = Client(address, capabilities=blobs)
    assert first.hello["capabilities"]["blobs"]["keeps"] >= 1
    head = struct.pack(">BB", NOTICE, OPEN_UPLOAD)
    first.write(head + msgpack.packb([FIRST_UPLOAD, identity]))
    for at in range(0, 262_144, 32_768):
        first.write(struct.pack(">BI", DATA, FIRST_UPLOAD) + content[at : at + 32_768])
    first.upload_credit = 0
    while not first.upload_credit:
        payload = first.next_frame()
        first.take_notice(payload[0], payload[1:])
    first.close()
    client = Client(address, capabilities=blobs)
    try:
        offset = client.call(OPEN_UPLOAD, FIRST_UPLOAD, identity)["offset"]
        assert 0 < offset <= 262_144
        client.upload(FIRST_UPLOAD, content[offset:])
        (oid,) = client.call(NEW_OIDS, 1)[:1]
        client.begin(1)
        arguments = [FIRST_UPLOAD, oid, None, b"a record", 1, len(content)]
        arguments.append(hashlib.sha256(content).digest())
        client.write(struct.pack(">BB", NOTICE, ATTACH_BLOB) + msgpack.packb(arguments))
        assert client.step(VOTE, 1) == []
        assert client.download(oid, client.step(FINISH, 1)) == content
    finally:
        client.close()


def test_what_became_of_a_transaction(clients: tuple[Client, Client]) -> None:
    client, other = clients
    oid, before = client.call(NEW_OIDS, 1)[0], client.call(LAST_TRANSACTION)
    client.begin(1, unique=b"sixteen bytes id")
    client.store(1, oid, b"data")
    client.step(VOTE, 1)
    tid = client.step(FINISH, 1)
    assert other.call(OUTCOME, b"sixteen bytes id", before) == {"state": "committed", "tid": tid}
    assert other.invalidated == [(tid, [oid])]
    client.begin(2, unique=b"another sixteen.")
    client.store(2, oid, b"lost", tid)
    client.step(VOTE, 2)
    found = other.call(OUTCOME, b"another sixteen.", tid)
    assert found == {"state": "not committed"}
    assert other.load(oid) == (b"data", tid, None)


def test_what_has_changed(clients: tuple[Client, Client]) -> None:
    client, other = clients
    one, two = client.call(NEW_OIDS, 2)[:2]
    first = client.commit(1, (one, b"1", None), (two, b"2", None))
    second = client.commit(2, (one, b"3", first))
    assert other.call(SYNC_TO, second, 10) == second
    assert other.call(SYNC_TO, b"\x7f" * 8, 0) is None
    tid, stale = other.call(VERIFY_MANY, one + first + two + first)
    assert (tid, stale) == (second, one)
    page = other.call(CHANGES_SINCE, NO_TID, 10)
    assert page["changes"] == [[first, b"".join(sorted([one, two]))], [second, one]]
    assert page["last"] == second
    assert not page["more"]

"""Compressed messages between a real client and a real server, and what they cost at most (R8)."""

from __future__ import annotations

import logging
import random
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import transaction
import ZODB
import zstandard
from tests.support.processes import running_server
from tests.support.proxy import DOWN, UP, Proxy
from tests.support.raw import RawClient, oid_of
from tests.support.storages import gate
from tests.support.waiting import Background, wait_until
from ZODB.blob import Blob
from ZODB.FileStorage import FileStorage

from zeolith import ClientStorage
from zeolith.errors import ConfigurationError
from zeolith.protocol.framing import frame
from zeolith.protocol.greeting import Coding
from zeolith.protocol.hello import Terms
from zeolith.protocol.limits import DEFAULT_LIMITS
from zeolith.protocol.messages import Store
from zeolith.protocol.peers import ClientPeer
from zeolith.server import options as server_options
from zeolith.server.options import ServerOptions
from zeolith.types import MAX_TID

MIB = 1 << 20
Z64 = bytes(8)


def text(size: int, seed: int = 1) -> bytes:
    """Return bytes that shrink to about a half."""
    choice = random.Random(seed)
    return b" ".join(b"%d" % choice.randrange(1000) for _ in range(size // 3))[:size]


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as found:
        yield found


@pytest.fixture
def files(tmp_path: Path, stack: ExitStack) -> FileStorage:
    storage = FileStorage(str(tmp_path / "Data.fs"), blob_dir=str(tmp_path / "server-blobs"))
    stack.callback(storage.close)
    return storage


def has_seen(storage: ClientStorage, tid: bytes) -> bool:
    return storage.lastTransaction() == tid


class CompressingClient(RawClient):
    """A raw client that takes compressed messages."""

    def _greet(self, coding: Coding) -> None:
        self.peer = ClientPeer(terms=Terms(compresses=True))
        super()._greet(coding)

    def send_compressed(self, *requests: Any, between: bytes = b"") -> int:
        """Send notices compressed, however they shrink; return the bytes that they took.

        :param between: sent after the first of them.
        """
        assert self.peer.codec is not None
        first, *others = (compressed(self.peer.codec.notice(each)[4:]) for each in requests)
        data = b"".join((first, between, *others))
        self.socket.sendall(data)
        return len(data)


def connect(stack: ExitStack, server: Any) -> CompressingClient:
    client = CompressingClient(server.address, coding=Coding.OWN)
    stack.enter_context(client)
    return client


def compressed(payload: bytes, size: int | None = None) -> bytes:
    announced = len(payload) if size is None else size
    body = zstandard.ZstdCompressor(level=1).compress(payload)
    return frame(struct.pack(">BI", 0x50, announced) + body)


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_records_and_invalidations_travel_compressed_both_ways(
    files: FileStorage, stack: ExitStack, tmp_path: Path, loop: str
) -> None:
    server = stack.enter_context(running_server(files, loop=loop))
    proxy = stack.enter_context(Proxy(server.address))
    record = text(30_000)

    def open_client(**keywords: Any) -> Any:
        storage = ClientStorage(proxy.address, **keywords)
        stack.callback(storage.close)
        return storage

    writer, reader = open_client(compression=True), open_client(compression=True)
    plain = open_client()
    assert writer._link.channel().compresses
    assert not plain._link.channel().compresses
    meta = transaction.Transaction()
    writer.tpc_begin(meta)
    oids = [writer.new_oid() for _ in range(90)]
    writer.store(oids[0], Z64, record, "", meta)
    for oid in oids[1:]:
        writer.store(oid, Z64, b"small", "", meta)
    writer.tpc_vote(meta)
    tid = writer.tpc_finish(meta)
    for storage in (reader, plain):
        wait_until(partial(has_seen, storage, tid))
        assert storage.load(oids[0]) == (record, tid)
    frames = [link.frames for link in proxy.links]

    def sizes(link: int, direction: Any, name: str) -> list[int]:
        return [
            found.size
            for found in frames[link]
            if found.direction is direction and found.name == name
        ]

    # The proxy notes a frame after it has passed it on.
    wait_until(lambda: max(sizes(1, DOWN, ".reply")) > 10_000 < max(sizes(2, DOWN, ".reply")))
    assert max(sizes(0, UP, "storea")) < 20_000
    assert max(sizes(1, DOWN, ".reply")) < 20_000 < 30_000 < max(sizes(2, DOWN, ".reply"))
    # 90 objects: 733 bytes.
    assert sizes(2, DOWN, "invalidateTransaction") == [4 + 9 + 90 * 8]
    assert sizes(1, DOWN, "invalidateTransaction")[0] < 400


def test_blobs_travel_compressed(files: FileStorage, stack: ExitStack, tmp_path: Path) -> None:
    server = stack.enter_context(running_server(files))
    proxy = stack.enter_context(Proxy(server.address))
    content = text(500_000)

    def open_database(name: str) -> Any:
        storage = ClientStorage(proxy.address, compression=True, blob_dir=str(tmp_path / name))
        db = ZODB.DB(storage)
        stack.callback(db.close)
        return db

    with open_database("one").transaction() as connection:
        blob = connection.root()["blob"] = Blob()
        with blob.open("w") as file:
            file.write(content)
    with open_database("two").transaction() as connection, connection.root()["blob"].open() as file:
        assert file.read() == content
    for link, direction in ((0, UP), (1, DOWN)):
        travelled = sum(f.size for f in proxy.links[link].frames if f.direction is direction)
        assert travelled < 350_000


def test_both_options_are_needed(
    files: FileStorage, stack: ExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    server = stack.enter_context(running_server(files, compression="off"))
    storage = ClientStorage(server.address, compression=True)
    stack.callback(storage.close)
    assert not storage._link.channel().compresses
    wait_until(lambda: "does not compress, although this client wants it" in caplog.text)
    quiet = ClientStorage(server.address)
    quiet.close()
    assert caplog.text.count("does not compress") == 1


@pytest.mark.parametrize("compression", ["auto", "off", "on"])
def test_a_server_without_the_library(
    compression: Any, monkeypatch: pytest.MonkeyPatch, files: FileStorage, stack: ExitStack
) -> None:
    monkeypatch.setattr(server_options, "is_available", lambda: False)
    monkeypatch.setattr("zeolith.server.lobby.is_available", lambda: False)
    if compression == "on":
        with pytest.raises(ConfigurationError, match=r"not installed; install zeolith\[zstd\]"):
            ServerOptions(address=("", 0), compression="on")
        return
    server = stack.enter_context(running_server(files, compression=compression))
    client = connect(stack, server)
    assert client.peer.codec is not None
    assert client.peer.codec.compress is None
    client.ping()


# -- R8 ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
@pytest.mark.parametrize("at_once", [False, True])
def test_r8_what_waits_is_counted_as_long_as_it_is(
    files: FileStorage, stack: ExitStack, loop: str, at_once: bool
) -> None:
    """Twenty records of 100 KB that arrive in 30 KB wait for the end of somebody's commit."""
    server = stack.enter_context(running_server(files, loop=loop))
    client = connect(stack, server)
    other = stack.enter_context(RawClient(server.address))
    client.begin()
    client.ping()
    stores = [Store(oid_of(n), Z64, text(3_000, n) + bytes(97_000), 1) for n in range(2, 22)]
    with gate(files, "tpc_finish") as finish:
        commit = Background(lambda: other.commit({oid_of(99): (Z64, b"x")}))
        finish.wait_reached()
        asked = client.next_id()
        waits = client.encode((asked, Store(oid_of(1), Z64, b"waits", 1)))
        if at_once:
            # A notice does not wait; what is behind the call, in the same piece, does.
            first = Store(oid_of(50), Z64, b"does not wait", 1)
            size = client.send_compressed(first, *stores, between=waits)
        else:
            client.socket.sendall(waits)
            wait_until(lambda: any(c._stalls for c in server._lobby.connections))
            size = client.send_compressed(*stores)
        assert size < 40_000
        wait_until(lambda: is_counted(server, 500_000), "they are counted")
        finish.open()
        commit.result()
    assert client.answer(asked) is None
    client.vote()
    client.finish()
    assert client.load(oid_of(21))[0] == stores[-1].data
    wait_until(lambda: server._lobby.incoming == 0, "nothing is counted any more")


def is_counted(server: Any, least: int) -> bool:
    """Return whether the server counts what it keeps, more or less, and keeps *least* bytes.

    How much of what was sent it reads before it stops reading depends on the system.
    """
    backlogs = [list(connection._backlog) for connection in server._lobby.connections]
    kept = sum(len(event[-1].data) for backlog in backlogs for event in backlog)
    return least <= kept and kept - 100_000 < server._lobby.incoming < kept + 200_000


def test_r8_too_much_that_waits_costs_the_connection(
    files: FileStorage, stack: ExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    limits = replace(DEFAULT_LIMITS, max_message_size=2 * MIB)
    server = stack.enter_context(running_server(files, limits=limits, incoming_limit=2 * MIB))
    client = connect(stack, server)
    other = stack.enter_context(RawClient(server.address))
    client.begin()
    client.ping()
    with gate(files, "tpc_finish") as finish:
        commit = Background(lambda: other.commit({oid_of(99): (Z64, b"x")}))
        finish.wait_reached()
        client.ask(Store(oid_of(1), Z64, b"waits", 1))
        # 30 KB, which arrive in one piece: after one that waits nothing more is read.
        data = text(3_000) + bytes(97_000)
        client.send_compressed(*(Store(oid_of(n), Z64, data, 1) for n in range(2, 24)))
        client.wait_closed()
        finish.open()
        commit.result()
    assert "share is the largest" in caplog.text
    wait_until(lambda: server._lobby.incoming == 0)


@pytest.mark.parametrize(
    "bomb",
    [
        compressed(bytes(200 * MIB)),
        compressed(bytes(200 * MIB), size=1_000),
        compressed(bytes(200 * MIB), size=0xFFFFFFFF),
        compressed(compressed(text(5_000))[4:]),
        compressed(b"\x05" + text(1_000)),
        compressed(b""),
        frame(b"\x50"),
        frame(b"\x50\0\0\2\0" + text(500)),
    ],
    ids=["bomb", "less", "more", "nested", "illegal", "empty", "short", "garbage"],
)
def test_r8_a_bomb_ends_its_connection_and_nothing_else(
    files: FileStorage, stack: ExitStack, bomb: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    server = stack.enter_context(running_server(files))
    other = stack.enter_context(RawClient(server.address))
    client = connect(stack, server)
    client.ping()
    client.socket.sendall(bomb)
    client.wait_closed()
    assert "protocol violated" in caplog.text
    other.commit({oid_of(1): (Z64, b"x")})


def test_what_is_fetched_ahead_is_compressed_together(files: FileStorage, stack: ExitStack) -> None:
    """Objects that are too small for it alone."""
    server = stack.enter_context(running_server(files))
    records = {oid_of(number): text(300, number) for number in range(1, 101)}
    with RawClient(server.address) as writer:
        writer.commit({oid: (Z64, data) for oid, data in records.items()})
    proxy = stack.enter_context(Proxy(server.address))
    storage = ClientStorage(proxy.address, compression=True)
    stack.callback(storage.close)
    storage.prefetch(list(records), MAX_TID)
    assert {oid: storage.load(oid)[0] for oid in records} == records
    answers = [found.size for found in proxy.frames() if found.name == "loaded_many"]
    assert len(answers) < 5
    assert sum(answers) < sum(map(len, records.values())) * 3 // 4

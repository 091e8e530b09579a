"""R8: what clients have sent in full, but has to wait, is bounded over all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.rules.conftest import Connect, Serve
from tests.support.raw import Z64, RawClient, RemoteFault, oid_of
from tests.support.storages import Gate, gate
from tests.support.waiting import Background, promptly, wait_until
from ZODB.FileStorage import FileStorage

from zeolith.protocol.limits import DEFAULT_LIMITS
from zeolith.protocol.messages import (
    GetTid,
    Store,
    StoreBlobChunk,
    StoreBlobEnd,
    StoreBlobShared,
    StoreBlobStart,
    TpcAbort,
    TpcBegin,
)
from zeolith.server import blobs

MIB = 1 << 20
LIMITS = replace(DEFAULT_LIMITS, max_message_size=4 * MIB)
DROPPED = "share is the largest"


@pytest.fixture
def server(files: FileStorage, serve: Serve, loop: str) -> Any:
    """A server whose storage calls and blob files have one thread."""
    return serve(
        files,
        loop=loop,
        limits=LIMITS,
        incoming_limit=8 * MIB,
        commit_memory=MIB,
        workers=1,
    )


@pytest.fixture
def blocked(files: FileStorage, server: Any, raw: Connect) -> Iterator[Gate]:
    """Keep that thread busy until the gate is opened: the disk is slow."""
    with gate(files, "getTid") as found:
        client = raw(server.address)
        client.commit({oid_of(99): (Z64, b"x")})
        client.ask(GetTid(oid_of(99)))
        found.wait_reached()
        yield found


def waits(server: Any, size: int) -> None:
    """Wait until the server counts about so many bytes."""
    wait_until(lambda: abs(server._lobby.incoming - size) < MIB // 4, "the bytes are counted")


def drop_the_largest(server: Any, clients: list[RawClient], send: Callable[..., None]) -> None:
    """Have three clients send 3.5, 3 and 3 MiB: more than is kept."""
    for number, (client, half_mibs) in enumerate(zip(clients, (7, 6, 6), strict=True), start=1):
        send(client, number, bytes(half_mibs * MIB // 2))
        waits(server, 6 * MIB if number == 3 else (7, 13)[number - 1] * MIB // 2)
    with promptly(20):
        clients[0].wait_closed()


def all_well(
    server: Any, raw: Connect, clients: list[RawClient], caplog: pytest.LogCaptureFixture
) -> None:
    """The others commit what they have sent; nothing is counted any more."""
    for client in clients[1:]:
        client.vote()
        client.finish()
    assert caplog.text.count(DROPPED) == 1
    wait_until(lambda: server._lobby.incoming == 0, "nothing is counted any more")
    raw(server.address).commit({oid_of(7): (Z64, bytes(3 * MIB))})


def test_r8_messages_that_wait_for_a_finish_are_bounded(
    files: FileStorage, server: Any, raw: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    """Each connection that may not be answered keeps what it has read."""
    writer = raw(server.address)
    clients = [raw(server.address) for _ in range(3)]
    for client in clients:
        client.begin()
        client.ping()
    asked: list[int] = []

    def send(client: RawClient, number: int, data: bytes) -> None:
        asked.append(client.ask(Store(oid_of(number), Z64, data, 1)))

    with gate(files, "tpc_finish") as finish:
        commit = Background(lambda: writer.commit({oid_of(9): (Z64, b"x")}))
        finish.wait_reached()
        drop_the_largest(server, clients, send)
    commit.result()
    for client, msgid in zip(clients[1:], asked[1:], strict=True):
        assert client.answer(msgid) is None
    all_well(server, raw, clients, caplog)


def test_r8_pipelined_messages_that_wait_are_counted_while_they_do(
    files: FileStorage, server: Any, raw: Connect
) -> None:
    """Also those that came in one piece with what they wait for."""
    client = raw(server.address)
    with gate(files, "tpc_abort") as abort:
        client.begin()
        client.vote()
        # A notice: what comes behind it waits for its end.
        stores = [Store(oid_of(n), Z64, bytes(1000), 1) for n in range(1, 20)]
        client.send(TpcAbort(1))
        abort.wait_reached()
        # In one write: once something waits, nothing more is read.
        client.send(TpcBegin(1, b"", b"", {}, None, " "), *stores)
        wait_until(lambda: server._lobby.incoming >= 19_000, "the stores are counted")
    client.vote()
    client.finish()
    assert server._lobby.incoming == 0


def test_r8_records_that_wait_for_the_disk_are_bounded(
    server: Any, raw: Connect, blocked: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    clients = [raw(server.address) for _ in range(3)]

    def send(client: RawClient, number: int, data: bytes) -> None:
        client.begin()
        client.store(oid_of(number), data)

    drop_the_largest(server, clients, send)
    blocked.open()
    all_well(server, raw, clients, caplog)


@pytest.mark.parametrize("pieces", [1, 50])
def test_r8_blobs_that_wait_for_the_disk_are_bounded(
    files: FileStorage,
    server: Any,
    raw: Connect,
    blocked: Gate,
    pieces: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    clients = [raw(server.address) for _ in range(3)]

    def send(client: RawClient, number: int, data: bytes) -> None:
        client.begin()
        client.store(oid_of(number), b"record")
        size = len(data) // pieces
        client.send(
            StoreBlobStart(),
            *(StoreBlobChunk(data[n * size : (n + 1) * size]) for n in range(pieces)),
            StoreBlobEnd(oid_of(number), Z64, b"record", 1),
        )

    drop_the_largest(server, clients, send)
    blocked.open()
    all_well(server, raw, clients, caplog)
    wait_until(lambda: not list(Path(files.temporaryDirectory()).iterdir()), "no file is left")


@pytest.mark.parametrize("is_shared", [False, True])
def test_r8_records_of_blobs_are_bounded(
    files: FileStorage,
    serve: Serve,
    raw: Connect,
    is_shared: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They stay in memory until the vote."""
    monkeypatch.setattr(blobs, "MAX_BLOB_RECORDS", 10_000)
    client = raw(serve(files).address)
    for size, is_refused in ((4000, False), (5000, True)):
        client.begin()
        for number in (1, 2):
            oid, record = oid_of(10 * size + number), bytes(size)
            if is_shared:
                directory = Path(files.fshelper.getPathForOID(oid, create=True))
                (directory / "new.tmp").write_bytes(b"blob")
                client.send(StoreBlobShared(oid, Z64, record, "new.tmp", 1))
            else:
                client.store_blob(oid, record, b"blob")
        if is_refused:
            with pytest.raises(RemoteFault, match="TransactionTooLargeError"):
                client.vote()
        else:
            client.vote()
            client.finish()
    wait_until(lambda: not list(Path(files.temporaryDirectory()).iterdir()), "no file is left")


def test_r8_what_is_dropped_is_let_go(
    server: Any, raw: Connect, blocked: Gate, stack: ExitStack
) -> None:
    """At once, not when the slow disk comes to it: otherwise one could come again and again."""
    import tracemalloc

    tracemalloc.start()
    stack.callback(tracemalloc.stop)
    data = bytes(3 * MIB)
    for number in range(10):
        with raw(server.address) as client:
            client.begin()
            if number % 2:
                client.store(oid_of(number), data)
            else:
                client.send(StoreBlobStart(), StoreBlobChunk(data))
            waits(server, 3 * MIB)
        wait_until(lambda: server._lobby.incoming == 0, "it is gone")
    del client
    assert tracemalloc.get_traced_memory()[0] < 10 * MIB

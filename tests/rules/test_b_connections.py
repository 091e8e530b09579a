"""Class B of the known failures: servers that are not there, say nothing, or only read."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import transaction
import ZODB
from tests.rules.commits import RECORD, commit
from tests.rules.conftest import Attach, Connect, Open, Serve, tid_of
from tests.support.processes import free_port, running_server
from tests.support.raw import (
    Z64,
    FakeServer,
    fault_of,
    oid_of,
)
from tests.support.waiting import Background, promptly, wait_until
from ZODB.Connection import TransactionMetaData
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage
from ZODB.POSException import ReadOnlyError

from zeolith.client import connector, link
from zeolith.client.connector import Connector
from zeolith.errors import ClientDisconnected, ServerRefused
from zeolith.protocol.messages import (
    LoadBefore,
)
from zeolith.types import MAX_TID


def test_b_a_server_that_accepts_and_never_speaks(
    fake: FakeServer, mapping: MappingStorage, serve: Serve, client: Open
) -> None:
    """ZEO 6.2: the heartbeat raises AttributeError."""
    with promptly(10), pytest.raises(ClientDisconnected):
        client(fake.address, wait_timeout=0.3)
    # Beside a server that does speak it costs nothing.
    server = serve(mapping)
    with promptly(10):
        storage = client([fake.address, server.address])
        commit(storage, oid_of(1), b"x")
    storage.close()
    with promptly(10):
        waiting = client(fake.address, wait=False, wait_timeout=0.1)
        with pytest.raises(ClientDisconnected):
            waiting.ping()
        waiting.close()


def test_b_a_server_that_greets_and_then_says_nothing(fake: FakeServer, client: Open) -> None:
    opening = Background(lambda: client(fake.address, wait_timeout=0.5))
    connection = fake.accept()
    connection.greet()
    with promptly(10), pytest.raises(ClientDisconnected):
        opening.result()


@pytest.mark.parametrize("greets", [False, True])
def test_b_a_server_that_recovers_from_saying_nothing(
    fake: FakeServer, client: Open, monkeypatch: pytest.MonkeyPatch, greets: bool
) -> None:
    """An attempt that leads nowhere is given up and made again."""
    monkeypatch.setattr(connector, "GREETING_TIMEOUT", 0.1)
    monkeypatch.setattr(link, "ATTEMPT_TIMEOUT", 0.1)
    opening = Background(lambda: client(fake.address))
    silent = fake.accept()
    if greets:
        silent.greet()
    with promptly(10):
        fake.accept().admit(tid_of(1))
        opening.result()


def test_b_something_that_is_no_server(client: Open, fake: FakeServer) -> None:
    opening = Background(lambda: client(fake.address, wait_timeout=60))
    connection = fake.accept()
    connection.socket.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    with promptly(10), pytest.raises(ServerRefused, match="not a ZEO server"):
        opening.result()


@pytest.mark.parametrize("family", ["tcp", "unix"])
def test_b_the_client_may_start_before_the_server(
    mapping: MappingStorage, serve: Serve, client: Open, tmp_path: Path, family: str
) -> None:
    """ZEO#226."""
    address: Any = ("127.0.0.1", free_port()) if family == "tcp" else str(tmp_path / "socket")
    opening = Background(lambda: client(address, min_disconnect_poll=0.01, max_disconnect_poll=0.1))
    lazy = client(address, wait=False, min_disconnect_poll=0.01, max_disconnect_poll=0.1)
    assert not lazy.is_connected()
    opening.join(0.2)
    assert opening.is_alive()
    serve(mapping, address=address)
    storage: Any = opening.result()
    commit(storage, oid_of(1), b"x")
    assert lazy.load(oid_of(1))[0] == b"x"


def test_b_a_connection_thread_that_fails_does_not_hang_the_constructor(
    client: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """d083834b: the thread died before its loop ran, and everybody waited for it."""

    def fail(*_args: Any, **_kw: Any) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr(Connector, "connect", fail)
    with promptly(10), pytest.raises(ClientDisconnected, match="a defect"):
        client(("127.0.0.1", free_port()), wait_timeout=0.3)


def test_b_closing_frees_who_waits(fake: FakeServer, attach: Attach) -> None:
    storage, server = attach()
    waiting = [
        Background(lambda: storage.loadBefore(oid_of(1), MAX_TID)),
        Background(lambda: storage.loadBefore(oid_of(2), MAX_TID)),
        Background(storage.ping),
    ]
    for _ in range(3):
        server.next()
    with promptly(5):
        storage.close()
        for thread in waiting:
            with pytest.raises(ClientDisconnected):
                thread.result()
    with promptly(5), pytest.raises(ClientDisconnected):
        storage.loadBefore(oid_of(3), MAX_TID)
    storage.close()


def test_b_closing_while_connecting(fake: FakeServer, client: Open) -> None:
    storage = client(fake.address, wait=False)
    fake.accept()
    with promptly(5):
        storage.close()


def test_b_a_lost_connection_says_why(
    fake: FakeServer, attach: Attach, caplog: pytest.LogCaptureFixture
) -> None:
    """ZEO#165: cancelled futures hid the cause."""
    caplog.set_level(logging.INFO)
    storage, server = attach(wait_timeout=0.2)
    loading = Background(lambda: storage.loadBefore(oid_of(1), MAX_TID))
    server.expect(LoadBefore)
    server.close()
    fake.close()
    with pytest.raises(ClientDisconnected, match=r"refused|reset|closed"):
        loading.result()
    assert "disconnected from" in caplog.text


# -- flow control ------------------------------------------------------------------------------


def test_b_large_messages_both_ways_at_once(
    files: FileStorage, serve: Serve, client: Open, raw: Connect, tmp_path: Path, loop: str
) -> None:
    """ZEO#195, #217: `write paused` was never resumed, one message was lost."""
    server = serve(files, loop=loop, output_mark=1 << 16)
    storage = client(server.address, blob_dir=str(tmp_path / "client"), cache_size=1 << 20)
    numbers = range(1, 7)
    for number in numbers:
        commit(storage, oid_of(number), bytes([number]) * 1_000_000)

    def read() -> None:
        for _turn in range(3):
            for number in numbers:
                data, _ = storage.load(oid_of(number))
                assert data == bytes([number]) * 1_000_000

    def upload(number: int) -> None:
        meta = TransactionMetaData()
        source = tmp_path / f"source{number}"
        source.write_bytes(bytes([number]) * 5_000_000)
        storage.tpc_begin(meta)
        storage.storeBlob(oid_of(100 + number), Z64, RECORD, str(source), "", meta)
        storage.tpc_vote(meta)
        tid = storage.tpc_finish(meta)
        Path(storage.loadBlob(oid_of(100 + number), tid)).unlink()
        path = storage.loadBlob(oid_of(100 + number), tid)
        assert Path(path).read_bytes() == bytes([number]) * 5_000_000

    threads = [Background(read) for _ in range(3)]
    threads += [Background(lambda number=n: upload(number)) for n in range(3)]  # type: ignore[misc]
    for thread in threads:
        thread.result(60)


def test_b_undo_information_over_the_network(
    files: FileStorage, serve: Serve, client: Open
) -> None:
    """CMFPlone#2175: undoInfo disconnected the client."""
    storage = client(serve(files).address)
    db = ZODB.DB(storage)
    try:
        with db.transaction("a note") as connection:
            connection.root()["key"] = 1
        found = storage.undoInfo(0, -20, {"description": b"a note"})
        assert [item["description"] for item in found] == [b"a note"]
        assert len(db.undoLog(0, 10)) == 2
        assert storage.undoLog(0, -20, lambda item: b"a note" in item["description"]) == found
        db.undo(found[0]["id"])
        transaction.commit()
        with db.transaction() as connection:
            assert "key" not in connection.root()
        assert storage.is_connected()
    finally:
        transaction.abort()
        db.close()


# -- read-only servers -------------------------------------------------------------------------


def test_b_read_only_fallback_and_upgrade(tmp_path: Path, client: Open) -> None:
    port = free_port()
    writable = ("127.0.0.1", port)
    path = str(tmp_path / "Data.fs")
    FileStorage(path).close()
    with running_server(FileStorage(path, read_only=True), read_only=True) as reader:
        storage = client(
            [writable, reader.address],
            read_only_fallback=True,
            min_disconnect_poll=0.01,
            max_disconnect_poll=0.05,
        )
        assert storage.isReadOnly()
        with pytest.raises(ReadOnlyError):
            storage.tpc_begin(TransactionMetaData())
        with running_server(MappingStorage(), address=writable):
            wait_until(lambda: not storage.isReadOnly(), "the writable server is taken")
            commit(storage, oid_of(1), b"x")
            assert storage.load(oid_of(1))[0] == b"x"
        wait_until(storage.isReadOnly, "back to the fallback")


def test_b_a_writable_client_does_not_take_a_read_only_server(
    mapping: MappingStorage, serve: Serve, client: Open
) -> None:
    server = serve(mapping, read_only=True)
    with promptly(10), pytest.raises((ReadOnlyError, ClientDisconnected)):
        client(server.address, wait_timeout=0.5)


def test_b_a_read_only_client_of_a_writable_server(
    mapping: MappingStorage, serve: Serve, client: Open, raw: Connect
) -> None:
    server = serve(mapping)
    storage = client(server.address, read_only=True)
    assert storage.isReadOnly()
    with pytest.raises(ReadOnlyError):
        storage.tpc_begin(TransactionMetaData())
    watching = raw(server.address, read_only=True)
    watching.begin()
    assert fault_of(watching.vote) == "ReadOnlyError"

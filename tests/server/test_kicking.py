"""The end of a client's connection because an administrator asks for it."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import pytest
from tests.support.raw import Closed, RawClient, oid_of
from tests.support.storages import gate
from tests.support.waiting import Background, promptly, wait_until
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage

import zeolith
from zeolith.admin.asking import Refused, Target, ask_zeolith
from zeolith.admin.kick import kick_clients
from zeolith.protocol.inquiry import StatusInquiry
from zeolith.protocol.messages import LoadBefore, SetClientLabel, Vote
from zeolith.server import kicking, transport
from zeolith.types import MAX_TID


def kick(server: Any, client: str | None, **more: Any) -> list[int]:
    """Return the numbers of the connections that were ended."""
    kicked = kick_clients(Target(server.address), client, **more)
    assert kicked.left_out == 0
    return [entry["number"] for entry in kicked.connections]


def connected(server: Any) -> list[int]:
    """Return the numbers of the connections there are."""
    answer = ask_zeolith(Target(server.address), StatusInquiry())
    return sorted(entry["number"] for entry in answer["connections"])


def wait_connected(server: Any, numbers: list[int]) -> None:
    wait_until(lambda: connected(server) == numbers, f"connections {numbers}")


@pytest.fixture
def labelled(raw: Any) -> Any:
    """Open a raw client with a label."""

    def labelled(server: Any, label: str, *more: Any, **keywords: Any) -> RawClient:
        client = raw(server.address, *more, **keywords)
        assert isinstance(client, RawClient)
        client.call(SetClientLabel(label))
        return client

    return labelled


def test_by_label_number_and_address(
    serve: Any, labelled: Any, mapping: MappingStorage, loop: str
) -> None:
    server = serve(mapping, loop=loop)
    clients = [labelled(server, name) for name in ("a", "a", "b", "2", "c")]
    assert kick(server, "a") == [1, 2]
    for client in clients[:2]:
        client.wait_closed()
    wait_connected(server, [3, 4, 5])
    assert kick(server, "3") == [3]
    clients[2].wait_closed()
    assert kick(server, "2") == [4]  # a label, too
    address = f"127.0.0.1:{clients[4].socket.getsockname()[1]}"
    clients[4].ping()
    assert kick(server, address) == [5]
    clients[4].wait_closed()
    wait_connected(server, [])


def test_nobody_fits(serve: Any, labelled: Any, mapping: MappingStorage) -> None:
    server = serve(mapping)
    client = labelled(server, "a")
    unlabelled = RawClient(server.address)
    with unlabelled:
        for name in ("", "A", "7", "127.0.0.1", "*"):
            assert kick(server, name) == []
        unlabelled.ping()
    client.ping()


def test_a_dry_run_ends_nothing(
    serve: Any, labelled: Any, mapping: MappingStorage, caplog: pytest.LogCaptureFixture
) -> None:
    server = serve(mapping)
    client = labelled(server, "a")
    caplog.clear()
    assert kick(server, "a", dry_run=True) == [1]
    assert kick(server, None, dry_run=True) == [1]
    client.ping()
    assert "kicked" not in caplog.text


def test_r8_an_answer_about_many_is_bounded(
    serve: Any, labelled: Any, mapping: MappingStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kicking, "MOST_CONNECTIONS", 2)
    server = serve(mapping)
    for number in range(3):
        labelled(server, f"app {number}")
    kicked = kick_clients(Target(server.address), None)
    assert (len(kicked.connections), kicked.left_out) == (2, 1)
    wait_connected(server, [])


def test_all_and_of_one_storage(serve: Any, labelled: Any, mapping: MappingStorage) -> None:
    server = serve({"1": mapping, "two": MappingStorage()})
    first, second = labelled(server, "a"), labelled(server, "a", "two")
    assert kick(server, None, storage="two") == [2]
    second.wait_closed()
    first.ping()
    with RawClient(server.address, None):  # has not said which storage it wants
        wait_until(lambda: len(connected(server)) == 2)
        assert len(kick(server, None)) == 2
        wait_connected(server, [])
    first.wait_closed()
    with pytest.raises(Refused, match="no storage 'three'"):
        kick(server, None, storage="three")


def test_the_log_says_who_asked(
    serve: Any, labelled: Any, mapping: MappingStorage, caplog: pytest.LogCaptureFixture
) -> None:
    server = serve(mapping)
    labelled(server, "a")
    caplog.clear()
    kick(server, "a")
    (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert record.levelno == logging.WARNING
    text = record.getMessage()
    assert text.startswith("(a 127.0.0.1:")
    assert "kicked by 127.0.0.1:" in text


def test_a_holder_loses_the_commit_lock(
    serve: Any, labelled: Any, mapping: MappingStorage, loop: str
) -> None:
    """R7: whoever waits behind a stuck client need not wait for the time-out."""
    server = serve(mapping, loop=loop, transaction_timeout=None)
    holder, waiter = labelled(server, "holder"), labelled(server, "waiter")
    for client in (holder, waiter):
        client.begin()
        client.store(oid_of(1), b"data")
    holder.vote()
    vote = waiter.ask(Vote(1))
    with promptly():
        assert kick(server, "holder") == [1]
        waiter.answer(vote)
    tid = waiter.finish()
    assert waiter.load(oid_of(1))[1] == tid
    holder.wait_closed()
    assert server.status()["1"]["aborts"] == 1


def test_one_that_waits_leaves_the_queue(
    serve: Any, labelled: Any, mapping: MappingStorage
) -> None:
    server = serve(mapping)
    holder, waiter = labelled(server, "holder"), labelled(server, "waiter")
    holder.begin()
    waiter.begin()
    holder.vote()
    vote = waiter.ask(Vote(1))
    wait_until(lambda: server.status()["1"]["waiting"] == 1)
    kick(server, "waiter")
    with pytest.raises(Closed):
        waiter.answer(vote)
    wait_until(lambda: server.status()["1"]["waiting"] == 0)
    holder.finish()


def test_r4_a_commit_being_written_gets_its_answer(
    serve: Any, labelled: Any, mapping: MappingStorage, loop: str
) -> None:
    server = serve(mapping, loop=loop)
    client, other = labelled(server, "a"), labelled(server, "b")
    client.begin()
    client.store(oid_of(1), b"data")
    client.vote()
    with gate(mapping, "tpc_finish") as stop:
        finish = Background(client.finish)
        stop.wait_reached()
        with promptly():
            assert kick(server, "a") == [1]
        stop.open()
        tid = finish.result()
    client.wait_closed()
    assert other.load(oid_of(1))[1] == tid


def test_one_that_does_not_read(
    serve: Any, labelled: Any, mapping: MappingStorage, monkeypatch: pytest.MonkeyPatch, loop: str
) -> None:
    monkeypatch.setattr(transport, "_LINGER", 0.2)
    server = serve(mapping, loop=loop)
    labelled(server, "writer").commit({oid_of(1): (bytes(8), b"x" * 500_000)})
    stuck = labelled(server, "stuck", receive_buffer=4096)
    for _ in range(30):
        stuck.ask(LoadBefore(oid_of(1), MAX_TID))
    kick(server, "stuck")
    wait_connected(server, [1])


def test_r9_a_read_only_server_refuses(serve: Any, labelled: Any, mapping: MappingStorage) -> None:
    """Who may not write the database may not stop others."""
    server = serve(mapping, read_only=True)
    client = labelled(server, "a", read_only=True)
    assert kick(server, "a", dry_run=True) == [1]
    with pytest.raises(Refused, match="read-only"):
        kick(server, "a")
    client.ping()


def test_r9_a_read_only_storage_is_left_alone(
    serve: Any, labelled: Any, mapping: MappingStorage, tmp_path: Path
) -> None:
    FileStorage(str(tmp_path / "Data.fs")).close()
    archive = FileStorage(str(tmp_path / "Data.fs"), read_only=True)
    server = serve({"1": mapping, "archive": archive})
    writer, reader = labelled(server, "a"), labelled(server, "a", "archive", read_only=True)
    for storage in (None, "archive"):
        with pytest.raises(Refused, match="read-only"):
            kick(server, "a", storage=storage)
    writer.ping()
    reader.ping()
    assert kick(server, "a", storage="1") == [1]


def test_over_a_unix_socket(
    serve: Any,
    labelled: Any,
    mapping: MappingStorage,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    loop: str,
) -> None:
    """Whoever can open the socket is on this machine, and its permissions say who that is."""
    server = serve(mapping, read_only=True, address=str(tmp_path / "zeo.sock"), loop=loop)
    client = labelled(server, "a", read_only=True)
    assert kick(server, "unix client 1") == [1]
    client.wait_closed()
    assert f"kicked by process {os.getpid()} of user {os.getuid()}" in caplog.text


def test_a_client_connects_again_by_itself(serve: Any, mapping: MappingStorage, loop: str) -> None:
    server = serve(mapping, loop=loop)
    storage = zeolith.client(server.address, client_label="app")
    try:
        storage.ping()
        assert kick(server, "app") == [1]
        wait_until(lambda: [number for number in connected(server) if number > 1])
        storage.ping()
    finally:
        storage.close()

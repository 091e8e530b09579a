"""Which database it is: a file beside a FileStorage, and what clients are told."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.server.conftest import Connect, Serve
from tests.support.processes import running_server
from tests.support.raw import Z64, RawClient, RemoteFault, connect, oid_of
from tests.support.waiting import wait_until
from ZODB.blob import BlobStorage
from ZODB.DemoStorage import DemoStorage
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage
from ZODB.tests.hexstorage import HexStorage

from zeolith.protocol.framing import frame
from zeolith.protocol.greeting import Coding
from zeolith.protocol.hello import MAGIC, Database
from zeolith.protocol.limits import Limits
from zeolith.server import service as service_module
from zeolith.server.identity import DatabaseIdentity, identify

UUID = b"8533cc74-68ff-41bd-bc70-cf7202d4e705"


def tid(number: int) -> bytes:
    return number.to_bytes(8, "big")


@pytest.fixture
def files(tmp_path: Path) -> Iterator[FileStorage]:
    with closing(FileStorage(str(tmp_path / "Data.fs"))) as storage:
        yield storage


def identified(storage: Any, last: int = 5) -> DatabaseIdentity:
    found = identify(storage, tid(last))
    assert found is not None
    return found


def said(tmp_path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((tmp_path / "Data.fs.zeolith").read_text())
    return found


def test_made_once_and_kept(files: FileStorage, tmp_path: Path) -> None:
    first = identified(files)
    assert first.database.epoch == 1
    assert said(tmp_path) == {
        "format": 1, "identity": first.database.identity, "epoch": 1, "tid": tid(5).hex(),
    }  # fmt: skip
    assert identified(files, 7).database == first.database
    assert said(tmp_path)["tid"] == tid(7).hex()
    assert sorted(name for name in os.listdir(tmp_path) if "zeolith" in name) == ["Data.fs.zeolith"]


def test_a_database_that_ends_earlier_begins_a_new_epoch(
    files: FileStorage, caplog: pytest.LogCaptureFixture
) -> None:
    first = identified(files, 9).database
    assert identified(files, 8).database == Database(first.identity, 2)
    assert tid(8).hex() in caplog.text
    assert tid(9).hex() in caplog.text
    assert identified(files, 8).database.epoch == 2
    assert identified(files, 12).database.epoch == 2
    assert identified(files, 11).database.epoch == 3


def test_what_is_noted_counts(files: FileStorage, tmp_path: Path) -> None:
    found = identified(files, 5)
    found.note(tid(9))
    found.note(tid(7))  # late
    assert said(tmp_path)["tid"] == tid(9).hex()
    assert identified(files, 8).database.epoch == 2


def test_a_read_only_storage_writes_nothing(tmp_path: Path) -> None:
    FileStorage(str(tmp_path / "Data.fs")).close()
    with closing(FileStorage(str(tmp_path / "Data.fs"), read_only=True)) as storage:
        one = identified(storage)
        one.note(tid(9))
        assert not one.is_recorded
        assert not (tmp_path / "Data.fs.zeolith").exists()
    with closing(FileStorage(str(tmp_path / "Data.fs"))) as storage:
        kept = identified(storage, 9).database
    before = said(tmp_path)
    with closing(FileStorage(str(tmp_path / "Data.fs"), read_only=True)) as storage:
        # Another process may be writing: it is not known to be behind.
        assert identified(storage, 8).database == kept
    assert said(tmp_path) == before


@pytest.mark.parametrize(
    "damage",
    [
        b"", b"{", b"[]", b"5", b"{}", b"\xff\xfe", b"[" * 4_000,
        b'{"format": 2, "identity": "x", "epoch": 1, "tid": "00"}',
        b'{"format": 1, "identity": "x", "epoch": 1, "tid": "0000000000000005"}',
        b'{"format": 1, "identity": 5, "epoch": 1, "tid": "0000000000000005"}',
        b'{"format": 1, "identity": "%s", "epoch": 0, "tid": "0000000000000005"}' % UUID,
        b'{"format": 1, "identity": "%s", "epoch": 1, "tid": "00"}' % UUID,
    ],
)  # fmt: skip
def test_a_damaged_file_makes_it_another_database(
    files: FileStorage, tmp_path: Path, damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    first = identified(files).database
    (tmp_path / "Data.fs.zeolith").write_bytes(damage)
    second = identified(files).database
    assert second.identity != first.identity
    assert second.epoch == 1
    assert "cannot be read" in caplog.text
    assert identified(files).database == second


def test_a_file_cut_at_every_byte_is_no_database_of_that_name(
    files: FileStorage, tmp_path: Path
) -> None:
    first = identified(files).database
    path = tmp_path / "Data.fs.zeolith"
    whole = path.read_bytes()
    for size in range(len(whole) - 2):
        path.write_bytes(whole[:size])
        assert identified(files).database.identity != first.identity


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file(
    files: FileStorage,
    tmp_path: Path,
    step: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    found = identified(files)

    def fail(*args: Any) -> None:
        raise OSError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(os, step, fail)
        found.note(tid(9))
        assert "the disk is full" in caplog.text
        # A storage is served all the same.
        assert identified(files, 6).database == found.database
    assert said(tmp_path)["tid"] == tid(5).hex()
    assert not (tmp_path / "Data.fs.zeolith.new").exists()
    found.note(tid(9))
    assert said(tmp_path)["tid"] == tid(9).hex()


@pytest.mark.parametrize(
    "wrap",
    [
        HexStorage,
        lambda storage: DemoStorage(base=MappingStorage(), changes=storage),
    ],
    ids=["hex", "demo"],
)
def test_wrappers_are_what_they_wrap(
    files: FileStorage, tmp_path: Path, wrap: Callable[[Any], Any]
) -> None:
    found = identified(wrap(files))
    assert said(tmp_path)["identity"] == found.database.identity


def test_blobs_beside_a_file_storage(files: FileStorage, tmp_path: Path) -> None:
    found = identified(BlobStorage(str(tmp_path / "blobs"), files))
    assert said(tmp_path)["identity"] == found.database.identity


def test_databases_in_memory_differ() -> None:
    one, two = identified(MappingStorage()), identified(MappingStorage())
    assert one.database.identity != two.database.identity
    assert not one.is_recorded
    assert not identified(DemoStorage(base=MappingStorage())).is_recorded


def test_of_other_storages_nothing_is_claimed() -> None:
    """A made-up identity would tell the clients of a restarted server to forget everything."""
    assert identify(object(), tid(1)) is None


# -- served ------------------------------------------------------------------------------------


def database_of(client: RawClient) -> Database:
    assert client.database is not None
    return client.database


def test_clients_are_told(tmp_path: Path, raw: Connect) -> None:
    path = str(tmp_path / "Data.fs")
    found = []
    for number in range(2):
        with running_server(FileStorage(path)) as server:
            client = raw(server.address, coding=Coding.OWN)
            found.append(database_of(client))
            last = client.commit({oid_of(number): (Z64, b"x")})
        # At the end it is recorded how far the database goes.
        assert said(tmp_path)["tid"] == last.hex()
    assert found[0] == found[1]


def test_a_restored_file_is_noticed_although_it_has_grown_since(
    tmp_path: Path, raw: Connect
) -> None:
    path = str(tmp_path / "Data.fs")
    backup = str(tmp_path / "backup")
    epochs = []
    for number in range(3):
        with running_server(FileStorage(path)) as server:
            client = raw(server.address, coding=Coding.OWN)
            epochs.append(database_of(client).epoch)
            client.commit({oid_of(number): (Z64, b"x")})
        if number == 0:
            shutil.copy(path, backup)
        elif number == 1:
            shutil.copy(backup, path)
            os.unlink(path + ".index")
    assert epochs == [1, 1, 2]


def test_how_far_it_goes_is_noted_now_and_then(
    files: FileStorage, tmp_path: Path, raw: Connect, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_module, "NOTE_INTERVAL", 0.01)
    client = raw(serve(files).address, coding=Coding.OWN)
    for number in range(2):
        last = client.commit({oid_of(number): (Z64, b"x")})
        wait_until(lambda last=last: said(tmp_path)["tid"] == last.hex())  # type: ignore[misc]


# -- limits and refusals over a real connection ------------------------------------------------


def test_an_answer_that_the_client_does_not_take_is_an_error(
    mapping: MappingStorage, raw: Connect, serve: Serve
) -> None:
    server = serve(mapping)
    client = raw(server.address, coding=Coding.OWN)
    tid_ = client.commit({oid_of(1): (Z64, bytes(5_000)), oid_of(2): (Z64, b"small")})
    session = next(iter(server._lobby.connections)).session
    session.codec.max_payload = 2_000
    with pytest.raises(RemoteFault, match="MessageTooLarge"):
        client.load(oid_of(1))
    assert client.load(oid_of(2)) == (b"small", tid_, None)


def test_a_client_that_cannot_take_an_invalidation_has_to_verify(
    mapping: MappingStorage, raw: Connect, serve: Serve
) -> None:
    server = serve(mapping)
    reader = raw(server.address, coding=Coding.OWN)
    session = next(iter(server._lobby.connections)).session
    session.codec.max_payload = 1_024
    writer = raw(server.address, coding=Coding.OWN)
    writer.commit({oid_of(n): (Z64, b"x") for n in range(1, 130)})
    reader.wait_closed()
    writer.ping()


def test_an_unknown_version_is_refused_in_words(mapping: MappingStorage, serve: Serve) -> None:
    server = serve(mapping)
    with connect(server.address) as sock:
        sock.sendall(frame(MAGIC + b"\0\7\x80"))
        data = b""
        while chunk := sock.recv(10_000):
            data += chunk
    assert b"the client wants version 7 of Zeolith's protocol, the server speaks 1" in data


def test_a_large_limit_is_told(mapping: MappingStorage, raw: Connect, serve: Serve) -> None:
    server = serve(mapping, limits=Limits(max_message_size=3_000))
    client = raw(server.address, coding=Coding.OWN)
    client.ping()
    assert client.peer.codec is not None
    assert client.peer.codec.max_payload == 3_000
    client.peer.codec.max_payload = 10_000  # a client that does not care
    client.store(oid_of(1), bytes(5_000))
    client.wait_closed()

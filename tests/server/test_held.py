"""R8: what has come of a short upload waits in memory, and not too much of it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from tests.server.conftest import Connect, Serve
from tests.support.raw import RawClient, RemoteFault, oid_of
from tests.support.rawstreams import RawStreams
from tests.support.storages import gate
from tests.support.waiting import wait_until
from ZODB.DemoStorage import DemoStorage
from ZODB.FileStorage import FileStorage

from zeolith.protocol.greeting import Coding
from zeolith.protocol.limits import FIRST_UPLOAD, MAX_STREAMS, STREAM_FRAME
from zeolith.protocol.messages import StoreBlobChunk, StoreBlobStart, TpcAbort
from zeolith.protocol.streamrequests import (
    AttachBlob,
    ForgetUpload,
    StreamData,
    StreamEnd,
    StreamFault,
)
from zeolith.server import transactions
from zeolith.server.held import HOLD_MARK, SHORT, Held
from zeolith.server.upload import Upload

FIRST = FIRST_UPLOAD


@pytest.fixture
def server(files: FileStorage, serve: Serve) -> Any:
    return serve(files)


@pytest.fixture
def client(server: Any, raw: Connect) -> RawClient:
    return raw(server.address, coding=Coding.OWN)


@pytest.fixture
def uploads(client: RawClient) -> RawStreams:
    return RawStreams(client)


def connection_of(server: Any) -> Any:
    (connection,) = server._lobby.connections
    return connection


def temporaries(files: FileStorage) -> list[str]:
    return [name for name in os.listdir(files.temporaryDirectory()) if "upload" in name]


@pytest.mark.parametrize("size", [0, 1, SHORT - 1, SHORT, SHORT + 1])
def test_one_of_any_length_arrives(uploads: RawStreams, files: FileStorage, size: int) -> None:
    data = os.urandom(size)
    tid = uploads.commit(oid_of(1), data)
    path = Path(files.loadBlob(oid_of(1), tid))
    assert path.read_bytes() == data
    assert path.stat().st_mode & 0o777 == 0o400 | path.parent.stat().st_mode & 0o444
    assert temporaries(files) == []


@pytest.mark.parametrize(("size", "files_made"), [(SHORT, 0), (SHORT + 1, 1)])
def test_a_file_is_made_for_one_that_is_not_short(
    server: Any, uploads: RawStreams, files: FileStorage, size: int, files_made: int
) -> None:
    uploads.upload(FIRST, bytes(size))
    uploads.settle()
    wait_until(lambda: len(temporaries(files)) == files_made)
    is_held = connection_of(server).session.incoming.held > 0
    assert is_held is (files_made == 0)


def test_r8_what_waits_is_counted_and_bounded(
    server: Any, uploads: RawStreams, files: FileStorage
) -> None:
    for number in range(FIRST, FIRST + MAX_STREAMS):
        uploads.upload(number, bytes(STREAM_FRAME))
        uploads.settle()
        incoming = connection_of(server).session.incoming
        assert incoming.held <= HOLD_MARK
        assert server._lobby.incoming >= incoming.held
    wait_until(lambda: len(temporaries(files)) > MAX_STREAMS // 2)
    assert 0 < len(temporaries(files)) < MAX_STREAMS
    uploads.client.close()
    wait_until(lambda: temporaries(files) == [] and server._lobby.incoming == 0)


def test_r8_memory_is_counted_as_it_is_kept() -> None:
    held, received = Held(), bytes(STREAM_FRAME * 8)
    held.add(memoryview(received)[:STREAM_FRAME])
    assert held.cost >= len(received)
    assert held.parts[0].obj is received  # type: ignore[union-attr]
    before = held.cost
    held.add(memoryview(received)[: STREAM_FRAME - 1])
    assert held.parts[1] == bytes(STREAM_FRAME - 1)
    assert not isinstance(held.parts[1], memoryview)
    assert STREAM_FRAME - 1 < held.cost - before < 2 * STREAM_FRAME
    before = held.cost
    held.add(b"x")
    assert held.cost - before > 100


@pytest.mark.parametrize("end", ["forget", "fault", "abort", "attach", "refuse"])
def test_r8_none_is_counted_any_more_at_the_end(
    server: Any, uploads: RawStreams, files: FileStorage, end: str
) -> None:
    client = uploads.client
    client.begin()
    client.send(StreamData(FIRST, b"short"))
    uploads.settle()
    assert server._lobby.incoming > 0
    if end == "forget":
        client.send(ForgetUpload(FIRST))
    elif end == "fault":
        client.send(StreamFault(FIRST, "builtins.OSError", ()))
    else:
        client.send(StreamEnd(FIRST))
        if end == "abort":
            client.call(TpcAbort(1))
        else:
            uploads.attach(FIRST, oid_of(1), 5 if end == "attach" else 6)
    uploads.settle()
    wait_until(lambda: server._lobby.incoming == 0)
    if end == "attach":
        client.vote()
        client.finish()
    elif end == "refuse":
        with pytest.raises(RemoteFault, match="6 bytes was announced"):
            client.vote()
    assert connection_of(server).session.incoming.held == 0
    wait_until(lambda: temporaries(files) == [])


def test_r8_what_waits_for_a_thread_is_counted_with_all_its_parts(
    server: Any, uploads: RawStreams, files: FileStorage
) -> None:
    client, count = uploads.client, 1000
    client.begin()
    with gate(Upload, "_write") as writing:
        uploads.upload(FIRST, b"short")
        uploads.attach(FIRST, oid_of(1), 5)
        writing.wait_reached()
        client.send(*[StreamData(FIRST + 1, b"x")] * count, StreamEnd(FIRST + 1))
        uploads.settle()
        assert server._lobby.incoming > 100 * count
        uploads.attach(FIRST + 1, oid_of(2), count)
        uploads.settle()
        assert connection_of(server).session.incoming.held == 0
        assert server._lobby.incoming > 100 * count
        writing.open()
    client.vote()
    assert Path(files.loadBlob(oid_of(2), client.finish())).read_bytes() == b"x" * count
    assert server._lobby.incoming == 0


@pytest.mark.parametrize("kind", ["data", "chunks", "attachments"])
def test_r8_jobs_that_wait_are_counted_however_little_they_write(
    server: Any, uploads: RawStreams, raw: Connect, kind: str
) -> None:
    client, count, written = uploads.client, 500, 1
    with gate(Upload, "_write") as writing:
        if kind == "chunks":
            client = raw(server.address)
            client.begin()
            client.send(StoreBlobStart(), *[StoreBlobChunk(b"x")] * (count + 1))
        elif kind == "data":
            written = SHORT + 1
            parts = [b"x", *[bytes(STREAM_FRAME)] * (SHORT // STREAM_FRAME), *[b"x"] * count]
            client.send(*(StreamData(FIRST, part) for part in parts))
        else:
            client.begin()
            client.send(StreamData(FIRST, b"x"))
            for number in range(FIRST, FIRST + count + 1):
                size = int(number == FIRST)
                client.send(StreamEnd(number), AttachBlob(number, oid_of(1), None, b"", 1, size))
        writing.wait_reached()
        client.ping()
        assert server._lobby.incoming > written + 500 * count
        writing.open()
    client.close()
    uploads.client.close()
    wait_until(lambda: server._lobby.incoming == 0)


def test_one_that_is_too_long_is_not_kept(files: FileStorage, serve: Serve, raw: Connect) -> None:
    server = serve(files, max_blob_size=10)
    uploads = RawStreams(raw(server.address, coding=Coding.OWN))
    uploads.client.begin()
    uploads.client.send(StreamData(FIRST, b"0123456789"), StreamData(FIRST, b"x"))
    while FIRST not in uploads.cancelled:
        uploads.next()
    assert connection_of(server).session.incoming.held == 0
    uploads.client.send(StreamEnd(FIRST))
    uploads.attach(FIRST, oid_of(1), 11)
    with pytest.raises(RemoteFault, match="10 bytes at most"):
        uploads.client.vote()
    wait_until(lambda: temporaries(files) == [])


def test_a_disk_that_refuses_fails_the_vote(
    uploads: RawStreams, files: FileStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    uploads.client.begin()
    with monkeypatch.context() as patch:
        patch.setattr(Upload, "_write", refuse)
        uploads.upload(FIRST, b"short")
        uploads.attach(FIRST, oid_of(1), 5)
        with pytest.raises(RemoteFault, match="No space left"):
            uploads.client.vote()
    wait_until(lambda: temporaries(files) == [])
    uploads.client.send(TpcAbort(1))
    uploads.commit(oid_of(1), b"right", FIRST + 1)


@pytest.mark.parametrize("end", ["abort", "disconnect"])
def test_one_given_up_while_it_is_written_leaves_nothing(
    uploads: RawStreams, files: FileStorage, end: str
) -> None:
    client = uploads.client
    client.begin()
    with gate(Upload, "_write") as writing:
        uploads.upload(FIRST, b"short")
        uploads.attach(FIRST, oid_of(1), 5)
        writing.wait_reached()
        assert len(temporaries(files)) == 1
        if end == "abort":
            client.call(TpcAbort(1))
        else:
            client.close()
        writing.open()
    wait_until(lambda: temporaries(files) == [])


def test_a_system_that_writes_less_than_it_is_given(
    uploads: RawStreams, files: FileStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = os.write

    def write(descriptor: int, data: Any) -> int:
        return original(descriptor, data[:1000] if len(data) > 5000 else data)

    data = os.urandom(20_000)
    monkeypatch.setattr(os, "write", write)
    tid = uploads.commit(oid_of(1), data)
    assert Path(files.loadBlob(oid_of(1), tid)).read_bytes() == data


def test_a_storage_that_gets_its_blob_directory_with_the_first_blob(
    serve: Serve, raw: Connect, synced: list[str]
) -> None:
    """R4: its files and directories are brought to disk as any other one's."""
    storage = DemoStorage()
    uploads = RawStreams(raw(serve(storage).address, coding=Coding.OWN))
    tid = uploads.commit(oid_of(1), b"blob")
    path = storage.loadBlob(oid_of(1), tid)
    assert Path(path).read_bytes() == b"blob"
    assert os.path.dirname(path) in synced


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    found: list[str] = []
    original = os.fsync

    def fsync(descriptor: int) -> None:
        found.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        original(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    return found


def test_r4_one_that_was_written_at_once_is_flushed_before_the_vote_is_answered(
    uploads: RawStreams, files: FileStorage, synced: list[str]
) -> None:
    uploads.client.begin()
    uploads.upload(FIRST, b"short")
    uploads.attach(FIRST, oid_of(1), 5)
    uploads.client.vote()
    assert any("zeolith-upload-" in path for path in synced)
    tid = uploads.client.finish()
    assert os.path.dirname(files.loadBlob(oid_of(1), tid)) in synced


def test_nobody_looks_for_files_that_the_storage_has_moved(
    uploads: RawStreams, files: FileStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    removed: list[str] = []
    original = transactions.remove_file

    def remove(path: str) -> None:
        removed.append(path)
        original(path)

    monkeypatch.setattr(transactions, "remove_file", remove)
    uploads.commit(oid_of(1), b"short")
    uploads.client.begin()
    uploads.upload(FIRST + 1, b"another")
    uploads.attach(FIRST + 1, oid_of(2), 7)
    uploads.settle()
    wait_until(lambda: len(temporaries(files)) == 1)
    (second,) = temporaries(files)
    uploads.client.call(TpcAbort(1))
    # By then the end of the first transaction has been seen to as well.
    wait_until(lambda: temporaries(files) == [])
    assert {os.path.basename(path) for path in removed} <= {second}

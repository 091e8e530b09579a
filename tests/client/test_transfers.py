"""Blobs between a client and a server, over lines that break."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from ZODB.Connection import TransactionMetaData
from ZODB.FileStorage import FileStorage
from ZODB.POSException import POSKeyError

from zeolith.client.storage import ClientStorage
from zeolith.errors import ClientDisconnected, ClientStorageError
from zeolith.protocol.limits import BULK_FRAME, STREAM_FRAME
from zeolith.protocol.messages import Call, Notice, SendBlob
from zeolith.protocol.streamrequests import (
    AttachBlob,
    OpenBlob,
    StreamCancel,
    StreamData,
    StreamEnd,
)
from zeolith.server import parking

from ..support.processes import running_server
from ..support.proxy import Action, Passing, Proxy
from ..support.raw import FakeServer, oid_of
from ..support.waiting import Background, wait_until
from .conftest import Attach, Open
from .scripted import tid

SIZE = 80 * STREAM_FRAME + 123
DATA = os.urandom(SIZE)


def commit(storage: ClientStorage, tmp_path: Path, number: int, data: bytes = DATA) -> bytes:
    path = tmp_path / f"new-{number}"
    path.write_bytes(data)
    meta = TransactionMetaData()
    storage.tpc_begin(meta)
    storage.storeBlob(oid_of(number), None, b"record", str(path), "", meta)
    storage.tpc_vote(meta)
    return storage.tpc_finish(meta)


def of_stream(passing: Passing, *classes: type[Any]) -> Any:
    """Return the request in a frame if it is one of these classes."""
    message = passing.message
    if isinstance(message, (Call, Notice)) and isinstance(message[-1], classes):
        return message[-1]
    return None


def leftovers(directory: Path) -> list[str]:
    return [
        name
        for _base, _dirs, names in os.walk(directory)
        for name in names
        if name.endswith((".dl", ".tmp-"))
    ]


@pytest.mark.parametrize("size", [0, 1, STREAM_FRAME, SIZE])
def test_there_and_back(
    server: Any, client: Open, tmp_path: Path, files: FileStorage, size: int
) -> None:
    writer = client(server.address, blob_dir=str(tmp_path / "c1"))
    serial = commit(writer, tmp_path, 1, DATA[:size])
    assert Path(files.loadBlob(oid_of(1), serial)).read_bytes() == DATA[:size]
    reader = client(server.address, blob_dir=str(tmp_path / "c2"))
    assert Path(reader.loadBlob(oid_of(1), serial)).read_bytes() == DATA[:size]
    with reader.openCommittedBlobFile(oid_of(1), serial) as file:
        assert file.read() == DATA[:size]
    with pytest.raises(POSKeyError):
        reader.loadBlob(oid_of(2), serial)
    assert leftovers(tmp_path / "c2") == []


def test_streams_are_used(proxy: Proxy, client: Open, tmp_path: Path) -> None:
    storage = client(proxy.address, blob_dir=str(tmp_path / "c1"))
    serial = commit(storage, tmp_path, 1)
    os.unlink(storage.loadBlob(oid_of(1), serial))
    storage.loadBlob(oid_of(1), serial)
    names = {frame.name for frame in proxy.frames()}
    assert names >= {"open_blob", "attach_blob", "stream_data", "stream_end", "stream_credit"}
    assert not names & {"sendBlob", "storeBlobStart", "storeBlobChunk", "receiveBlobChunk"}


@pytest.mark.parametrize("action", [Action.CUT, Action.CUT_AFTER, Action.CUT_WITHIN])
def test_a_download_that_is_cut_off_is_gone_on_with(
    server: Any, proxy: Proxy, client: Open, tmp_path: Path, action: Action
) -> None:
    writer = client(server.address, blob_dir=str(tmp_path / "c1"))
    serial = commit(writer, tmp_path, 1)
    reader = client(proxy.address, blob_dir=str(tmp_path / "c2"))
    seen = {"bytes": 0, "cuts": 0}

    def cut_now_and_then(passing: Passing) -> Action:
        request = of_stream(passing, StreamData)
        if request is not None:
            seen["bytes"] += len(request.data)
            if seen["bytes"] > 10 * STREAM_FRAME:
                # The first message of each connection passes, for which the first credit is.
                seen["cuts"] += 1
                seen["bytes"] = 0
                return action
        return Action.PASS

    proxy.rule = cut_now_and_then
    assert Path(reader.loadBlob(oid_of(1), serial)).read_bytes() == DATA
    # How many depends on how much of it comes in one message.
    assert seen["cuts"] >= 2

    def find_offsets() -> list[int]:
        return [
            request.offset
            for frame in proxy.frames()
            if (request := of_stream(frame, OpenBlob)) is not None
        ]

    # A proxy notes what it has passed on; the answer to the last may be here before.
    wait_until(lambda: len(find_offsets()) > seen["cuts"])
    offsets = find_offsets()
    # It was never begun anew, and each byte came once, but for the frames that were cut off, and
    # those that the system threw away with the connection.
    assert offsets == sorted(offsets)
    assert offsets[0] == 0 < offsets[1]
    assert len(offsets) == seen["cuts"] + 1
    passed = sum(
        len(request.data)
        for frame in proxy.frames()
        if (request := of_stream(frame, StreamData)) is not None
    )
    assert passed <= SIZE + seen["cuts"] * 2 * BULK_FRAME
    assert leftovers(tmp_path / "c2") == []


def test_a_download_waits_no_longer_than_wait_timeout_for_a_server(
    server: Any, proxy: Proxy, client: Open, tmp_path: Path
) -> None:
    writer = client(server.address, blob_dir=str(tmp_path / "c1"))
    serial = commit(writer, tmp_path, 1)
    reader = client(proxy.address, blob_dir=str(tmp_path / "c2"), wait_timeout=0.2)

    def cut_for_good(passing: Passing) -> Action:
        request = of_stream(passing, StreamData)
        if request is not None and passing.number > 8:
            proxy.is_refusing = True
            return Action.CUT
        return Action.PASS

    proxy.rule = cut_for_good
    with pytest.raises(ClientDisconnected):
        reader.loadBlob(oid_of(1), serial)
    assert leftovers(tmp_path / "c2") == []
    # Whoever asks later begins anew.
    proxy.is_refusing = False
    proxy.rule = lambda passing: Action.PASS
    wait_until(reader.is_connected)
    assert Path(reader.loadBlob(oid_of(1), serial)).read_bytes() == DATA


def test_an_upload_that_is_cut_off_fails_and_leaves_nothing(
    proxy: Proxy,
    client: Open,
    tmp_path: Path,
    files: FileStorage,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(parking, "PARK_TIME", 0.1)
    storage = client(proxy.address, blob_dir=str(tmp_path / "c1"))
    seen = {"messages": 0}

    def cut_uploads(passing: Passing) -> Action:
        if of_stream(passing, StreamData) is None:
            return Action.PASS
        seen["messages"] += 1
        return Action.CUT if seen["messages"] > 2 else Action.PASS

    proxy.rule = cut_uploads
    with pytest.raises(ClientDisconnected):
        commit(storage, tmp_path, 1)
    meta = storage.tpc_transaction()
    assert meta is not None
    storage.tpc_abort(meta)
    proxy.rule = lambda passing: Action.PASS
    wait_until(lambda: os.listdir(files.temporaryDirectory()) in ([], [".lock"]))
    assert leftovers(tmp_path / "c1") == []
    # Repeated, it goes through.
    wait_until(storage.is_connected)
    serial = commit(storage, tmp_path, 1)
    assert Path(files.loadBlob(oid_of(1), serial)).read_bytes() == DATA


def test_many_blobs_at_once(server: Any, client: Open, tmp_path: Path) -> None:
    writer = client(server.address, blob_dir=str(tmp_path / "c1"))
    serials = {number: commit(writer, tmp_path, number) for number in range(1, 9)}
    reader = client(server.address, blob_dir=str(tmp_path / "c2"))
    loading = {
        number: Background(lambda n=number, s=serial: reader.loadBlob(oid_of(n), s))  # type: ignore[misc]
        for number, serial in serials.items()
    }
    for number, each in loading.items():
        path = each.result()
        assert Path(str(path)).read_bytes() == DATA, number


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_streams_over_tls(files: FileStorage, client: Open, tmp_path: Path, loop: str) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    tls = {"ssl": trusting, "ssl_server_hostname": "localhost"}
    with running_server(files, loop=loop, ssl=context) as server:
        writer = client(server.address, blob_dir=str(tmp_path / "c1"), **tls)
        serials = {number: commit(writer, tmp_path, number) for number in range(1, 5)}
        reader = client(server.address, blob_dir=str(tmp_path / "c2"), **tls)
        loading = [
            Background(lambda n=number, s=serial: reader.loadBlob(oid_of(n), s))  # type: ignore[misc]
            for number, serial in serials.items()
        ]
        for each in loading:
            assert Path(str(each.result())).read_bytes() == DATA
        assert len([list(transaction) for transaction in reader.iterator()]) == 4
        writer.close()
        reader.close()


# -- a server that is not what it should be ----------------------------------------------------


def load(storage: ClientStorage) -> Background:
    return Background(lambda: storage.loadBlob(oid_of(1), tid(1)))


def stored(storage: ClientStorage) -> bytes:
    assert storage._blobs is not None
    path = storage._blobs.filename(oid_of(1), tid(1))
    return Path(path).read_bytes()


def test_a_blob_of_another_size_than_announced(attach: Attach, tmp_path: Path) -> None:
    storage, server = attach(blob_dir=str(tmp_path / "c"))
    for size, data in ((10, b"nine byte"), (3, b"four")):
        loading = load(storage)
        call = server.expect(OpenBlob)
        server.reply(call, {"size": size})
        number = call.request.stream
        server.notify(StreamData(number, data))
        server.notify(StreamEnd(number))
        with pytest.raises(ClientStorageError, match=f"{size} bytes after {len(data)}"):
            loading.result()
    assert leftovers(tmp_path / "c") == []


@pytest.mark.parametrize("answer", [None, {}, {"size": "10"}, 10])
def test_an_answer_without_a_size(attach: Attach, tmp_path: Path, answer: Any) -> None:
    storage, server = attach(blob_dir=str(tmp_path / "c"))
    loading = load(storage)
    call = server.expect(OpenBlob)
    server.reply(call, answer)
    with pytest.raises(ClientStorageError, match="how long"):
        loading.result()
    assert server.expect(StreamCancel).request.stream == call.request.stream
    # The connection goes on; so does the stream, until the server ends it.
    server.notify(StreamData(call.request.stream, b"x"))
    server.notify(StreamEnd(call.request.stream))
    pinging = Background(storage.ping)
    server.reply(server.next_call_named("ping"), None)
    pinging.result()


def test_a_size_that_changes_after_a_break(
    fake: FakeServer, attach: Attach, tmp_path: Path
) -> None:
    storage, server = attach(blob_dir=str(tmp_path / "c"))
    loading = load(storage)
    call = server.expect(OpenBlob)
    server.reply(call, {"size": 10})
    server.notify(StreamData(call.request.stream, b"12345"))
    server.close()
    again = fake.accept()
    again.admit(tid(1))
    call = again.expect(OpenBlob)
    assert call.request.offset == 5
    again.reply(call, {"size": 11})
    with pytest.raises(ClientStorageError, match="11 bytes, and said 10 before"):
        loading.result()


def test_a_disk_that_refuses_ends_the_download_only(
    attach: Attach, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from zeolith.client import download

    def refuse(file: Any, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(download, "_write_all", refuse)
    storage, server = attach(blob_dir=str(tmp_path / "c"))
    loading = load(storage)
    call = server.expect(OpenBlob)
    server.reply(call, {"size": 1 << 30})
    for _ in range(4):
        server.notify(StreamData(call.request.stream, bytes(STREAM_FRAME)))
    with pytest.raises(ClientStorageError, match="cannot keep a blob"):
        loading.result()
    assert server.expect(StreamCancel).request.stream == call.request.stream
    assert leftovers(tmp_path / "c") == []


def test_a_zeo_server_after_a_break_sends_it_all(
    fake: FakeServer, attach: Attach, tmp_path: Path
) -> None:
    """What Zeolith's server has sent is dropped: ZEO's knows no offset."""
    from zeolith.protocol.messages import ReceiveBlobChunk, ReceiveBlobStart, ReceiveBlobStop

    storage, server = attach(blob_dir=str(tmp_path / "c"))
    loading = load(storage)
    call = server.expect(OpenBlob)
    server.reply(call, {"size": 10})
    server.notify(StreamData(call.request.stream, b"12345"))
    server.close()
    again = fake.accept()
    again.admit(tid(1), is_zeo=True)
    call = again.expect(SendBlob)
    again.notify(ReceiveBlobStart(oid_of(1), tid(1)))
    again.notify(ReceiveBlobChunk(oid_of(1), tid(1), b"0123456789"))
    again.notify(ReceiveBlobStop(oid_of(1), tid(1)))
    again.reply(call, None)
    loading.result()
    assert stored(storage) == b"0123456789"


def test_a_zeo_server_gets_blobs_as_it_knows_them(attach: Attach, tmp_path: Path) -> None:
    from zeolith.protocol.messages import StoreBlobChunk, StoreBlobEnd, StoreBlobStart, TpcBegin

    storage, server = attach(is_zeo=True, blob_dir=str(tmp_path / "c"))
    path = tmp_path / "new"
    path.write_bytes(b"blob")
    meta = TransactionMetaData()
    storage.tpc_begin(meta)
    storage.storeBlob(oid_of(1), None, b"record", str(path), "", meta)
    storage._link.channel().flush()
    server.expect(TpcBegin)
    found = [server.next() for _ in range(4)]
    kinds = [type(message[-1]) for message in found if isinstance(message, Notice)]
    assert kinds[1:] == [StoreBlobStart, StoreBlobChunk, StoreBlobEnd]
    assert AttachBlob not in kinds


def test_an_upload_that_is_given_up_leaves_nothing_at_the_server(
    server: Any, client: Open, tmp_path: Path
) -> None:
    storage = client(server.address, blob_dir=str(tmp_path / "c1"))

    def chunks() -> Iterator[bytes]:
        yield b"some of it"
        raise OSError("the disk failed")

    with pytest.raises(OSError, match="the disk failed"):
        storage._link.channel().streams.upload(chunks())
    storage.ping()
    (connection,) = server._lobby.connections
    assert len(connection.session.incoming) == 0
    wait_until(lambda: not list((tmp_path / "blobs" / "tmp").glob("zeolith-upload-*")))

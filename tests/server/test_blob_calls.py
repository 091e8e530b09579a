"""Blobs in ZEO's protocol: pieces of notices, over real sockets."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.server.conftest import Connect, Serve
from tests.support.raw import Z64, RawClient, RemoteFault, oid_of
from tests.support.waiting import wait_until
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage

from zeolith.protocol import messages as m


@pytest.mark.parametrize("size", [0, 1, 59000, 59001, 1_000_000])
def test_blobs_there_and_back(client: RawClient, size: int, files: FileStorage) -> None:
    data = bytes(range(256)) * (size // 256 + 1)
    data = data[:size]
    client.begin()
    client.store_blob(oid_of(1), b"record", data)
    client.vote()
    tid = client.finish()
    assert Path(files.loadBlob(oid_of(1), tid)).read_bytes() == data
    del client.inbox[:]
    client.taken = 0
    # Two at once: one comes after the other.
    msgids = [client.ask(m.SendBlob(oid_of(1), tid)) for _ in range(2)]
    for msgid in msgids:
        assert client.answer(msgid) is None
    for _ in range(2):
        notice = client.next()
        assert isinstance(notice, m.Notice)
        assert notice.request == m.ReceiveBlobStart(oid_of(1), tid)
        received = b""
        while isinstance(notice := client.next(), m.Notice) and isinstance(
            notice.request, m.ReceiveBlobChunk
        ):
            assert 0 < len(notice.request.chunk) <= 59000
            received += notice.request.chunk
        assert received == data
        assert notice == m.Notice(m.ReceiveBlobStop(oid_of(1), tid))
        assert isinstance(client.next(), m.Reply)
    assert list(Path(files.temporaryDirectory()).iterdir()) == []


def test_blobs_that_are_not_there(client: RawClient) -> None:
    with pytest.raises(RemoteFault, match="POSKeyError"):
        client.call(m.SendBlob(oid_of(1), Z64))


def test_a_storage_without_blobs(mapping: MappingStorage, serve: Serve, raw: Connect) -> None:
    client = raw(serve(mapping).address)
    with pytest.raises(RemoteFault, match=r"Unsupported.*blobs"):
        client.call(m.SendBlob(oid_of(1), Z64))
    client.begin()
    client.store_blob(oid_of(1), b"record", b"blob")
    with pytest.raises(RemoteFault, match=r"Unsupported.*blobs"):
        client.vote()


def test_shared_blobs(client: RawClient, files: FileStorage) -> None:
    directory = Path(files.fshelper.getPathForOID(oid_of(1), create=True))
    (directory / "new.tmp").write_bytes(b"shared")
    client.begin()
    client.send(m.StoreBlobShared(oid_of(1), Z64, b"record", "new.tmp", 1))
    client.vote()
    tid = client.finish()
    assert Path(files.loadBlob(oid_of(1), tid)).read_bytes() == b"shared"
    client.begin()
    client.send(m.StoreBlobShared(oid_of(1), tid, b"record", "gone.tmp", 1))
    with pytest.raises(RemoteFault, match="share"):
        client.vote()


@pytest.mark.parametrize("how", ["abort", "close", "close in the middle"])
def test_c_temporary_files_are_removed(
    client: RawClient, files: FileStorage, raw: Connect, how: str
) -> None:
    temporary = Path(files.temporaryDirectory())
    client.begin()
    client.store_blob(oid_of(1), b"record", b"x" * 100_000)
    if how == "close in the middle":
        client.send(m.StoreBlobStart(), m.StoreBlobChunk(b"x" * 1000))
    client.ping()
    if how == "abort":
        client.call(m.TpcAbort(1))
    else:
        client.close()
    wait_until(lambda: not list(temporary.iterdir()), "the temporary files are gone")

"""Blobs are verified before they get their name, in both directions."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from ZODB.FileStorage import FileStorage

from zeolith.client.download import Download
from zeolith.client.storage import ClientStorage
from zeolith.errors import BlobDamaged
from zeolith.protocol.limits import BULK_FRAME
from zeolith.server import blobsums

from ..support.flipping import FlippingLine
from ..support.processes import running_server
from ..support.raw import oid_of
from ..support.waiting import wait_until
from .conftest import Open
from .test_transfers import commit, leftovers

SIZE = 5 * BULK_FRAME + 123
DATA = os.urandom(SIZE)
MIDDLE = SIZE // 2


@pytest.fixture
def files(tmp_path: Path) -> FileStorage:
    return FileStorage(str(tmp_path / "Data.fs"), blob_dir=str(tmp_path / "blobs"))


@pytest.fixture(params=["uvloop", "asyncio"])
def server(files: FileStorage, request: pytest.FixtureRequest) -> Iterator[Any]:
    with running_server(files, loop=request.param) as found:
        yield found


@pytest.fixture
def line(server: Any, stack: ExitStack) -> FlippingLine:
    return stack.enter_context(FlippingLine(server.address))


@pytest.fixture
def writer(server: Any, client: Open, tmp_path: Path) -> ClientStorage:
    return client(server.address, blob_dir=str(tmp_path / "writer"))


def reader_of(client: Open, address: Any, tmp_path: Path) -> ClientStorage:
    return client(address, blob_dir=str(tmp_path / "reader"))


def flip_on_disk(path: str) -> None:
    """Change one byte of a file, as a failing disk does: nobody has written it."""
    status = os.stat(path)
    os.chmod(path, 0o600)
    with open(path, "r+b") as file:
        file.seek(MIDDLE)
        byte = file.read(1)[0]
        file.seek(MIDDLE)
        file.write(bytes([byte ^ 1]))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_a_byte_that_changes_on_the_way_down_is_noticed_and_the_blob_fetched_again(
    line: FlippingLine,
    writer: ClientStorage,
    client: Open,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    serial = commit(writer, tmp_path, 1, DATA)
    reader = reader_of(client, line.address, tmp_path)
    line.downwards.append(MIDDLE)
    with caplog.at_level(logging.WARNING, "zeolith.client.transfers"):
        assert Path(reader.loadBlob(oid_of(1), serial)).read_bytes() == DATA
    assert line.flipped == 1
    assert "is damaged" in caplog.text
    assert "it is fetched again" in caplog.text
    assert leftovers(tmp_path / "reader") == []


def test_one_that_comes_like_that_twice_is_an_error_and_leaves_nothing(
    server: Any,
    files: FileStorage,
    writer: ClientStorage,
    client: Open,
    tmp_path: Path,
) -> None:
    """On the server's disk, that is: the checksum is the one that its writer said."""
    serial = commit(writer, tmp_path, 1, DATA)
    path = files.loadBlob(oid_of(1), serial)
    flip_on_disk(path)
    reader = reader_of(client, server.address, tmp_path)
    with pytest.raises(BlobDamaged, match="0000000000000001 is damaged") as caught:
        reader.loadBlob(oid_of(1), serial)
    assert caught.value.oid == oid_of(1)
    assert leftovers(tmp_path / "reader") == []
    names = {name for _, _, found in os.walk(tmp_path / "reader") for name in found}
    assert not [name for name in names if name.endswith(".blob")]
    # The connection goes on, and so does the client when the file has been mended.
    flip_on_disk(path)
    assert Path(reader.loadBlob(oid_of(1), serial)).read_bytes() == DATA


def test_it_is_verified_before_it_has_its_name(
    server: Any,
    files: FileStorage,
    writer: ClientStorage,
    client: Open,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    serial = commit(writer, tmp_path, 1, DATA)
    flip_on_disk(files.loadBlob(oid_of(1), serial))
    reader = reader_of(client, server.address, tmp_path)
    installed: list[tuple[str, str]] = []
    replace = os.replace

    def note(source: Any, target: Any) -> None:
        installed.append((str(source), str(target)))
        replace(source, target)

    monkeypatch.setattr(os, "replace", note)
    monkeypatch.setattr(Download, "end", lambda self: pytest.fail("it was taken for complete"))
    with pytest.raises(BlobDamaged):
        reader.loadBlob(oid_of(1), serial)
    assert installed == []


def test_a_byte_that_changes_on_the_way_up_fails_the_vote_and_leaves_nothing(
    line: FlippingLine, client: Open, tmp_path: Path, files: FileStorage
) -> None:
    storage = client(line.address, blob_dir=str(tmp_path / "writer"))
    line.upwards.append(MIDDLE)
    # Of the connection that is there already.
    with pytest.raises(BlobDamaged, match="what the server has received is not what was sent"):
        commit(storage, tmp_path, 1, DATA)
    assert line.flipped == 1
    meta = storage.tpc_transaction()
    assert meta is not None
    storage.tpc_abort(meta)
    wait_until(lambda: os.listdir(files.temporaryDirectory()) in ([], [".lock"]))
    assert leftovers(tmp_path / "writer") == []
    serial = commit(storage, tmp_path, 1, DATA)
    assert Path(files.loadBlob(oid_of(1), serial)).read_bytes() == DATA


def test_what_the_writer_said_is_kept_beside_the_blob(
    files: FileStorage, writer: ClientStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serial = commit(writer, tmp_path, 1, DATA)
    with open(files.loadBlob(oid_of(1), serial), "rb") as file:
        assert blobsums.recall(file.fileno(), "blake3") is not None


def test_a_blob_without_a_checksum_gets_one_when_it_is_fetched(
    server: Any, files: FileStorage, writer: ClientStorage, client: Open, tmp_path: Path
) -> None:
    serial = commit(writer, tmp_path, 1, DATA)
    path = files.loadBlob(oid_of(1), serial)
    os.chmod(path, 0o600)
    os.removexattr(path, blobsums.ATTRIBUTE)
    reader = reader_of(client, server.address, tmp_path)
    assert Path(reader.loadBlob(oid_of(1), serial)).read_bytes() == DATA
    with open(path, "rb") as file:
        assert blobsums.recall(file.fileno(), "blake3") is not None


def test_the_checksum_is_of_the_whole_blob_also_after_a_break(
    line: FlippingLine, writer: ClientStorage, client: Open, tmp_path: Path
) -> None:
    """A byte that changed before the break is found at the end of what came after it."""
    serial = commit(writer, tmp_path, 1, DATA)
    reader = reader_of(client, line.address, tmp_path)
    line.downwards.append(BULK_FRAME // 4)
    write = Download.write
    broken: list[int] = []

    def write_and_break(self: Download, chunk: Any) -> None:
        write(self, chunk)
        if self.received > MIDDLE and not broken:
            broken.append(self.received)
            reader._link.channel().close(ConnectionResetError("cut by the test"))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Download, "write", write_and_break)
        assert Path(reader.loadBlob(oid_of(1), serial)).read_bytes() == DATA
    assert (line.flipped, len(broken)) == (1, 1)
    assert leftovers(tmp_path / "reader") == []

"""Class C of the known failures (lp 224169): a full disk while blobs travel, on either side.

Sizes of files are limited by the system, for real processes; where only a directory has no room,
the call fails that would need it.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.rules.conftest import Connect, Serve
from tests.support.blobdisk import SPEECHES, Disk, Speech, Uploader, debris, listing, read
from tests.support.processes import ServerProcess, run_python
from tests.support.raw import RawClient, RemoteFault, oid_of
from tests.support.storages import hook
from tests.support.waiting import wait_until

from zeolith.protocol.messages import TpcAbort

LIMIT = 1 << 20
"""Bytes that a file may have in a process with a full disk."""

CUSTOMIZE = f"""\
import os, resource, sys

if "zeolith" in sys.orig_argv and os.path.exists("limit"):
    resource.setrlimit(resource.RLIMIT_FSIZE, ({LIMIT}, {LIMIT}))
"""

coded = pytest.mark.parametrize("speech", SPEECHES, ids=lambda speech: speech.name)


@pytest.fixture
def process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ServerProcess]:
    """A server that can make no file of more than :data:`LIMIT` bytes."""
    customize = tmp_path / "customize"
    customize.mkdir()
    (customize / "sitecustomize.py").write_text(CUSTOMIZE)
    monkeypatch.syspath_prepend(str(customize))
    found = ServerProcess(tmp_path / "server")
    (found.directory / "limit").touch()
    with found:
        yield found


def no_room(*_args: Any, **_kw: Any) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


# -- the server's ------------------------------------------------------------------------------


def test_c_a_full_disk_during_an_upload(process: ServerProcess) -> None:
    """In every protocol the vote says it; the server goes on, and so does the client."""
    blobs = process.directory / "blobs"
    for number, speech in enumerate(SPEECHES, 1):
        with RawClient(process.address, **speech.options) as client:
            uploader = Uploader(client)
            client.begin()
            # More than any credit of a stream: each part is sent when it is wanted.
            send(uploader, bytes(LIMIT + 4_000_000))
            with pytest.raises(RemoteFault, match="File too large"):
                client.vote()
            wait_until(lambda: debris(blobs) == [], "the file is gone")
            client.call(TpcAbort(1))
            tid = uploader.commit(oid_of(number), b"small")
            assert read(client, oid_of(number), tid) == b"small"
    assert len(listing(blobs)) == 1 + len(SPEECHES)
    assert process.stop() == 0
    assert process.tracebacks() == []


def send(uploader: Uploader, data: bytes) -> None:
    """Send a blob of object 9, as much of it as the server wants, and the end."""
    client = uploader.client
    if not uploader.is_own:
        uploader.store(oid_of(9), data)
        return
    from tests.support.rawstreams import RawStreams

    from zeolith.protocol.limits import STREAM_WINDOW
    from zeolith.protocol.streamrequests import StreamData

    streams = RawStreams(client)
    part = 30_000
    uploader.begin(data[:part])
    number, sent = uploader.number, part
    while sent < len(data) and number not in streams.cancelled:
        if sent + part > STREAM_WINDOW + streams.credit[number]:
            streams.next()
        else:
            client.send(StreamData(number, data[sent : sent + part]))
            sent += part
    assert number in streams.cancelled, "the server has told its client to stop"
    uploader.end(oid_of(9), sent)


@coded
@pytest.mark.parametrize("step", ["mkdir", "rename", "link"])
def test_c_a_full_disk_when_a_blob_gets_its_name(
    tmp_path: Path,
    serve: Serve,
    raw: Connect,
    monkeypatch: pytest.MonkeyPatch,
    speech: Speech,
    step: str,
) -> None:
    """A directory has no room: for another one, or for a name.  A copy has none either."""
    disk = Disk("bushy", tmp_path)
    server = serve(disk.storage, client_conflict_resolution=step == "link")
    client, other = (Uploader(raw(server.address, **speech.options)) for _ in range(2))
    disk.committed(2, other.commit(oid_of(2), b"before"), b"before")
    client.client.begin()
    with monkeypatch.context() as patch:
        if step == "mkdir":
            # Directories are made as soon as a blob has arrived.
            patch.setattr(os, step, no_room)
        client.store(oid_of(1), b"x" * 1000)
        client.client.ping()
        if step != "mkdir":
            wait_until(lambda: debris(disk.directory) != [])
            patch.setattr(os, step, no_room)
        if step == "rename":
            from ZODB import utils

            patch.setattr(utils, "cp", no_room)
        with pytest.raises(RemoteFault, match="No space left"):
            client.client.vote()
    wait_until(disk.is_right, "nothing is left")
    for each in (other, client):
        each.client.send(TpcAbort(1))
        disk.committed(1, each.commit(oid_of(1), b"after", tid_of(disk, 1)), b"after")
    wait_until(disk.is_right)


def tid_of(disk: Disk, number: int) -> bytes:
    """Return the last tid of an object."""
    return max((tid for found, tid in disk.blobs if found == number), default=bytes(8))


@coded
def test_c_a_full_disk_in_vote(tmp_path: Path, serve: Serve, raw: Connect, speech: Speech) -> None:
    """The blobs have their names by then."""
    disk = Disk("bushy", tmp_path)
    server = serve(disk.storage)
    client, other = (Uploader(raw(server.address, **speech.options)) for _ in range(2))
    client.client.begin()
    client.store(oid_of(1), b"x" * 1000)
    with (
        hook(disk.storage, "tpc_vote", before=no_room),
        pytest.raises(RemoteFault, match="No space left"),
    ):
        client.client.vote()
    wait_until(disk.is_right, "nothing is left")
    disk.committed(1, other.commit(oid_of(1), b"after"), b"after")
    wait_until(disk.is_right)


@coded
def test_c_a_full_disk_when_a_blob_is_flushed(
    tmp_path: Path, serve: Serve, raw: Connect, monkeypatch: pytest.MonkeyPatch, speech: Speech
) -> None:
    """Some file systems find their room only then."""
    disk = Disk("bushy", tmp_path)
    server = serve(disk.storage)
    client, other = (Uploader(raw(server.address, **speech.options)) for _ in range(2))
    client.client.begin()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", no_room)
        patch.setattr(os, "fdatasync", no_room)
        client.store(oid_of(1), b"x" * 1000)
        with pytest.raises(RemoteFault, match="No space left"):
            client.client.vote()
    wait_until(disk.is_right, "nothing is left")
    disk.committed(1, other.commit(oid_of(1), b"after"), b"after")
    wait_until(disk.is_right)


# -- the client's ------------------------------------------------------------------------------

_CLIENT = """\
import os, resource, sys
from pathlib import Path
from ZODB.Connection import TransactionMetaData
from zeolith import ClientStorage
from zeolith.errors import ClientStorageError
from zeolith.protocol import peers
from zeolith.protocol.greeting import Greeting, parse_greeting

port, directory, tid, protocol = sys.argv[1:5]
LIMIT = int(sys.argv[5])
if protocol != "own":
    peers.parse_greeting = lambda payload: Greeting(parse_greeting(payload).coding, False)
resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, LIMIT))
storage = ClientStorage(("127.0.0.1", int(port)), blob_dir=directory, wait_timeout=20)
big, small = (number.to_bytes(8, "big") for number in (1, 2))
tid = bytes.fromhex(tid)

def files():
    return sorted(
        name for _, _, names in os.walk(directory) for name in names
        if name.endswith((".blob", ".dl", ".tmp-", ".tmp"))
    )

for _ in range(2):
    try:
        storage.loadBlob(big, tid)
    except ClientStorageError as error:
        assert "File too large" in f"{error} {error.__cause__}", error
    else:
        raise AssertionError("a blob of more than the disk has room for")
    assert files() == [], files()
    # The connection and the directory are in order.
    storage.ping()
path = storage.loadBlob(small, tid)
assert Path(path).read_bytes() == b"small"
os.unlink(path)
# An upload that has to be copied, and finds no room.
real = os.rename
def elsewhere(source, target):
    raise OSError(18, "Invalid cross-device link")
fill = Path(directory, "source")
with open(fill, "wb") as file:
    file.write(bytes(LIMIT))
os.rename = elsewhere
resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT // 2, LIMIT))
meta = TransactionMetaData()
storage.tpc_begin(meta)
try:
    storage.storeBlob(big, tid, b"record", str(fill), "", meta)
except ClientStorageError as error:
    assert "File too large" in str(error), error
else:
    raise AssertionError("a file of more than the disk has room for")
storage.tpc_abort(meta)
os.rename = real
assert fill.stat().st_size == LIMIT  # the application's file is still there
assert files() == [], files()
storage.ping()
storage.close()
print("done")
"""


@pytest.mark.parametrize("protocol", ["own", "Z5"])
def test_c_a_full_disk_at_the_client(
    tmp_path: Path, serve: Serve, raw: Connect, protocol: str
) -> None:
    disk = Disk("bushy", tmp_path)
    server = serve(disk.storage)
    uploader = Uploader(raw(server.address))
    uploader.client.begin()
    uploader.store(oid_of(1), bytes(LIMIT + 100_000))
    uploader.store(oid_of(2), b"small")
    uploader.client.vote()
    tid = uploader.client.finish()
    disk.committed(1, tid, bytes(LIMIT + 100_000))
    disk.committed(2, tid, b"small")
    said = run_python(
        _CLIENT, str(server.address[1]), str(tmp_path / "client"), tid.hex(), protocol, str(LIMIT)
    )
    assert said.strip() == "done"
    wait_until(disk.is_right)

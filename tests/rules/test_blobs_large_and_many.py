"""One large blob, and many small ones: they are whole, and memory does not grow with them (R8)."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ZODB
from BTrees.IOBTree import IOBTree
from tests.rules.blob_giant import checksum, peak
from tests.rules.conftest import Open
from tests.support.blobdisk import debris, listing
from tests.support.processes import ServerProcess, child_environment
from ZODB.blob import Blob
from ZODB.FileStorage import FileStorage

MIB = 1 << 20
GIB = 1 << 30

MEMORY = 32 * MIB
"""What either side may need for a blob of any size: credit, read-ahead and what waits for the disk,
with room for what the C library keeps."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path / "server") as found:
        yield found


def run_client(what: str, server: ServerProcess, directory: Path, size: int, *rest: str) -> Any:
    """Run a client to its end; return what it prints."""
    done = subprocess.run(
        [
            sys.executable, "-m", "tests.rules.blob_giant",
            what, str(server.address[1]), str(directory), str(size), *rest,
        ],
        capture_output=True, text=True, env=child_environment(), timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def there_and_back(server: ServerProcess, directory: Path, size: int) -> None:
    """Commit a blob of *size* bytes and read it with another client."""
    # At the server, at the reader; the writer's has holes where file systems know them.
    needed = 3 * size + GIB // 4
    free = shutil.disk_usage(directory).free
    assert free > needed, f"this needs {needed >> 20} MB of disk, there are {free >> 20}"
    assert server.process is not None
    pid = server.process.pid
    # Both ways once, so that what comes does not count.
    *ids, _ = run_client("commit", server, directory / "small", MIB)
    run_client("read", server, directory / "small", MIB, *ids)
    before = peak(pid)
    *ids, grown = run_client("commit", server, directory / "large", size)
    assert int(grown) < MEMORY
    assert peak(pid) - before < MEMORY
    *_, grown = run_client("read", server, directory / "large", size, *ids)
    assert int(grown) < MEMORY
    assert peak(pid) - before < MEMORY
    assert server.stop() == 0
    blobs = server.directory / "blobs"
    storage = FileStorage(str(server.directory / "Data.fs"), read_only=True, blob_dir=str(blobs))
    expected = (directory / "large" / "checksum").read_text()
    assert checksum(storage.loadBlob(*map(bytes.fromhex, ids))) == expected
    storage.close()
    assert not list(blobs.glob("tmp/*"))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    for name in ("small", "large"):
        (tmp_path / name).mkdir()
    return tmp_path


def test_r8_a_large_blob_takes_no_memory(server: ServerProcess, directory: Path) -> None:
    there_and_back(server, directory, 96 * MIB)


@pytest.mark.long
@pytest.mark.timeout(2000)
def test_r8_a_blob_of_5_gigabytes(server: ServerProcess, directory: Path) -> None:
    there_and_back(server, directory, 5 * GIB)
    shutil.rmtree(directory)


def contents(number: int) -> bytes:
    return hashlib.sha256(b"%d" % number).digest() * (number % 40)


def many_small(server: ServerProcess, client: Open, directory: Path, count: int) -> None:
    """Commit *count* blobs in a few transactions; read each with another client."""
    writer = ZODB.DB(client(server.address, blob_dir=str(directory / "writer"), wait_timeout=60))
    with writer.transaction() as connection:
        connection.root.blobs = IOBTree()
    for start in range(0, count, 1000):
        with writer.transaction() as connection:
            for number in range(start, min(start + 1000, count)):
                connection.root.blobs[number] = Blob(contents(number))
    writer.close()
    assert len(listing(server.directory / "blobs")) == count + 1
    assert debris(server.directory / "blobs") == []
    reader = ZODB.DB(
        client(
            server.address,
            blob_dir=str(directory / "reader"),
            blob_cache_size=64 * 1024,
            wait_timeout=60,
        )
    )
    with reader.transaction() as connection:
        for number, blob in connection.root.blobs.items():
            with blob.open() as file:
                assert file.read() == contents(number)
    reader.close()
    assert server.stop() == 0
    assert server.tracebacks() == []


def test_c_hundreds_of_small_blobs(server: ServerProcess, client: Open, tmp_path: Path) -> None:
    many_small(server, client, tmp_path, 300)


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_c_ten_thousand_small_blobs(server: ServerProcess, client: Open, tmp_path: Path) -> None:
    many_small(server, client, tmp_path, 10_000)

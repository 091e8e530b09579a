"""Class C of the known failures: blob directories that are not what they should be."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ZODB
from tests.rules.conftest import Open, Serve
from tests.support.blobdisk import debris, listing
from tests.support.powerless import run_powerless
from ZODB.blob import Blob
from ZODB.FileStorage import FileStorage
from ZODB.POSException import POSKeyError

from zeolith.errors import ClientStorageError

CLIENT = """
import sys
import ZODB
from zeolith import ClientStorage

host, port, directory, shared, source = sys.argv[1:]
storage = ClientStorage(
    (host, int(port)), blob_dir=directory, shared_blob_dir=shared == "shared", wait_timeout=20
)
database = ZODB.DB(storage)

def attempt(what, act):
    try:
        print(what, act())
    except Exception as error:
        print(what, "failed:", type(error).__name__, error)

def read(key):
    with database.transaction() as connection, connection.root()[key].open() as file:
        return file.read().decode()

def store():
    meta = ZODB.Connection.TransactionMetaData()
    storage.tpc_begin(meta)
    try:
        storage.storeBlob(storage.new_oid(), bytes(8), b"record", source, "", meta)
    finally:
        storage.tpc_abort(meta)

attempt("first:", lambda: read("first"))
attempt("second:", lambda: read("second"))
attempt("store:", store)
attempt("first:", lambda: read("first"))
database.close()
"""


@pytest.fixture
def server(files: FileStorage, serve: Serve) -> Any:
    return serve(files)


@pytest.fixture
def database(server: Any, client: Open, tmp_path: Path) -> Iterator[ZODB.DB]:
    """Two blobs in a database, seen by a client that knows where they are."""
    storage = client(server.address, blob_dir=str(tmp_path / "blobs"), shared_blob_dir=True)
    found = ZODB.DB(storage)
    with found.transaction() as connection:
        connection.root()["first"] = Blob(b"one")
        connection.root()["second"] = Blob(b"two")
    yield found
    found.close()


@pytest.fixture
def protected() -> Iterator[Callable[[Path], None]]:
    """Take the right to write away from a directory and all below it, for the test."""
    changed: list[str] = []

    def protect(directory: Path) -> None:
        for path, _, _ in os.walk(directory):
            os.chmod(path, 0o555)
            changed.append(path)

    yield protect
    for path in changed:
        os.chmod(path, 0o755)


def test_c_a_shared_directory_that_is_another_one(
    server: Any, database: ZODB.DB, client: Open, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Not mounted here, or the path is wrong: reading and writing say so, and nothing is lost."""
    (tmp_path / "mnt").mkdir()
    before = listing(tmp_path / "blobs")
    wrong = ZODB.DB(client(server.address, blob_dir=str(tmp_path / "mnt"), shared_blob_dir=True))
    assert "not mounted" in caplog.text
    with wrong.transaction() as connection, pytest.raises(POSKeyError) as caught:
        connection.root()["first"].open()
    assert caught.value.__notes__[0].endswith(f" in {tmp_path}/mnt, which is shared")
    with (
        pytest.raises(ValueError, match="does the client really share"),
        wrong.transaction() as connection,
    ):
        connection.root()["third"] = Blob(b"three")
    wrong.close()
    assert list(listing(tmp_path / "mnt")) == [".layout"]
    assert listing(tmp_path / "blobs") == before
    with database.transaction() as connection:
        assert "third" not in connection.root()
        connection.root()["fourth"] = Blob(b"four")


def test_c_a_shared_directory_that_goes_away(
    server: Any, database: ZODB.DB, client: Open, tmp_path: Path
) -> None:
    """What is mounted may be unmounted; when it is back, everything goes on."""
    (tmp_path / "mnt").symlink_to(tmp_path / "blobs")
    other = ZODB.DB(client(server.address, blob_dir=str(tmp_path / "mnt"), shared_blob_dir=True))
    with other.transaction() as connection, connection.root()["first"].open() as file:
        assert file.read() == b"one"
    (tmp_path / "mnt").unlink()
    with other.transaction() as connection, pytest.raises(POSKeyError):
        connection.root()["second"].open()
    with (
        pytest.raises(ClientStorageError, match=r"mnt, which is shared, .*mounted"),
        other.transaction() as connection,
    ):
        connection.root()["third"] = Blob(b"three")
    (tmp_path / "mnt").symlink_to(tmp_path / "blobs")
    with other.transaction() as connection:
        with connection.root()["second"].open() as file:
            assert file.read() == b"two"
        connection.root()["third"] = Blob(b"three")
    other.close()
    assert debris(tmp_path / "blobs") == []


def test_c_a_shared_directory_that_can_only_be_read(
    server: Any,
    database: ZODB.DB,
    tmp_path: Path,
    protected: Callable[[Path], None],
) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"a new blob")
    protected(tmp_path / "blobs")
    lines = run_powerless(
        CLIENT, *server.address, tmp_path / "blobs", "shared", source
    ).splitlines()
    assert lines[0] == "first: one"
    assert lines[1] == "second: two"
    assert lines[2].startswith("store: failed: ClientStorageError blob file")
    assert "Permission denied" in lines[2]
    assert lines[3] == "first: one"
    assert source.read_bytes() == b"a new blob"
    assert debris(tmp_path / "blobs") == []


def test_c_a_cache_that_can_only_be_read(
    server: Any,
    database: ZODB.DB,
    client: Open,
    tmp_path: Path,
    protected: Callable[[Path], None],
) -> None:
    """Such as on a disk that was mounted read-only after a fault: what is there is served."""
    source = tmp_path / "source"
    source.write_bytes(b"a new blob")
    cache = tmp_path / "cache"
    filler = ZODB.DB(client(server.address, blob_dir=str(cache)))
    with filler.transaction() as connection, connection.root()["first"].open() as file:
        assert file.read() == b"one"
    filler.close()
    protected(cache)
    lines = run_powerless(CLIENT, *server.address, cache, "own", source).splitlines()
    assert lines[0] == "first: one"
    for line, what in ((lines[1], "second"), (lines[2], "store")):
        assert line.startswith(f"{what}: failed: ClientStorageError blob file {cache}")
        assert "Permission denied" in line
    assert lines[3] == "first: one"
    assert source.read_bytes() == b"a new blob"


def test_c_a_disk_without_room_for_a_blob_to_be_stored(
    server: Any, database: ZODB.DB, tmp_path: Path
) -> None:
    """lp 224169: known before the vote; the application's file stays, and nothing else."""
    source = tmp_path / "source"
    source.write_bytes(bytes(1 << 20))
    os.link(source, tmp_path / "other")  # so that it has to be copied
    narrow = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
    cache = tmp_path / "cache"
    lines = run_powerless(narrow + CLIENT, *server.address, cache, "own", source).splitlines()
    assert lines[0] == "first: one"
    assert lines[2].startswith("store: failed: ClientStorageError blob file")
    assert "File too large" in lines[2]
    assert lines[3] == "first: one"
    assert source.stat().st_size == 1 << 20
    others = [name for name in listing(cache) if not name.endswith(".blob")]
    assert {os.path.basename(name) for name in others} == {".layout", ".lock"}
    assert debris(tmp_path / "blobs") == []

"""Blobs between clients, in both ways of keeping them."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from typing import Any

import pytest
from tests.conformance.site import BLOBS, Site, files_below
from tests.support.waiting import Background, wait_until
from ZODB.blob import Blob
from ZODB.POSException import POSKeyError
from ZODB.utils import p64

CHUNK = 59_000
"""Bytes of a blob in one message."""

SIZES = (0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 20 * CHUNK + 7)

modes = pytest.mark.parametrize("is_shared", [False, True], ids=["fetched", "shared"])


def _database(site: Site, address: Any, is_shared: bool, **options: Any) -> Any:
    return site.database(address, **site.blob_options(is_shared), **options)


@modes
def test_blobs_of_all_sizes(site: Site, is_shared: bool) -> None:
    server = site.serve(BLOBS)
    one, other = (_database(site, server.address, is_shared) for _ in range(2))
    data = {size: os.urandom(size) for size in SIZES}
    with one.transaction() as connection:
        for size, content in data.items():
            connection.root()[size] = Blob(content)
    site.catch_up(other, one)
    for database in (other, one):
        with database.transaction() as connection:
            for size, content in data.items():
                with connection.root()[size].open() as file:
                    assert file.read() == content


@modes
def test_a_new_revision_leaves_the_old(site: Site, is_shared: bool) -> None:
    server = site.serve(BLOBS)
    one, other = (_database(site, server.address, is_shared) for _ in range(2))
    serials = []
    for content in (b"first", b"second"):
        with one.transaction() as connection:
            if content == b"first":
                connection.root.blob = Blob()
            with connection.root.blob.open("w") as file:
                file.write(content)
        with one.transaction() as connection:
            with connection.root.blob.open() as file:
                assert file.read() == content
            serials.append(connection.root.blob._p_serial)
            oid = connection.root.blob._p_oid
    for serial, content in zip(serials, (b"first", b"second"), strict=True):
        with open(other.storage.loadBlob(oid, serial), "rb") as file:
            assert file.read() == content
        with other.storage.openCommittedBlobFile(oid, serial) as file:
            assert file.read() == content


@modes
def test_an_aborted_blob_leaves_nothing(site: Site, is_shared: bool) -> None:
    server = site.serve(BLOBS)
    database = _database(site, server.address, is_shared)
    for content in (b"kept", b"dropped" * CHUNK):
        connection = database.open()
        connection.root.blob = Blob(content)
        manager = connection.transaction_manager
        if content == b"kept":
            manager.commit()
        else:
            transaction = manager.get()
            connection.tpc_begin(transaction)
            connection.commit(transaction)
            connection.tpc_vote(transaction)
            connection.tpc_abort(transaction)
            manager.abort()
        connection.close()
    database.storage.ping()
    directory = site.directory
    file_storages_own = [str(directory / "Data.fs.tmp")]
    wait_until(lambda: files_below(directory, ".tmp") == file_storages_own, "nothing is left")
    assert len(files_below(directory / "blobs", ".blob")) == 1
    with database.transaction() as connection, connection.root.blob.open() as file:
        assert file.read() == b"kept"


@modes
def test_a_blob_that_does_not_exist(site: Site, is_shared: bool) -> None:
    server = site.serve(BLOBS)
    database = _database(site, server.address, is_shared)
    with pytest.raises(POSKeyError):
        database.storage.loadBlob(p64(999), p64(1))
    database.storage.ping()


def test_one_blob_is_fetched_once_for_many_threads(site: Site) -> None:
    server = site.serve(BLOBS)
    content = os.urandom(10 * CHUNK)
    writer = _database(site, server.address, False)
    with writer.transaction() as connection:
        connection.root.blob = Blob(content)
    with writer.transaction() as connection:
        connection.root.blob._p_activate()
        oid, serial = connection.root.blob._p_oid, connection.root.blob._p_serial
    proxy = site.proxy(server)
    reader = _database(site, proxy.address, False)
    barrier = threading.Barrier(8)

    def load() -> object:
        barrier.wait()
        with open(reader.storage.loadBlob(oid, serial), "rb") as file:
            return file.read()

    for worker in [Background(load) for _ in range(8)]:
        assert worker.result() == content
    assert sum(frame.name in ("sendBlob", "open_blob") for frame in proxy.frames()) == 1


def test_fetched_blobs_are_evicted(site: Site) -> None:
    server = site.serve(BLOBS)
    writer = _database(site, server.address, False)
    with writer.transaction() as connection:
        for number in range(20):
            connection.root()[number] = Blob(os.urandom(CHUNK))
    options = site.blob_options(False)
    reader = site.database(server.address, **options, blob_cache_size=5 * CHUNK)
    for _ in range(2):
        for number in range(20):
            with reader.transaction() as connection, connection.root()[number].open() as file:
                assert len(file.read()) == CHUNK

    def size() -> int:
        total = 0
        for path in files_below(options["blob_dir"], ".blob"):
            with suppress(FileNotFoundError):  # evicted since it was listed
                total += os.path.getsize(path)
        return total

    wait_until(lambda: size() <= 6 * CHUNK, "the cache has shrunk")


def test_chunks_of_two_blobs_never_interleave(site: Site) -> None:
    """C (ZEO#150): in ZEO's protocol nothing but their order says whose they are."""
    server = site.serve(BLOBS)
    data = {number: os.urandom(8 * CHUNK) for number in range(8)}
    first = _database(site, server.address, False)
    with first.transaction() as connection:
        for number in range(4):
            connection.root()[number] = Blob(data[number])
    proxy = site.proxy(server)
    database = _database(site, proxy.address, False)
    with database.transaction() as connection:
        wanted = {}
        for number in range(4):
            blob = connection.root()[number]
            blob._p_activate()
            wanted[number] = blob._p_oid, blob._p_serial
    barrier = threading.Barrier(6)

    def load(number: int) -> None:
        barrier.wait()
        path = database.storage.loadBlob(*wanted[number])
        with open(path, "rb") as file:
            assert file.read() == data[number]

    def commit(numbers: tuple[int, int]) -> None:
        barrier.wait()
        with database.transaction() as connection:
            for number in numbers:
                connection.add(blob := Blob(data[number]))
                with blob.open() as file:
                    assert len(file.read()) == 8 * CHUNK

    workers = [Background(lambda n=number: load(n)) for number in range(4)]  # type: ignore[misc]
    workers += [Background(lambda n=n: commit(n)) for n in ((4, 5), (6, 7))]  # type: ignore[misc]
    for worker in workers:
        worker.result()
    for link in proxy.links:
        present: Any = None
        for frame in link.frames:
            if not frame.name.startswith("receiveBlob"):
                continue
            message: Any = frame.message
            blob = tuple(message[-1])[:2]
            assert present == (None if frame.name == "receiveBlobStart" else blob)
            present = None if frame.name == "receiveBlobStop" else blob
        assert present is None
        is_open = False
        for frame in link.frames:
            if frame.name.startswith("storeBlob"):
                assert is_open is (frame.name != "storeBlobStart")
                is_open = frame.name != "storeBlobEnd"
        assert not is_open
    names = [frame.name for frame in proxy.frames()]
    if site.pairing.is_own:
        # More are asked for ahead, of which there are none.
        assert names.count("open_blob") >= 4
        assert names.count("attach_blob") == 4
    else:
        assert names.count("receiveBlobStart") == 4
        assert names.count("storeBlobEnd") == 4

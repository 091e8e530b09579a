"""Blob caches with a limit, between clients and servers of both kinds, as ZEO promises them."""

from __future__ import annotations

import os
import random
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.conformance.site import BLOBS, Site, files_below
from tests.support.waiting import Background, wait_until
from ZODB.blob import Blob
from ZODB.Connection import TransactionMetaData
from ZODB.utils import p64, z64

COUNT = 60
SIZE = 100
LIMIT = 2000
"""Bytes that a client is to keep: a third of what there is."""

ROOM = 4000
"""Bytes that it may have for a moment: the limit is looked after in the background."""

BUCKETS = 997


def contents(number: int) -> bytes:
    return b"%03d " % number * (SIZE // 4)


def kept(directory: str) -> int:
    """Return the bytes of blobs in a cache."""
    total = 0
    for path in files_below(directory, ".blob"):
        with suppress(FileNotFoundError):  # evicted since it was listed
            total += os.path.getsize(path)
    return total


def wait_shrunk(directory: str) -> None:
    wait_until(lambda: kept(directory) <= ROOM, "the cache has shrunk")


def fill(database: Any) -> None:
    with database.transaction() as connection:
        for number in range(COUNT):
            connection.root()[number] = Blob(contents(number))


def read_all(database: Any, mode: str = "r") -> None:
    """Open each blob: as a file of the transaction, or as one that outlives it (``c``)."""
    with database.transaction() as connection:
        for number in range(COUNT):
            with connection.root()[number].open(mode) as file:
                assert file.read() == contents(number), number


def test_a_writer_keeps_no_more_than_its_limit(site: Site) -> None:
    server = site.serve(BLOBS)
    options = site.blob_options(False)
    database = site.database(server.address, **options, blob_cache_size=LIMIT)
    fill(database)
    wait_shrunk(options["blob_dir"])
    # What is gone is fetched again, and the limit holds.
    for mode in ("r", "r", "c"):
        read_all(database, mode)
        wait_shrunk(options["blob_dir"])


def test_many_clients_of_one_directory(site: Site) -> None:
    """Each with its own connection and its own idea of when to look; none sees a wrong blob."""
    server = site.serve(BLOBS)
    fill(site.database(server.address, **site.blob_options(False)))
    options = site.blob_options(False)
    databases = [site.database(server.address, **options, blob_cache_size=LIMIT) for _ in range(6)]
    barrier = threading.Barrier(len(databases))

    def work(seed: int) -> None:
        generator = random.Random(seed)
        barrier.wait()
        with databases[seed].transaction() as connection:
            for _ in range(60):
                for mode in ("r", "c"):
                    number = generator.randrange(COUNT)
                    with connection.root()[number].open(mode) as file:
                        assert file.read() == contents(number), number

    for worker in [Background(lambda n=n: work(n)) for n in range(len(databases))]:  # type: ignore[misc]
        worker.result(60)
    wait_shrunk(options["blob_dir"])
    # Nothing is left of what was on its way.
    assert files_below(options["blob_dir"], ".dl") == []


def test_objects_that_share_a_bucket(site: Site) -> None:
    """Different blobs, and different revisions of each, whose files lie in one directory."""
    server = site.serve(BLOBS)
    options = site.blob_options(False)
    writer = site.client(server.address, **site.blob_options(False))
    numbers = range(1, 11)
    tids: dict[int, dict[int, bytes]] = {}
    serials = dict.fromkeys(numbers, z64)
    for revision in range(2):
        meta = TransactionMetaData()
        writer.tpc_begin(meta)
        for number in numbers:
            path = site.directory / "new"
            path.write_bytes(contents(100 * revision + number))
            oid = p64(5 + BUCKETS * number)
            writer.storeBlob(oid, serials[number], b"record", str(path), "", meta)
        writer.tpc_vote(meta)
        tid = writer.tpc_finish(meta)
        serials = dict.fromkeys(numbers, tid)
        tids[revision] = serials
    reader = site.client(server.address, **options, blob_cache_size=LIMIT)
    for _ in range(2):
        for revision, found in tids.items():
            for number, tid in found.items():
                with reader.openCommittedBlobFile(p64(5 + BUCKETS * number), tid) as file:
                    assert file.read() == contents(100 * revision + number)
    (bucket,) = {Path(path).parent.name for path in files_below(options["blob_dir"], ".blob")}
    assert bucket == "5"
    wait_shrunk(options["blob_dir"])


def test_a_limit_smaller_than_any_blob(site: Site) -> None:
    """Each blob is read, whole; hardly one of them stays."""
    server = site.serve(BLOBS)
    options = site.blob_options(False)
    database = site.database(server.address, **options, blob_cache_size=SIZE // 2)
    fill(database)
    read_all(database)
    wait_until(lambda: kept(options["blob_dir"]) <= 10 * SIZE, "most are gone")

"""All blobs of a database into its object store, and all of them back; while no server runs.

A server that runs uploads by itself what the store does not have, and would evict what is fetched.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ..config.server import load_server_config
from ..config.storages import DEFAULT_NAME
from ..config.tiered import TieredBlobs
from ..errors import ConfigurationError
from ..tier.localblobs import Stock, take_stock, walk
from ..tier.stubs import BLOB_SUFFIX, SUFFIX, read_stub, sync_file
from ..tier.tier import BlobTier

Advance = Callable[[int], None]
"""Gets how many bytes more have passed."""


@dataclass(frozen=True)
class Place:
    """A blob directory and its object store.

    :ivar helper: ZODB's ``FilesystemHelper`` of the directory.
    :ivar tier: ties both together.
    """

    helper: Any
    tier: BlobTier

    def stock(self) -> Stock:
        """Return what there is in the directory.

        :raises OSError: it cannot be read.
        """
        return take_stock(self.helper)


@contextmanager
def opened_place(config: str, name: str | None) -> Iterator[Place]:
    """Take hold of the blob directory of a storage, which no server may have open.

    :param config: path of a ``zeo.conf``.
    :param name: of the storage; None if only one has an object store.
    :raises ConfigurationError: the file cannot be used, has no such storage, or a server runs.
    """
    from zc.lockfile import LockError, LockFile
    from ZODB.blob import FilesystemHelper

    opener = _find(config, name)
    inner = opener.config.base.config
    if opener.path is None or not getattr(inner, "blob_dir", None):
        raise ConfigurationError(
            f"{config}: <tieredblobs>", "has no FileStorage with a blob directory in it",
            "put a <filestorage> with blob-dir in it",
        )  # fmt: skip
    try:
        lock = LockFile(os.path.realpath(opener.path) + ".lock")
    except LockError as error:
        raise ConfigurationError(
            f"{config}: storage {opener.name or DEFAULT_NAME!r}",
            "is open in a server: that uploads by itself what the store does not have (zeolith "
            "status says how far it is), and would evict what is fetched",
            "stop the server first",
        ) from error
    try:
        helper = FilesystemHelper(os.path.realpath(inner.blob_dir))
        if not os.path.isdir(helper.temp_dir):
            raise ConfigurationError(
                f"blob directory {inner.blob_dir}", "is none", "correct blob-dir"
            )
        yield Place(helper, opener.make_tier(helper))
    finally:
        lock.close()


def _find(config: str, name: str | None) -> TieredBlobs:
    openers = {
        opener.name or DEFAULT_NAME: opener for opener in load_server_config(config).storages
    }
    tiered = {key: found for key, found in openers.items() if isinstance(found, TieredBlobs)}
    if name is None and len(tiered) == 1:
        (name,) = tiered
    if name in tiered:
        return tiered[name]
    have = f"those that have one: {', '.join(tiered)}" if tiered else "none has one"
    what = "several storages have an" if name is None and tiered else f"storage {name!r} has no"
    if name is None and not tiered:
        what = "no storage has an"
    raise ConfigurationError(config, f"{what} object store; {have}", "name one with --storage")


def claim(place: Place) -> Stock:
    """Return what is to be uploaded to the store, beside what is there.

    :raises StoreFailure: the store is another directory's, or cannot be asked.
    :raises OSError: the directory cannot be read.
    """
    # An empty place has nothing, whatever stubs say that an earlier one had.
    place.tier.claim()
    return place.stock()


def upload_all(place: Place, advance: Advance) -> int:
    """Have all blobs in the store, after :func:`claim`; return how many were not there.

    :raises StoreFailure: the store does not take one.
    :raises OSError: a file cannot be read, or a stub not written.
    """

    def jobs() -> Iterator[tuple[Callable[[], Any], int]]:
        for found in walk(place.helper):
            if not isinstance(found, str) and not found.has_stub:
                yield _uploading(place.tier, found.path), found.size

    return _run(jobs(), place.tier.workers, advance)


def fetch_all(place: Place, advance: Advance) -> int:
    """Have the files of all blobs here; return how many were not.

    :raises ConfigurationError: the disk is too small.
    :raises StorageError: one cannot be fetched.
    :raises OSError: the directory cannot be read.
    """

    def jobs() -> Iterator[tuple[Callable[[], Any], int]]:
        for found in walk(place.helper):
            if isinstance(found, str):
                stub = read_stub(found)
                yield _fetching(place, found), 0 if stub is None else stub.size

    facts = os.statvfs(place.helper.base_dir)
    needed, free = cold_size(place), facts.f_bavail * facts.f_frsize
    if needed > free:
        raise ConfigurationError(
            f"blob directory {place.helper.base_dir}",
            f"has room for {free} bytes, and {needed} are to be fetched",
            "make room",
        )
    return _run(jobs(), place.tier.workers, advance)


def cold_size(place: Place) -> int:
    """Return the bytes of all blobs that have no file here.

    :raises OSError: the directory cannot be read.
    """
    stubs = (read_stub(found) for found in walk(place.helper) if isinstance(found, str))
    return sum(stub.size for stub in stubs if stub is not None)


def _uploading(tier: BlobTier, path: str) -> Callable[[], Any]:
    return lambda: tier.upload_file(path)


def _fetching(place: Place, stub: str) -> Callable[[], Any]:
    oid, tid = place.helper.splitBlobFilename(stub.removesuffix(SUFFIX) + BLOB_SUFFIX)
    path = place.helper.getBlobFilename(oid, tid)

    def fetch() -> None:
        place.tier.fetch(oid, tid)
        # The store may be emptied next: no other copy is left then.
        sync_file(path)

    return fetch


def _run(jobs: Iterator[tuple[Callable[[], Any], int]], workers: int, advance: Advance) -> int:
    """Run *jobs*, each with its size, several at once; the first error ends it."""
    count = 0
    running: dict[Future[Any], int] = {}

    def collect(most: int) -> None:
        nonlocal count
        while len(running) > most:
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                size = running.pop(future)
                future.result()
                count += 1
                advance(size)

    with ThreadPoolExecutor(workers, "zeolith-transfer") as pool:
        try:
            for job, size in jobs:
                running[pool.submit(job)] = size
                collect(2 * workers)
            collect(0)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    return count

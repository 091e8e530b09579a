"""Class C of the known failures: files that stay open when a blob has been read."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from tests.rules.conftest import Open, Serve
from tests.support.blobdisk import Disk
from tests.support.blobsites import store_blob
from tests.support.raw import oid_of
from tests.support.waiting import wait_until


def test_c_no_file_stays_open(serve: Serve, client: Open, tmp_path: Path) -> None:
    """ZEO#27: each look at the size of the cache left a file open."""
    disk = Disk("bushy", tmp_path)
    tids = {number: store_blob(disk.storage, tmp_path, number, bytes(1000)) for number in range(30)}
    server = serve(disk.storage)
    directory = tmp_path / "cache"
    storage = client(server.address, blob_dir=str(directory), blob_cache_size=5000)
    most = 0
    for _ in range(3):
        for number, tid in tids.items():
            with storage.openCommittedBlobFile(oid_of(number), tid) as file:
                assert len(file.read()) == 1000
        most = max(most, len(open_below(directory)))
    # One may be looking at the size just now, with its lock.
    assert most < 10
    storage.close()
    assert open_below(directory) == []
    # The server closes a file when the message after its end has left.
    wait_until(lambda: not open_below(disk.directory))


def open_below(directory: Path) -> list[str]:
    """Return the files below *directory* that this process has open."""
    found = []
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):
            target = os.readlink(entry)
            if target.startswith(f"{directory}/"):
                found.append(target)
    return found

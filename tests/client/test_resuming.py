"""An upload that is cut off goes on, within its transaction, at the byte where it was cut."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ZODB.Connection import TransactionMetaData
from ZODB.FileStorage import FileStorage

from zeolith.admin.asking import Target
from zeolith.admin.status import fetch_status
from zeolith.client.storage import ClientStorage
from zeolith.protocol.limits import BULK_WINDOW
from zeolith.protocol.streamrequests import OpenUpload, StreamData

from ..support.proxy import Action, Passing, Proxy
from ..support.raw import oid_of
from .conftest import Open
from .test_transfers import leftovers, of_stream

MIB = 1024 * 1024
SIZE = 24 * MIB + 123
DATA = os.urandom(SIZE)

SLACK = BULK_WINDOW + MIB
"""Bytes that may be sent in vain with each connection: what the server gave credit for and had not
written when the connection ended."""


@pytest.fixture
def storage(proxy: Proxy, client: Open, tmp_path: Path) -> ClientStorage:
    return client(proxy.address, blob_dir=str(tmp_path / "client"))


def begin(storage: ClientStorage) -> TransactionMetaData:
    meta = TransactionMetaData()
    storage.tpc_begin(meta)
    return meta


def store(storage: ClientStorage, tmp_path: Path, number: int, meta: Any, data: bytes) -> None:
    path = tmp_path / f"new-{number}"
    path.write_bytes(data)
    storage.storeBlob(oid_of(number), None, b"record", str(path), "", meta)


def commit(storage: ClientStorage, tmp_path: Path, *contents: bytes) -> bytes:
    """Commit a transaction with blobs 1, 2 ..."""
    meta = begin(storage)
    for number, data in enumerate(contents, 1):
        store(storage, tmp_path, number, meta, data)
    storage.tpc_vote(meta)
    return storage.tpc_finish(meta)


class Cuts:
    """Cuts the connections of a proxy after so many bytes of uploads each, and counts.

    :param after: of each connection in turn; those behind are not cut.
    :param act: what is done instead of cutting.
    """

    def __init__(self, proxy: Proxy, *after: int, act: Callable[[], object] = lambda: None) -> None:
        self.sent = 0
        self.cuts = 0
        self._after = list(after)
        self._act = act
        self._mutex = threading.Lock()
        proxy.rule = self._judge

    def _judge(self, passing: Passing) -> Action:
        data = of_stream(passing, StreamData)
        if data is None:
            return Action.PASS
        with self._mutex:
            self.sent += len(data.data)
            if self._after and self.sent >= sum(self._after[: self.cuts + 1]):
                if self.cuts == len(self._after):
                    return Action.PASS
                self.cuts += 1
                self._act()
                return Action.CUT
        return Action.PASS


def temporaries(files: FileStorage) -> list[str]:
    return [name for name in os.listdir(files.temporaryDirectory()) if "upload" in name]


def blob_counts(server: Any) -> dict[str, Any]:
    found: dict[str, Any] = fetch_status(Target(server.address)).storages["1"]["blobs"]
    return found


def openings(proxy: Proxy) -> list[OpenUpload]:
    found = (of_stream(frame, OpenUpload) for frame in proxy.frames())
    return [each for each in found if each is not None]


@pytest.mark.parametrize("after", [[10 * MIB], [5 * MIB, 6 * MIB, 2 * MIB, 5 * MIB]])
def test_it_goes_on_where_it_was_cut(
    server: Any,
    proxy: Proxy,
    storage: ClientStorage,
    tmp_path: Path,
    files: FileStorage,
    after: list[int],
) -> None:
    cuts = Cuts(proxy, *after)
    tid = commit(storage, tmp_path, DATA)
    assert cuts.cuts == len(after)
    assert len(proxy.links) == len(after) + 1
    assert SIZE <= cuts.sent <= SIZE + len(after) * SLACK
    assert len({opening.identity for opening in openings(proxy)}) == 1
    assert Path(files.loadBlob(oid_of(1), tid)).read_bytes() == DATA
    counts = blob_counts(server)
    assert (counts["resumed"], counts["parked"], counts["received_bytes"]) == (len(after), 0, SIZE)
    assert temporaries(files) == []
    assert leftovers(tmp_path / "client") == []

"""R4: whoever loses the connection in a commit learns what became of it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest
from tests.rules.conftest import Open, Serve
from tests.support.proxy import DOWN, UP, Action, Direction, Passing, Proxy, pass_all
from tests.support.raw import Z64, RawClient, RemoteFault, oid_of
from tests.support.waiting import promptly
from ZODB.Connection import TransactionMetaData
from ZODB.FileStorage import FileStorage

from zeolith import ClientStorage
from zeolith.errors import NotCommitted, OutcomeUnknown

RECORD = b"cZODB.blob\nBlob\n."

FINISH_SIZE = 4 + 17
INFO_SIZE = 4 + 17
REPLY_SIZE = 4 + 17
"""Bytes of the frames around a commit."""


class Cut:
    """The rule that cuts once, after that many bytes of the first frame of that name.

    :param name: as :attr:`.Passing.name`; of answers only the one to a ``tpc_finish`` counts.
    """

    def __init__(self, direction: Direction, name: str, size: int) -> None:
        self._what = direction, name
        self._size = size
        self._is_finishing = False
        self.is_done = False
        self.frame_size = 0

    def __call__(self, passing: Passing) -> Action | int:
        if passing.name == "tpc_finish":
            self._is_finishing = True
        if self.is_done or not self._is_finishing or passing[0] is not self._what[0]:
            return Action.PASS
        if passing.name != self._what[1]:
            return Action.PASS
        self.is_done = True
        self.frame_size = passing.size
        return self._size


class End(NamedTuple):
    """How a commit ended for the application.

    :ivar told: the ids that the database was told of.
    """

    result: bytes | Exception
    told: list[bytes]


def commit(storage: ClientStorage, oid: bytes, data: bytes, source: Path | None = None) -> End:
    """Commit one object, and a blob if there is a source for it."""
    meta = TransactionMetaData()
    told: list[bytes] = []
    storage.tpc_begin(meta)
    try:
        if source is None:
            storage.store(oid, Z64, data, "", meta)
        else:
            source.write_bytes(data)
            storage.storeBlob(oid, Z64, RECORD, str(source), "", meta)
        storage.tpc_vote(meta)
        return End(storage.tpc_finish(meta, told.append), told)
    except (NotCommitted, OutcomeUnknown) as error:
        return End(error, told)
    finally:
        with promptly(5):
            storage.tpc_abort(meta)


def check_truth(end: End, tid: bytes | None, storage: ClientStorage) -> None:
    """Check that the application was told what is the case.

    :param tid: the transaction that is in the database, None if there is none.
    """
    if tid is None:
        assert isinstance(end.result, NotCommitted), end
        assert end.told == []
    else:
        assert end == End(tid, [tid])
        assert storage.lastTransaction() >= tid


def tid_of_object(raw: RawClient, oid: bytes) -> bytes | None:
    try:
        tid: bytes = raw.load(oid)[1]
    except RemoteFault as fault:
        if not fault.name.endswith("POSKeyError"):
            raise
        return None
    return tid


PLACES = [
    *((UP, "tpc_finish", size) for size in range(FINISH_SIZE + 1)),
    *((DOWN, "info", size) for size in range(INFO_SIZE + 1)),
    *((DOWN, ".reply", size) for size in range(REPLY_SIZE + 1)),
]


@pytest.mark.parametrize("with_blob", [False, True])
def test_r4_a_cut_at_every_byte_around_a_commit(
    files: FileStorage, serve: Serve, client: Open, tmp_path: Path, with_blob: bool
) -> None:
    server = serve(files)
    blobs = tmp_path / "client"
    with Proxy(server.address) as proxy, RawClient(server.address) as raw:
        storage = client(
            proxy.address, blob_dir=str(blobs), min_disconnect_poll=0.001, wait_timeout=20
        )
        results = []
        for number, (direction, name, size) in enumerate(PLACES, 1):
            rule = proxy.rule = Cut(direction, name, size)
            oid, data = oid_of(number), b"%d" % number
            source = tmp_path / "source" if with_blob else None
            with promptly(10):
                end = commit(storage, oid, data, source)
            assert rule.is_done, name
            assert rule.frame_size == FINISH_SIZE == INFO_SIZE == REPLY_SIZE
            proxy.rule = pass_all
            tid = tid_of_object(raw, oid)
            check_truth(end, tid, storage)
            results.append(tid is not None)
            # Nothing that the break has left is in the way, and the cache holds nothing wrong.
            if tid is None:
                with promptly(10):
                    again = commit(storage, oid, data, source)
                assert isinstance(again.result, bytes)
                tid = again.result
            assert storage.load(oid) == (RECORD if with_blob else data, tid)
            if with_blob:
                assert Path(storage.loadBlob(oid, tid)).read_bytes() == data
        assert not [path for path in blobs.rglob("*") if ".upload" in path.name]
    # A request that came in parts did not come; after that everything was committed.
    assert results == [False] * FINISH_SIZE + [True] * (1 + INFO_SIZE + 1 + REPLY_SIZE + 1)

"""Threads of one process commit through one client storage, over a line that is cut now and then.

Each counts up in an object of its own, with a blob that goes with the number, and all of them in
one that they share.  What was acknowledged is there afterwards, and nothing is counted twice.
"""

from __future__ import annotations

import hashlib
import random
import threading
from pathlib import Path
from typing import Any

import pytest
import transaction
import ZODB
from persistent.mapping import PersistentMapping
from tests.support.processes import running_server
from tests.support.proxy import Action, Passing, Proxy
from tests.support.waiting import Background, wait_until
from ZODB.blob import Blob
from ZODB.FileStorage import FileStorage
from ZODB.POSException import ConflictError

from zeolith import ClientStorage
from zeolith.errors import ClientDisconnected, NotCommitted

_THREADS = 6
_SIZES = (10, 50_000, 600_000, 2_500_000)
_FRAMES = 250
"""About how many messages pass between two cuts."""


class Cutter:
    """The rule that cuts behind a random number of messages, so many times."""

    def __init__(self, seed: int, times: int) -> None:
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self._left = self._next()
        self.times = times

    def _next(self) -> int:
        return self._random.randrange(2 * _FRAMES)

    def __call__(self, passing: Passing) -> Action:
        with self._lock:
            self._left -= 1
            if self._left > 0 or not self.times:
                return Action.PASS
            self._left = self._next()
            self.times -= 1
            return self._random.choice((Action.CUT, Action.CUT_WITHIN, Action.CUT_AFTER))


class Worker:
    """One thread's counting."""

    def __init__(self, db: ZODB.DB, number: int, cutter: Cutter) -> None:
        self._db, self._number, self._cutter = db, number, cutter
        self._random = random.Random(number)
        self.count = self.shared = 0

    def run(self) -> None:
        manager = transaction.TransactionManager()
        connection = self._db.open(manager)
        try:
            while self._cutter.times or not self.count:
                try:
                    self._commit(manager, connection.root())
                except (ClientDisconnected, NotCommitted, ConflictError):
                    manager.abort()
        finally:
            manager.abort()
            connection.close()

    def _commit(self, manager: Any, root: Any) -> None:
        manager.begin()
        mine = root[self._number]
        check(mine)
        assert mine["count"] >= self.count
        mine["count"] = count = mine["count"] + 1
        if self._random.random() < 0.6:
            data = self._random.randbytes(self._random.choice(_SIZES))
            mine["blob"], mine["sum"] = Blob(data), hashlib.sha1(data).digest()
        is_shared = self._random.random() < 0.3
        if is_shared:
            root["shared"]["count"] += 1
        manager.commit()
        self.count = count
        self.shared += is_shared


def check(mine: Any) -> None:
    """The blob is that of the object (R5)."""
    with mine["blob"].open() as file:
        assert hashlib.sha1(file.read()).digest() == mine["sum"]


def count_through_cuts(tmp_path: Path, seed: int, times: int) -> None:
    files = FileStorage(str(tmp_path / "Data.fs"), blob_dir=str(tmp_path / "blobs"))
    with running_server(files) as server, Proxy(server.address) as proxy:
        storage = ClientStorage(
            proxy.address,
            blob_dir=str(tmp_path / "client"),
            wait_timeout=20,
            min_disconnect_poll=0.01,
        )
        db = ZODB.DB(storage)
        with db.transaction() as connection:
            root = connection.root()
            root["shared"] = PersistentMapping(count=0)
            for number in range(_THREADS):
                root[number] = PersistentMapping(
                    count=0, blob=Blob(b""), sum=hashlib.sha1(b"").digest()
                )
        proxy.rule = cutter = Cutter(seed, times)
        workers = [Worker(db, number, cutter) for number in range(_THREADS)]
        threads = [Background(worker.run) for worker in workers]
        for thread in threads:
            thread.result(600)
        storage.ping()
        other = ZODB.DB(ClientStorage(server.address, blob_dir=str(tmp_path / "other")))
        with other.transaction() as connection:
            root = connection.root()
            for number, worker in enumerate(workers):
                check(root[number])
                assert root[number]["count"] == worker.count
            assert root["shared"]["count"] == sum(worker.shared for worker in workers)
        other.close()
        assert storage.tpc_transaction() is None
        db.close()
        service = server._services["1"]
        wait_until(lambda: not service.publisher.subscribers)
        assert service.stats.active_txns == 0
        wait_until(
            lambda: (
                len(list(Path(files.temporaryDirectory()).glob("*upload*"))) == len(service.parking)
            )
        )


def test_c_threads_of_one_process_over_a_line_that_breaks(tmp_path: Path) -> None:
    count_through_cuts(tmp_path, seed=1, times=8)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", [2, 3, 4])
def test_c_threads_of_one_process_over_a_line_that_breaks_many_times(
    tmp_path: Path, seed: int
) -> None:
    count_through_cuts(tmp_path, seed, times=200)

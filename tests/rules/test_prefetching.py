"""Fetching ahead while others commit: every transaction reads one state (rules R1, R2, R5)."""

from __future__ import annotations

import random
import threading
from contextlib import ExitStack
from typing import Any

import pytest
import ZODB
from persistent.mapping import PersistentMapping
from tests.rules.conftest import Open, Serve
from tests.support.waiting import Background
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage

PAIRS = 60
COMMITS = 150
READERS = 4


class SlowStorage(MappingStorage):
    """A subclass: the server takes it for slow and loads on worker threads."""


@pytest.fixture(params=["file", "slow"])
def storage(request: pytest.FixtureRequest, files: FileStorage) -> Any:
    return files if request.param == "file" else SlowStorage()


def write(db: Any, chance: random.Random, is_over: threading.Event) -> None:
    """Change both objects of some pairs, in each transaction."""
    try:
        for turn in range(COMMITS):
            with db.transaction() as connection:
                for number in chance.sample(range(PAIRS), 5):
                    for side in "ab":
                        connection.root()[side, number]["turn"] = turn
    finally:
        is_over.set()


def read(db: Any, oids: list[bytes], seed: int, is_over: threading.Event) -> int:
    """Prefetch and read in random order; both objects of a pair say the same."""
    chance = random.Random(seed)
    transactions = 0
    while not is_over.is_set() or transactions < 3:
        if chance.random() < 0.3:
            # Otherwise nearly everything would be found in a cache.
            db.cacheMinimize()
        with db.transaction() as connection:
            connection.prefetch(chance.sample(oids, len(oids) // 2))
            for number in chance.sample(range(PAIRS), PAIRS // 2):
                one = connection.root()["a", number]["turn"]
                connection.prefetch(chance.sample(oids, 3))
                assert connection.root()["b", number]["turn"] == one
        transactions += 1
    return transactions


def test_r5_both_objects_of_a_pair_are_of_one_state(
    storage: Any, serve: Serve, client: Open, stack: ExitStack, loop: str
) -> None:
    server = serve(storage, loop=loop)

    def database(**keywords: Any) -> Any:
        db = ZODB.DB(client(server.address, **keywords))
        stack.callback(db.close)
        return db

    writing = database()
    with writing.transaction() as connection:
        for number in range(PAIRS):
            for side in "ab":
                connection.root()[side, number] = PersistentMapping(turn=-1)
    with writing.transaction() as connection:
        oids = [connection.root()[side, n]._p_oid for side in "ab" for n in range(PAIRS)]
    # So small a cache that much of it is loaded again and again.
    databases = [database(cache_size=cache_size) for cache_size in (8_000, 20_000_000)]
    for db in databases:
        db.storage.sync_to(writing.storage.lastTransaction())
    is_over = threading.Event()
    reading = [
        Background(lambda db=db, seed=seed: read(db, oids, seed, is_over))  # type: ignore[misc]
        for seed in range(READERS)
        for db in databases
    ]
    write(writing, random.Random(7), is_over)
    assert all(thread.result() for thread in reading)

"""Class A of the known failures: stale or mixed reads, as far as R2, R3 and R6 do not have them."""

from __future__ import annotations

import errno
import os
import random
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import transaction
import ZODB
from persistent.mapping import PersistentMapping
from tests.rules.conftest import Attach, Connect, Database, Open, Serve, tid_of
from tests.support.processes import running_server
from tests.support.proxy import DOWN, Action, Passing, Proxy
from tests.support.raw import Z64, RawClient, oid_of
from tests.support.storages import gate
from tests.support.waiting import Background, wait_until
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage
from ZODB.POSException import ConflictError, StorageError

import zeolith
from zeolith.protocol.messages import (
    InvalidateTransaction,
    LoadBefore,
    TpcFinish,
)
from zeolith.types import MAX_TID

X = oid_of(7)


def test_a_a_client_that_connects_during_a_finish_misses_nothing(
    mapping: MappingStorage, serve: Serve, raw: Connect, loop: str
) -> None:
    """ZEO#209: registered before or after, it knows the transaction or is told of it."""
    server = serve(mapping, loop=loop)
    writer = raw(server.address)
    first = writer.commit({X: (Z64, b"one")})
    for after in (False, True):
        writer.begin()
        writer.store(X, b"two", first)
        writer.vote()
        with gate(mapping, "tpc_finish", after=after) as finishing:
            finish = writer.ask(TpcFinish(1))
            finishing.wait_reached()
            opening = Background(lambda: RawClient(server.address))
            opening.join(0.1)
            finishing.open()
            newcomer: Any = opening.result()
            first = writer.answer(finish)
        with newcomer:
            newcomer.ping()
            told = [tid for tid, _ in newcomer.invalidations()]
            assert told == ([] if newcomer.tid >= first else [first])
            assert newcomer.load(X)[1] == first


def test_a_a_client_that_leaves_during_a_finish_hurts_nobody(
    mapping: MappingStorage, serve: Serve, raw: Connect, loop: str
) -> None:
    server = serve(mapping, loop=loop)
    writer, stays, leaves = (raw(server.address) for _ in range(3))
    writer.begin()
    writer.store(X, b"one")
    writer.vote()
    with gate(mapping, "tpc_finish") as finishing:
        finish = writer.ask(TpcFinish(1))
        finishing.wait_reached()
        leaves.close()
        finishing.open()
        tid = writer.answer(finish)
    stays.ping()
    assert stays.invalidations() == [(tid, [X])]


def test_a_invalidations_under_breaks(tmp_path: Path, client: Open) -> None:
    """Two clients commit to the same counters while the connection of one is cut again and again
    at random messages: neither ever sees a value go back, and no increment is lost."""
    generator = random.Random(11)
    rounds = 400
    with (
        running_server(
            FileStorage(str(tmp_path / "Data.fs")), invalidation_queue_size=3, invalidation_age=None
        ) as server,
        Proxy(server.address) as proxy,
        ExitStack() as stack,
    ):
        stable = ZODB.DB(client(server.address, server_sync=True))
        stack.callback(stable.close)
        shaky = ZODB.DB(client(proxy.address, min_disconnect_poll=0.005, max_disconnect_poll=0.01))
        stack.callback(shaky.close)
        with stable.transaction() as connection:
            connection.root()["n"] = PersistentMapping({"value": 0})
        countdown = [generator.randrange(3, 20)]

        def rule(passing: Passing) -> Action:
            countdown[0] -= 1
            if countdown[0] > 0:
                return Action.PASS
            countdown[0] = generator.randrange(3, 20)
            return generator.choice([Action.CUT, Action.CUT_AFTER, Action.CUT_WITHIN])

        proxy.rule = rule
        wrong: list[str] = []

        def count_up() -> None:
            for _ in range(rounds):
                while True:
                    try:
                        with stable.transaction() as connection:
                            connection.root()["n"]["value"] += 1
                        break
                    except ConflictError:
                        continue

        counting = Background(count_up)
        seen = 0
        manager = transaction.TransactionManager()
        while counting.is_alive():
            manager.abort()
            connection = None
            try:
                connection = shaky.open(manager)
                value = connection.root()["n"]["value"]
                if value < seen:
                    wrong.append(f"{value} after {seen}")
                seen = value
            except (StorageError, KeyError) as error:
                if isinstance(error, KeyError) and seen:
                    wrong.append(repr(error))
            finally:
                if connection is not None:
                    manager.abort()
                    connection.close()
        counting.result()
        proxy.rule = lambda passing: Action.PASS
        assert wrong == []
        assert len(proxy.links) > 1, "nothing was cut"
        shaky.storage.ping()
        with shaky.transaction() as connection:
            assert connection.root()["n"]["value"] == rounds


def test_a_two_loads_and_an_invalidation_of_one_object(attach: Attach) -> None:
    """The second answer is older than the invalidation, the first is not asked for again."""
    storage, server = attach()
    old = Background(lambda: storage.loadBefore(X, tid_of(2)))
    first = server.expect(LoadBefore)
    new = Background(lambda: storage.loadBefore(X, MAX_TID))
    second = server.expect(LoadBefore)
    server.send(
        server.reply_bytes(second, (b"v1", tid_of(1), None)),
        server.notice_bytes(InvalidateTransaction(tid_of(3), [X])),
        server.reply_bytes(first, (b"v1", tid_of(1), tid_of(3))),
    )
    assert new.result() == (b"v1", tid_of(1), None)
    assert old.result() == (b"v1", tid_of(1), tid_of(3))
    cache = storage._cache
    assert cache.load_before(X, MAX_TID) is None
    assert cache.load_before(X, tid_of(3)) in (None, (b"v1", tid_of(1), tid_of(3)))


def test_a_an_invalidation_of_unknown_objects(attach: Attach) -> None:
    """ZEO#160: the database is told of objects that this client has never seen."""
    storage, server = attach()
    database = Database(storage)
    server.notify(InvalidateTransaction(tid_of(2), [oid_of(n) for n in range(100, 103)]))
    wait_until(lambda: storage.lastTransaction() == tid_of(2))
    assert database.told == [(tid_of(2), [oid_of(n) for n in range(100, 103)])]


def test_a_a_full_disk_costs_the_cache_and_nothing_else(
    mapping: MappingStorage,
    serve: Serve,
    raw: Connect,
    client: Open,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """zodb-dev 2004-12: a full disk under the cache led to "time travel"."""
    server = serve(mapping)
    writer = raw(server.address)
    tid = writer.commit({X: (Z64, b"one")})
    storage = client(server.address)
    assert storage.load(X) == (b"one", tid)

    def fail(*_args: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    for name in ("write", "pwrite", "writev", "pwritev"):
        monkeypatch.setattr(os, name, fail)
    for turn in range(3):
        tid = writer.commit({X: (tid, b"%d" % turn)})
        wait_until(lambda: storage.lastTransaction() == tid)  # noqa: B023 - used at once
        assert storage.load(X) == (b"%d" % turn, tid)
        assert storage.load(X) == (b"%d" % turn, tid)
    assert storage.is_connected()


def test_a_a_small_cache_is_never_wrong(
    mapping: MappingStorage, serve: Serve, raw: Connect, client: Open
) -> None:
    """Eviction, invalidation and loads in every mixture, compared with what was committed."""
    generator = random.Random(5)
    server = serve(mapping)
    writer = raw(server.address)
    storage = client(server.address, cache_size=30_000)
    history: dict[bytes, list[tuple[bytes, bytes]]] = {oid_of(n): [] for n in range(1, 21)}
    for turn in range(600):
        oid = generator.choice(list(history))
        revisions = history[oid]
        if not revisions or generator.random() < 0.4:
            data = bytes([turn % 256]) * generator.randrange(1, 4000)
            tid = writer.commit({oid: (revisions[-1][0] if revisions else Z64, data)})
            revisions.append((tid, data))
            if generator.random() < 0.5:
                storage.ping()
            continue
        storage.ping()
        at = generator.randrange(len(revisions))
        before = revisions[at + 1][0] if at + 1 < len(revisions) else MAX_TID
        end = before if before != MAX_TID else None
        expected = (revisions[at][1], revisions[at][0], end)
        assert storage.loadBefore(oid, before) == expected
    assert len(storage._cache) > 0


def test_a_threads_of_one_client_agree(mapping: MappingStorage, serve: Serve, client: Open) -> None:
    """3.9.4, 2b62301d: many threads load and commit through one storage; sums stay right."""
    db = ZODB.DB(client(serve(mapping).address, cache_size=100_000))
    with db.transaction() as connection:
        root = connection.root()
        for number in range(10):
            root[number] = PersistentMapping({"value": 100})
    wrong: list[int] = []
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            with db.transaction() as connection:
                root = connection.root()
                total = sum(root[number]["value"] for number in range(10))
                if total != 1000:
                    wrong.append(total)

    def write(seed: int) -> None:
        generator = random.Random(seed)
        for _ in range(40):
            one, two = generator.sample(range(10), 2)
            while True:
                try:
                    with db.transaction() as connection:
                        connection.root()[one]["value"] -= 1
                        connection.root()[two]["value"] += 1
                    break
                except ConflictError:
                    continue

    readers = [Background(read) for _ in range(2)]
    writers = [Background(lambda seed=seed: write(seed)) for seed in range(3)]  # type: ignore[misc]
    for thread in writers:
        thread.result()
    stop.set()
    for thread in readers:
        thread.result()
    db.close()
    assert wrong == []


def test_a_server_sync_sees_what_was_committed_before(
    mapping: MappingStorage, serve: Serve, client: Open
) -> None:
    """ZODB#307: without waiting for the next commit."""
    server = serve(mapping)
    one = ZODB.DB(client(server.address))
    two = ZODB.DB(client(server.address, server_sync=True))
    with one.transaction() as connection:
        connection.root()["n"] = 0
    for turn in range(50):
        with one.transaction() as connection:
            connection.root()["n"] = turn
        with two.transaction() as connection:
            assert connection.root()["n"] == turn
    one.close()
    two.close()


def test_a_an_idle_client_hears_of_changes_without_calling(
    mapping: MappingStorage, serve: Serve, raw: Connect, client: Open
) -> None:
    server = serve(mapping)
    storage = client(server.address)
    database = Database(storage)
    writer = raw(server.address)
    tid = Z64
    for _ in range(3):
        tid = writer.commit({X: (tid, b"x")})
        wait_until(lambda: storage.lastTransaction() == tid, timeout=2)  # noqa: B023
    assert len(database.told) == 3


def test_a_a_cut_between_invalidation_and_reply(
    tmp_path: Path, client: Open, serve: Serve, files: FileStorage, raw: Connect
) -> None:
    """Killed mid-invalidation: what was cached before is not current after the reconnect."""
    server = serve(files)
    writer = raw(server.address)
    tid = writer.commit({X: (Z64, b"0")})
    with Proxy(server.address) as proxy:
        storage = client(proxy.address, min_disconnect_poll=0.01)
        for turn in range(1, 8):
            assert storage.load(X)[0] == b"%d" % (turn - 1)
            action = [Action.CUT, Action.CUT_WITHIN, Action.CUT_AFTER][turn % 3]
            cut: list[Passing] = []

            def rule(passing: Passing, action: Action = action, cut: list[Any] = cut) -> Action:
                is_it = passing.direction is DOWN and passing.name == "invalidateTransaction"
                if cut or not is_it:
                    return Action.PASS
                cut.append(passing)
                return action

            proxy.rule = rule
            tid = writer.commit({X: (tid, b"%d" % turn)})
            wait_until(lambda: cut)  # noqa: B023
            wait_until(lambda: storage.lastTransaction() == tid)  # noqa: B023
            assert storage.load(X) == (b"%d" % turn, tid)


def test_a_database_opened_by_name_is_the_one(mapping: MappingStorage, serve: Serve) -> None:
    """zeolith.DB and zeolith.connection serve what the storage serves."""
    server = serve(mapping)
    db = zeolith.DB(server.address)
    with db.transaction() as connection:
        connection.root()["key"] = "value"
    db.close()
    connection = zeolith.connection(server.address)
    assert connection.root()["key"] == "value"
    connection.close()

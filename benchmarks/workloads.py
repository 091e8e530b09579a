"""What clients do while they are measured; run as a program, this module is a worker.

A workload opens what it needs, calls ``start``, works, and calls ``finish``.  It goes through the
methods of ZODB's storage interface only, the same for every product.
"""

from __future__ import annotations

import gc
import pickle
import random
import resource
import socket
import statistics
import struct
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, Final

import psutil
from ZODB.Connection import TransactionMetaData
from ZODB.DB import DB
from ZODB.utils import maxtid, z64

from .blobs import WORKLOADS as BLOB_WORKLOADS
from .caches import cache_hit_alone, cache_memory, cache_memory_scattered, cache_open
from .latency import finish_loads
from .sample import RECORD_SIZE
from .startup import start_up
from .worker import Session, main

_WARM_UP: Final = 300
_THREADS: Final = 8
_HIT_OBJECTS: Final = 2_000
_PREFETCH: Final = 100
_CONNECTIONS_BEFORE: Final = 50


def _chosen(session: Session) -> tuple[list[bytes], list[bytes]]:
    """Return ids to warm up with and ids to measure with, all different, in random order."""
    count = session.job.amount
    oids = random.Random(session.job.seed).sample(session.oids, count + _WARM_UP)
    return oids[:_WARM_UP], oids[_WARM_UP:]


def cold_load(session: Session) -> None:
    """Load objects that the cache does not hold, one after the other, in one thread."""
    warm_up, oids = _chosen(session)
    with session.open() as storage:
        load = storage.loadBefore
        for oid in warm_up:
            load(oid, maxtid)
        session.start()
        for oid in oids:
            load(oid, maxtid)
        session.finish(len(oids))


def cold_load_threads(session: Session) -> None:
    """Load objects that the cache does not hold, in several threads of one client."""
    warm_up, oids = _chosen(session)
    with session.open() as storage, ThreadPoolExecutor(_THREADS) as threads:
        load = storage.loadBefore

        def load_all(some: list[bytes]) -> None:
            for oid in some:
                load(oid, maxtid)

        def share(them: list[bytes]) -> list[list[bytes]]:
            return [them[number::_THREADS] for number in range(_THREADS)]

        list(threads.map(load_all, share(warm_up)))
        session.start()
        list(threads.map(load_all, share(oids)))
        session.finish(len(oids))


def cache_hit(session: Session) -> None:
    """Load objects that the cache holds."""
    oids = random.Random(session.job.seed).sample(session.oids, _HIT_OBJECTS)
    with session.open() as storage:
        load = storage.loadBefore
        for oid in oids * 2:
            load(oid, maxtid)
        passes = session.job.amount // len(oids)
        session.start()
        for _ in range(passes):
            for oid in oids:
                load(oid, maxtid)
        session.finish(passes * len(oids))


def prefetch(session: Session) -> None:
    """Prefetch objects by the hundred, then load each."""
    warm_up, oids = _chosen(session)
    with session.open() as storage:

        def load_all(some: list[bytes]) -> None:
            for first in range(0, len(some), _PREFETCH):
                group = some[first : first + _PREFETCH]
                if session.job.client == "bare":
                    storage.load_many(group, maxtid)
                    continue
                storage.prefetch(group, maxtid)
                for oid in group:
                    storage.loadBefore(oid, maxtid)

        load_all(warm_up)
        session.start()
        load_all(oids)
        session.finish(len(oids))


def load_many(session: Session) -> None:
    """Load cold objects that are known beforehand: ZEO's client one by one, ours by the hundred."""
    (cold_load if session.job.client == "zeo" else prefetch)(session)


def _commit(storage: Any, records: list[tuple[bytes, bytes, bytes]]) -> bytes:
    """Store ``(oid, serial, data)`` records in one transaction; return its tid."""
    meta = TransactionMetaData()
    storage.tpc_begin(meta)
    for oid, serial, data in records:
        storage.store(oid, serial, data, "", meta)
    storage.tpc_vote(meta)
    tid: bytes = storage.tpc_finish(meta)
    return tid


def small_commits(session: Session) -> None:
    """Commit transactions that change one object nobody else changes."""
    chance = random.Random(session.job.seed)
    with session.open() as storage:
        # As applications do; it matters to the products' treatment of invalidations.
        db = DB(storage) if session.job.client != "file" else None
        oid = storage.new_oid()
        tid = _commit(storage, [(oid, z64, chance.randbytes(RECORD_SIZE))])
        for _ in range(10):
            tid = _commit(storage, [(oid, tid, chance.randbytes(RECORD_SIZE))])
        records = [chance.randbytes(RECORD_SIZE) for _ in range(session.job.amount)]
        session.start()
        for data in records:
            tid = _commit(storage, [(oid, tid, data)])
        session.finish(len(records))
        if db is not None:
            db.close()


def large_commit(session: Session) -> None:
    """Commit one transaction that stores many new objects."""
    chance = random.Random(session.job.seed)
    with session.open() as storage:

        def new_records(count: int) -> list[tuple[bytes, bytes, bytes]]:
            return [(storage.new_oid(), z64, chance.randbytes(RECORD_SIZE)) for _ in range(count)]

        _commit(storage, new_records(_WARM_UP))
        records = new_records(session.job.amount)
        session.start()
        _commit(storage, records)
        session.finish(len(records))


def scan(session: Session) -> None:
    """Read every item of the sample database through ZODB, beginning with empty caches."""
    with session.open() as storage:
        db = DB(storage, cache_size=2 * len(session.oids))
        session.start()
        with db.transaction() as connection:
            seen = sum(1 for item in connection.root()["items"].values() if item["text"])
        session.finish(seen)
        db.close()


def load_latency(session: Session) -> None:
    """As :func:`cold_load`, each load timed by itself."""
    warm_up, oids = _chosen(session)
    with session.open() as storage:
        load = storage.loadBefore
        for oid in warm_up:
            load(oid, maxtid)
        clock = time.perf_counter
        times = []
        session.start()
        for oid in oids:
            began = clock()
            load(oid, maxtid)
            times.append(clock() - began)
        cuts = statistics.quantiles(times, n=100)
        session.finish(len(oids), p50=cuts[49], p99=cuts[98])


def pack_latency(session: Session) -> None:
    """Load cold objects, then go on while the server packs; each load is timed by itself."""
    chance = random.Random(session.job.seed)
    clock = time.perf_counter
    # So little cache that nearly every load finds nothing in it.
    with session.open(cache_size=1 << 20) as storage, session.open() as packer:
        load = storage.loadBefore

        def timed_load() -> float:
            oid = chance.choice(session.oids)
            began = clock()
            load(oid, maxtid)
            return clock() - began

        for _ in range(_WARM_UP):
            timed_load()
        idle = [timed_load() for _ in range(session.job.amount)]
        session.start()
        with ThreadPoolExecutor(1) as thread:
            began = clock()
            packed = thread.submit(packer.pack, time.time(), None, wait=True)
            busy = [timed_load()]
            while not packed.done():
                busy.append(timed_load())
            took = clock() - began
            packed.result()
        finish_loads(session, idle, busy, pack=took)


def cached_objects(session: Session) -> None:
    """Fill the cache; ``each`` is what an object costs in resident bytes."""
    oids = session.oids[: session.job.amount]
    process = psutil.Process()
    with session.open(cache_size=400 << 20) as storage:

        def load_all(some: list[bytes]) -> None:
            for first in range(0, len(some), _PREFETCH):
                group = some[first : first + _PREFETCH]
                storage.prefetch(group, maxtid)
                for oid in group:
                    storage.loadBefore(oid, maxtid)

        load_all(oids[:1000])
        gc.collect()
        before = process.memory_info().rss
        session.start()
        load_all(oids[1000:])
        gc.collect()
        grown = process.memory_info().rss - before
        session.finish(len(oids) - 1000, each=grown / (len(oids) - 1000))


def _register(connection: socket.socket) -> None:
    """Go through what every client goes through before its first load."""

    def frame() -> bytes:
        with connection.makefile("rb") as stream:
            size: int = struct.unpack(">I", stream.read(4))[0]
            return stream.read(size)

    def send(payload: bytes) -> None:
        connection.sendall(struct.pack(">I", len(payload)) + payload)

    frame()
    send(b"Z5")
    for message in ((1, False, "register", ("1", False)), (2, False, "get_info", ())):
        send(pickle.dumps(message, 3))
        frame()


def idle_connections(session: Session) -> None:
    """Connect and register many times; ``each`` is what a connection costs the server."""
    count = session.job.amount
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, count + 200), hard))
    server = psutil.Process(session.job.server_pid)
    with ExitStack() as connections:

        def connect(times: int) -> None:
            for _ in range(times):
                connection = socket.create_connection(session.job.address)
                connections.enter_context(connection)
                _register(connection)

        connect(_CONNECTIONS_BEFORE)
        before = server.memory_info().rss
        session.start()
        connect(count)
        grown = server.memory_info().rss - before
        session.finish(count, each=grown / count)


def commit_until_told(session: Session) -> None:
    """Commit transactions of some objects each until the parent writes another line."""
    chance = random.Random(session.job.seed)
    with session.open() as storage:
        oids = [storage.new_oid() for _ in range(session.job.amount)]
        tid = z64
        session.start()
        commits = 0
        while not session.told_to_stop():
            tid = _commit(storage, [(oid, tid, chance.randbytes(RECORD_SIZE)) for oid in oids])
            commits += 1
        session.finish(commits)


WORKLOADS: Final[dict[str, Callable[[Session], None]]] = {
    workload.__name__: workload
    for workload in (
        cold_load,
        cold_load_threads,
        cache_hit,
        prefetch,
        load_many,
        small_commits,
        large_commit,
        scan,
        load_latency,
        pack_latency,
        cached_objects,
        cache_hit_alone,
        cache_memory,
        cache_memory_scattered,
        cache_open,
        idle_connections,
        commit_until_told,
        start_up,
        *BLOB_WORKLOADS,
    )
}

if __name__ == "__main__":
    main(WORKLOADS)

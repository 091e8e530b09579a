"""The counters of a client's cache, here and as its server is told of them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from ZEO.cache import ClientCache as ZeoCache
from ZODB.MappingStorage import MappingStorage
from ZODB.POSException import POSKeyError

from tests.support.processes import run_python, running_server
from tests.support.raw import FakeConnection, oid_of
from tests.support.waiting import Background, promptly, wait_until
from zeolith import ClientStorage
from zeolith.admin.asking import Target
from zeolith.admin.status import fetch_status
from zeolith.client import watcher
from zeolith.client.cachestats import CacheStats
from zeolith.client.channel import Channel
from zeolith.protocol.additions import CacheReport
from zeolith.protocol.messages import Heartbeat, LoadBefore, Notice, SetClientLabel
from zeolith.types import MAX_TID

from .conftest import Attach, Open

T1 = bytes(7) + b"\1"


def load(storage: ClientStorage, server: FakeConnection, n: int, data: bytes) -> None:
    """Have the server asked for an object."""
    loading = Background(lambda: storage.load(oid_of(n)))
    server.reply(server.expect(LoadBefore), (data, T1, None))
    assert loading.result() == (data, T1)


def test_hits_and_misses(attach: Attach) -> None:
    storage, server = attach(cache_size=100_000)
    assert storage.cache_stats() == CacheStats(0, 0, 0, 0, 0, 0, 0, 0, 100_000)
    assert storage.cache_stats().hit_rate is None
    load(storage, server, 1, bytes(136))
    assert storage.cache_stats() == CacheStats(0, 1, 1, 0, 0, 0, 1, 160, 100_000)
    assert storage.cache_stats().hit_rate == 0
    for _ in range(3):
        storage.load(oid_of(1))
    storage.loadBefore(oid_of(1), MAX_TID)
    stats = storage.cache_stats()
    assert (stats.hits, stats.misses, stats.hit_rate) == (4, 1, 0.8)


def test_looking_into_the_cache_before_a_prefetch_is_no_load(attach: Attach) -> None:
    storage, server = attach()
    load(storage, server, 1, b"data")
    storage.prefetch([oid_of(1)], MAX_TID)
    assert storage.cache_stats()[:2] == (0, 1)


def test_hits_of_many_threads_are_all_counted(attach: Attach) -> None:
    storage, server = attach()
    load(storage, server, 1, b"data")
    each, threads = 5_000, 8
    start = threading.Barrier(threads)

    def read() -> None:
        start.wait()
        for _ in range(each):
            storage.load(oid_of(1))

    for reading in [Background(read) for _ in range(threads)]:
        reading.result()
    assert storage.cache_stats().hits == each * threads


def test_of_a_cache_of_the_application_s_own(attach: Attach) -> None:
    storage, server = attach(cache=ZeoCache(None, 100_000))
    load(storage, server, 1, b"data")
    storage.load(oid_of(1))
    assert storage.cache_stats() == CacheStats(1, 1, 0, 0, 0, 0, 1, 0, 0)


def test_a_child_made_by_fork_counts_anew() -> None:
    printed = run_python(
        """
import os
import zeolith
from zeolith.errors import ClientDisconnected

storage = zeolith.ClientStorage(("127.0.0.1", 1), wait=False, wait_timeout=0)
try:
    storage.load(bytes(8))
except ClientDisconnected:
    pass
assert storage.cache_stats()[:2] == (0, 1)
child = os.fork()
if not child:
    os._exit(0 if storage.cache_stats()[:2] == (0, 0) else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert storage.cache_stats()[:2] == (0, 1)
storage.close()
print("done")
"""
    )
    assert printed == "done\n"


# -- what the server is told ---------------------------------------------------------------------


def channel_of(storage: ClientStorage) -> Channel:
    return storage._link.channel()


def attach_at_rest(attach: Attach, **keywords: Any) -> tuple[ClientStorage, FakeConnection]:
    """Connect; return when nobody is sending: a report, or a heartbeat, is left out meanwhile."""
    storage, server = attach(client_label="rest", **keywords)
    assert server.next() == Notice(SetClientLabel("rest"))
    # The last that is sent without being asked for; who sent it has given the lock back.
    with channel_of(storage)._sending:
        return storage, server


def test_the_report_goes_with_the_next_heartbeat(attach: Attach) -> None:
    storage, server = attach_at_rest(attach, cache_size=100_000)
    load(storage, server, 1, bytes(136))
    storage.load(oid_of(1))
    storage.tended(channel_of(storage))
    channel_of(storage).heartbeat()
    assert server.next() == Notice(CacheReport(1, 1, 1, 160, 100_000))
    assert isinstance(server.next(), Heartbeat)


def test_a_server_of_zeo_is_told_nothing(attach: Attach) -> None:
    storage, server = attach_at_rest(attach, is_zeo=True)
    storage.tended(channel_of(storage))
    channel_of(storage).heartbeat()
    assert isinstance(server.next(), Heartbeat)


def test_who_tends_does_not_wait_for_who_sends(attach: Attach) -> None:
    """The thread that tends is the one that notices a dead server."""
    storage, server = attach_at_rest(attach)
    channel = channel_of(storage)
    with channel._sending:
        tending = Background(lambda: storage.tended(channel))
        with promptly():
            tending.result()
    channel.heartbeat()
    assert isinstance(server.next(), Heartbeat)


def test_a_broken_connection_is_no_reason_to_fail(attach: Attach) -> None:
    storage, server = attach()
    channel = channel_of(storage)
    server.close()
    wait_until(lambda: channel.is_broken)
    storage.tended(channel)


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], list[dict[str, Any]]]:
    """What a server says of its clients, which tend to their connections all the time."""
    monkeypatch.setattr(watcher, "TENDING", 0)

    def look(address: Any) -> list[dict[str, Any]]:
        return fetch_status(Target(address)).connections or []

    return look


def test_a_server_shows_it(
    client: Open, connections: Callable[[Any], list[dict[str, Any]]]
) -> None:
    # Short times, so that heartbeats are not far from each other.
    with running_server(MappingStorage(), dead_peer_timeout=1) as server:
        storage = client(server.address, cache_size=100_000, dead_server_timeout=1)
        with pytest.raises(POSKeyError):
            storage.load(bytes(8))

        def is_told() -> bool:
            (found,) = connections(server.address)
            return bool(found["cache"])

        wait_until(is_told)
        (found,) = connections(server.address)
        stats = storage.cache_stats()
        assert found["cache"] == {
            "hits": stats.hits,
            "misses": stats.misses,
            "records": stats.records,
            "used": stats.used,
            "capacity": 100_000,
        }
        # Telling this is no use that a client makes of its server.
        wait_until(lambda: connections(server.address)[0]["idle"] > 0.5)
        storage.close()

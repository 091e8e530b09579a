"""Prefetching, server_sync and iteration."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import transaction
from tests.conformance.site import DISCONNECTED, FILE, MAPPING, Site
from tests.support.proxy import DOWN, UP
from tests.support.waiting import wait_until
from ZODB.utils import maxtid, p64

from zeolith.protocol.loadrequests import LoadedMany, LoadMany
from zeolith.protocol.messages import Call, LoadBefore, Notice

COUNT = 250


def _filled(site: Site, address: Any) -> list[bytes]:
    """Commit :data:`COUNT` objects in transactions of ten; return their ids."""
    database = site.database(address)
    with database.transaction() as connection:
        for number in range(COUNT):
            connection.root()[number] = connection.root().__class__()
    oids = []
    with database.transaction() as connection:
        oids = [connection.root()[number]._p_oid for number in range(COUNT)]
    for start in range(0, COUNT, 10):
        with database.transaction() as connection:
            for number in range(start, start + 10):
                connection.root()[number]["number"] = number
    database.close()
    return oids


def test_prefetched_objects_need_no_other_request(site: Site) -> None:
    server = site.serve()
    oids = _filled(site, server.address)
    proxy = site.proxy(server)
    client = site.client(proxy.address)

    def requests() -> list[object]:
        messages = [item.message for item in proxy.frames() if item.direction is UP]
        found = [item.request for item in messages if isinstance(item, (Call, Notice))]
        return [request for request in found if isinstance(request, (LoadBefore, LoadMany))]

    def loads() -> int:
        return sum(
            len(request.oids) if isinstance(request, LoadMany) else 1 for request in requests()
        )

    def answers() -> int:
        found = 0
        for item in proxy.frames():
            if item.direction is DOWN:
                request = getattr(item.message, "request", None)
                if isinstance(request, LoadedMany):
                    found += len(request.records)
                else:
                    found += item.name == ".reply"
        return found

    tid = p64(int.from_bytes(client.lastTransaction(), "big") + 1)
    before = answers()
    client.prefetch(oids, tid)
    wait_until(lambda: answers() >= before + COUNT, "everything is answered")
    client.ping()  # what came before its answer is in the cache now
    assert loads() == COUNT
    assert len(requests()) == (1 if site.pairing.is_own else COUNT)
    for oid in oids:
        data, start, end = client.loadBefore(oid, tid)
        assert data
        assert end is None
        assert start < tid
    assert loads() == COUNT


def test_prefetch_through_a_connection(site: Site) -> None:
    server = site.serve()
    oids = _filled(site, server.address)
    database = site.database(server.address)
    with database.transaction() as connection:
        connection.prefetch(oids)
        assert [connection.root()[number]["number"] for number in range(COUNT)] == list(
            range(COUNT)
        )


def test_prefetch_of_what_does_not_exist(site: Site) -> None:
    client = site.client(site.serve(MAPPING).address)
    client.prefetch([p64(99)], maxtid)
    client.ping()
    with pytest.raises(KeyError):
        client.loadBefore(p64(99), maxtid)


def test_server_sync_sees_what_was_committed_before(site: Site) -> None:
    server = site.serve(MAPPING)
    proxy = site.proxy(server)
    writer = site.database(server.address)
    reader = site.database(proxy.address, server_sync=True)
    manager = transaction.TransactionManager()
    with writer.transaction() as connection:
        connection.root.x = 0
    read = reader.open(manager)
    for number in range(1, 100):
        with writer.transaction() as connection:
            connection.root.x = number
        manager.begin()
        if site.pairing.server == "zeolith":
            assert read.root.x == number
        # ZEO's server on uvloop may answer before it tells what was committed.
    manager.abort()
    read.close()
    pings = sum(frame.direction is UP and frame.name == "ping" for frame in proxy.frames())
    assert pings >= 99


Record = tuple[bytes, bytes, bytes | None]
Transaction = tuple[bytes, str, bytes, bytes, dict[str, Any], list[Record]]


def _contents(iterator: Any) -> Iterator[Transaction]:
    for item in iterator:
        yield (
            item.tid,
            item.status,
            item.user,
            item.description,
            item.extension,
            [(record.oid, record.tid, record.data) for record in item],
        )


def test_iterators_tell_what_the_storage_holds(site: Site) -> None:
    from ZODB.FileStorage import FileStorage

    server = site.serve()
    _filled(site, server.address)
    client = site.client(server.address)
    everything = list(_contents(client.iterator()))
    tids = [item[0] for item in everything]
    assert len(tids) > COUNT // 10
    assert list(_contents(client.iterator(tids[3], tids[6]))) == everything[3:7]
    assert list(_contents(client.iterator(start=tids[-2]))) == everything[-2:]
    assert list(_contents(client.iterator(stop=tids[1]))) == everything[:2]
    assert list(_contents(client.iterator(start=maxtid))) == []
    # Two at a time, out of step.
    slow, fast = client.iterator(), client.iterator()
    first = next(slow)
    assert list(_contents(fast)) == everything
    assert first.tid == tids[0]
    assert [item.tid for item in slow] == tids[1:]
    client.close()
    server.stop()
    storage = FileStorage(str(site.directory / "Data.fs"), read_only=True)
    try:
        assert everything == list(_contents(storage.iterator()))
    finally:
        storage.close()


def test_a_copy_through_iterators_is_complete(site: Site) -> None:
    server = site.serve({"source": FILE, "copy": FILE.replace("Data", "Copy")})
    source_of = site.database(server.address, storage="source")
    with source_of.transaction(
        "a note",
    ) as connection:
        connection.root.x = 1
        connection.transaction_manager.get().setUser("somebody")
        connection.transaction_manager.get().setExtendedInfo("key", {"list": [1, "text", b"b"]})
    source = source_of.storage
    copy = site.client(server.address, storage="copy")
    copy.copyTransactionsFrom(source)
    assert list(_contents(copy.iterator())) == list(_contents(source.iterator()))
    assert copy.lastTransaction() == source.lastTransaction()


def test_record_iternext_visits_every_object(site: Site) -> None:
    server = site.serve()
    oids = _filled(site, server.address)
    client = site.client(server.address)
    seen = {}
    cursor = None
    while True:
        oid, tid, data, cursor = client.record_iternext(cursor)
        seen[oid] = tid, data
        if cursor is None:
            break
    assert set(seen) == {bytes(8), *oids}
    for oid, (tid, data) in seen.items():
        assert client.loadBefore(oid, maxtid) == (data, tid, None)


def test_an_iterator_ends_with_its_connection(site: Site) -> None:
    server = site.serve()
    _filled(site, server.address)
    proxy = site.proxy(server)
    client = site.client(proxy.address)
    iterator = client.iterator()
    next(iterator)
    proxy.cut()
    proxy.wait_links(2)
    wait_until(client.is_connected)
    client.ping()
    with pytest.raises(DISCONNECTED):
        list(iterator)
    assert len(list(client.iterator())) > COUNT // 10

"""The change feed leaves nothing out and names nothing twice, whatever happens on the way."""

from __future__ import annotations

import itertools
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from tests.support.histories import Z64, fill, listed
from tests.support.processes import ServerProcess, running_server
from tests.support.proxy import DOWN, UP, Action, Passing, Proxy
from tests.support.raw import Closed, RawClient, RemoteFault, oid_of
from tests.support.waiting import Background, wait_until
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage

import zeolith
from zeolith.client.changes import PAGE, Change
from zeolith.client.follower import newest
from zeolith.protocol.messages import Pack

WRITERS = 8
TRANSACTIONS = 60
"""Of each writer."""


class Writer:
    """Commits to objects of its own, through every loss of the server."""

    def __init__(self, address: Any, number: int, stop: threading.Event) -> None:
        self.acknowledged: list[bytes] = []
        self._address = address
        self._number = number
        self._stop = stop
        self.thread = Background(self._run)

    def _run(self) -> None:
        done = 0
        while done < TRANSACTIONS:
            # A new object each time: what became of the last commit does not matter.
            with suppress(Closed, OSError, RemoteFault), RawClient(self._address) as client:
                while done < TRANSACTIONS:
                    number = 1_000_000 * (self._number + 1) + 1000 * done
                    oids = [oid_of(number + at) for at in range(1 + done % 5)]
                    done += 1
                    self.acknowledged.append(
                        client.commit(dict.fromkeys(oids, (Z64, b"%d" % done)))
                    )
            self._stop.wait(0.01)


@pytest.mark.parametrize("remembered", [0, 3, 1000])
def test_eight_writers_restarts_and_cuts(tmp_path: Path, stack: ExitStack, remembered: int) -> None:
    """Compared with what the storage itself says at the end: the same, in the same order."""
    numbers = itertools.count(1)
    ways = itertools.cycle((Action.CUT, Action.CUT_WITHIN, Action.CUT_AFTER))

    def rule(passing: Passing) -> Action:
        # Each connection lives for some frames more than the one before it, then is cut.
        if passing.direction is DOWN and passing.number > 2 and next(numbers) % 17 == 0:
            return next(ways)
        return Action.PASS

    server = stack.enter_context(
        ServerProcess(
            tmp_path, config=f"invalidation-queue-size {remembered}\nmsgpack true", blobs=False
        )
    )
    proxy = stack.enter_context(Proxy(server.address, rule))
    feed = stack.enter_context(
        zeolith.changes(proxy.address, bytes(8), min_disconnect_poll=0.01, max_disconnect_poll=0.05)
    )
    found: list[Change] = []

    def consume() -> None:
        for change in feed:
            found.append(change)

    consuming = Background(consume)
    stop = threading.Event()
    writers = [Writer(server.address, number, stop) for number in range(WRITERS)]
    for share in (1, 2, 3):
        wait_until(
            lambda share=share: (  # type: ignore[misc]
                sum(len(writer.acknowledged) for writer in writers)
                >= share * WRITERS * TRANSACTIONS // 5
                or not any(writer.thread.is_alive() for writer in writers)
            )
        )
        if share % 2:
            server.kill()
        else:
            assert server.stop() == 0
        server.start()
    for writer in writers:
        writer.thread.result()
    with RawClient(server.address) as last:
        end = last.commit({oid_of(1): (Z64, b"the end")})
    wait_until(lambda: found and found[-1].tid == end)
    feed.close()
    consuming.result()
    assert server.stop() == 0
    storage = FileStorage(str(tmp_path / "Data.fs"), read_only=True)
    try:
        expected = listed(storage)
    finally:
        storage.close()
    assert [tuple(change) for change in found] == expected
    acknowledged = {tid for writer in writers for tid in writer.acknowledged}
    assert len(acknowledged) > WRITERS * TRANSACTIONS // 2
    assert acknowledged <= {change.tid for change in found}
    assert len(proxy.links) > 5


def test_r8_a_slow_consumer_costs_neither_side_memory(stack: ExitStack) -> None:
    """What is announced is not queued: the connection is read, and one page waits."""
    server = stack.enter_context(running_server(MappingStorage(), output_limit=64 * 1024))
    proxy = stack.enter_context(Proxy(server.address))
    writer = stack.enter_context(RawClient(server.address))
    feed = stack.enter_context(zeolith.changes(proxy.address))
    oids = list(map(oid_of, range(500)))
    tids = []
    serial = Z64
    for _ in range(100):
        serial = writer.commit(dict.fromkeys(oids, (serial, b"x")))
        tids.append(serial)
        if len(tids) == 50:
            assert next(feed).tid == tids[0]
    # Far more than the server holds for a client that does not read.
    announced = [
        passing.size
        for passing in proxy.frames()
        if passing.direction is DOWN and passing.name == "invalidateTransaction"
    ]
    channel = feed._follower.wait()
    assert channel is not None
    wait_until(lambda: newest(channel) == tids[-1])
    assert sum(announced) > 64 * 1024
    assert len(feed._ready) < 50
    asked = [p for p in proxy.frames() if p.direction is UP and p.name == "changes_since"]
    assert len(asked) == 1
    assert [next(feed).tid for _ in range(99)] == tids[1:]
    assert len(proxy.links) == 1
    assert PAGE == 1000


def test_idle_waiting_asks_nothing(stack: ExitStack) -> None:
    server = stack.enter_context(running_server(MappingStorage()))
    proxy = stack.enter_context(Proxy(server.address))
    other = stack.enter_context(RawClient(server.address))
    feed = stack.enter_context(zeolith.changes(proxy.address))
    waiting = Background(lambda: next(feed))
    wait_until(lambda: feed._turn.locked())

    def asked() -> list[str]:
        # The proxy notes what it has passed on, which may have been answered by then.
        return [passing.name for passing in proxy.frames() if passing.direction is UP]

    wait_until(lambda: "register" in asked())
    before = asked()
    for _ in range(200):
        other.ping()
    assert asked() == before
    tid = other.commit({oid_of(7): (Z64, b"x")})
    assert waiting.result() == (tid, (oid_of(7),))
    wait_until(lambda: asked() == [*before, "changes_since"])


def test_a_server_that_is_away_for_long(tmp_path: Path, stack: ExitStack) -> None:
    """More happens meanwhile than the server remembers, and it is started anew several times."""
    server = ServerProcess(tmp_path, config="invalidation-queue-size 2", blobs=False)
    proxy = stack.enter_context(Proxy(server.address))
    tids = []
    with server, RawClient(server.address) as writer:
        tids.append(writer.commit({oid_of(1): (Z64, b"x")}))
        feed = stack.enter_context(zeolith.changes(proxy.address, bytes(8)))
        assert next(feed).tid == tids[0]
        proxy.is_refusing = True
        proxy.cut()
        for number in range(2, 20):
            tids.append(writer.commit({oid_of(number): (Z64, b"x")}))
    for turn in range(2):
        with server, RawClient(server.address) as writer:
            tids.append(writer.commit({oid_of(100 + turn): (Z64, b"x")}))
    with server:
        proxy.is_refusing = False
        assert [next(feed).tid for _ in tids[1:]] == tids[1:]


def test_packs_while_it_is_followed(tmp_path: Path, stack: ExitStack) -> None:
    """Who is up to date misses nothing by a pack, wherever it comes; compared with the writers."""
    server = stack.enter_context(
        ServerProcess(tmp_path, config="invalidation-queue-size 2", blobs=False)
    )
    with RawClient(server.address) as client:
        tids = [client.commit({ROOT: (Z64, EMPTY)})]
    feed = stack.enter_context(zeolith.changes(server.address, bytes(8)))
    found: list[Change] = []

    def consume() -> None:
        for change in feed:
            found.append(change)

    consuming = Background(consume)
    for turn in range(4):
        wait_until(lambda: len(found) == len(tids))
        packing = Background(lambda: pack(server.address))
        with RawClient(server.address) as client:
            while packing.is_alive() or len(tids) < 40 * (turn + 1):
                tids.append(client.commit({ROOT: (tids[-1], EMPTY)}))
        packing.result()
    wait_until(lambda: len(found) >= len(tids))
    feed.close()
    consuming.result()
    assert found == [Change(tid, (ROOT,)) for tid in tids]


ROOT = bytes(8)
EMPTY = b"\x80\x03cpersistent.mapping\nPersistentMapping\nq\x00.\x80\x03}q\x00."
"""A record that a pack can read."""


def pack(address: Any) -> None:
    with RawClient(address) as client:
        client.call(Pack(time.time(), True))


def test_through_a_server_that_is_a_client_itself(tmp_path: Path, stack: ExitStack) -> None:
    """Its storage is slow, and announces what other servers' clients do."""
    storage = FileStorage(str(tmp_path / "Data.fs"))
    fill(storage, 30)
    first = stack.enter_context(running_server(storage, invalidation_queue_size=2))
    middle = zeolith.ClientStorage(first.address)
    second = stack.enter_context(running_server(middle, invalidation_queue_size=3))
    feed = stack.enter_context(zeolith.changes(second.address, bytes(8)))
    assert [tuple(next(feed)) for _ in range(30)] == listed(storage)
    at_first = stack.enter_context(RawClient(first.address))
    at_second = stack.enter_context(RawClient(second.address))
    for number in range(100, 110):
        for writer in (at_first, at_second):
            tid = writer.commit({oid_of(number + (50 if writer is at_first else 0)): (Z64, b"x")})
            assert next(feed).tid == tid
    assert [tuple(change) for change in zeolith.changes(second.address, bytes(8), wait=False)] == (
        listed(storage)
    )


def test_several_addresses(stack: ExitStack) -> None:
    """Whichever is there; of the same database."""
    server = stack.enter_context(running_server(MappingStorage()))
    proxies = [stack.enter_context(Proxy(server.address)) for _ in range(2)]
    feed = stack.enter_context(
        zeolith.changes([proxy.address for proxy in proxies], min_disconnect_poll=0.01)
    )
    with RawClient(server.address) as writer:
        for turn in range(6):
            present, away = proxies[turn % 2], proxies[1 - turn % 2]
            present.is_refusing, away.is_refusing = False, True
            away.cut()
            tid = writer.commit({oid_of(turn): (Z64, b"x")})
            assert next(feed).tid == tid

"""R6: a client that was away for too long verifies what it has, and serves nothing stale."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ZODB.event
from tests.rules.conftest import Attach, Database, Open, tid_of
from tests.rules.test_r6_reconnect import INFO, cached, load, readmit
from tests.support.histories import Z64, commit
from tests.support.processes import running_server
from tests.support.proxy import DOWN, UP, Action, Passing, Proxy
from tests.support.raw import FakeServer, RawClient, oid_of
from tests.support.waiting import Background, wait_until
from ZEO.cache import ClientCache as ZeoCache
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage

from zeolith.client import rechecking
from zeolith.protocol.additions import VerifyMany
from zeolith.protocol.greeting import Coding
from zeolith.protocol.messages import GetInfo, GetInvalidations, InvalidateTransaction, Register

X, Y, Z = oid_of(7), oid_of(8), oid_of(9)
NOWHERE = ("127.0.0.1", 1)


def pairs_of(call: Any) -> dict[bytes, bytes]:
    pairs = call.request.pairs
    return {pairs[at : at + 8]: pairs[at + 8 : at + 16] for at in range(0, len(pairs), 16)}


def test_what_is_stale_is_forgotten_and_the_rest_stays(
    fake: FakeServer,
    attach: Attach,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "zeolith.client")
    events: list[Any] = []
    monkeypatch.setattr(ZODB.event, "notify", events.append)
    storage, server = attach()
    load(storage, server, X, b"x", tid_of(1))
    load(storage, server, Y, b"y", tid_of(1))
    server.notify(InvalidateTransaction(tid_of(2), [X]))
    wait_until(lambda: storage.lastTransaction() == tid_of(2))
    load(storage, server, X, b"xx", tid_of(2))
    database = Database(storage)
    server.close()
    again = readmit(fake, tid_of(5))
    again.reply(again.expect(GetInvalidations), None)
    question = again.expect(VerifyMany)
    assert pairs_of(question) == {X: tid_of(2), Y: tid_of(1)}
    assert not storage.is_connected()
    # Until it is known what has changed, nothing has.
    assert storage.lastTransaction() == tid_of(2)
    again.reply(question, (tid_of(5), X))
    again.reply(again.expect(GetInfo), INFO)
    wait_until(storage.is_connected)
    assert cached(storage, X) is None
    assert cached(storage, Y) == (b"y", tid_of(1), None)
    # MVCC: a reader of the past goes on.
    assert storage._cache.load_before(X, tid_of(2)) == (b"x", tid_of(1), tid_of(2))
    # Connections may hold objects that the cache does not.
    assert database.told == ["all"]
    assert storage.lastTransaction() == tid_of(5)
    assert events == []
    (line,) = [r.getMessage() for r in caplog.records if "verified" in r.getMessage()]
    assert "of 2 in the cache that were verified 1 were stale" in line


def test_invalidations_that_arrive_meanwhile_are_applied_afterwards(
    fake: FakeServer, attach: Attach
) -> None:
    storage, server = attach()
    load(storage, server, X, b"x", tid_of(1))
    load(storage, server, Y, b"y", tid_of(1))
    load(storage, server, Z, b"z", tid_of(1))
    database = Database(storage)
    server.close()
    again = readmit(fake, tid_of(5))
    again.reply(again.expect(GetInvalidations), None)
    question = again.expect(VerifyMany)
    again.send(
        again.notice_bytes(InvalidateTransaction(tid_of(6), [X])),
        again.reply_bytes(question, (tid_of(5), b"")),
        again.notice_bytes(InvalidateTransaction(tid_of(7), [Y])),
    )
    again.reply(again.expect(GetInfo), INFO)
    wait_until(lambda: storage.lastTransaction() == tid_of(7))
    assert database.told == ["all", (tid_of(6), [X]), (tid_of(7), [Y])]
    assert cached(storage, X) is None
    assert cached(storage, Y) is None
    assert cached(storage, Z) == (b"z", tid_of(1), None)
    # When these two ended is known: so the revisions before are.
    assert storage._cache.load_before(X, tid_of(6)) == (b"x", tid_of(1), tid_of(6))


def test_it_is_asked_in_pages(
    fake: FakeServer, attach: Attach, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rechecking, "MAX_PAIRS", 2)
    storage, server = attach()
    for number in range(5):
        load(storage, server, oid_of(number), b"%d" % number, tid_of(1))
    server.close()
    again = readmit(fake, tid_of(5))
    again.reply(again.expect(GetInvalidations), None)
    asked: list[bytes] = []
    for _ in range(3):
        question = again.expect(VerifyMany)
        asked += pairs_of(question)
        again.reply(question, (tid_of(5), asked[-1]))
    again.reply(again.expect(GetInfo), INFO)
    wait_until(storage.is_connected)
    assert sorted(asked) == [oid_of(number) for number in range(5)]
    kept = [oid for oid in asked if cached(storage, oid) is not None]
    assert kept == [asked[0], asked[2]]


def test_no_more_is_asked_at_once_than_the_server_takes(
    fake: FakeServer, attach: Attach, monkeypatch: pytest.MonkeyPatch
) -> None:
    from zeolith.client.channel import Channel

    monkeypatch.setattr(Channel, "max_payload", 64 + 3 * 16 + 15)
    storage, server = attach()
    for number in range(4):
        load(storage, server, oid_of(number), b"%d" % number, tid_of(1))
    server.close()
    again = readmit(fake, tid_of(5))
    again.reply(again.expect(GetInvalidations), None)
    for expected in (3, 1):
        question = again.expect(VerifyMany)
        assert len(pairs_of(question)) == expected
        again.reply(question, (tid_of(5), b""))
    again.reply(again.expect(GetInfo), INFO)
    wait_until(storage.is_connected)


def test_what_there_is_no_time_for_is_forgotten(
    fake: FakeServer,
    attach: Attach,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "zeolith.client")
    monkeypatch.setattr(rechecking, "MAX_PAIRS", 2)
    storage, server = attach()
    for number in range(7):
        load(storage, server, oid_of(number), b"%d" % number, tid_of(1))
    server.close()
    again = readmit(fake, tid_of(5))
    again.reply(again.expect(GetInvalidations), None)
    question = again.expect(VerifyMany)
    monkeypatch.setattr(time, "monotonic", lambda: 1e12)
    again.reply(question, (tid_of(5), b""))
    again.reply(again.expect(GetInfo), INFO)
    wait_until(storage.is_connected)
    monkeypatch.undo()
    kept = [number for number in range(7) if cached(storage, oid_of(number)) is not None]
    assert [oid_of(number) for number in kept] == list(pairs_of(question))
    (line,) = [r.getMessage() for r in caplog.records if "verified" in r.getMessage()]
    assert "no time for 5" in line


def test_a_break_in_the_middle_starts_it_anew(
    fake: FakeServer, attach: Attach, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rechecking, "MAX_PAIRS", 1)
    storage, server = attach()
    load(storage, server, X, b"x", tid_of(1))
    load(storage, server, Y, b"y", tid_of(1))
    database = Database(storage)
    server.close()
    half = readmit(fake, tid_of(5))
    half.reply(half.expect(GetInvalidations), None)
    question = half.expect(VerifyMany)
    half.reply(question, (tid_of(5), next(iter(pairs_of(question)))))
    half.expect(VerifyMany)
    half.reset()
    again = readmit(fake, tid_of(6))
    question = again.expect(GetInvalidations)
    assert question.request.tid == tid_of(1)
    assert storage.lastTransaction() == tid_of(1)
    assert database.told == []
    again.reply(question, None)
    question = again.expect(VerifyMany)
    assert list(pairs_of(question)) == [Y]
    again.reply(question, (tid_of(6), b""))
    again.reply(again.expect(GetInfo), INFO)
    wait_until(storage.is_connected)
    assert database.told == ["all"]
    assert cached(storage, Y) == (b"y", tid_of(1), None)


@pytest.mark.parametrize(
    "answer",
    [None, b"", tid_of(5), (tid_of(5),), (tid_of(4), b""), (tid_of(5), b"x"), (tid_of(5), "x")],
)
def test_an_answer_that_is_none_proves_nothing(
    fake: FakeServer, attach: Attach, answer: Any
) -> None:
    storage, server = attach()
    load(storage, server, X, b"x", tid_of(1))
    server.close()
    odd = readmit(fake, tid_of(5))
    odd.reply(odd.expect(GetInvalidations), None)
    odd.reply(odd.expect(VerifyMany), answer)
    # It is not taken for a server; the next attempt finds one.
    again = readmit(fake, tid_of(5))
    again.reply(again.expect(GetInvalidations), None)
    again.reply(again.expect(VerifyMany), (tid_of(5), X))
    again.reply(again.expect(GetInfo), INFO)
    wait_until(storage.is_connected)
    assert cached(storage, X) is None


def test_an_empty_cache_is_verified_by_itself(fake: FakeServer, attach: Attach) -> None:
    """The objects that ZODB's connections hold are as old as before."""
    storage, server = attach()
    database = Database(storage)
    server.close()
    again = readmit(fake, tid_of(5))
    again.reply(again.expect(GetInvalidations), None)
    again.reply(again.expect(GetInfo), INFO)
    wait_until(storage.is_connected)
    assert database.told == ["all"]
    assert storage.lastTransaction() == tid_of(5)


def test_drop_cache_rather_verify_asks_nothing(fake: FakeServer, attach: Attach) -> None:
    storage, server = attach(drop_cache_rather_verify=True)
    load(storage, server, X, b"x", tid_of(1))
    server.close()
    again = readmit(fake, tid_of(5))
    again.reply(again.expect(GetInfo), INFO)
    wait_until(storage.is_connected)
    assert cached(storage, X) is None


def test_a_cache_that_cannot_be_listed_is_dropped(fake: FakeServer, attach: Attach) -> None:
    storage, server = attach(cache=ZeoCache(None, 100_000))
    load(storage, server, X, b"x", tid_of(1))
    server.close()
    again = readmit(fake, tid_of(5))
    again.reply(again.expect(GetInvalidations), None)
    again.reply(again.expect(GetInfo), INFO)
    wait_until(storage.is_connected)
    assert cached(storage, X) is None
    assert len(storage._cache) == 0


def test_a_zeo_server_is_not_asked(fake: FakeServer, client: Open) -> None:
    """Its protocol has no such call."""
    opening = Background(lambda: client(fake.address))
    server = fake.accept(Coding.PICKLE)
    server.peer = type(server.peer)(Coding.PICKLE)
    greet_as_zeo(server)
    server.admit_registered(tid_of(1))
    storage: Any = opening.result()
    load(storage, server, X, b"x", tid_of(1))
    server.close()
    again = fake.accept(Coding.PICKLE)
    greet_as_zeo(again)
    again.reply(again.expect(Register), tid_of(5))
    again.peer.registered()
    again.reply(again.expect(GetInvalidations), None)
    again.reply(again.expect(GetInfo), INFO)
    wait_until(storage.is_connected)
    assert cached(storage, X) is None


def greet_as_zeo(connection: Any) -> None:
    """Send the greeting of a ZEO server and receive the client's choice."""
    connection.peer.greeting()
    connection.socket.sendall(b"\0\0\0\2Z5")
    while connection.peer.codec is None:
        connection._receive()


# -- a real server -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [MappingStorage, None], ids=["mapping", "file"])
def test_nothing_stale_is_ever_served(
    tmp_path: Path, client: Open, kind: Callable[[], Any] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against what the storage says, with commits before, while and after the cache is verified.

    Each round the client is away for more transactions than the server remembers, and a writer
    goes on while it verifies, in pages of a few objects.
    """
    monkeypatch.setattr(rechecking, "MAX_PAIRS", 5)
    draw = random.Random(7)
    oids = [oid_of(number) for number in range(40)]
    storage = FileStorage(str(tmp_path / "Data.fs")) if kind is None else kind()
    commit(storage, *oids, data=b"first")
    asked = threading.Semaphore(0)
    verified = 0

    def rule(passing: Passing) -> Action:
        if passing.direction is UP and passing.name == "verify_many":
            asked.release()
        return Action.PASS

    with (
        running_server(storage, invalidation_queue_size=2) as server,
        Proxy(server.address, rule) as proxy,
        RawClient(server.address) as writer,
    ):
        serials = dict.fromkeys(oids, storage.lastTransaction())

        def write(count: int) -> None:
            for _ in range(count):
                chosen = draw.sample(oids, draw.randint(1, 4))
                tid = writer.commit({oid: (serials[oid], b"%d" % count) for oid in chosen})
                serials.update(dict.fromkeys(chosen, tid))

        reader = client(proxy.address, min_disconnect_poll=0.01)
        for _ in range(15):
            for oid in draw.sample(oids, 25):
                reader.load(oid)
            proxy.target = NOWHERE
            proxy.cut()
            wait_until(lambda: not reader.is_connected())
            write(draw.randint(3, 6))
            proxy.stall(DOWN)
            proxy.target = server.address
            release = Background(lambda: trickle(proxy, asked, lambda: write(1)))
            reader.ping()
            release.result()
            wait_until(lambda: reader.lastTransaction() == storage.lastTransaction())
            for oid in oids:
                held = cached(reader, oid)
                if held is not None:
                    assert held[1] == serials[oid], "stale"
                    verified += 1
            for oid in oids:
                assert reader.load(oid)[1] == serials[oid]
        assert verified > 50


def trickle(proxy: Proxy, asked: threading.Semaphore, write: Callable[[], object]) -> None:
    """Let the answers through, with transactions in between."""
    proxy.resume(DOWN)
    assert asked.acquire(timeout=20)
    for _ in range(3):
        write()
        asked.acquire(timeout=0.05)


def test_the_whole_way(tmp_path: Path, client: Open, caplog: pytest.LogCaptureFixture) -> None:
    """Ten thousand objects, a hundred of them changed: the others need not be loaded again."""
    caplog.set_level(logging.INFO, "zeolith.client")
    storage = FileStorage(str(tmp_path / "Data.fs"))
    oids = [oid_of(number) for number in range(3000)]
    first = commit(storage, *oids, data=b"d" * 300)
    with (
        running_server(storage, invalidation_queue_size=2) as server,
        Proxy(server.address) as proxy,
        RawClient(server.address) as writer,
    ):
        reader = client(proxy.address)
        for oid in oids:
            reader.load(oid)
        proxy.target = NOWHERE
        proxy.cut()
        wait_until(lambda: not reader.is_connected())
        tid = Z64
        for number in range(100):
            tid = writer.commit({oids[number * 7]: (first, b"new")})
        proxy.target = server.address
        reader.ping()
        assert reader.lastTransaction() == tid
        loads = server._services["1"].stats.loads
        for oid in oids:
            assert reader.load(oid)[0] == (
                b"new" if oids.index(oid) in range(0, 700, 7) else b"d" * 300
            )
        assert server._services["1"].stats.loads == loads + 100
        assert any(
            "3000 in the cache that were verified 100 were" in r.getMessage()
            for r in caplog.records
        )

"""R6: a client that was away for too long verifies what it has, and serves nothing stale."""

from __future__ import annotations

import logging
import random
import threading
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
from tests.support.raw import FakeConnection, FakeServer, RawClient, oid_of
from tests.support.storages import gate
from tests.support.waiting import Background, wait_until
from ZEO.cache import ClientCache as ZeoCache
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage

from zeolith.client import rechecking
from zeolith.client.link import CLOSE_PATIENCE
from zeolith.protocol.additions import VerifyMany
from zeolith.protocol.greeting import Coding
from zeolith.protocol.messages import GetInfo, GetInvalidations, InvalidateTransaction, Register

X, Y, Z = oid_of(7), oid_of(8), oid_of(9)
NOWHERE = ("127.0.0.1", 1)


def pairs_of(call: Any) -> dict[bytes, bytes]:
    pairs = call.request.pairs
    return {pairs[at : at + 8]: pairs[at + 8 : at + 16] for at in range(0, len(pairs), 16)}


def suspects_of(storage: Any) -> int:
    return len(storage._cache.suspects)


def verified(storage: Any) -> None:
    """Wait until nothing in the cache is suspect."""
    wait_until(lambda: suspects_of(storage) == 0)


def attach_again(fake: FakeServer, tid: bytes) -> FakeConnection:
    """Admit a client that was away for too long; it is connected before it has asked."""
    again = readmit(fake, tid)
    again.reply(again.expect(GetInvalidations), None)
    again.reply(again.expect(GetInfo), INFO)
    return again


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
    seen: list[Any] = []
    # R3: first nothing old is served, then the database is told, then the tid is shown.
    database.on_drop = lambda: seen.append((storage._cache.last_tid(), cached(storage, Y)))
    server.close()
    again = readmit(fake, tid_of(5))
    question = again.expect(GetInvalidations)
    # Until it is known what has changed, nothing has.
    assert storage.lastTransaction() == tid_of(2)
    assert cached(storage, Y) is not None
    again.reply(question, None)
    again.reply(again.expect(GetInfo), INFO)
    question = again.expect(VerifyMany)
    assert pairs_of(question) == {X: tid_of(2), Y: tid_of(1)}
    # R3: whoever sees the server's last transaction is served nothing that may be older.
    assert storage.is_connected()
    assert storage.lastTransaction() == tid_of(5)
    assert cached(storage, X) is None
    assert cached(storage, Y) is None
    # MVCC: a reader of the past goes on.
    assert storage._cache.load_before(X, tid_of(2)) == (b"x", tid_of(1), tid_of(2))
    again.reply(question, (tid_of(5), X))
    verified(storage)
    assert cached(storage, X) is None
    assert cached(storage, Y) == (b"y", tid_of(1), None)
    assert storage._cache.load_before(X, tid_of(2)) == (b"x", tid_of(1), tid_of(2))
    # Connections may hold objects that the cache does not.
    assert database.told == ["all"]
    assert seen == [(tid_of(2), None)]
    assert events == []
    wait_until(lambda: "of 2 objects in the cache that were verified" in caplog.text)
    assert "1 were stale" in caplog.text


def test_loads_go_on_while_it_is_verified(fake: FakeServer, attach: Attach) -> None:
    """Of 100,000 objects; the server answers the loads first, and the verification much later."""
    storage, server = attach()
    oids = [oid_of(number) for number in range(100_000)]
    storage._cache.store_many([(oid, tid_of(1), None, b"old") for oid in oids])
    server.close()
    again = attach_again(fake, tid_of(5))
    question = again.expect(VerifyMany)
    assert suspects_of(storage) == 100_000
    asked = set(pairs_of(question))
    in_question, elsewhere = oids[0], oids[99_999]
    assert in_question in asked
    assert elsewhere not in asked
    # Each answer before the next question: nobody waits for the verification.
    load(storage, again, in_question, b"old", tid_of(1))
    load(storage, again, elsewhere, b"new", tid_of(4))
    assert suspects_of(storage) == 99_998
    # What has been loaded is served from the cache again.
    assert storage.load(in_question) == (b"old", tid_of(1))
    assert storage.load(elsewhere) == (b"new", tid_of(4))
    for number in range(7):
        if number:
            question = again.expect(VerifyMany)
            load(storage, again, oid_of(200_000 + number), b"another", tid_of(2))
        stale = [oid for oid in pairs_of(question) if oid[-1] == 0]
        again.reply(question, (tid_of(5), b"".join(stale)))
    verified(storage)
    assert all((cached(storage, oid) is None) == (oid[-1] == 0) for oid in oids if oid != oids[0])


def test_invalidations_that_arrive_meanwhile_count(fake: FakeServer, attach: Attach) -> None:
    storage, server = attach()
    for oid in (X, Y, Z):
        load(storage, server, oid, b"d", tid_of(1))
    database = Database(storage)
    server.close()
    again = readmit(fake, tid_of(5))
    question = again.expect(GetInvalidations)
    again.send(
        again.reply_bytes(question, None),
        again.notice_bytes(InvalidateTransaction(tid_of(6), [X])),
    )
    again.reply(again.expect(GetInfo), INFO)
    question = again.expect(VerifyMany)
    assert set(pairs_of(question)) == {Y, Z}
    again.send(
        again.notice_bytes(InvalidateTransaction(tid_of(7), [Y])),
        again.reply_bytes(question, (tid_of(6), b"")),
    )
    verified(storage)
    assert database.told == ["all", (tid_of(6), [X]), (tid_of(7), [Y])]
    assert cached(storage, X) is None
    assert cached(storage, Y) is None
    assert cached(storage, Z) == (b"d", tid_of(1), None)
    # They may have changed before that, too: where these revisions ended is not known.
    assert storage._cache.load_before(X, tid_of(6)) is None
    assert storage._cache.load_before(Y, tid_of(7)) is None
    again.notify(InvalidateTransaction(tid_of(8), [Z]))
    wait_until(lambda: storage.lastTransaction() == tid_of(8))
    assert storage._cache.load_before(Z, tid_of(8)) == (b"d", tid_of(1), tid_of(8))


def test_it_is_asked_in_pages(
    fake: FakeServer, attach: Attach, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rechecking, "MAX_PAIRS", 2)
    storage, server = attach()
    for number in range(5):
        load(storage, server, oid_of(number), b"%d" % number, tid_of(1))
    server.close()
    again = attach_again(fake, tid_of(5))
    asked: list[bytes] = []
    for _ in range(3):
        question = again.expect(VerifyMany)
        asked += pairs_of(question)
        again.reply(question, (tid_of(5), asked[-1]))
    verified(storage)
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
    again = attach_again(fake, tid_of(5))
    for expected in (3, 1):
        question = again.expect(VerifyMany)
        assert len(pairs_of(question)) == expected
        again.reply(question, (tid_of(5), b""))
    verified(storage)


def test_after_a_break_it_goes_on(fake: FakeServer, attach: Attach) -> None:
    """What is known to have changed meanwhile is forgotten; the rest need not be asked again."""
    far = {oid_of(number << 20): b"%d" % number for number in range(4)}
    storage, server = attach()
    for oid, data in far.items():
        load(storage, server, oid, data, tid_of(1))
    database = Database(storage)
    server.close()
    half = attach_again(fake, tid_of(5))
    question = half.expect(VerifyMany)
    (done,) = pairs_of(question)
    half.reply(question, (tid_of(5), b""))
    (broken,) = pairs_of(half.expect(VerifyMany))
    half.reset()
    wait_until(lambda: not storage.is_connected())
    # Without a server, too, only what has been verified is served.
    assert cached(storage, done) == (far[done], tid_of(1), None)
    assert cached(storage, broken) is None
    changed, left = (oid for oid in far if oid not in (done, broken))
    again = readmit(fake, tid_of(6))
    question = again.expect(GetInvalidations)
    assert question.request.tid == tid_of(5)
    again.reply(question, (tid_of(6), [changed]))
    again.reply(again.expect(GetInfo), INFO)
    asked: list[bytes] = []
    for _ in range(2):
        question = again.expect(VerifyMany)
        asked += pairs_of(question)
        again.reply(question, (tid_of(6), b""))
    verified(storage)
    assert sorted(asked) == sorted([broken, left])
    # Connections' objects were dropped once; what changed during the second absence is known.
    assert database.told == ["all", (tid_of(6), [changed])]
    for oid in (done, broken, left):
        assert cached(storage, oid) == (far[oid], tid_of(1), None)
    assert cached(storage, changed) is None


def test_an_absence_in_the_middle_of_it_starts_it_anew(fake: FakeServer, attach: Attach) -> None:
    """What had been verified by then is as doubtful as the rest."""
    far = [oid_of(number << 20) for number in range(3)]
    storage, server = attach()
    for oid in far:
        load(storage, server, oid, b"d", tid_of(1))
    database = Database(storage)
    server.close()
    half = attach_again(fake, tid_of(5))
    question = half.expect(VerifyMany)
    (done,) = pairs_of(question)
    half.reply(question, (tid_of(5), b""))
    half.expect(VerifyMany)
    half.reset()
    again = attach_again(fake, tid_of(9))
    asked: list[bytes] = []
    for _ in range(3):
        question = again.expect(VerifyMany)
        assert all(cached(storage, oid) is None for oid in pairs_of(question))
        asked += pairs_of(question)
        again.reply(question, (tid_of(9), done if done in asked[-1:] else b""))
    verified(storage)
    assert sorted(asked) == far
    assert database.told == ["all", "all"]
    assert cached(storage, done) is None


def test_an_answer_to_the_question_before_is_not_applied_after_another_absence(
    fake: FakeServer, attach: Attach
) -> None:
    """The thread that has it is waited for before anything becomes suspect again."""
    storage, server = attach()
    load(storage, server, X, b"x", tid_of(1))
    server.close()
    half = attach_again(fake, tid_of(5))
    question = half.expect(VerifyMany)
    verifying: Any = storage._link._rechecking
    with gate(storage._cache.suspects, "settle") as stop:
        half.reply(question, (tid_of(5), b""))
        stop.wait_reached()
        half.reset()
        coming = Background(lambda: attach_again(fake, tid_of(9)))
        coming.join(0.2)
        stop.open()
    verifying.join()
    again: Any = coming.result()
    question = again.expect(VerifyMany)
    assert cached(storage, X) is None
    again.reply(question, (tid_of(9), X))
    verified(storage)
    assert cached(storage, X) is None


@pytest.mark.parametrize(
    "answer",
    [None, b"", tid_of(5), (tid_of(5),), (tid_of(4), b""), (tid_of(5), b"x"), (tid_of(5), "x")],
)
def test_an_answer_that_is_none_proves_nothing(
    fake: FakeServer, attach: Attach, answer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    storage, server = attach()
    load(storage, server, X, b"x", tid_of(1))
    server.close()
    odd = attach_again(fake, tid_of(5))
    odd.reply(odd.expect(VerifyMany), answer)
    # It is taken for a server no longer.
    again = readmit(fake, tid_of(5))
    assert "no answer to a verification" in caplog.text
    assert cached(storage, X) is None
    again.reply(again.expect(GetInfo), INFO)
    again.reply(again.expect(VerifyMany), (tid_of(5), X))
    verified(storage)
    assert cached(storage, X) is None


def test_a_cache_that_is_closed_in_the_middle_goes_on_when_it_is_opened(
    fake: FakeServer, attach: Attach, client: Open, tmp_path: Path
) -> None:
    """It keeps apart what has been verified and what has not."""
    far = [oid_of(number << 20) for number in range(3)]
    keywords: dict[str, Any] = {"client": "app", "var": str(tmp_path)}
    storage, server = attach(**keywords)
    for oid in far:
        load(storage, server, oid, b"d", tid_of(1))
    server.close()
    half = attach_again(fake, tid_of(5))
    question = half.expect(VerifyMany)
    (done,) = pairs_of(question)
    half.reply(question, (tid_of(5), b""))
    half.expect(VerifyMany)
    storage.close()
    storage = client(fake.address, wait=False, **keywords)
    assert storage.lastTransaction() == tid_of(5)
    assert suspects_of(storage) == 2
    assert [cached(storage, oid) is not None for oid in far] == [oid == done for oid in far]
    again = readmit(fake, tid_of(5))
    again.reply(again.expect(GetInfo), INFO)
    asked: list[bytes] = []
    for _ in range(2):
        question = again.expect(VerifyMany)
        asked += pairs_of(question)
        again.reply(question, (tid_of(5), b""))
    verified(storage)
    assert sorted([done, *asked]) == far


def test_what_is_suspect_is_given_up_where_it_cannot_be_verified(
    fake: FakeServer, attach: Attach, caplog: pytest.LogCaptureFixture
) -> None:
    """A server of ZEO's in the place of one of ours, in the middle of it."""
    storage, server = attach()
    load(storage, server, X, b"x", tid_of(1))
    server.close()
    half = attach_again(fake, tid_of(5))
    half.expect(VerifyMany)
    half.reset()
    again = fake.accept(Coding.PICKLE)
    again.greet(is_zeo=True)
    again.reply(again.expect(Register), tid_of(5))
    again.peer.registered()
    again.reply(again.expect(GetInfo), INFO)
    verified(storage)
    assert len(storage._cache) == 0
    wait_until(lambda: "1 objects of the cache that may be out of date are dropped" in caplog.text)
    assert "the server speaks ZEO's protocol" in caplog.text


def test_r7_an_application_may_close_where_its_cache_is_given_up(
    fake: FakeServer,
    attach: Attach,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is told by the thread that verifies, which the link's thread waits for."""
    storage, server = attach()
    load(storage, server, X, b"x", tid_of(1))
    closed = threading.Event()

    def notified(event: Any) -> None:
        storage.close()
        closed.set()

    monkeypatch.setattr(ZODB.event, "notify", notified)
    server.close()
    again = attach_again(fake, tid_of(5))
    again.fault(again.expect(VerifyMany), "ZODB.POSException.Unsupported")
    assert closed.wait(CLOSE_PATIENCE / 2), "close waits for itself"
    wait_until(lambda: not storage._link._thread.is_alive())
    assert "is still busy" not in caplog.text


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
    again.notify(InvalidateTransaction(tid_of(6), [X]))
    wait_until(lambda: storage.lastTransaction() == tid_of(6))
    assert database.told == ["all", (tid_of(6), [X])]


def test_drop_cache_rather_verify_asks_nothing(
    fake: FakeServer, attach: Attach, caplog: pytest.LogCaptureFixture
) -> None:
    storage, server = attach(drop_cache_rather_verify=True)
    load(storage, server, X, b"x", tid_of(1))
    server.close()
    again = readmit(fake, tid_of(5))
    again.reply(again.expect(GetInfo), INFO)
    wait_until(storage.is_connected)
    assert len(storage._cache) == 0
    assert "dropping the cache: it is configured not to be verified" in caplog.text


def test_a_cache_that_cannot_be_listed_is_dropped(
    fake: FakeServer, attach: Attach, caplog: pytest.LogCaptureFixture
) -> None:
    storage, server = attach(cache=ZeoCache(None, 100_000))
    load(storage, server, X, b"x", tid_of(1))
    server.close()
    again = readmit(fake, tid_of(5))
    again.reply(again.expect(GetInvalidations), None)
    again.reply(again.expect(GetInfo), INFO)
    wait_until(storage.is_connected)
    assert cached(storage, X) is None
    assert len(storage._cache) == 0
    assert "dropping the cache: the application's own cache cannot be verified" in caplog.text


def test_a_zeo_server_is_not_asked(
    fake: FakeServer, client: Open, caplog: pytest.LogCaptureFixture
) -> None:
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
    assert "dropping the cache: the server speaks ZEO's protocol" in caplog.text


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
    kept = 0

    def rule(passing: Passing) -> Action:
        if passing.direction is UP and passing.name == "verify_many":
            asked.release()
        return Action.PASS

    with (
        running_server(storage, invalidation_queue_size=2, invalidation_age=None) as server,
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
            # While it is verified: what is served is right, whatever has been found out by then.
            for oid in draw.sample(oids, 10):
                known, serial = reader.lastTransaction(), serials[oid]
                assert reader.load(oid)[1] >= serial or serial > known, "stale"
            release.result()
            wait_until(lambda: reader.lastTransaction() == storage.lastTransaction())
            verified(reader)
            for oid in oids:
                held = cached(reader, oid)
                if held is not None:
                    assert held[1] == serials[oid], "stale"
                    kept += 1
            for oid in oids:
                assert reader.load(oid)[1] == serials[oid]
        assert kept > 50


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
        running_server(storage, invalidation_queue_size=2, invalidation_age=None) as server,
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
        verified(reader)
        loads = server._services["1"].stats.loads
        for oid in oids:
            assert reader.load(oid)[0] == (
                b"new" if oids.index(oid) in range(0, 700, 7) else b"d" * 300
            )
        assert server._services["1"].stats.loads == loads + 100
        assert any(
            "3000 objects in the cache that were verified at" in r.getMessage()
            for r in caplog.records
        )

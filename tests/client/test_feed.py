"""The change feed: what it yields, what it raises, and how it ends."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage

import zeolith
from tests.client.conftest import Background
from tests.client.scripted import ScriptedServer
from tests.support.histories import Z64, commit, fill, listed
from tests.support.interrupts import interrupted_at
from tests.support.processes import free_port, running_server
from tests.support.proxy import DOWN, Action, Passing, Proxy
from tests.support.raw import RawClient, oid_of
from tests.support.waiting import promptly, wait_until
from zeolith.client import changes as changes_module
from zeolith.client import feed as feed_module
from zeolith.client import follower as follower_module
from zeolith.client.changes import PAGE, Change
from zeolith.client.channel import Channel
from zeolith.client.feed import ChangeFeed
from zeolith.client.follower import Follower
from zeolith.client.watcher import watch
from zeolith.errors import (
    ClientDisconnected,
    ClientStorageError,
    ConfigurationError,
    DatabaseRestored,
    HistoryLost,
    IllegalMessage,
    OtherDatabase,
    ServerBehindCache,
    ServerRefused,
)
from zeolith.protocol.additions import ChangesSince
from zeolith.protocol.hello import Database
from zeolith.types import NO_TID

X = oid_of(7)
NOWHERE = ("127.0.0.1", 1)
Follow = Callable[..., ChangeFeed]


@pytest.fixture
def follow(stack: ExitStack) -> Follow:
    def open_feed(address: Any, since: bytes | None = None, **keywords: Any) -> ChangeFeed:
        keywords.setdefault("min_disconnect_poll", 0.01)
        return stack.enter_context(zeolith.changes(address, since, **keywords))

    return open_feed


@pytest.fixture
def server(stack: ExitStack) -> Any:
    """A server in this process, of a storage in memory."""
    return stack.enter_context(running_server(MappingStorage()))


@pytest.fixture
def writer(server: Any, stack: ExitStack) -> RawClient:
    return stack.enter_context(RawClient(server.address))


def test_from_now_on(server: Any, writer: RawClient, follow: Follow) -> None:
    first = writer.commit({X: (Z64, b"before")})
    feed = follow(server.address)
    assert feed.position == first
    second = writer.commit({X: (first, b"x"), oid_of(3): (Z64, b"new")})
    assert next(feed) == Change(second, (oid_of(3), X))
    assert feed.position == second
    waiting = Background(next, feed)
    third = writer.commit({X: (second, b"x")})
    assert waiting.result() == (third, (X,))


def test_from_the_beginning_and_from_anywhere(
    server: Any, writer: RawClient, follow: Follow
) -> None:
    tids = [writer.commit({oid_of(number): (Z64, b"x")}) for number in range(20)]
    for since, expected in ((bytes(8), tids), (tids[4], tids[5:]), (tids[-1], [])):
        feed = follow(server.address, since, wait=False)
        assert feed.position == since
        assert [change.tid for change in feed] == expected
        assert feed.position == tids[-1]
        assert list(feed) == []


def test_the_position_is_that_of_the_last_change_handed_out(
    server: Any, writer: RawClient, follow: Follow
) -> None:
    """Also within a page: who notes it there and begins anew misses nothing."""
    tids = [writer.commit({oid_of(number): (Z64, b"x")}) for number in range(3)]
    feed = follow(server.address, bytes(8))
    positions = [feed.position]
    for _ in tids:
        next(feed)
        positions.append(feed.position)
    assert positions == [bytes(8), *tids]


def test_an_empty_database(server: Any, writer: RawClient, follow: Follow) -> None:
    assert list(follow(server.address, bytes(8), wait=False)) == []
    feed = follow(server.address, bytes(8))
    tid = writer.commit({X: (Z64, b"x")})
    assert next(feed).tid == tid


def test_without_waiting_it_ends_though_others_go_on(
    server: Any, writer: RawClient, follow: Follow
) -> None:
    tids = [writer.commit({oid_of(number): (Z64, b"x")}) for number in range(3)]
    feed = follow(server.address, bytes(8), wait=False)
    found = []
    for change in feed:
        found.append(change.tid)
        writer.commit({oid_of(100 + len(found)): (Z64, b"x")})
        assert len(found) < 10
    assert found[:3] == tids


def test_a_break_at_the_beginning_does_not_end_it(
    server: Any, writer: RawClient, follow: Follow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How far it has to go is known, and does not go with the connection."""
    tids = [writer.commit({oid_of(number): (Z64, b"x")}) for number in range(3)]
    wait = Follower.wait

    def wait_and_lose(self: Follower, known: bytes | None = None) -> Channel | None:
        monkeypatch.undo()
        channel = wait(self, known)
        assert channel is not None
        channel.close(ConnectionResetError("lost"))
        return channel

    monkeypatch.setattr(Follower, "wait", wait_and_lose)
    feed = follow(server.address, bytes(8), wait=False)
    assert [change.tid for change in feed] == tids


def test_it_needs_several_pages(server: Any, writer: RawClient, follow: Follow) -> None:
    count = 2 * PAGE + 10
    fill(server._services["1"].access.storage, 1)
    with running_server(filled(count)) as other:
        feed = follow(other.address, bytes(8), wait=False)
        found = list(feed)
        assert found == [tuple(e) for e in listed(other._services["1"].access.storage)]
        assert len(found) == count


def filled(count: int) -> MappingStorage:
    storage = MappingStorage()
    fill(storage, count)
    return storage


def test_it_tells_what_other_clients_of_any_kind_do(server: Any, follow: Follow) -> None:
    import transaction

    feed = follow(server.address)
    db = zeolith.DB(server.address)
    try:
        with db.transaction() as connection:
            connection.root()["a"] = connection.root().__class__()
        transaction.abort()
        created = next(feed)  # the root, by the database
        assert created.oids == (oid_of(0),)
        changed = next(feed)
        # The new object is among them (ZEO#160).
        assert len(changed.oids) == 2
        assert oid_of(0) in changed.oids
        assert changed.tid == db.lastTransaction()
    finally:
        db.close()


def test_a_transaction_of_many_objects(tmp_path: Path, follow: Follow) -> None:
    storage = FileStorage(str(tmp_path / "Data.fs"))
    oids = tuple(map(oid_of, range(200_000)))
    tid = commit(storage, *oids, data=b"d")
    last = commit(storage, X)
    with running_server(storage, invalidation_queue_size=0) as server:
        feed = follow(server.address, bytes(8), wait=False)
        assert list(feed) == [Change(tid, oids), Change(last, (X,))]


# -- breaks ------------------------------------------------------------------------------------


def test_it_goes_on_after_a_break_at_every_frame(tmp_path: Path, follow: Follow) -> None:
    """The connection is cut before, within and behind each frame of the server, one by one."""
    storage = FileStorage(str(tmp_path / "Data.fs"))
    fill(storage, 15)
    cuts: list[tuple[int, Action]] = [
        (number, action)
        for number in range(2, 8)
        for action in (Action.CUT, Action.CUT_WITHIN, Action.CUT_AFTER)
    ]
    pending: list[tuple[int, Action]] = []

    def rule(passing: Passing) -> Action:
        if pending and passing.direction is DOWN and passing.number == pending[0][0]:
            return pending.pop()[1]
        return Action.PASS

    with (
        running_server(storage, invalidation_queue_size=5) as server,
        Proxy(server.address, rule) as proxy,
        RawClient(server.address) as writer,
    ):
        feed = follow(proxy.address, bytes(8))
        found = [next(feed) for _ in range(15)]
        serial = Z64
        for cut in cuts:
            pending.append(cut)
            proxy.cut()
            for _ in range(4):
                serial = writer.commit({oid_of(777): (serial, b"x")})
            while found[-1].tid != serial:
                found.append(next(feed))
            pending.clear()
        assert [tuple(change) for change in found] == listed(storage)


def test_a_server_that_is_started_again(tmp_path: Path, follow: Follow) -> None:
    port = free_port()
    where = ("127.0.0.1", port)

    def serve() -> Any:
        storage = FileStorage(str(tmp_path / "Data.fs"))
        return running_server(storage, address=where, invalidation_queue_size=2)

    with serve(), RawClient(where) as writer:
        tids = [writer.commit({oid_of(number): (Z64, b"x")}) for number in range(5)]
        feed = follow(where, bytes(8))
        assert [next(feed).tid for _ in range(3)] == tids[:3]
    for turn in range(2):
        with serve(), RawClient(where) as writer:
            for number in range(5):
                tids.append(writer.commit({oid_of(100 + 10 * turn + number): (Z64, b"x")}))
    with serve():
        assert [next(feed).tid for _ in range(12)] == tids[3:]
        assert feed.position == tids[-1]


def test_no_server_is_an_error_in_time_and_does_not_end_it(
    server: Any, writer: RawClient, follow: Follow
) -> None:
    with Proxy(server.address) as proxy:
        feed = follow(proxy.address)
        # Not from the beginning: connecting may take longer.
        feed._follower._options = replace(feed._follower._options, wait_timeout=0.1)
        proxy.target = NOWHERE
        proxy.cut()
        for _ in range(2):
            with promptly(5), pytest.raises(ClientDisconnected, match="timed out waiting"):
                next(feed)
        tid = writer.commit({X: (Z64, b"x")})
        proxy.target = server.address
        wait_until(lambda: feed._follower._channel is not None)
        assert next(feed) == (tid, (X,))


def test_no_server_at_first(follow: Follow) -> None:
    with promptly(5), pytest.raises(ClientDisconnected, match=r"127\.0\.0\.1:1"):
        follow(NOWHERE, wait_timeout=0.1)


def test_a_defect_does_not_end_it(
    server: Any,
    writer: RawClient,
    follow: Follow,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its thread says so, and looks for a server again."""
    failures = [RuntimeError("a defect")]

    def watch_or_fail(*arguments: Any) -> None:
        if failures:
            raise failures.pop()
        watch(*arguments)

    monkeypatch.setattr(follower_module, "watch", watch_or_fail)
    feed = follow(server.address)
    tid = writer.commit({X: (Z64, b"x")})
    assert next(feed).tid == tid
    assert not failures
    (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert "a defect" in (record.exc_text or "")


def test_why_there_is_no_server_is_said_once(
    server: Any, follow: Follow, caplog: pytest.LogCaptureFixture
) -> None:
    with Proxy(server.address) as proxy:
        feed = follow(proxy.address, wait_timeout=0.2, max_disconnect_poll=0.01)
        proxy.is_refusing = True
        proxy.cut()
        with pytest.raises(ClientDisconnected):
            next(feed)
    said = [record for record in caplog.records if "no connection to" in record.getMessage()]
    warnings = {record.getMessage() for record in said if record.levelname == "WARNING"}
    assert 1 <= len(warnings) <= 3
    assert len([r for r in said if r.levelname == "WARNING"]) < 10


# -- what cannot be followed -------------------------------------------------------------------


def test_a_storage_that_is_not_there(server: Any, follow: Follow) -> None:
    with promptly(5), pytest.raises(ServerRefused, match="unknown storage: 'other'"):
        follow(server.address, storage="other")


def test_a_zeo_server(follow: Follow, stack: ExitStack) -> None:
    from tests.support.hosts import Hosts

    hosts = Hosts()
    stack.callback(hosts.close)
    zeo = hosts.start("zeo", {"1": "<mappingstorage>\n</mappingstorage>"})
    stack.callback(zeo.stop)
    with promptly(20), pytest.raises(ServerRefused, match="Zeolith's own protocol"):
        follow(zeo.address)


@pytest.fixture
def scripted(stack: ExitStack) -> Iterator[ScriptedServer]:
    found = ScriptedServer()
    yield found
    stack.close()
    found.close()


def scripted_tid(number: int) -> bytes:
    return number.to_bytes(8, "big")


def test_a_server_behind(scripted: ScriptedServer, follow: Follow) -> None:
    with promptly(5), pytest.raises(ServerBehindCache) as caught:
        follow(scripted.address, scripted_tid(11))
    assert caught.value.server_tid == scripted_tid(10)
    assert caught.value.cache_tid == scripted_tid(11)


@pytest.mark.parametrize(
    ("found", "error"),
    [
        (Database("other", 1), OtherDatabase),
        (Database("one", 2), DatabaseRestored),
        (Database("one", 1), None),
        (None, None),
    ],
)
def test_another_database_after_a_break(
    scripted: ScriptedServer, follow: Follow, found: Database | None, error: type[Exception] | None
) -> None:
    scripted.database = Database("one", 1)
    feed = follow(scripted.address)
    assert feed.database == ("one", 1)
    scripted.database = found
    scripted.last_tid = scripted_tid(12)
    scripted.drop_connections()
    if error is None:
        answer_once(scripted, 12)
        assert next(feed).tid == scripted_tid(12)
    else:
        with promptly(10), pytest.raises(error):
            next(feed)
        # And when the right one is back, it goes on.
        scripted.database = Database("one", 1)
        answer_once(scripted, 12)
        wait_until(lambda: feed._follower._channel is not None)
        assert next(feed).tid == scripted_tid(12)


def answer_once(scripted: ScriptedServer, number: int) -> None:
    oids = [(scripted_tid(number), X)]
    scripted.changes = {"changes": oids, "last": scripted_tid(number), "cut": False, "more": False}


def test_a_database_that_was_restored_and_is_ahead_again(
    scripted: ScriptedServer, follow: Follow
) -> None:
    """Between two runs of an application: who keeps the database with the position learns of it."""
    scripted.database = Database("one", 2)
    with promptly(10), pytest.raises(DatabaseRestored) as caught:
        follow(scripted.address, scripted_tid(3), database=Database("one", 1))
    assert (caught.value.found, caught.value.known) == (2, 1)
    with promptly(10), pytest.raises(OtherDatabase):
        follow(scripted.address, scripted_tid(3), database=("two", 2))
    feed = follow(scripted.address, scripted_tid(3), database=("one", 2))
    assert feed.database == ("one", 2)


def test_a_history_that_is_lost(follow: Follow) -> None:
    class Forgetful(MappingStorage):
        iterator = property()

    with (
        running_server(Forgetful(), invalidation_queue_size=1) as server,
        RawClient(server.address) as writer,
    ):
        feed = follow(server.address, bytes(8))
        first = writer.commit({X: (Z64, b"x")})
        second = writer.commit({X: (first, b"x")})
        with pytest.raises(HistoryLost) as caught:
            next(feed)
        assert (caught.value.since, caught.value.floor) == (bytes(8), first)
        assert next(follow(server.address, first)).tid == second


def test_an_answer_that_is_no_page(scripted: ScriptedServer, follow: Follow) -> None:
    feed = follow(scripted.address)
    scripted.changes = {"changes": 7}
    scripted.invalidate(11, X)
    with promptly(10), pytest.raises(IllegalMessage, match="no page"):
        next(feed)
    scripted.last_tid = scripted_tid(11)
    answer_once(scripted, 11)
    assert next(feed).tid == scripted_tid(11)


def test_a_question_that_costs_each_connection_its_life_is_not_repeated_for_ever(
    scripted: ScriptedServer, follow: Follow, monkeypatch: pytest.MonkeyPatch
) -> None:
    value = ScriptedServer._value

    def hang_up(self: ScriptedServer, sock: Any, peer: Any, request: Any) -> Any:
        if isinstance(request, ChangesSince):
            raise OSError("asked for changes")
        return value(self, sock, peer, request)

    monkeypatch.setattr(ScriptedServer, "_value", hang_up)
    feed = follow(scripted.address, bytes(8))
    feed._patience = 0.2  # with a server that is lost; one may take longer to connect to
    for _ in range(2):
        with promptly(10), pytest.raises(ClientDisconnected, match="lost"):
            next(feed)
    monkeypatch.undo()
    answer_once(scripted, 10)
    assert next(feed).tid == scripted_tid(10)


@pytest.mark.parametrize(
    ("keywords", "option"),
    [
        ({"since": "now"}, "since"),
        ({"since": b"short"}, "since"),
        ({"since": bytearray(8)}, "since"),
        ({"database": "one"}, "database"),
        ({"database": ("one",)}, "database"),
        ({"database": ("one", "1")}, "database"),
        ({"database": (1, 1)}, "database"),
        ({"storage": ""}, "storage"),
        ({"wait_timeout": -1}, "wait_timeout"),
        ({"client_label": 7}, "client_label"),
        ({"ssl": True}, "ssl"),
        ({"ssl_server_hostname": "x"}, "ssl_server_hostname"),
        ({"addr": "host:8100"}, "addr"),
    ],
)
def test_arguments_that_cannot_be_used(keywords: dict[str, Any], option: str) -> None:
    keywords.setdefault("addr", NOWHERE)
    with pytest.raises(ConfigurationError) as caught:
        zeolith.changes(**keywords)
    assert caught.value.option == option


# -- the end -----------------------------------------------------------------------------------


def test_closing_ends_whoever_waits(server: Any, follow: Follow) -> None:
    feed = follow(server.address)
    waiting = Background(list, feed)
    wait_until(lambda: feed._turn.locked())
    with promptly(5):
        feed.close()
        assert waiting.result() == []
    feed.close()
    assert list(feed) == []
    wait_until(lambda: not len(server._services["1"].publisher))


def test_closing_while_there_is_no_server(server: Any, follow: Follow) -> None:
    with Proxy(server.address) as proxy:
        feed = follow(proxy.address)
        proxy.target = NOWHERE
        proxy.cut()
        waiting = Background(list, feed)
        wait_until(lambda: feed._turn.locked())
        with promptly(5):
            feed.close()
            assert waiting.result() == []


def test_closing_while_a_page_is_on_its_way(
    scripted: ScriptedServer, follow: Follow, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed = follow(scripted.address)
    scripted.changes = None  # it does not answer
    waiting = Background(list, feed)
    scripted.invalidate(11, X)
    wait_until(lambda: "ChangesSince" in repr(scripted.requests.get(timeout=20)))
    with promptly(5):
        feed.close()
        assert waiting.result() == []


def test_what_is_ready_does_not_come_after_the_end(
    server: Any, writer: RawClient, follow: Follow
) -> None:
    for number in range(5):
        writer.commit({oid_of(number): (Z64, b"x")})
    feed = follow(server.address, bytes(8))
    next(feed)
    feed.close()
    assert list(feed) == []


def test_a_feed_that_is_forgotten_lets_go_of_its_connection(server: Any) -> None:
    feed = zeolith.changes(server.address)
    thread = weakref.ref(feed._follower._thread)
    assert len(server._services["1"].publisher) == 1
    del feed
    gc.collect()
    wait_until(lambda: not len(server._services["1"].publisher))
    wait_until(lambda: (found := thread()) is None or not found.is_alive())


def test_an_interrupt_at_any_step_costs_no_more_than_the_change_at_hand(
    server: Any, writer: RawClient
) -> None:
    """Ctrl-C within ``next``: pages are not lost, nobody waits for ever, and it can be closed."""
    modules = [feed_module, follower_module, changes_module]
    tids = [writer.commit({oid_of(number): (Z64, b"x")}) for number in range(6)]
    step, is_reached = 0, True
    while is_reached:
        step += 1
        with promptly(20), zeolith.changes(server.address, bytes(8), wait=False) as feed:
            found: list[bytes] = []

            def take(feed: ChangeFeed = feed, found: list[bytes] = found) -> None:
                found.append(next(feed).tid)

            is_reached = interrupted_at(step, take, modules)
            found += [change.tid for change in feed]
            lost = [tid for tid in tids if tid not in found]
            assert found == [tid for tid in tids if tid not in lost]
            # It was on its way to the caller.
            assert lost in ([], tids[:1])
            assert lost == [] or is_reached
    assert step > 30


def test_many_threads_may_share_one(server: Any, writer: RawClient, follow: Follow) -> None:
    feed = follow(server.address)
    found: list[Change] = []

    def take() -> None:
        for change in feed:
            found.append(change)

    threads = [Background(take) for _ in range(4)]
    tids = [writer.commit({oid_of(number): (Z64, b"x")}) for number in range(50)]
    wait_until(lambda: len(found) == 50)
    feed.close()
    for thread in threads:
        thread.result()
    assert sorted(change.tid for change in found) == tids


def test_a_child_cannot_use_its_parent_s_and_does_not_disturb_it(tmp_path: Path) -> None:
    from tests.support.processes import run_python

    printed = run_python(
        """
import os, sys, gc
import zeolith
from zeolith.errors import ClientStorageError
from tests.support.processes import running_server
from tests.support.raw import RawClient, oid_of, Z64
from ZODB.MappingStorage import MappingStorage

with running_server(MappingStorage()) as server:
    feed = zeolith.changes(server.address)
    pid = os.fork()
    if not pid:
        try:
            next(feed)
        except ClientStorageError as error:
            feed.close()
            del feed
            gc.collect()
            os._exit(7 if "another process" in str(error) else 8)
        os._exit(9)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    with RawClient(server.address) as writer:
        tid = writer.commit({oid_of(7): (Z64, b"x")})
    print(next(feed).tid == tid)
    feed.close()
"""
    )
    assert printed.split() == ["7", "True"]


def test_under_gevent_it_stops_no_other_greenlet(server: Any, writer: RawClient) -> None:
    from tests.support.processes import run_python

    tid = writer.commit({X: (Z64, b"x")})
    host, port = server.address
    printed = run_python(
        """
from gevent import monkey
monkey.patch_all()
import gevent, sys
import zeolith
from tests.support.raw import RawClient, oid_of, Z64

address = (sys.argv[1], int(sys.argv[2]))
with gevent.Timeout(20), zeolith.changes(address) as feed, RawClient(address) as writer:
    found = []
    following = gevent.spawn(lambda: [found.append(change.tid) for change in feed])
    tids = []
    for number in range(100, 120):
        tids.append(writer.commit({oid_of(number): (Z64, b"x")}))
        while len(found) < len(tids):
            gevent.sleep(0.001)
    assert found == tids
    feed.close()
    following.join()
print(len(found))
""",
        str(host),
        str(port),
    )
    assert printed == "20\n"
    assert len(list(zeolith.changes(server.address, tid, wait=False))) == 20


def test_errors_are_of_one_kind() -> None:
    """Who wants to go on after any of them needs one name."""
    for error in (ClientDisconnected, OtherDatabase, DatabaseRestored, ServerBehindCache):
        assert issubclass(error, ClientStorageError)
    assert issubclass(HistoryLost, ClientStorageError)
    assert str(DatabaseRestored(2, 1)).startswith("the database was restored from a backup")
    assert bytes(8).hex() in str(HistoryLost(bytes(8), NO_TID))

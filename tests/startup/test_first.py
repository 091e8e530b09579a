"""Applications that start together on an empty database: one initialises it, the others wait."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
import ZODB
from persistent.mapping import PersistentMapping
from tests.support.hosts import Hosts
from tests.support.processes import ServerProcess, running_server
from tests.support.waiting import Background, wait_until
from ZODB.DemoStorage import DemoStorage
from ZODB.MappingStorage import MappingStorage
from ZODB.POSException import ReadOnlyError

import zeolith
from zeolith.errors import ClientDisconnected, ConfigurationError
from zeolith.startup import FirstStart, first

STEPS = ("users", "hosting", "view")

OpenDB = Callable[..., Any]


@pytest.fixture(autouse=True)
def _brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first, "PAUSE", 0.01)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as found:
        yield found


@pytest.fixture
def address(stack: ExitStack) -> Any:
    """A server with an empty database."""
    return stack.enter_context(running_server(MappingStorage())).address


@pytest.fixture
def open_db(stack: ExitStack, address: Any) -> OpenDB:
    """Open a database at that server: ``open_db(**keywords of the client)``."""

    def opened(**keywords: Any) -> Any:
        db = zeolith.DB(address, wait_timeout=20, **keywords)
        stack.callback(closed, db)
        return db

    return opened


def closed(db: Any) -> None:
    """Close a database, which may be closed."""
    db.close()


def is_begun(root: Any) -> bool:
    return "app" in root


def is_done(root: Any) -> bool:
    return "app" in root and STEPS[-1] in root["app"]


def initialise(db: Any, until: str = "") -> None:
    """Do what applications do: look, add, commit, and again, without a thought of others."""
    with db.transaction() as connection:
        if "app" not in connection.root():
            connection.root()["app"] = PersistentMapping()
    for step in STEPS:
        with db.transaction() as connection:
            app = connection.root()["app"]
            if step not in app:
                app[step] = 1
        if step == until:
            return


def start(db: Any, together: threading.Barrier) -> bool:
    together.wait(20)
    with FirstStart(db, is_done) as is_ours:
        if is_ours:
            initialise(db)
    with db.transaction() as connection:
        assert is_done(connection.root())
    return is_ours


def start_together(stack: ExitStack, number: int, address: Any) -> list[object]:
    dbs = [zeolith.DB(address, wait_timeout=20) for _ in range(number)]
    for db in dbs:
        stack.callback(closed, db)
    together = threading.Barrier(number)
    starts = [Background(lambda db=db: start(db, together)) for db in dbs]  # type: ignore[misc]
    return [each.result() for each in starts]


def test_f_of_those_that_start_together_one_initialises_20_times_of_20() -> None:
    for _ in range(20):
        with ExitStack() as stack:
            server = stack.enter_context(running_server(MappingStorage()))
            assert sorted(map(bool, start_together(stack, 4, server.address))) == [
                *(False, False, False, True),
            ]


def test_who_finds_all_there_does_not_ask(open_db: OpenDB, address: Any) -> None:
    leader, db = open_db(), open_db()
    initialise(leader)
    assert leader.storage.take_lead()
    with FirstStart(db, is_done) as is_ours:
        assert not is_ours


def test_another_one_goes_on_where_the_first_was_lost(open_db: OpenDB) -> None:
    lost, db = open_db(), open_db(server_sync=True)
    begun = FirstStart(lost, is_done)
    assert begun.begin()
    initialise(lost, until=STEPS[0])
    other = Background(lambda: start(db, threading.Barrier(1)))
    lost.close()
    assert other.result() is True
    begun.end()  # which is no error, without a connection


def test_the_lead_is_given_back_after_an_error(open_db: OpenDB) -> None:
    failing, db = open_db(), open_db()

    def fail() -> None:
        with FirstStart(failing, is_done) as is_ours:
            assert is_ours
            raise LookupError

    with pytest.raises(LookupError):
        fail()
    assert db.storage.take_lead()


def test_the_lead_is_given_back_when_the_look_fails(open_db: OpenDB) -> None:
    failing, db = open_db(), open_db()
    answers = iter([False])
    # The second look, as the one that leads, finds no answer left.
    with pytest.raises(StopIteration):
        FirstStart(failing, lambda root: next(answers)).begin()
    assert db.storage.take_lead()


def test_the_lead_is_given_back_when_the_question_was_interrupted(
    open_db: OpenDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted, db = open_db(), open_db()
    ask = interrupted.storage.take_lead

    def ask_in_vain() -> bool:
        assert ask()
        raise KeyboardInterrupt

    monkeypatch.setattr(interrupted.storage, "take_lead", ask_in_vain)
    with pytest.raises(KeyboardInterrupt):
        FirstStart(interrupted, is_done).begin()
    assert db.storage.take_lead()


def test_a_look_leaves_nothing_behind(open_db: OpenDB) -> None:
    """Objects of applications may mend themselves as they are looked at."""
    db = open_db()

    def mends(root: Any) -> bool:
        root["mended"] = 1
        return True

    assert FirstStart(db, mends).begin() is False
    with db_root(db) as root:
        assert "mended" not in root


def test_without_another_question_one_that_must_not_waits_for_the_end(open_db: OpenDB) -> None:
    client, leader = open_db(), open_db()
    looks = threading.Semaphore(0)

    def looked(root: Any) -> bool:
        looks.release()
        return is_done(root)

    initialise(leader, until=STEPS[0])
    waiting = Background(lambda: FirstStart(client, looked, refusal="never").begin())
    for _ in range(3):
        assert looks.acquire(timeout=20)
    assert waiting.is_alive()
    initialise(leader)
    assert waiting.result() is False


def test_who_finds_it_done_as_the_leader_leads_no_more(open_db: OpenDB) -> None:
    late, db = open_db(), open_db()
    answers = iter([False, True, True])
    assert FirstStart(late, lambda root: next(answers)).begin() is False
    assert db.storage.take_lead()


def test_the_end_does_not_wait_for_a_server_that_is_away(tmp_path: Path) -> None:
    with ExitStack() as stack:
        path = str(tmp_path / "zeo.sock")
        server = stack.enter_context(ServerProcess(tmp_path / "server", socket_path=path))
        db = zeolith.DB(path, wait_timeout=1000)
        stack.callback(closed, db)
        begun = FirstStart(db, is_done)
        assert begun.begin()
        server.stop()
        wait_until(lambda: not db.storage.is_connected(), "the client has noticed")
        begun.end()


def test_one_that_must_not_goes_on_from_its_cache_while_the_server_is_down(tmp_path: Path) -> None:
    cache, path = str(tmp_path / "main.zec"), str(tmp_path / "zeo.sock")
    with (
        ServerProcess(tmp_path / "server", socket_path=path),
        closing(zeolith.DB(path, cache=cache)) as db,
    ):
        initialise(db, until=STEPS[0])
        with db_root(db) as root:
            assert not is_done(root)
    with closing(zeolith.DB(path, cache=cache, wait=False, wait_timeout=0.1)) as db:
        assert FirstStart(db, is_done, is_begun, "never").begin() is False
        # One that may initialise needs the server.
        with pytest.raises(ClientDisconnected):
            FirstStart(db, is_done, is_begun).begin()


def test_one_that_must_not_waits_and_says_how_to_go_on(
    open_db: OpenDB, caplog: pytest.LogCaptureFixture
) -> None:
    client, leader = open_db(server_sync=True), open_db()
    waiting = Background(lambda: FirstStart(client, is_done, is_begun, "press button 7").begin())
    wait_until(lambda: "press button 7" in caplog.text, "it says so")
    assert caplog.records[-1].levelno == logging.WARNING
    begun = FirstStart(leader, is_done)
    assert begun.begin()
    initialise(leader, until=STEPS[0])
    # The application is there, but somebody is still at it.
    with db_root(client) as root:
        assert is_begun(root)
    assert waiting.is_alive()
    initialise(leader)
    begun.end()
    assert waiting.result() is False


def db_root(db: Any) -> Any:
    """Return a context manager with the root object."""
    from contextlib import contextmanager

    @contextmanager
    def entered() -> Iterator[Any]:
        with db.transaction() as connection:
            yield connection.root()

    return entered()


def test_one_that_must_not_goes_on_with_what_is_begun_if_nobody_is_at_it(open_db: OpenDB) -> None:
    client, leader = open_db(), open_db()
    initialise(leader, until=STEPS[0])
    assert FirstStart(client, is_done, is_begun, "never").begin() is False
    assert leader.storage.take_lead()  # nor does it keep the lead


def test_one_that_must_not_waits_for_who_is_at_it(
    open_db: OpenDB, caplog: pytest.LogCaptureFixture
) -> None:
    client, leader = open_db(), open_db()
    initialise(leader, until=STEPS[0])
    assert leader.storage.take_lead()
    looks = threading.Semaphore(0)

    def begun(root: Any) -> bool:
        looks.release()
        return is_begun(root)

    waiting = Background(lambda: FirstStart(client, is_done, begun, "never").begin())
    for _ in range(3):
        assert looks.acquire(timeout=20)
    assert waiting.is_alive()
    # However often it has looked.
    assert caplog.text.count("waiting for another process: never") == 1
    leader.storage.give_lead()
    assert waiting.result() is False


@pytest.mark.parametrize("refusal", [None, "never"])
def test_who_waits_survives_a_restart_of_the_server(tmp_path: Path, refusal: str | None) -> None:
    with ExitStack() as stack:
        server = stack.enter_context(ServerProcess(tmp_path / "server"))
        leader, waiter = (zeolith.DB(server.address, wait_timeout=20) for _ in range(2))
        stack.callback(closed, leader)
        stack.callback(closed, waiter)
        initialise(leader, until=STEPS[0])
        assert leader.storage.take_lead()
        looks = threading.Semaphore(0)

        def looked(root: Any) -> bool:
            looks.release()
            return is_done(root)

        waiting = Background(lambda: FirstStart(waiter, looked, is_begun, refusal).begin())
        assert looks.acquire(timeout=20)
        assert looks.acquire(timeout=20)
        assert waiting.is_alive()
        server.stop()
        server.start()
        # The lead has ended with the connection: the next one goes on.
        assert waiting.result() is (refusal is None)


def test_a_client_that_may_only_read(open_db: OpenDB, address: Any) -> None:
    leader = open_db()
    initialise(leader, until=STEPS[0])
    reader = open_db(read_only=True)
    assert FirstStart(reader, is_done, is_begun, "it is read-only").begin() is False
    with pytest.raises(ReadOnlyError):
        FirstStart(reader, is_done, is_begun).begin()


def test_at_a_zeo_server_it_is_said_that_nobody_can_be_waited_for(
    stack: ExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    hosts = Hosts()
    stack.callback(hosts.close)
    server = hosts.start("zeo", {"1": "<mappingstorage>\n</mappingstorage>"})
    db = zeolith.DB(tuple(server.address), wait_timeout=20)
    stack.callback(closed, db)
    with FirstStart(db, is_done) as is_ours:
        assert is_ours
    assert "none of Zeolith's" in caplog.text
    assert "start one of them first" in caplog.text
    initialise(db, until=STEPS[0])
    assert FirstStart(db, is_done, is_begun, "never").begin() is False


def test_a_database_of_another_kind_is_refused() -> None:
    db = ZODB.DB(MappingStorage(), database_name="main")
    with pytest.raises(ConfigurationError, match=r"database 'main': .*MappingStorage") as caught:
        FirstStart(db, is_done)
    assert "<zeolith>" in caught.value.remedy
    db.close()


def test_what_a_demo_storage_is_based_on_does_not_count(address: Any) -> None:
    based = ZODB.DB(DemoStorage(base=zeolith.ClientStorage(address)))
    with pytest.raises(ConfigurationError):
        FirstStart(based, is_done)
    based.close()

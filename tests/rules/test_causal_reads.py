"""A transaction that a client has heard of elsewhere is waited for, through ZODB (rules R1, R3)."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import pytest
import ZODB
from tests.rules.conftest import Open, Serve
from tests.support.processes import running_server
from tests.support.proxy import DOWN, Proxy
from tests.support.waiting import Background, promptly, wait_until
from ZEO.ClientStorage import ClientStorage as ZeoClientStorage
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage

from zeolith import ClientStorage
from zeolith.errors import NotReached


def commit(db: Any, name: str, value: object) -> bytes:
    """Set an entry of the root; return the token that an application would hand on."""
    with db.transaction() as connection:
        connection.root()[name] = value
    token: bytes = db.storage.lastTransaction()
    return token


@pytest.fixture
def database(stack: ExitStack) -> Any:
    """Make databases that are closed at the end."""

    def make(storage: Any) -> Any:
        db = ZODB.DB(storage)
        stack.callback(db.close)
        return db

    return make


def test_two_clients_of_one_server(
    files: FileStorage, serve: Serve, client: Open, database: Any, loop: str
) -> None:
    server = serve(files, loop=loop)
    writing, reading = (database(client(server.address)) for _ in range(2))
    for value in range(30):
        token = commit(writing, "x", value)
        assert reading.storage.sync_to(token) >= token
        with reading.transaction() as connection:
            assert connection.root()["x"] == value


def test_a_connection_that_is_open_sees_it_with_its_next_transaction(
    files: FileStorage, serve: Serve, client: Open, database: Any
) -> None:
    server = serve(files)
    writing, reading = (database(client(server.address)) for _ in range(2))
    commit(writing, "x", 1)
    connection = reading.open()
    connection.sync()
    assert connection.root().get("x", 1) == 1
    token = commit(writing, "x", 2)
    reading.storage.sync_to(token)
    connection.sync()
    assert connection.root()["x"] == 2
    connection.close()


def test_many_threads_wait_for_others_commits(
    files: FileStorage, serve: Serve, client: Open, database: Any, loop: str
) -> None:
    server = serve(files, loop=loop)
    writing, reading = (database(client(server.address)) for _ in range(2))
    commit(writing, "x", -1)
    wanted = (int.from_bytes(writing.storage.lastTransaction()) + 1).to_bytes(8)

    def read() -> Any:
        reading.storage.sync_to(wanted, 20)
        with reading.transaction() as connection:
            return connection.root()["x"]

    waiting = [Background(read) for _ in range(8)]
    publisher = server._services["1"].publisher
    wait_until(lambda: len(publisher.waiters) == 8)
    commit(writing, "x", 7)
    assert [thread.result() for thread in waiting] == [7] * 8
    assert len(publisher.waiters) == 0


def test_a_client_waits_for_its_own_commit(
    files: FileStorage, serve: Serve, client: Open, database: Any
) -> None:
    """The server may name it to one thread before the thread that commits has its answer."""
    db = database(client(serve(files).address))
    for value in range(20):
        wanted = (int.from_bytes(db.storage.lastTransaction()) + 1).to_bytes(8)
        waiting = Background(lambda wanted=wanted: db.storage.sync_to(wanted, 20))  # type: ignore[misc]
        token = commit(db, "x", value)
        assert waiting.result() == token


def test_through_a_server_in_between(
    files: FileStorage, serve: Serve, client: Open, stack: ExitStack, database: Any, loop: str
) -> None:
    """What is committed above reaches the server below later: here the wait is a real one."""
    above = serve(files, loop=loop)
    proxy = stack.enter_context(Proxy(above.address))
    between = ClientStorage(proxy.address, wait_timeout=20)
    below = stack.enter_context(running_server(between, loop=loop))
    writing, reading = database(client(above.address)), database(client(below.address))
    token = commit(writing, "x", 1)
    assert reading.storage.sync_to(token, 20) >= token
    with reading.transaction() as connection:
        assert connection.root()["x"] == 1
    proxy.stall(DOWN)
    token = commit(writing, "x", 2)
    with reading.transaction() as connection:
        assert connection.root()["x"] == 1  # still
    with pytest.raises(NotReached) as caught:
        reading.storage.sync_to(token, 0.05)
    assert caught.value.tid == token > caught.value.last_tid
    waiting = Background(lambda: reading.storage.sync_to(token, 20))
    wait_until(lambda: len(below._services["1"].publisher.waiters) == 1)
    proxy.resume(DOWN)
    assert waiting.result() == token
    with reading.transaction() as connection:
        assert connection.root()["x"] == 2


def test_between_a_client_of_zeo_s_and_one_of_ours(
    mapping: MappingStorage, serve: Serve, client: Open, stack: ExitStack, database: Any
) -> None:
    """The token is a transaction's id, whoever committed it."""
    server = serve(mapping)
    zeo = ZeoClientStorage(server.address, wait_timeout=20)
    stack.callback(zeo.close)
    writing, reading = database(zeo), database(client(server.address))
    token = commit(writing, "x", 1)
    with promptly(10):
        reading.storage.sync_to(token)
    with reading.transaction() as connection:
        assert connection.root()["x"] == 1

"""R6 across the end of a process: a client starts with what its cache file holds, and is right."""

from __future__ import annotations

import logging
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import transaction
import ZODB
from persistent.mapping import PersistentMapping
from tests.rules.conftest import Open
from tests.support.processes import running_server
from tests.support.waiting import wait_until
from ZODB.FileStorage import FileStorage

import zeolith
from zeolith.client.events import StaleCache

APPLICATION = """
import sys, ZODB, zeolith
port, var, turn = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
db = ZODB.DB(zeolith.ClientStorage(port, client="app", var=var))
with db.transaction() as connection:
    root = connection.root()
    for n in range(200):
        if turn == 0:
            root[n] = connection.root().__class__({"value": n})
        else:
            assert root[n]["value"] == n
db.close()
"""


def run(code: str, *arguments: Any) -> None:
    subprocess.run([sys.executable, "-c", code, *map(str, arguments)], check=True, timeout=60)


def test_the_second_start_of_an_application_loads_nothing(tmp_path: Path) -> None:
    with running_server(FileStorage(str(tmp_path / "Data.fs"))) as server:
        port = server.address[1]
        loads = []
        for turn in range(4):
            before = server.status()["1"]["loads"]
            run(APPLICATION, port, tmp_path, turn)
            loads.append(server.status()["1"]["loads"] - before)
    # The first creates, and what it has committed is in its cache.
    assert loads[2:] == [0, 0], loads


@pytest.fixture
def server_storage(tmp_path: Path) -> Any:
    return FileStorage(str(tmp_path / "Data.fs"))


def test_what_has_changed_while_it_was_away_is_not_served(
    tmp_path: Path, server_storage: Any, client: Open
) -> None:
    keywords = {"client": "app", "var": str(tmp_path)}
    with running_server(server_storage) as server:
        db = ZODB.DB(client(server.address, **keywords))
        with db.transaction() as connection:
            for name in "abc":
                connection.root()[name] = PersistentMapping({"value": 1})
        with db.transaction() as connection:
            assert [connection.root()[name]["value"] for name in "abc"] == [1, 1, 1]
        db.close()
        other = ZODB.DB(client(server.address))
        with other.transaction() as connection:
            connection.root()["b"]["value"] = 2
        db = ZODB.DB(client(server.address, **keywords))
        before = server.status()["1"]["loads"]
        with db.transaction() as connection:
            assert [connection.root()[name]["value"] for name in "abc"] == [1, 2, 1]
        assert server.status()["1"]["loads"] - before == 1
        db.close()
        other.close()


def test_without_a_server_it_starts_and_reads_and_attaches_later(
    tmp_path: Path, client: Open, stack: ExitStack
) -> None:
    path = str(tmp_path / "Data.fs")
    keywords = {"client": "app", "var": str(tmp_path)}
    socket = str(tmp_path / "socket")
    with running_server(FileStorage(path), address=socket) as server:
        db = ZODB.DB(client(server.address, **keywords))
        with db.transaction() as connection:
            connection.root()["x"] = PersistentMapping({"value": 1})
        with db.transaction() as connection:
            assert connection.root()["x"]["value"] == 1
        db.close()
    storage = client(socket, wait=False, wait_timeout=0.05, max_disconnect_poll=0.1, **keywords)
    db = ZODB.DB(storage)
    with db.transaction() as connection:
        assert connection.root()["x"]["value"] == 1
    with running_server(FileStorage(path), address=socket):
        wait_until(storage.is_connected)
        other = ZODB.DB(client(socket))
        with other.transaction() as connection:
            connection.root()["x"]["value"] = 2
        storage.ping()
        with db.transaction() as connection:
            assert connection.root()["x"]["value"] == 2
        db.close()
        other.close()


def test_the_file_of_another_database_is_dropped(
    tmp_path: Path, client: Open, caplog: pytest.LogCaptureFixture
) -> None:
    keywords = {"client": "app", "var": str(tmp_path)}
    for name in ("first", "second"):
        caplog.clear()
        with running_server(FileStorage(str(tmp_path / name))) as server:
            db = ZODB.DB(client(server.address, **keywords))
            with db.transaction() as connection:
                assert "name" not in connection.root()
                connection.root()["name"] = name
            with db.transaction() as connection:
                assert connection.root()["name"] == name
            db.close()
    assert "what this client has seen comes from database" in caplog.text


def test_after_long_absence_what_is_current_is_kept(
    tmp_path: Path, client: Open, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "zeolith.client")
    keywords = {"client": "app", "var": str(tmp_path)}
    stale: list[object] = []
    with running_server(
        FileStorage(str(tmp_path / "Data.fs")), invalidation_queue_size=5, invalidation_age=None
    ) as server:
        db = ZODB.DB(client(server.address, **keywords))
        with db.transaction() as connection:
            for n in range(100):
                connection.root()[n] = PersistentMapping({"value": 0})
        with db.transaction() as connection:
            assert sum(connection.root()[n]["value"] for n in range(100)) == 0
        db.close()
        other = ZODB.DB(client(server.address))
        for n in range(20):
            with other.transaction() as connection:
                connection.root()[n]["value"] = 1
        ZODB.event.notify, notify = stale.append, ZODB.event.notify
        try:
            db = ZODB.DB(client(server.address, **keywords))
        finally:
            ZODB.event.notify = notify
        wait_until(lambda: len(db.storage._cache.suspects) == 0)
        before = server.status()["1"]["loads"]
        with db.transaction() as connection:
            assert sum(connection.root()[n]["value"] for n in range(100)) == 20
        assert server.status()["1"]["loads"] - before == 20
        db.close()
        other.close()
    assert not [event for event in stale if isinstance(event, StaleCache)]


def test_a_forked_child_has_a_cache_of_its_own(tmp_path: Path, client: Open) -> None:
    code = """
import os, sys, ZODB, zeolith
storage = zeolith.ClientStorage(int(sys.argv[1]), client="app", var=sys.argv[2])
db = ZODB.DB(storage)
with db.transaction() as connection:
    connection.root()["x"] = 1
pid = os.fork()
if pid == 0:
    storage.ping()
    with db.transaction() as connection:
        assert connection.root()["x"] == 1
        connection.root()["x"] = 2
    db.close()
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
storage.ping()
with db.transaction() as connection:
    assert connection.root()["x"] == 2
db.close()
"""
    with running_server(FileStorage(str(tmp_path / "Data.fs"))) as server:
        run(code, server.address[1], tmp_path)
        db = ZODB.DB(client(server.address, client="app", var=str(tmp_path)))
        with db.transaction() as connection:
            assert connection.root()["x"] == 2
        db.close()


def test_two_clients_of_one_name(tmp_path: Path, client: Open) -> None:
    with running_server(FileStorage(str(tmp_path / "Data.fs"))) as server:
        client(server.address, client="app", var=str(tmp_path))
        with pytest.raises(
            zeolith.errors.ConfigurationError, match="another storage of this process"
        ):
            client(server.address, client="app", var=str(tmp_path))
    transaction.abort()

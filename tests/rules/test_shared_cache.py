"""R6 among processes that share a cache: what one has loaded the others need not; all are right."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import ZODB
from persistent.mapping import PersistentMapping
from tests.rules.conftest import Open
from tests.support.hosts import Hosts
from tests.support.processes import running_server
from tests.support.waiting import wait_until
from ZODB.FileStorage import FileStorage

from zeolith.cache import SharedCache
from zeolith.client import watcher
from zeolith.types import MAX_TID, ROOT_OID

APPLICATION = """
import sys, ZODB, zeolith
port, var = int(sys.argv[1]), sys.argv[2]
storage = zeolith.ClientStorage(port, client="app", var=var, shared_cache=True)
db = ZODB.DB(storage)
print("ready", flush=True)
for line in sys.stdin:
    with db.transaction() as connection:
        root = connection.root()
        exec(line)
    print("done", flush=True)
db.close()
"""

CREATE = "root.update({n: root.__class__({'value': n}) for n in range(200)})"
READ = "assert [root[n]['value'] for n in range(200)] == list(range(200))"
SAVE = "storage._cache.save()"
LOOK = "storage._cache.look_around()"


class Application:
    """A process of its own that does what it is told, in a transaction each."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        assert self._read() == "ready\n"

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def do(self, *code: str) -> None:
        assert self._process.stdin is not None
        for line in code:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
            assert self._read() == "done\n", line

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


@contextmanager
def application(server: Any, var: Path) -> Iterator[Application]:
    with subprocess.Popen(
        [sys.executable, "-c", APPLICATION, str(server.address[1]), str(var)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield Application(process)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(30)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Any]:
    with running_server(FileStorage(str(tmp_path / "Data.fs"))) as server:
        yield server


def loads(server: Any) -> int:
    count: int = server.status()["1"]["loads"]
    return count


def test_the_second_and_third_process_load_nothing(tmp_path: Path, server: Any) -> None:
    with ExitStack() as stack:
        first = stack.enter_context(application(server, tmp_path))
        first.do(CREATE, READ, SAVE)
        before = loads(server)
        for _ in range(2):
            stack.enter_context(application(server, tmp_path)).do(READ)
        assert loads(server) == before
    assert len(list(tmp_path.glob("app-1.zec*.lock"))) == 3


def test_what_changes_while_they_run_is_seen_by_all(tmp_path: Path, server: Any) -> None:
    with ExitStack() as stack:
        first = stack.enter_context(application(server, tmp_path))
        first.do(CREATE, SAVE)
        second = stack.enter_context(application(server, tmp_path))
        second.do(READ)
        for turn in range(1, 30):
            first.do(f"root[{turn}]['value'] += 1000")
            if turn % 5 == 0:
                first.do(SAVE)
            if turn % 3 == 0:
                second.do(LOOK)
            second.do(
                "storage.ping()",
                f"assert [root[n]['value'] for n in range(200)] == "
                f"[n + (1000 if 1 <= n <= {turn} else 0) for n in range(200)]",
            )
        # As long as a process has not seen the others' new snapshot it loads what has changed.
        assert loads(server) <= 40


def test_what_a_killed_process_leaves_is_read_and_taken_over(tmp_path: Path, server: Any) -> None:
    with ExitStack() as stack:
        first = stack.enter_context(application(server, tmp_path))
        first.do(CREATE, READ, SAVE)
        with application(server, tmp_path) as second:
            second.do("root[5]['value'] = -1")
            first.kill()
            before = loads(server)
            second.do("assert sum(root[n]['value'] for n in range(200)) == 19900 - 6")
            assert loads(server) == before
        with application(server, tmp_path) as third:
            # It has the file of the one that was killed, and reads the other's.
            third.do("assert sum(root[n]['value'] for n in range(200)) == 19900 - 6")
        assert loads(server) - before <= 1
    assert len(list(tmp_path.glob("app-1.zec*.lock"))) == 2


def test_without_a_server_the_second_process_reads_what_the_first_has(
    tmp_path: Path, client: Open
) -> None:
    keywords = {"client": "app", "var": str(tmp_path), "shared_cache": True}
    socket = str(tmp_path / "socket")
    with running_server(FileStorage(str(tmp_path / "Data.fs")), address=socket):
        db = ZODB.DB(client(socket, **keywords))
        with db.transaction() as connection:
            connection.root()["x"] = PersistentMapping({"value": 1})
    db.storage._cache.save()
    late = client(socket, wait=False, wait_timeout=0.05, max_disconnect_poll=0.1, **keywords)
    other = ZODB.DB(late)
    with other.transaction() as connection:
        assert connection.root()["x"]["value"] == 1
    db.close()
    with running_server(FileStorage(str(tmp_path / "Data.fs")), address=socket):
        wait_until(late.is_connected)
        with other.transaction() as connection:
            connection.root()["x"]["value"] = 2
        db = ZODB.DB(client(socket, **keywords))
        with db.transaction() as connection:
            assert connection.root()["x"]["value"] == 2
        db.close()
        other.close()


def test_a_restored_database_is_not_mixed_with_what_others_hold(
    tmp_path: Path, client: Open
) -> None:
    """Another database at the same address, with the same objects."""
    keywords = {"client": "app", "var": str(tmp_path), "shared_cache": True}
    socket = str(tmp_path / "socket")
    opened = []
    for name in ("first", "second"):
        with running_server(FileStorage(str(tmp_path / name)), address=socket):
            db = ZODB.DB(client(socket, **keywords))
            opened.append(db)
            with db.transaction() as connection:
                assert "name" not in connection.root()
                connection.root()["name"] = name
            db.storage._cache.save()
            reader = ZODB.DB(client(socket, **keywords))
            with reader.transaction() as connection:
                assert connection.root()["name"] == name
            reader.close()
    for db in opened:
        db.close()


def test_the_watcher_sees_what_others_save(
    tmp_path: Path, server: Any, client: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watcher, "TENDING", 0.01)
    keywords = {
        "client": "app", "var": str(tmp_path), "shared_cache": True, "dead_server_timeout": 1,
    }  # fmt: skip
    writer, reader = (client(server.address, **keywords) for _ in range(2))
    db = ZODB.DB(writer)
    with db.transaction() as connection:
        connection.root()["x"] = 1
    cache = reader._cache
    assert isinstance(cache, SharedCache)
    reader.sync_to(writer.lastTransaction())
    before = loads(server)
    wait_until(lambda: cache.load_before(ROOT_OID, MAX_TID) is not None)
    assert loads(server) == before
    db.close()


def test_a_forked_child_reads_from_its_parents_file(tmp_path: Path, server: Any) -> None:
    code = """
import os, sys, ZODB, zeolith
storage = zeolith.ClientStorage(int(sys.argv[1]), client="app", var=sys.argv[2], shared_cache=True)
db = ZODB.DB(storage)
with db.transaction() as connection:
    connection.root().update({n: connection.root().__class__({"value": n}) for n in range(200)})
storage._cache.save()
db.cacheMinimize()
pid = os.fork()
if pid == 0:
    # Before it has a connection of its own.
    with db.transaction() as connection:
        assert [connection.root()[n]["value"] for n in range(200)] == list(range(200))
    assert storage.cache_stats().borrowed >= 200, storage.cache_stats().borrowed
    storage.ping()
    with db.transaction() as connection:
        connection.root()[7]["value"] = -7
    db.close()
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
storage.ping()
with db.transaction() as connection:
    assert connection.root()[7]["value"] == -7
db.close()
"""
    subprocess.run(
        [sys.executable, "-c", code, str(server.address[1]), str(tmp_path)], check=True, timeout=60
    )
    assert len(list(tmp_path.glob("app-1.zec*.lock"))) == 1


def test_after_a_long_absence_what_others_know_is_read(tmp_path: Path, client: Open) -> None:
    """What we hold ourselves is not known to be current; what a sibling has saved since is."""
    keywords = {"client": "app", "var": str(tmp_path), "shared_cache": True}
    with running_server(
        FileStorage(str(tmp_path / "Data.fs")), invalidation_queue_size=5, invalidation_age=None
    ) as server:
        first, second = (ZODB.DB(client(server.address, **keywords)) for _ in range(2))
        with first.transaction() as connection:
            for n in range(40):
                connection.root()[n] = PersistentMapping({"value": 0})
        second.storage.sync_to(first.storage.lastTransaction())
        with second.transaction() as connection:
            assert sum(connection.root()[n]["value"] for n in range(40)) == 0
        second.close()
        for n in range(20):
            with first.transaction() as connection:
                connection.root()[n]["value"] = 1
        first.storage._cache.save()
        before = loads(server)
        second = ZODB.DB(client(server.address, **keywords))
        with second.transaction() as connection:
            assert sum(connection.root()[n]["value"] for n in range(40)) == 20
        assert loads(server) == before
        with first.transaction() as connection:
            connection.root()[30]["value"] = 1
        second.storage.sync_to(first.storage.lastTransaction())
        with second.transaction() as connection:
            assert sum(connection.root()[n]["value"] for n in range(40)) == 21
        second.close()
        first.close()


def test_a_server_of_zeos_is_not_enough(
    tmp_path: Path, client: Open, caplog: pytest.LogCaptureFixture
) -> None:
    keywords = {"client": "app", "var": str(tmp_path), "shared_cache": True}
    with closing(Hosts()) as hosts:
        server = hosts.start("zeo", {"1": "<mappingstorage>\n</mappingstorage>"})
        first, second = (ZODB.DB(client(server.address, **keywords)) for _ in range(2))
        with first.transaction() as connection:
            connection.root()["x"] = 1
        first.storage._cache.save()
        second.storage._cache.look_around()
        # The answer to another call would not do: a server of ZEO's may send it before what tells
        # of the commit.
        tid = first.storage.lastTransaction()
        wait_until(lambda: second.storage.lastTransaction() == tid)
        with second.transaction() as connection:
            assert connection.root()["x"] == 1
        assert second.storage.cache_stats().borrowed == 0
        first.close()
        second.close()
    assert caplog.text.count("not shared: the server does not say which database it has") == 2

"""Class F of the known failures: what was reproduced on ZEO 6.2 and is in no rule's file."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Any

import pytest
import ZODB
from tests.rules.conftest import Open, Serve
from tests.rules.writers import Writers, verify
from tests.support.processes import ServerProcess, child_environment, is_listening
from tests.support.raw import Z64, RawClient, connect, oid_of
from tests.support.waiting import Background, promptly
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage

import zeolith


@pytest.mark.parametrize("kind", ["mapping", "file"])
@pytest.mark.parametrize("at_client", [False, True])
def test_f_applications_started_together_on_an_empty_database(
    tmp_path: Path, serve: Serve, kind: str, at_client: bool
) -> None:
    """On ZEO one of two dies with a conflict over the root object."""
    storage: Any = MappingStorage() if kind == "mapping" else FileStorage(str(tmp_path / "D.fs"))
    server = serve(storage, client_conflict_resolution=at_client)
    together = threading.Barrier(4)

    class Late(zeolith.ClientStorage):
        """Finds out together with the others that there is no root."""

        is_first = True

        def loadBefore(self, oid: bytes, tid: bytes) -> Any:  # noqa: N802 - ZODB's name
            try:
                return super().loadBefore(oid, tid)
            finally:
                if self.is_first:
                    self.is_first = False
                    together.wait(20)

    def start() -> Any:
        opened = Late(server.address, server_sync=True)
        try:
            return ZODB.DB(opened)
        except BaseException:
            opened.close()
            raise

    starts = [Background(start) for _ in range(4)]
    databases: list[Any] = []
    failures = []
    for item in starts:
        try:
            databases.append(item.result())
        except Exception as error:  # noqa: BLE001 - all of them are shown below
            failures.append(error)
    try:
        assert failures == []
        for number, db in enumerate(databases):
            with db.transaction() as connection:
                connection.root()[number] = number
        with databases[0].transaction() as connection:
            assert sorted(connection.root()) == [0, 1, 2, 3]
    finally:
        for db in databases:
            db.close()


@pytest.mark.parametrize("kind", ["mapping", "file"])
@pytest.mark.parametrize("is_in_use", [False, True])
def test_f_an_application_finds_the_database_just_created(
    tmp_path: Path, serve: Serve, kind: str, is_in_use: bool
) -> None:
    """Its snapshot is older than the root object: to ZODB that looks like a deleted object."""
    storage: Any = MappingStorage() if kind == "mapping" else FileStorage(str(tmp_path / "D.fs"))
    server = serve(storage)
    others: list[Any] = []

    class Overtaken(zeolith.ClientStorage):
        """Somebody else creates the database between its snapshot and its first load."""

        def loadBefore(self, oid: bytes, tid: bytes) -> Any:  # noqa: N802 - ZODB's name
            if not others:
                others.append(zeolith.DB(server.address, server_sync=True))
                if is_in_use:
                    with others[0].transaction() as connection:
                        connection.root()["first"] = 1
            return super().loadBefore(oid, tid)

    opened = Overtaken(server.address)
    try:
        db = ZODB.DB(opened)
    except BaseException:
        opened.close()
        others[0].close()
        raise
    try:
        with db.transaction() as connection:
            connection.root()["second"] = 2
        with others[0].transaction() as connection:
            assert connection.root()["second"] == 2
            assert connection.root().get("first") == (1 if is_in_use else None)
    finally:
        db.close()
        others[0].close()


@pytest.mark.parametrize("turn", range(3))
def test_f_sigterm_under_load(tmp_path: Path, turn: int) -> None:
    """On ZEO 7 of 16 stops did not end, others ended in tracebacks."""
    server = ServerProcess(tmp_path / "server")
    with server:
        writers = Writers(server.address, 4, seed=turn)
        writers.wait_acknowledged(20 + 10 * turn)
        with promptly(8):
            assert server.stop() == 0
        writers.stop()
        assert server.tracebacks() == []
        server.start()
        verify(server.address, writers)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_f_a_signal_while_idle(tmp_path: Path, number: signal.Signals) -> None:
    server = ServerProcess(tmp_path / "server")
    with server:
        with RawClient(server.address) as client, connect(server.address):
            client.ping()
            server.signal(number)
            with promptly(8):
                assert server.wait() == 0
        assert server.tracebacks() == []


def test_f_a_voter_does_not_hold_up_the_stop(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path / "server")
    with server, RawClient(server.address) as client:
        client.begin()
        client.store(oid_of(1), b"x")
        client.vote()
        with promptly(8):
            assert server.stop() == 0
        server.start()
        with RawClient(server.address) as after:
            after.commit({oid_of(1): (Z64, b"y")})


def test_f_the_port_in_use_is_said_clearly(tmp_path: Path) -> None:
    import subprocess
    import sys

    with ServerProcess(tmp_path / "first") as server:
        host, port = server.address
        done = subprocess.run(
            [sys.executable, "-m", "zeolith", "serve", "-a", f"{host}:{port}", "-f", "Other.fs"],
            cwd=tmp_path,
            env=child_environment(),
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.returncode != 0
        assert str(port) in done.stderr
        assert "Traceback" not in done.stderr
        assert is_listening(server.address)


def test_f_a_locked_file_is_said_clearly(tmp_path: Path) -> None:
    import subprocess
    import sys

    with ServerProcess(tmp_path / "first"):
        done = subprocess.run(
            [sys.executable, "-m", "zeolith", "serve", "-a", "127.0.0.1:0", "-f", "Data.fs"],
            cwd=tmp_path / "first",
            env=child_environment(),
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.returncode != 0
        assert "Data.fs" in done.stderr
        assert "Traceback" not in done.stderr


def test_f_a_new_client_works_after_a_time_out(tmp_path: Path, client: Open) -> None:
    """The configured time-out of a real server, and a client of ours behind it."""
    server = ServerProcess(tmp_path / "server", config="transaction-timeout 1")
    with server, RawClient(server.address) as silent:
        silent.begin()
        silent.store(oid_of(1), b"x")
        silent.vote()
        with promptly(15):
            db = ZODB.DB(client(server.address))
            db.close()
        silent.wait_closed()

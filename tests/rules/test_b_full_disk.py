"""Class B of the known failures: a full disk, in a real server with real clients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
import ZODB
from tests.rules.conftest import Open
from tests.support.processes import ServerProcess
from tests.support.waiting import Background, promptly, wait_until
from ZODB.FileStorage import FileStorage
from ZODB.POSException import ConflictError, StorageError

from zeolith.errors import ClientDisconnected, NotCommitted
from zeolith.protocol.greeting import Greeting

CUSTOMIZE = """\
import errno, os, resource, sys

def narrow():
    import ZODB.FileStorage

    module = sys.modules["ZODB.FileStorage.FileStorage"]  # the package has a class of that name
    fsync = module.fsync

    def full_fsync(descriptor):
        if os.path.exists("full"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "Data.fs")
        fsync(descriptor)

    module.fsync = full_fsync
    finish = module.FileStorage.tpc_finish

    def refusing_finish(storage, transaction, f=None):
        if os.path.exists("refuse"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "Data.fs")
        return finish(storage, transaction, f)

    module.FileStorage.tpc_finish = refusing_finish
    if os.path.exists("hasty"):
        from zeolith.server import recovery

        recovery.SHORTEST_DELAY = 0.1

if "zeolith" in sys.orig_argv:
    if os.path.exists("limit"):
        limit = int(open("limit").read())
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    narrow()
"""
"""What a server's interpreter runs first.

While there is a file ``full`` in its directory, FileStorage cannot bring commits to disk; while
there is a file ``refuse`` it cannot write their last byte; no file grows larger than the file
``limit`` says.  Where there is a file ``hasty``, storages are opened again sooner than usual.
"""


@pytest.fixture
def process(
    tmp_path: Path, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ServerProcess]:
    """A server on a disk that is full when the test says so; it is not running yet."""
    customize = tmp_path / "customize"
    customize.mkdir()
    (customize / "sitecustomize.py").write_text(CUSTOMIZE)
    monkeypatch.syspath_prepend(str(customize))
    found = ServerProcess(tmp_path / "server")
    yield found
    found.kill()


class Application:
    """A process's worth of a ZODB application: one database, one connection at a time."""

    def __init__(self, storage: Any) -> None:
        self.storage = storage
        self.database = ZODB.DB(storage)

    def commit(self, key: str, value: object) -> None:
        """Commit, again if the other application was quicker."""
        while True:
            try:
                with self.database.transaction() as connection:
                    connection.root()[key] = value
                return
            except ConflictError:
                continue

    def read(self) -> dict[str, object]:
        with self.database.transaction() as connection:
            return dict(connection.root())

    def wait_connected(self) -> None:
        """Wait until the server answers.  Reading from caches does not need it."""

        def answers() -> bool:
            try:
                self.storage.ping()
            except ClientDisconnected:
                return False
            return True

        wait_until(answers)

    def wait_for(self, expected: dict[str, object]) -> None:
        """Wait until the application has heard of the latest commits."""
        wait_until(lambda: self.read() == expected)


@pytest.fixture
def application(client: Open, stack: ExitStack) -> Callable[..., Application]:
    def connect(process: ServerProcess) -> Application:
        found = Application(client(process.address))
        stack.callback(found.database.close)
        return found

    return connect


def saved(process: ServerProcess) -> dict[str, object]:
    """Return what the stopped server's file holds."""
    storage = FileStorage(str(process.directory / "Data.fs"), read_only=True)
    with closing(ZODB.DB(storage)) as database, database.transaction() as connection:
        return dict(connection.root())


@pytest.fixture(params=["own", "M5"])
def is_own(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether clients and servers speak Zeolith's own protocol, not ZEO's."""
    if request.param == "M5":
        monkeypatch.setattr(Greeting, "version", None)
    return bool(request.param == "own")


@pytest.mark.parametrize("failure", ["full", "refuse"])
def test_b_r4_a_full_disk_in_finish(
    process: ServerProcess, application: Callable[..., Application], is_own: bool, failure: str
) -> None:
    """The clients find their way back by themselves, and nothing that was acknowledged is lost.

    In Zeolith's own protocol the client learns what became of the transaction.
    """
    (process.directory / "hasty").touch()
    process.start()
    writer, reader = application(process), application(process)
    writer.commit("a", 1)
    reader.wait_for({"a": 1})
    full = process.directory / failure
    for number in range(2):
        full.touch()
        committed = None
        with promptly():
            try:
                writer.commit("b", number)
                committed = True
            except StorageError as error:
                assert "No space left on device" in str(error)  # noqa: PT017
                committed = False if isinstance(error, NotCommitted) else None
        # All is written when the disk is asked to flush.
        assert committed is ((failure == "full") if is_own else None)
        full.unlink()
        for app in (writer, reader):
            app.wait_connected()
        # What became of the commit is the same for all.
        found = writer.read()
        assert found["a"] == 1
        assert (found.get("b") == number) is (failure == "full")
        assert reader.read() == found
        reader.commit("c", number)
        writer.commit("b", "known again")
        expected = {"a": 1, "b": "known again", "c": number}
        for app in (writer, reader):
            app.wait_for(expected)
    log = process.log()
    assert log.count("CRITICAL zeolith") == 2
    assert log.count("storage '1' is in service again") == 2
    process.kill()
    process.start()
    assert writer.read() == reader.read() == expected
    assert process.stop() == 0
    assert saved(process) == expected


def test_b_a_disk_that_stays_full(
    process: ServerProcess, application: Callable[..., Application]
) -> None:
    """Reading goes on between the attempts; stopping the server is a clean end."""
    process.start()
    writer = application(process)
    writer.commit("a", 1)
    (process.directory / "refuse").touch()
    for number in range(2):
        with pytest.raises(NotCommitted, match="No space left on device"):
            writer.commit("b", number)
        writer.wait_connected()
        assert writer.read()["a"] == 1
    assert "will be opened again in 2 s" in process.log()
    committing = Background(lambda: writer.commit("b", 2))
    wait_until(lambda: "will be opened again in 4 s" in process.log())
    with promptly(10):
        assert process.stop() == 0
    process.start()
    with pytest.raises(NotCommitted, match="No space left on device"):
        committing.result()


def test_b_a_full_disk_in_vote(
    process: ServerProcess, application: Callable[..., Application]
) -> None:
    """Nothing has happened: the transaction fails, whoever has a smaller one succeeds."""
    (process.directory / "limit").write_text(str(1 << 20))
    process.start()
    writer, reader = application(process), application(process)
    writer.commit("a", 1)
    for _ in range(2):
        with promptly(), pytest.raises(StorageError, match="File too large"):
            writer.commit("b", b"x" * (1 << 21))
        reader.wait_for({"a": 1})
        reader.commit("a", 1)
    writer.commit("c", 2)
    reader.wait_for({"a": 1, "c": 2})
    assert "out of service" not in process.log()
    assert process.stop() == 0
    assert saved(process) == {"a": 1, "c": 2}

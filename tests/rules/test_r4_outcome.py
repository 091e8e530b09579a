"""R4: whoever loses the connection in a commit learns what became of it."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import transaction
import ZODB
from persistent.mapping import PersistentMapping
from tests.rules.conftest import Open, Serve
from tests.support.processes import ServerProcess
from tests.support.proxy import DOWN, UP, Action, Direction, Passing, Proxy, pass_all
from tests.support.raw import Z64, RawClient, RemoteFault, oid_of
from tests.support.waiting import Background, promptly, wait_until
from ZODB.Connection import TransactionMetaData
from ZODB.FileStorage import FileStorage

from zeolith import ClientStorage
from zeolith.client.bloblayout import UPLOAD_SUFFIX
from zeolith.errors import ClientDisconnected, NotCommitted, OutcomeUnknown
from zeolith.server.outcomelog import RECORD_SIZE

RECORD = b"cZODB.blob\nBlob\n."

FINISH_SIZE = 4 + 17
REPLY_SIZE = 4 + 33
"""Bytes of the frames around a commit."""


class Cut:
    """The rule that cuts once, after that many bytes of the first frame of that name.

    :param name: as :attr:`.Passing.name`; of answers only the one to a ``tpc_finish`` counts.
    """

    def __init__(self, direction: Direction, name: str, size: int) -> None:
        self._what = direction, name
        self._size = size
        self._is_finishing = False
        self.is_done = False
        self.frame_size = 0

    def __call__(self, passing: Passing) -> Action | int:
        if passing.name == "tpc_finish":
            self._is_finishing = True
        if self.is_done or not self._is_finishing or passing[0] is not self._what[0]:
            return Action.PASS
        if passing.name != self._what[1]:
            return Action.PASS
        self.is_done = True
        self.frame_size = passing.size
        return self._size


class End(NamedTuple):
    """How a commit ended for the application.

    :ivar told: the ids that the database was told of.
    """

    result: bytes | Exception
    told: list[bytes]


def commit(storage: ClientStorage, oid: bytes, data: bytes, source: Path | None = None) -> End:
    """Commit one object, and a blob if there is a source for it."""
    meta = TransactionMetaData()
    told: list[bytes] = []
    storage.tpc_begin(meta)
    try:
        if source is None:
            storage.store(oid, Z64, data, "", meta)
        else:
            source.write_bytes(data)
            storage.storeBlob(oid, Z64, RECORD, str(source), "", meta)
        storage.tpc_vote(meta)
        return End(storage.tpc_finish(meta, told.append), told)
    except (NotCommitted, OutcomeUnknown) as error:
        return End(error, told)
    finally:
        with promptly(5):
            storage.tpc_abort(meta)


def check_truth(end: End, tid: bytes | None, storage: ClientStorage) -> None:
    """Check that the application was told what is the case.

    :param tid: the transaction that is in the database, None if there is none.
    """
    if tid is None:
        assert isinstance(end.result, NotCommitted), end
        assert end.told == []
    else:
        assert end == End(tid, [tid])
        assert storage.lastTransaction() >= tid


def tid_of_object(raw: RawClient, oid: bytes) -> bytes | None:
    try:
        tid: bytes = raw.load(oid)[1]
    except RemoteFault as fault:
        if not fault.name.endswith("POSKeyError"):
            raise
        return None
    return tid


PLACES = [
    *((UP, "tpc_finish", size) for size in range(FINISH_SIZE + 1)),
    *((DOWN, ".reply", size) for size in range(REPLY_SIZE + 1)),
]


@pytest.mark.parametrize("with_blob", [False, True])
def test_r4_a_cut_at_every_byte_around_a_commit(
    files: FileStorage, serve: Serve, client: Open, tmp_path: Path, with_blob: bool
) -> None:
    server = serve(files)
    blobs = tmp_path / "client"
    with Proxy(server.address) as proxy, RawClient(server.address) as raw:
        storage = client(
            proxy.address, blob_dir=str(blobs), min_disconnect_poll=0.001, wait_timeout=20
        )
        results = []
        for number, (direction, name, size) in enumerate(PLACES, 1):
            rule = proxy.rule = Cut(direction, name, size)
            oid, data = oid_of(number), b"%d" % number
            source = tmp_path / "source" if with_blob else None
            with promptly(10):
                end = commit(storage, oid, data, source)
            assert rule.is_done, name
            assert rule.frame_size == (FINISH_SIZE if direction is UP else REPLY_SIZE)
            proxy.rule = pass_all
            tid = tid_of_object(raw, oid)
            check_truth(end, tid, storage)
            results.append(tid is not None)
            # Nothing that the break has left is in the way, and the cache holds nothing wrong.
            if tid is None:
                with promptly(10):
                    again = commit(storage, oid, data, source)
                assert isinstance(again.result, bytes)
                tid = again.result
            assert storage.load(oid) == (RECORD if with_blob else data, tid)
            if with_blob:
                assert Path(storage.loadBlob(oid, tid)).read_bytes() == data
        assert not [path for path in blobs.rglob("*") if UPLOAD_SUFFIX in path.name]
        # The server has forgotten all of them, too.
        storage.ping()
        wait_until(lambda: not server._services["1"].outcomes._live)
    # A request that came in parts did not come; after that everything was committed.
    assert results == [False] * FINISH_SIZE + [True] * (1 + REPLY_SIZE + 1)


@pytest.mark.parametrize("name", ["tpc_finish", ".reply"])
def test_r4_with_zodb_on_top(files: FileStorage, serve: Serve, client: Open, name: str) -> None:
    """What was committed unseen is as good as anything else; others may have changed it since."""
    server = serve(files)
    with Proxy(server.address) as proxy, ExitStack() as stack:
        unlucky, other = (ZODB.DB(client(a)) for a in (proxy.address, server.address))
        for db in (unlucky, other):
            stack.callback(db.close)
        manager = transaction.TransactionManager()
        connection = unlucky.open(manager)
        stack.callback(connection.close)
        root = connection.root()
        root["a"] = PersistentMapping(n=0)
        manager.commit()
        for number in range(1, 4):
            root["a"]["n"] = number
            gate = Cut(UP if name == "tpc_finish" else DOWN, name, 0)
            proxy.rule = gate
            if name == "tpc_finish":
                with pytest.raises(NotCommitted):
                    manager.commit()
                manager.abort()
                assert root["a"]["n"] == 10 * (number - 1)
                root["a"]["n"] = number
            # Retried, or committed although the answer was lost.
            manager.commit()
            assert gate.is_done
            assert root["a"]["n"] == number
            wait_until(lambda: other.storage.lastTransaction() >= unlucky.storage.lastTransaction())
            with other.transaction() as there:
                assert there.root()["a"]["n"] == number
                there.root()["a"]["n"] = 10 * number
            unlucky.storage.ping()
            manager.begin()
            assert root["a"]["n"] == 10 * number


def test_r4_a_read_only_server_that_stands_in_is_not_believed(
    files: FileStorage, serve: Serve, client: Open, tmp_path: Path
) -> None:
    """It serves the same file, but does not write it: the client waits for the one that does."""
    server = serve(files)
    reader = serve(FileStorage(str(tmp_path / "Data.fs"), read_only=True))
    with Proxy(server.address) as proxy, RawClient(server.address) as raw:
        storage = client(
            [proxy.address, reader.address],
            read_only_fallback=True,
            min_disconnect_poll=0.01,
            max_disconnect_poll=0.05,
        )
        wait_until(lambda: not storage.isReadOnly(), "the writable server is taken")
        cut = Cut(DOWN, ".reply", 0)

        def cut_for_a_while(passing: Passing) -> Action | int:
            action = cut(passing)
            proxy.is_refusing = cut.is_done
            return action

        proxy.rule = cut_for_a_while
        committing = Background(lambda: commit(storage, oid_of(1), b"data"))
        wait_until(lambda: storage.isReadOnly() and storage.is_connected(), "the other is taken")
        assert committing.is_alive()
        proxy.rule = pass_all
        proxy.is_refusing = False
        end = committing.result()
        assert isinstance(end, End)
        check_truth(end, tid_of_object(raw, oid_of(1)), storage)
        assert isinstance(end.result, bytes)


# -- the server is killed ----------------------------------------------------------------------

CUSTOMIZE = """\
import os, sys

def arm():
    import ZODB.FileStorage
    from zeolith.server.outcomelog import OutcomeLog

    module = sys.modules["ZODB.FileStorage.FileStorage"]  # the package has a class of that name

    def killed(name, function):
        def wrapper(*args):
            step("before " + name)
            function(*args)
            step("after " + name)

        return wrapper

    def step(name):
        if os.path.exists("step") and open("step").read() == name:
            os.unlink("step")
            os.kill(os.getpid(), 9)

    OutcomeLog.committed = killed("the record", OutcomeLog.committed)
    module.fsync = killed("fsync", module.fsync)

if "zeolith" in sys.orig_argv:
    arm()
"""
"""What a server's interpreter runs first: it is killed at the step that the file ``step`` names."""


@pytest.fixture
def process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ServerProcess]:
    """A server that is killed at a step of a commit; it is not running yet."""
    customize = tmp_path / "customize"
    customize.mkdir()
    (customize / "sitecustomize.py").write_text(CUSTOMIZE)
    monkeypatch.syspath_prepend(str(customize))
    found = ServerProcess(tmp_path / "server")
    yield found
    found.kill()


def commit_and_kill(
    process: ServerProcess,
    storage: ClientStorage,
    oid: bytes,
    step: str,
    before_start: Callable[[], object] = lambda: None,
) -> End:
    """Commit, while the server is killed at that step and started again."""
    (process.directory / "step").write_text(step)
    committing = Background(lambda: commit(storage, oid, b"data"))
    process.wait()
    before_start()
    process.start()
    end = committing.result()
    assert isinstance(end, End)
    return end


def test_r4_kill_9_at_every_step_of_a_commit(process: ServerProcess, client: Open) -> None:
    process.start()
    storage = client(process.address, wait_timeout=30, max_disconnect_poll=0.1)
    found = []
    for number, step in enumerate(
        ("before the record", "after the record", "before fsync", "after fsync"), 1
    ):
        end = commit_and_kill(process, storage, oid_of(number), step)
        with RawClient(process.address) as raw:
            tid = tid_of_object(raw, oid_of(number))
        check_truth(end, tid, storage)
        found.append(tid is not None)
    assert found == [False, False, True, True]


def test_r4_what_a_power_failure_took_is_not_guessed(process: ServerProcess, client: Open) -> None:
    """The file has lost its end, the database has not."""
    process.start()
    storage = client(process.address, wait_timeout=30, max_disconnect_poll=0.1)
    outcomes = process.directory / "Data.fs.outcomes"

    def lose_end() -> None:
        os.truncate(outcomes, outcomes.stat().st_size - RECORD_SIZE)

    end = commit_and_kill(process, storage, oid_of(1), "after fsync", lose_end)
    assert isinstance(end.result, OutcomeUnknown)
    assert "does not go back that far" in str(end.result)
    assert end.told == []
    # What comes after that is known again.
    end = commit_and_kill(process, storage, oid_of(2), "after fsync")
    assert isinstance(end.result, bytes)


class Writer:
    """A thread that commits through a client storage of its own until it is stopped.

    :ivar storage: that one.
    :ivar ends: how the commits ended that came as far as ``tpc_finish``, by object id.
    """

    def __init__(self, storage: ClientStorage, number: int) -> None:
        self.storage = storage
        self._number = number
        self._is_stopped = False
        self.ends: dict[bytes, End] = {}
        self.thread = Background(self._run)

    def _run(self) -> None:
        for number in count(1):
            if self._is_stopped:
                return
            oid = oid_of(1_000_000 * self._number + number)
            try:
                self.ends[oid] = commit(self.storage, oid, b"%d" % number)
            except ClientDisconnected:
                self.storage.ping()

    def stop(self) -> None:
        self._is_stopped = True
        self.thread.result(60)


class Writers:
    """Three of them.

    :ivar all: each.
    """

    def __init__(self, client: Open, address: Any) -> None:
        self.all = [
            Writer(client(address, wait_timeout=60, max_disconnect_poll=0.1), number)
            for number in range(1, 4)
        ]

    def wait_done(self, count: int) -> None:
        """Wait until that many commits more have ended, in whichever way."""
        wanted = self._done() + count
        wait_until(lambda: self._done() >= wanted)

    def _done(self) -> int:
        return sum(len(writer.ends) for writer in self.all)

    def stop_and_compare(self, address: Any) -> tuple[int, int]:
        """Check that everybody was told the truth; return how many were committed, and not."""
        for writer in self.all:
            writer.stop()
        committed = refused = 0
        with RawClient(address) as raw:
            for writer in self.all:
                for oid, end in writer.ends.items():
                    tid = tid_of_object(raw, oid)
                    check_truth(end, tid, writer.storage)
                    committed += tid is not None
                    refused += tid is None
        return committed, refused


@pytest.mark.parametrize(
    "rounds", [3, pytest.param(40, marks=[pytest.mark.long, pytest.mark.timeout(900)])]
)
def test_r4_breaks_anywhere(files: FileStorage, serve: Serve, client: Open, rounds: int) -> None:
    """Connections are cut at any byte of any message, many times, under load."""
    server = serve(files)
    generator = random.Random(rounds)

    def cut_now_and_then(passing: Passing) -> Action | int:
        return generator.randrange(passing.size + 1) if generator.random() < 0.02 else Action.PASS

    with Proxy(server.address) as proxy:
        writers = Writers(client, proxy.address)
        proxy.rule = cut_now_and_then
        for _ in range(rounds):
            writers.wait_done(50)
        proxy.rule = pass_all
        committed, refused = writers.stop_and_compare(server.address)
    assert committed > 10 * rounds
    assert refused >= rounds // 10
    assert len(proxy.links) > 3 + rounds
    wait_until(lambda: not server._services["1"].outcomes._live)


def kill_and_compare(process: ServerProcess, client: Open, kills: int) -> tuple[int, int, int]:
    """Kill the server in the middle of commits; return how many ended how, and the lost answers."""
    generator = random.Random(1)
    process.start()
    writers = Writers(client, process.address)
    for _ in range(kills):
        writers.wait_done(generator.randrange(3, 40))
        process.kill()
        process.start()
    committed, refused = writers.stop_and_compare(process.address)
    return committed, refused, process.log().count("whose end it has not seen")


def test_r4_kill_9_in_the_middle_of_commits(process: ServerProcess, client: Open) -> None:
    committed, _, _ = kill_and_compare(process, client, 4)
    assert committed > 10


@pytest.mark.long
@pytest.mark.timeout(900)
def test_r4_kill_9_in_the_middle_of_many_commits(
    process: ServerProcess, client: Open, capsys: pytest.CaptureFixture[str]
) -> None:
    committed, refused, asked = kill_and_compare(process, client, 60)
    assert asked > 10
    with capsys.disabled():
        print(f" {committed} committed, {refused} not, {asked} of which the client had to ask")

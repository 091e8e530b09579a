"""Conflicts resolved by a server: in its process, in one of their own, or not at all."""

from __future__ import annotations

import logging
import os
import pickle
import signal
import subprocess
import threading
import time
from base64 import encodebytes
from binascii import hexlify, unhexlify
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.server.conftest import Connect, Serve
from tests.support import conflicting
from tests.support.conflicting import (
    Counter,
    Note,
    Parent,
    Stuck,
    missing_record,
    nameless_record,
    record_of,
    state_of,
)
from tests.support.processes import ServerProcess, is_running
from tests.support.raw import Z64, RawClient, RemoteFault, oid_of
from tests.support.waiting import promptly, wait_until
from ZODB.ConflictResolution import ConflictResolvingStorage
from ZODB.DemoStorage import DemoStorage
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage
from ZODB.POSException import ConflictError
from ZODB.serialize import referencesf
from ZODB.tests.hexstorage import HexStorage

from zeolith.protocol import messages as m
from zeolith.server.quarantine import MOST_OF_CLASS
from zeolith.server.resolverprocess import ResolverProcess
from zeolith.server.resolvers import InWorker

OID = oid_of(1)
COUNTER = oid_of(2)
ERROR = "ZODB.POSException.ConflictError"


def provoke(client: RawClient, record: Callable[[dict[str, Any]], bytes], **state: Any) -> None:
    """Bring an object into conflict; what is left to do is to ask for the vote."""
    first = client.commit({OID: (_serial(client, OID), record({**state, "value": 1}))})
    client.tid = client.commit({OID: (first, record({**state, "value": 10}))})
    client.begin()
    client.store(OID, record({**state, "value": 100}), first)


def counted(client: RawClient, oid: bytes = COUNTER) -> dict[str, Any]:
    """Have a conflict of a counter resolved; return its state."""
    first = client.commit({oid: (_serial(client, oid), record_of(Counter, {"value": 1}))})
    client.commit({oid: (first, record_of(Counter, {"value": 10}))})
    client.begin()
    client.store(oid, record_of(Counter, {"value": 100}), first)
    assert client.vote() == [oid]
    client.finish()
    state: dict[str, Any] = state_of(current(client, oid)[0])
    assert state["value"] == 109
    return state


def current(client: RawClient, oid: bytes) -> tuple[bytes, bytes]:
    """Return record and tid of an object."""
    client.inbox.clear()  # or an earlier answer to the same question would be found
    client.taken = 0
    record, tid, _ = client.load(oid)
    return record, tid


def _serial(client: RawClient, oid: bytes) -> bytes:
    try:
        return current(client, oid)[1]
    except RemoteFault:
        return Z64


def refused(client: RawClient) -> RemoteFault:
    """Vote, and return the conflict."""
    with pytest.raises(RemoteFault) as caught:
        client.vote()
    assert caught.value.name == ERROR
    assert caught.value.details["oid"] == OID
    return caught.value


def resolver_of(server: Any) -> InWorker:
    found = server._services["1"].resolver
    assert isinstance(found, InWorker)
    return found


def worker_of(server: Any) -> int:
    process = resolver_of(server)._process
    assert process is not None
    return process.pid


def pid_in(path: Path) -> int:
    """Return the process id that somebody is going to write to that file."""
    wait_until(path.exists, f"somebody writes {path.name}")
    return int(path.read_text())


def counters(server: Any) -> tuple[int, int, int]:
    """Return resolutions, those that failed, and workers lost."""
    found = server.statistics()["1"]
    return found["resolutions"], found["failed_resolutions"], found["resolver_restarts"]


def is_ended(pid: int) -> bool:
    return not is_running(pid)


# -- where conflicts are resolved --------------------------------------------------------------


def test_in_a_worker_by_default(files: FileStorage, serve: Serve, raw: Connect, loop: str) -> None:
    server = serve(files, loop=loop)
    client = raw(server.address)
    pid = counted(client)["pid"]
    assert pid != os.getpid()
    assert pid == worker_of(server)
    # It stays for the next one.
    assert counted(client)["pid"] == pid
    assert counters(server) == (2, 0, 0)
    assert server.status()["1"]["conflicts_resolved"] == 2
    server.stop()
    wait_until(lambda: is_ended(pid), "the worker ends with the server")


def test_in_the_server(files: FileStorage, serve: Serve, raw: Connect) -> None:
    server = serve(files, conflict_resolution="in-process")
    client = raw(server.address)
    assert counted(client)["pid"] == os.getpid()
    provoke(client, lambda state: record_of(Note, state))
    refused(client)
    assert counters(server) == (1, 1, 0)


def test_nowhere(files: FileStorage, serve: Serve, raw: Connect, tmp_path: Path) -> None:
    server = serve(files, conflict_resolution="off")
    client = raw(server.address)
    for record in (
        lambda state: record_of(Counter, state),
        lambda state: nameless_record(tmp_path / "ran"),
        lambda state: pickle.dumps(conflicting.Payload(tmp_path / "ran"), 3),
    ):
        provoke(client, record)
        error = refused(client)
        assert next(iter(error.details["serials"])) == client.tid
        assert not (tmp_path / "ran").exists()
    assert "resolutions" not in server.statistics()["1"]


@pytest.mark.parametrize("mode", ["worker", "in-process", "off"])
def test_e_a_conflict_runs_nothing_in_a_server_that_resolves_nothing_itself(
    mapping: MappingStorage, serve: Serve, raw: Connect, tmp_path: Path, mode: str
) -> None:
    """MappingStorage never resolves; ZODB unpickled the record nevertheless, to name its class."""
    client = raw(serve(mapping, conflict_resolution=mode).address)
    provoke(client, lambda state: nameless_record(tmp_path / "ran"))
    refused(client)
    assert not (tmp_path / "ran").exists()


def test_e_what_a_record_runs_it_runs_in_the_worker(
    files: FileStorage, serve: Serve, raw: Connect, tmp_path: Path
) -> None:
    server = serve(files)
    client = raw(server.address)
    provoke(client, lambda state: nameless_record(tmp_path / "ran"))
    refused(client)
    assert pid_in(tmp_path / "ran") == worker_of(server)


def test_an_undo(files: FileStorage, serve: Serve, raw: Connect) -> None:
    server = serve(files)
    client = raw(server.address)
    tids = [Z64]
    for value in (1, 2, 4):
        tids.append(client.commit({OID: (tids[-1], record_of(Counter, {"value": value}))}))
    client.begin()
    client.send(m.Undo(encodebytes(tids[2]).rstrip(), 1))
    client.vote()
    client.finish()
    state = state_of(client.load(OID)[0])
    assert state == {"value": 3, "pid": worker_of(server)}
    assert counters(server) == (1, 0, 0)


def test_records_that_a_wrapper_changes(tmp_path: Path, serve: Serve, raw: Connect) -> None:
    """The worker gets them as ZODB pickled them."""
    base = FileStorage(str(tmp_path / "hex.fs"))
    server = serve(HexStorage(base))
    client = raw(server.address)
    assert counted(client)["pid"] == worker_of(server)
    kept = base.load(COUNTER)[0]
    assert kept.startswith(b".h")
    assert state_of(unhexlify(kept[2:]))["value"] == 109


def test_a_wrapper_that_does_not_know_a_record(
    tmp_path: Path, serve: Serve, raw: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    base = FileStorage(str(tmp_path / "hex.fs"))
    server = serve(HexStorage(base))
    client = raw(server.address)
    provoke(client, lambda state: record_of(Counter, state))
    whole = base.loadSerial
    base.loadSerial = lambda oid, serial: b".h" + hexlify(whole(oid, serial)[2:])[:-1]
    refused(client)
    assert "its states cannot be read: " in caplog.text
    base.loadSerial = whole
    counted(client)


def test_a_demo_storage(tmp_path: Path, serve: Serve, raw: Connect) -> None:
    base = FileStorage(str(tmp_path / "base.fs"))
    server = serve(DemoStorage(base=base))
    assert counted(raw(server.address))["pid"] == worker_of(server)


class _Late(MappingStorage):
    """Resolves in its vote, with an object that is not the storage, as RelStorage does."""

    def __init__(self) -> None:
        super().__init__()
        self._late: list[tuple[bytes, bytes, bytes, bytes]] = []

    def store(self, oid: bytes, serial: bytes, data: bytes, version: str, meta: Any) -> None:
        found = self._data.get(oid)
        current = found.maxKey() if found else Z64
        if current != serial:
            self._late.append((oid, current, serial, data))
            serial = current
        super().store(oid, serial, data, version, meta)

    def tpc_vote(self, meta: Any) -> list[bytes]:
        super().tpc_vote(meta)
        late, self._late = self._late, []

        for oid, committed, read, data in late:
            resolver = ConflictResolvingStorage()
            resolver.loadSerial = self.loadSerial
            resolved = resolver.tryToResolveConflict(oid, committed, read, data)
            super().store(oid, committed, resolved, "", meta)
        return [entry[0] for entry in late]


@pytest.mark.parametrize("mode", ["worker", "in-process"])
def test_storages_that_resolve_with_another_object(serve: Serve, raw: Connect, mode: str) -> None:
    server = serve(_Late(), conflict_resolution=mode)
    pid = counted(raw(server.address))["pid"]
    assert pid == (os.getpid() if mode == "in-process" else worker_of(server))


def test_storages_that_resolve_with_another_object_may_not(serve: Serve, raw: Connect) -> None:
    client = raw(serve(_Late(), conflict_resolution="off").address)
    provoke(client, lambda state: record_of(Counter, state))
    refused(client)


# -- what does not go well ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("Exiting", "ended with status 5"),
        ("Crashing", "was ended by signal 11"),
        ("Hungry", "needed more than 268435456 bytes of memory"),
        ("Babbling", "gave an answer that is none"),
        ("Stuck", "did not answer within 0.5 s"),
    ],
)
def test_a_class_that_ends_the_worker(
    files: FileStorage,
    serve: Serve,
    raw: Connect,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    name: str,
    reason: str,
) -> None:
    """It costs one ConflictError, and the next conflict finds another worker."""
    timeout = 0.5 if name == "Stuck" else 60.0
    server = serve(files, conflict_resolution_memory=256 << 20, conflict_resolution_timeout=timeout)
    client, other = raw(server.address), raw(server.address)
    before = counted(client)["pid"]
    cls = getattr(conflicting, name)
    provoke(client, lambda state: record_of(cls, state), path=str(tmp_path / "pid"))
    error = refused(client)
    assert error.details["class_name"] == f"tests.support.conflicting.{name}"
    assert f"object {OID.hex()} (class tests.support.conflicting.{name})" in caplog.text
    assert reason in caplog.text
    assert is_ended(before)
    other.commit({oid_of(9): (Z64, b"x")})
    assert counted(client)["pid"] not in (before, os.getpid())
    assert counters(server) == (2, 1, 1)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("Raising", "KeyError: 'a fault of the application'"),
        ("Quitting", "SystemExit: 6"),
        ("Deep", "RecursionError"),
        ("Note", ""),
        ("", "class no_such_module.NoSuchClass cannot be imported"),
    ],
)
def test_a_class_that_does_not_resolve(
    files: FileStorage,
    serve: Serve,
    raw: Connect,
    caplog: pytest.LogCaptureFixture,
    name: str,
    reason: str,
) -> None:
    """The worker stays; only faults are errors for the log."""
    server = serve(files)
    client = raw(server.address)
    before = counted(client)["pid"]
    if name:
        cls = getattr(conflicting, name)
        provoke(client, lambda state: record_of(cls, state))
    else:
        provoke(client, missing_record)
    refused(client)
    errors = [record.getMessage() for record in caplog.records if record.levelno > logging.INFO]
    if reason:
        (text,) = errors
        assert reason in text
        assert not name or f"class tests.support.conflicting.{name}" in text
    else:
        assert not errors
    assert counted(client)["pid"] == before
    assert counters(server) == (2, 1, 0)


def test_a_state_that_was_packed_away(
    files: FileStorage, serve: Serve, raw: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    server = serve(files)
    client = raw(server.address)
    provoke(client, lambda state: record_of(Counter, state))
    files.pack(time.time() + 1, referencesf, gc=False)
    refused(client)
    assert not [record for record in caplog.records if record.levelno > logging.INFO]


def test_a_result_that_is_too_large(files: FileStorage, serve: Serve, raw: Connect) -> None:
    """R8: it is refused before the server takes memory for it."""
    server = serve(files)
    resolver_of(server)._start = lambda: ResolverProcess(1 << 30, 100_000)
    client = raw(server.address)
    provoke(client, lambda state: record_of(conflicting.Large, state), size=100_000)
    refused(client)
    provoke(client, lambda state: record_of(conflicting.Large, state), size=90_000)
    assert client.vote() == [OID]


def test_a_class_is_left_alone_after_some_times(
    files: FileStorage, serve: Serve, raw: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    server = serve(files)
    client = raw(server.address)
    for number in range(MOST_OF_CLASS + 2):
        provoke(client, lambda state: record_of(conflicting.Exiting, state))
        refused(client)
        assert counters(server) == (0, number + 1, min(number + 1, MOST_OF_CLASS))
    assert caplog.text.count("ended with status 5") == MOST_OF_CLASS
    assert "no conflict of class tests.support.conflicting.Exiting is tried" in caplog.text
    counted(client)


# -- a worker that is killed -------------------------------------------------------------------


def test_others_go_on_while_one_is_stuck(
    files: FileStorage, serve: Serve, raw: Connect, tmp_path: Path, loop: str
) -> None:
    """And a worker that is killed in the middle costs one ConflictError."""
    server = serve(files, loop=loop, conflict_resolution_timeout=100.0)
    client, other = raw(server.address), raw(server.address)
    provoke(client, lambda state: record_of(Stuck, state), path=str(tmp_path / "pid"))
    msgid = client.ask(m.Vote(1))
    pid = pid_in(tmp_path / "pid")
    with promptly():
        other.ping()
        assert other.load(OID)
        other.begin()
        other.store(oid_of(9), b"x")
        waiting = other.ask(m.Vote(1))
        wait_until(lambda: server.status()["1"]["waiting"] == 1, "it waits for its turn")
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(RemoteFault, match="ConflictError"):
            client.answer(msgid)
        other.answer(waiting)
        other.finish()
    counted(client)


def test_an_idle_worker_that_is_killed_costs_nothing(
    files: FileStorage, serve: Serve, raw: Connect
) -> None:
    server = serve(files)
    client = raw(server.address)
    pid = counted(client)["pid"]
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), "it is dead and buried")
    assert counted(client)["pid"] not in (pid, os.getpid())
    assert counters(server) == (2, 0, 1)


def test_a_worker_that_is_killed_while_it_starts(
    files: FileStorage, serve: Serve, raw: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    server = serve(files)
    resolver = resolver_of(server)
    start = resolver._start

    def start_and_kill() -> ResolverProcess:
        process = start()
        os.kill(process.pid, signal.SIGKILL)
        resolver._start = start
        return process

    resolver._start = start_and_kill
    client = raw(server.address)
    provoke(client, lambda state: record_of(Counter, state))
    refused(client)
    assert "was ended by signal 9" in caplog.text
    counted(client)


def test_there_can_be_no_worker(
    files: FileStorage, serve: Serve, raw: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    server = serve(files)
    resolver = resolver_of(server)
    start = resolver._start

    def fail() -> ResolverProcess:
        raise OSError("no more processes")

    resolver._start = fail
    client = raw(server.address)
    provoke(client, lambda state: record_of(Counter, state))
    refused(client)
    assert "cannot be started: no more processes" in caplog.text
    resolver._start = start
    counted(client)


def test_there_can_be_no_thread_for_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Any] = []
    popen = subprocess.Popen

    def remember(*arguments: Any, **options: Any) -> Any:
        started.append(popen(*arguments, **options))
        return started[-1]

    def fail(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(subprocess, "Popen", remember)
    monkeypatch.setattr(threading.Thread, "start", fail)
    with pytest.raises(OSError, match="can't start new thread"):
        ResolverProcess(1 << 30, 1 << 20)
    assert started[0].returncode is not None
    assert started[0].stdin.closed


def test_r9_the_worker_has_no_file_of_the_server(
    files: FileStorage, serve: Serve, raw: Connect, tmp_path: Path
) -> None:
    """No socket that listens, no database, no lock: also none that other programs are to inherit,
    as what systemd hands over."""
    server = serve(files)
    with open(tmp_path / "inherited", "w") as inherited:
        os.set_inheritable(inherited.fileno(), True)
        counted(raw(server.address))
        directory = Path(f"/proc/{worker_of(server)}/fd")
        found = sorted(os.readlink(each).partition(":")[0] for each in directory.iterdir())
    assert found == ["/dev/null", "/dev/null", "pipe", "socket"]


def test_what_a_class_starts_ends_with_the_worker(
    files: FileStorage, serve: Serve, raw: Connect, tmp_path: Path
) -> None:
    server = serve(files, conflict_resolution_timeout=3.0)
    client = raw(server.address)
    provoke(client, lambda state: record_of(Parent, state), path=str(tmp_path / "pid"))
    msgid = client.ask(m.Vote(1))
    child = pid_in(tmp_path / "pid")
    with pytest.raises(RemoteFault, match="ConflictError"):
        client.answer(msgid)
    wait_until(lambda: is_ended(child), "it ends")


def test_the_server_stops_while_one_is_stuck(
    files: FileStorage, serve: Serve, raw: Connect, tmp_path: Path
) -> None:
    server = serve(files, conflict_resolution_timeout=100.0, shutdown_grace=0.1)
    client = raw(server.address)
    provoke(client, lambda state: record_of(Stuck, state), path=str(tmp_path / "pid"))
    client.ask(m.Vote(1))
    pid = pid_in(tmp_path / "pid")
    with promptly(10):
        server.stop()
        wait_until(lambda: not Path(f"/proc/{pid}").exists(), "nothing is left of it")


@pytest.mark.parametrize("is_busy", [False, True], ids=["idle", "busy"])
def test_a_server_that_is_killed_leaves_no_worker(tmp_path: Path, is_busy: bool) -> None:
    with ServerProcess(tmp_path / "server") as server, RawClient(server.address) as client:
        if is_busy:
            provoke(client, lambda state: record_of(Parent, state), path=str(tmp_path / "pid"))
            client.ask(m.Vote(1))
            pid = pid_in(tmp_path / "pid")  # of what the worker has started
        else:
            pid = counted(client)["pid"]
        server.kill()
        wait_until(lambda: is_ended(pid), "the worker ends")


def test_the_working_directory_is_nobodys_code(
    files: FileStorage,
    serve: Serve,
    raw: Connect,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A module there does not take the place of one that the worker imports."""
    directory = tmp_path / "anybody"
    directory.mkdir()
    for name in ("fcntl", "resource", "tests", "ZODB"):
        (directory / f"{name}.py").write_text("raise SystemExit('not this one')")
    server = serve(files)
    monkeypatch.chdir(directory)
    counted(raw(server.address))


# -- one transaction's time --------------------------------------------------------------------


class _FakeProcess:
    """Needs a second for each answer."""

    pid = 1

    def __init__(self, clock: Callable[[], float]) -> None:
        self.asked: list[float] = []

    def is_usable(self) -> bool:
        return True

    def ask(self, request: Any, seconds: float, clock: Any) -> Any:
        from zeolith.server.resolverwire import Kind

        self.asked.append(seconds)
        return (Kind.RESOLVED, b"done"), 1.0

    def kill(self) -> int:
        return 0

    def close(self) -> None:
        return None


def test_r7_each_transaction_has_its_own_time(
    files: FileStorage, serve: Serve, raw: Connect
) -> None:
    server = serve(files)
    client = raw(server.address)
    counted(client)
    resolver_of(server)._left = 0.0
    counted(client)


class _Failing(_FakeProcess):
    """Has classes that raise what somebody has chosen."""

    def ask(self, request: Any, seconds: float, clock: Any) -> Any:
        from zeolith.server.resolverwire import Kind

        return (Kind.FAILED, b"Traceback\nCRITICAL the disk is full\rERROR so is this"), 0.0


class _Storage(ConflictResolvingStorage):
    def loadSerial(self, oid: bytes, serial: bytes) -> bytes:  # noqa: N802 - ZODB's name
        return b"state"


def test_r7_the_conflicts_of_a_transaction_share_its_time(
    caplog: pytest.LogCaptureFixture,
) -> None:
    from zeolith.server.conflicts import Conflict

    process = _FakeProcess(time.monotonic)
    resolver = InWorker("1", lambda: process, 3.0)  # type: ignore[arg-type,return-value]
    storage = _Storage()
    conflict = Conflict(storage, storage.tryToResolveConflict, OID, b"2" * 8, b"1" * 8, b"new", b"")
    for turn in (1, 2):
        resolver.begin()
        process.asked.clear()
        for _ in range(3):
            assert resolver(conflict) == b"done"
        assert process.asked == [3.0, 2.0, 1.0]
        for _ in range(2):
            with pytest.raises(ConflictError):
                resolver(conflict)
        assert len(process.asked) == 3
        assert caplog.text.count("has used up its time") == turn
    resolver.close()
    with pytest.raises(ConflictError):
        resolver(conflict)


def test_r8_conflicts_do_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    from zeolith.server.conflicts import Conflict

    now = 1000.0
    failing = _Failing(time.monotonic)
    resolver = InWorker("1", lambda: failing, 3.0, lambda: now)  # type: ignore[arg-type,return-value]
    storage = _Storage()
    conflict = Conflict(storage, storage.tryToResolveConflict, OID, b"2" * 8, b"1" * 8, b"new", b"")

    def fail(times: int) -> None:
        for _ in range(times):
            resolver.begin()
            with pytest.raises(ConflictError):
                resolver(conflict)

    fail(10)
    assert len(caplog.records) == 10
    fail(15)
    assert len(caplog.records) == 10
    now += 59.9
    fail(1)
    assert len(caplog.records) == 10
    now += 0.1
    fail(1)
    rest, last = (record.getMessage().splitlines()[0] for record in caplog.records[10:])
    assert rest == "storage '1': 16 more conflicts of which nothing was said were not resolved"
    assert last.endswith("is not resolved: its class raised an error")
    # Nor does what the class says look like lines of ours.
    lines = caplog.records[-1].getMessage().splitlines()
    assert [line.strip() for line in lines[1:]] == [
        "Traceback",
        "CRITICAL the disk is full",
        "ERROR so is this",
    ]
    assert all(line.startswith("    ") for line in lines[1:])
    now += 60.0
    fail(12)
    resolver.close()
    assert "2 more conflicts" in caplog.records[-1].getMessage()

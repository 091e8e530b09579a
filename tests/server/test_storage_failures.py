"""Storages that fail in the middle of a commit: who is told what, and how they return."""

from __future__ import annotations

import errno
import itertools
import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.server.conftest import Connect
from tests.support.raw import Z64, Closed, RawClient, RemoteFault, oid_of
from tests.support.raw import connect as socket_to
from tests.support.storages import Gate, gate, hook
from tests.support.waiting import DEADLINE, Background, promptly, wait_until
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage

from zeolith.config.storages import File, reopen_storage
from zeolith.protocol import messages as m
from zeolith.server import Server, ServerOptions, recovery
from zeolith.types import MAX_TID


def full() -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class Files:
    """A FileStorage that a server can open again, and whose commits fail as long as a test says.

    :ivar opened: every storage object so far; the last is the present one.
    """

    def __init__(self, path: Path) -> None:
        self._opener = File("main", str(path / "Data.fs"), str(path / "blobs"))
        self.opened: list[Any] = [self._opener.open()]
        self.before_opening: Callable[[], object] = lambda: None

    def reopen(self) -> Any:
        self.before_opening()
        self.opened.append(reopen_storage(self._opener))
        return self.opened[-1]

    @contextmanager
    def failing(self, after_callback: bool = True) -> Iterator[None]:
        """Have commits fail as on a full disk."""

        def fail(*args: Any, **kw: Any) -> None:
            raise full()

        name = "_finish_finish" if after_callback else "tpc_finish"
        with hook(self.opened[-1], name, before=fail):
            yield


@pytest.fixture
def main(tmp_path: Path) -> Files:
    return Files(tmp_path)


@pytest.fixture
def run(
    stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[Server, Background]]:
    """Start a server whose exit status is wanted; it is stopped at the end.

    It opens storages again sooner than servers do.
    """
    monkeypatch.setattr(recovery, "SHORTEST_DELAY", 0.05)

    def start(
        storages: dict[str, Any], reopen: Any = None, **options: Any
    ) -> tuple[Server, Background]:
        server = Server(storages, ServerOptions(address=("127.0.0.1", 0), **options), reopen)
        listening = threading.Event()
        running = Background(lambda: server.run(lambda address: listening.set()))
        stack.callback(running.result)
        stack.callback(server.stop)
        assert listening.wait(DEADLINE)
        return server, running

    return start


Run = Callable[..., tuple[Server, Background]]


def probe_status(address: Any) -> None:
    """Have the server say that it has looked at what was sent before."""
    with socket_to(address) as sock:
        sock.sendall(b"\0\0\0\x04ruok")
        while sock.recv(10_000):
            pass


_distances = itertools.count()


def load(client: RawClient, oid: bytes) -> Any:
    """Load the current revision; raw clients tell answers apart only by what was asked for."""
    before = int.from_bytes(MAX_TID, "big") - next(_distances)
    return client.load(oid, before.to_bytes(8, "big"))


def fail_commit(client: RawClient, data: bytes = b"lost?") -> None:
    """Commit where that fails; the client is told so, and then disconnected."""
    client.begin()
    client.store(oid_of(1), data, load(client, oid_of(1))[1])
    client.vote()
    with pytest.raises(RemoteFault, match="OSError"):
        client.finish()
    client.wait_closed()


def connect_again(raw: Connect, server: Server, storage: str) -> RawClient:
    """Try to register until the storage admits us, as clients do."""

    faults: list[RemoteFault] = []

    def attempt() -> RawClient | None:
        try:
            return raw(server.address, storage)
        except RemoteFault as fault:
            faults.append(fault)
            return None

    found = wait_until(attempt)
    assert found is not None
    for fault in faults:
        assert fault.name.endswith("StorageError")
        assert f"storage {storage!r} is being opened again" in str(fault)
    return found


@pytest.mark.parametrize("after_callback", [False, True], ids=["before", "after"])
def test_b_a_full_disk_in_finish_concerns_one_storage(
    run: Run,
    raw: Connect,
    main: Files,
    mapping: MappingStorage,
    loop: str,
    after_callback: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    server, running = run(
        {"main": main.opened[0], "other": mapping}, {"main": main.reopen}, loop=loop
    )
    committer, bystander = raw(server.address, "main"), raw(server.address, "main")
    stranger = raw(server.address, "other")
    before = committer.commit({oid_of(1): (Z64, b"before")})
    kept = stranger.commit({oid_of(1): (Z64, b"x")})
    with Gate() as opening:
        main.before_opening = opening
        with main.failing(after_callback), promptly():
            fail_commit(committer)
            bystander.wait_closed()
        # Nobody is told of what may not be on disk (R4, R5).
        assert bystander.invalidations() == [(before, [oid_of(1)])]
        for _ in range(2):
            with pytest.raises(RemoteFault, match="'main' is being opened again"):
                raw(server.address, "main")
            kept = stranger.commit({oid_of(1): (kept, b"x")})
            assert load(stranger, oid_of(1)) == (b"x", kept, None)
            opening.wait_reached()
        opening.open()
    again = connect_again(raw, server, "main")
    data, tid, _ = load(again, oid_of(1))
    # What the disk had is known now, and the same for everybody.
    assert (data, tid == before) in [(b"before", True), (b"lost?", False)]
    assert again.tid == tid == again.call(m.LastTransaction())
    assert again.call(m.GetInvalidations(before)) == (tid, [] if tid == before else [oid_of(1)])
    other = raw(server.address, "main")
    after = again.commit({oid_of(1): (tid, b"after")})
    assert load(other, oid_of(1)) == (b"after", after, None)
    assert other.invalidations() == [(after, [oid_of(1)])]
    stranger.ping()
    server.stop()
    assert running.result() == 0
    assert [bool(storage._file.closed) for storage in main.opened] == [True, True]
    (critical,) = [
        record
        for record in caplog.records
        if record.levelno == logging.CRITICAL and record.name.startswith("zeolith")
    ]
    assert "storage 'main' failed while it committed" in critical.getMessage()
    assert "is in service again" in caplog.text


def test_b_a_storage_may_fail_more_than_once(run: Run, raw: Connect, main: Files) -> None:
    server, running = run({"main": main.opened[0]}, {"main": main.reopen})
    client = raw(server.address, "main")
    client.commit({oid_of(1): (Z64, b"0")})
    for _ in range(3):
        with main.failing():
            fail_commit(client)
        client = connect_again(raw, server, "main")
        client.commit({oid_of(1): (load(client, oid_of(1))[1], b"again")})
    server.stop()
    assert running.result() == 0


def test_r1_what_waits_for_the_finish_is_never_said(run: Run, raw: Connect, main: Files) -> None:
    """It would reveal what the storage showed while it failed."""
    server, _ = run({"main": main.opened[0]}, {"main": main.reopen})
    committer, reader = raw(server.address, "main"), raw(server.address, "main")
    committer.commit({oid_of(1): (Z64, b"before")})
    reader.ping()
    storage = main.opened[0]
    told = len(reader.inbox)
    committer.begin()
    committer.store(oid_of(1), b"lost?", load(committer, oid_of(1))[1])
    committer.vote()
    with main.failing(), gate(storage, "_finish_finish") as finishing:
        with gate(storage, "loadSerial") as reading:
            reader.ask(m.LoadSerial(oid_of(1), load(committer, oid_of(1))[1]))
            reading.wait_reached()
            finish = committer.ask(m.TpcFinish(1))
            finishing.wait_reached()
        # The answer of the thread is there, further requests as well; both have to wait.
        reader.ask(m.LoadBefore(oid_of(1), MAX_TID))
        reader.ask(m.LastTransaction())
        newcomer = raw(server.address, None)
        registration = newcomer.ask(m.Register("main", False))
        probe_status(server.address)
        finishing.open()
        with pytest.raises(RemoteFault, match="OSError"):
            committer.answer(finish)
        reader.wait_closed()
        assert reader.inbox[told:] == []
    # Whoever came in the meantime hears why he is not admitted.
    with promptly(), pytest.raises(RemoteFault, match="'main' is being opened again"):
        newcomer.answer(registration)


def test_b_votes_that_wait_behind_the_failure_end(run: Run, raw: Connect, main: Files) -> None:
    server, _ = run({"main": main.opened[0]}, {"main": main.reopen})
    committer, waiter = raw(server.address, "main"), raw(server.address, "main")
    serial = committer.commit({oid_of(1): (Z64, b"before")})
    committer.begin()
    committer.store(oid_of(1), b"lost?", serial)
    committer.vote()
    waiter.begin()
    waiter.store_blob(oid_of(2), b"record", b"blob")
    vote = waiter.ask(m.Vote(1))
    wait_until(lambda: server.status()["main"]["waiting"] == 1)
    with main.failing(), pytest.raises(RemoteFault, match="OSError"):
        committer.finish()
    with pytest.raises(Closed):
        waiter.answer(vote)
    again = connect_again(raw, server, "main")
    assert load(again, oid_of(1))[0] in (b"before", b"lost?")
    with pytest.raises(RemoteFault, match="POSKeyError"):
        load(again, oid_of(2))
    again.commit({oid_of(3): (Z64, b"free")})


@pytest.mark.parametrize("knows_how", [False, True], ids=["cannot be opened", "lost its data"])
def test_a_storage_out_of_service_for_good(
    run: Run, raw: Connect, mapping: MappingStorage, knows_how: bool
) -> None:
    """The others go on; the exit status tells."""
    broken = MappingStorage()
    reopen = {"main": MappingStorage} if knows_how else {}
    server, running = run({"main": broken, "other": mapping}, reopen)
    client, stranger = raw(server.address, "main"), raw(server.address, "other")
    client.commit({oid_of(1): (Z64, b"before")})

    def fail(*args: Any) -> None:
        raise full()

    with hook(broken, "tpc_finish", before=fail):
        fail_commit(client)

    def is_given_up() -> bool:
        with pytest.raises(RemoteFault, match="storage 'main' is ") as caught:
            raw(server.address, "main")
        return "see the log" in str(caught.value)

    wait_until(is_given_up)
    stranger.commit({oid_of(1): (Z64, b"x")})
    assert set(server.status()) == {"main", "other"}
    server.stop()
    assert running.result() == 1


@pytest.mark.parametrize("lost", ["main", "other"])
def test_the_last_storage_that_is_lost_ends_the_server(run: Run, raw: Connect, lost: str) -> None:
    storages = {"main": MappingStorage(), "other": MappingStorage()}
    server, running = run(storages)

    def fail(*args: Any) -> None:
        raise full()

    for name in sorted(storages, key=lambda name: name == lost):
        assert running.is_alive()
        client = raw(server.address, name)
        client.commit({oid_of(1): (Z64, b"before")})
        with hook(storages[name], "tpc_finish", before=fail):
            fail_commit(client)
    with promptly():
        assert running.result() == 1


def test_the_server_ends_cleanly_while_a_storage_waits(
    run: Run, raw: Connect, main: Files, loop: str
) -> None:
    server, running = run({"main": main.opened[0]}, {"main": main.reopen}, loop=loop)
    client = raw(server.address, "main")
    client.commit({oid_of(1): (Z64, b"before")})
    with main.failing():
        fail_commit(client)
    with promptly():
        server.stop()
        assert running.result() == 0
    assert len(main.opened) == 1


def test_the_server_ends_cleanly_while_a_storage_is_being_opened(
    run: Run, raw: Connect, main: Files, loop: str
) -> None:
    server, running = run({"main": main.opened[0]}, {"main": main.reopen}, loop=loop)
    client = raw(server.address, "main")
    client.commit({oid_of(1): (Z64, b"before")})
    with Gate() as opening:
        main.before_opening = opening
        with main.failing():
            fail_commit(client)
        opening.wait_reached()
        with promptly(10):
            server.stop()
            assert running.result() == 0
        opening.open()
    wait_until(lambda: len(main.opened) == 2 and main.opened[1]._file.closed)


def test_a_file_that_cannot_be_closed_at_once_is_opened_all_the_same(
    run: Run, raw: Connect, main: Files
) -> None:
    """Closing raises what writing the buffer raises, and leaves the lock in place."""
    server, _ = run({"main": main.opened[0]}, {"main": main.reopen})
    client = raw(server.address, "main")
    client.commit({oid_of(1): (Z64, b"before")})
    closed: list[int] = []

    def fail_once() -> None:
        closed.append(1)
        if len(closed) == 1:
            raise full()

    with main.failing(after_callback=False), hook(main.opened[0], "close", before=fail_once):
        fail_commit(client)
        connect_again(raw, server, "main").ping()
    assert len(closed) == 2


def test_a_pack_has_to_end_before_its_storage_is_opened_again(
    run: Run, raw: Connect, main: Files
) -> None:
    """It might put its file in the place of the one that is in use."""
    server, _ = run({"main": main.opened[0]}, {"main": main.reopen})
    client, packer = raw(server.address, "main"), raw(server.address, "main")
    client.commit({bytes(8): (Z64, b"\x80\x03}q\x00."), oid_of(1): (Z64, b"before")})
    with gate(main.opened[0], "pack") as packing:
        packer.ask(m.Pack(0.0, False))
        packing.wait_reached()
        with main.failing():
            fail_commit(client)
        reopened = threading.Event()
        main.before_opening = reopened.set
        assert not reopened.wait(1.5)
        packing.open()
        connect_again(raw, server, "main").ping()


def test_a_missing_file_is_not_created(tmp_path: Path) -> None:
    """The disk may have gone; an empty database in its place helps nobody."""
    path = tmp_path / "Data.fs"
    with pytest.raises(ValueError, match="No such file"):
        reopen_storage(File("main", str(path)))
    assert not path.exists()


def test_a_configured_server_knows_how_to_open_its_storages(
    stack: ExitStack, raw: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from zeolith.config.server import ServerConfig
    from zeolith.server import start_in_thread

    opener = File("main", str(tmp_path / "Data.fs"))
    opened: list[Any] = []
    open_file = File.open

    def open_and_note(self: File) -> Any:
        opened.append(open_file(self))
        return opened[-1]

    monkeypatch.setattr(File, "open", open_and_note)
    server = ServerConfig(address=("127.0.0.1", 0), storages=(opener,)).make_server()
    stack.callback(start_in_thread(server))
    client = raw(server.address, "main")
    client.commit({oid_of(1): (Z64, b"before")})

    def fail(*args: Any) -> None:
        raise full()

    with hook(opened[0], "_finish_finish", before=fail):
        fail_commit(client)
    connect_again(raw, server, "main").ping()
    assert isinstance(opened[1], FileStorage)

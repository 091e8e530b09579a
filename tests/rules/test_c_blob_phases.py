"""Class C of the known failures: what ends a transaction with blobs, in each phase, and what is on
the disk after it, to the last file."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import transaction
import ZODB
from persistent.mapping import PersistentMapping
from tests.rules.conftest import Connect, Open, Serve
from tests.support.blobdisk import (
    KINDS,
    M5,
    OWN,
    RECORD,
    SPEECHES,
    VERIFIED,
    Z5,
    Disk,
    Speech,
    Uploader,
    debris,
    listing,
    read,
)
from tests.support.processes import ServerProcess
from tests.support.raw import RawClient, oid_of
from tests.support.storages import gate
from tests.support.waiting import Background, wait_until
from ZODB.blob import Blob

from zeolith.protocol.messages import Store, StoreBlobShared, TpcAbort, TpcFinish, Undo, UndoInfo

Ending = Callable[[RawClient], None]

DATA = bytes(range(256)) * 400

_PLAIN = (
    ("bushy", VERIFIED),
    ("bushy", OWN),
    ("bushy", Z5),
    ("lawn", M5),
    ("wrapped", Z5),
    ("mapping", VERIFIED),
    ("demo", M5),
)
"""What a plain run has: each storage, each way to speak, and both with what differs in kind."""


@pytest.fixture(
    params=[
        pytest.param(
            (kind, speech),
            id=f"{kind}-{speech.name}",
            marks=[] if (kind, speech) in _PLAIN else [pytest.mark.long],
        )
        for kind in KINDS
        for speech in SPEECHES
    ]
)
def case(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Disk, Speech]:
    """A storage with blobs, closed by whoever serves it, and what its clients speak."""
    kind, speech = request.param
    return Disk(kind, tmp_path), speech


def begun(uploader: Uploader) -> None:
    uploader.client.begin()


def uploading(uploader: Uploader) -> None:
    uploader.client.begin()
    uploader.client.send(Store(oid_of(2), bytes(8), b"record", 1))
    uploader.begin(DATA)


def uploaded(uploader: Uploader) -> None:
    uploader.client.begin()
    uploader.store(oid_of(2), DATA)
    uploader.store(oid_of(3), DATA * 2)


def attached_and_more(uploader: Uploader) -> None:
    uploaded(uploader)
    uploader.begin(DATA)


def voted(uploader: Uploader) -> None:
    uploaded(uploader)
    uploader.client.vote()


def undone(uploader: Uploader) -> None:
    """Undo what made the second revision of object 1, up to the vote."""
    client = uploader.client
    (undoable,) = client.call(UndoInfo(0, 1, None))
    client.begin()
    client.send(Undo(undoable["id"], 1))
    client.vote()


PHASES = (begun, uploading, uploaded, attached_and_more, voted)


def abort(client: RawClient) -> None:
    client.call(TpcAbort(1))


def disconnect(client: RawClient) -> None:
    client.close()


def is_idle(server: Any) -> bool:
    """Whether everything that clients have uploaded is written, and with its transaction."""
    sessions = [connection.session for connection in list(server._lobby.connections)]
    lanes = [session.uploads for session in sessions if session is not None]
    return all(lane is None or lane.is_idle for lane in lanes)


def test_c_what_is_given_up_leaves_nothing(
    case: tuple[Disk, Speech], serve: Serve, raw: Connect
) -> None:
    """Abort and disconnect, in every phase before ``tpc_finish``."""
    disk, speech = case
    server = serve(disk.storage)
    other = raw(server.address, **speech.options)
    uploader = Uploader(other)
    disk.committed(1, uploader.commit(oid_of(1), b"before"), b"before")
    for phase, ending, is_written in product(PHASES, (abort, disconnect), (True, False)):
        client = raw(server.address, **speech.options)
        phase(Uploader(client))
        client.ping()
        if is_written:
            wait_until(lambda: is_idle(server))
        ending(client)
        if phase in (uploading, attached_and_more):
            # The end of a transaction is not that of a blob that is on its way.
            client.close()
        wait_until(disk.is_right, f"nothing is left: {phase.__name__}, {ending.__name__}")
    # The lock is free, and the objects are as they were.
    disk.committed(2, uploader.commit(oid_of(2), b"after"), b"after")
    wait_until(disk.is_right)
    assert sorted(read(other, oid_of(n), tid) for n, tid in disk.blobs) == [b"after", b"before"]


def share(disk: Disk, client: RawClient, name: str) -> None:
    """Put the blob of object 2 where the server keeps it, and tell the server."""
    directory = Path(disk.storage.fshelper.getPathForOID(oid_of(2), create=True))
    (directory / name).write_bytes(DATA)
    client.begin()
    client.send(
        Store(oid_of(2), bytes(8), RECORD, 1),
        StoreBlobShared(oid_of(2), bytes(8), RECORD, name, 1),
    )


@pytest.mark.parametrize("speech", SPEECHES, ids=lambda speech: speech.name)
@pytest.mark.parametrize("kind", ["bushy", "lawn"])
def test_c_a_shared_file_goes_with_its_transaction(
    kind: str, speech: Speech, tmp_path: Path, serve: Serve, raw: Connect
) -> None:
    """Clients with a shared directory remove their files, too; whoever is there does it."""
    disk = Disk(kind, tmp_path)
    server = serve(disk.storage)
    # A name is used once, as clients do: the server may still be about to remove it.
    for ending, is_voted in product((abort, disconnect), (False, True)):
        client = raw(server.address, **speech.options)
        share(disk, client, f"{ending.__name__}-{is_voted}.tmp")
        if is_voted:
            client.vote()
        else:
            client.ping()
            wait_until(lambda: is_idle(server))
        assert not disk.is_right()
        ending(client)
        wait_until(disk.is_right, f"nothing is left: {ending.__name__}, {is_voted}")
    client = raw(server.address, **speech.options)
    share(disk, client, "last.tmp-")
    client.vote()
    disk.committed(2, client.finish(), DATA)
    wait_until(disk.is_right)


def test_c_a_client_that_goes_while_its_commit_is_written(
    case: tuple[Disk, Speech], serve: Serve, raw: Connect
) -> None:
    disk, speech = case
    server = serve(disk.storage)
    client, other = (raw(server.address, **speech.options) for _ in range(2))
    voted(Uploader(client))
    with gate(disk.storage, "tpc_finish", after=True) as written:
        client.ask(TpcFinish(1))
        written.wait_reached()
        client.close()
        written.open()
    tid = Background(lambda: other.load(oid_of(2))[1]).result()
    assert isinstance(tid, bytes)
    disk.committed(2, tid, DATA)
    disk.committed(3, tid, DATA * 2)
    wait_until(disk.is_right)


def test_c_an_abort_that_comes_too_late(
    case: tuple[Disk, Speech], serve: Serve, raw: Connect
) -> None:
    """lp 595378: it must not take away what is being committed."""
    disk, speech = case
    client = raw(serve(disk.storage).address, **speech.options)
    voted(Uploader(client))
    with gate(disk.storage, "tpc_finish") as finishing:
        finish = client.ask(TpcFinish(1))
        finishing.wait_reached()
        aborting = client.ask(TpcAbort(1))
        finishing.open()
        tid = client.answer(finish)
        # It is looked at when the commit is over, and there is nothing to abort any more.
        client.answer(aborting)
    disk.committed(2, tid, DATA)
    disk.committed(3, tid, DATA * 2)
    wait_until(disk.is_right)
    assert read(client, oid_of(2), tid) == DATA


def test_c_a_conflict_leaves_nothing(case: tuple[Disk, Speech], serve: Serve, raw: Connect) -> None:
    disk, speech = case
    server = serve(disk.storage)
    client, other = (Uploader(raw(server.address, **speech.options)) for _ in range(2))
    first = client.commit(oid_of(1), b"first")
    client.client.begin()
    client.store(oid_of(1), b"late", first)
    client.store(oid_of(2), b"late too")
    second = other.commit(oid_of(1), b"second", first)
    with pytest.raises(Exception, match="Conflict"):
        client.client.vote()
    disk.committed(1, first, b"first")
    disk.committed(1, second, b"second")
    wait_until(disk.is_right)


# -- undo and pack -----------------------------------------------------------------------------


class Site:
    """A database on a client of a server with blobs."""

    def __init__(self, disk: Disk, database: ZODB.DB, address: Any) -> None:
        self.disk, self.database, self.address = disk, database, address

    def write(self, name: str, data: bytes) -> bytes:
        """Give the document *name* new contents; return the transaction's id."""
        with self.database.transaction() as connection:
            root = connection.root()
            if name not in root:
                root[name] = PersistentMapping(blob=Blob())
            with root[name]["blob"].open("w") as file:
                file.write(data)
        with self.database.transaction() as connection:
            blob = connection.root()[name]["blob"]
            blob._p_activate()
            number, tid = int.from_bytes(blob._p_oid, "big"), blob._p_serial
        self.disk.committed(number, tid, data)
        return bytes(tid)

    def undo_last(self) -> bytes:
        """Undo the last transaction; return the id of the one that does it."""
        self.database.undo(self.database.undoLog(0, 1)[0]["id"])
        transaction.commit()
        tid: bytes = self.database.lastTransaction()
        return tid

    def delete(self, name: str) -> None:
        with self.database.transaction() as connection:
            del connection.root()[name]

    def pack(self) -> None:
        self.database.pack(time.time() + 60)

    def keep(self, *contents: bytes) -> None:
        """These are what is to be left."""
        self.disk.blobs = {key: data for key, data in self.disk.blobs.items() if data in contents}


@pytest.fixture(params=["own", pytest.param("M5", marks=pytest.mark.long)])
def protocol(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What the client and the server speak."""
    from zeolith.protocol.greeting import Greeting

    name: str = request.param
    if name == "M5":
        monkeypatch.setattr(Greeting, "version", None)
    return name


@pytest.fixture
def open_site(serve: Serve, client: Open, tmp_path: Path, stack: Any, protocol: str) -> Any:
    """Serve a disk and open a database on it."""

    def open_site(disk: Disk) -> Site:
        server = serve(disk.storage)
        database = ZODB.DB(client(server.address, blob_dir=str(tmp_path / "client")))
        stack.callback(database.close)
        return Site(disk, database, server.address)

    return open_site


UNDOING = ("bushy", "lawn", "wrapped")


@pytest.mark.parametrize("kind", UNDOING)
def test_c_undo_makes_a_revision_of_its_own(kind: str, open_site: Any, tmp_path: Path) -> None:
    disk = Disk(kind, tmp_path)
    site = open_site(disk)
    site.write("a", b"first")
    site.write("a", b"second")
    (number,) = {number for number, _ in disk.blobs}
    tid = site.undo_last()
    disk.committed(number, tid, b"first")
    wait_until(disk.is_right)
    with site.database.transaction() as connection, connection.root()["a"]["blob"].open() as file:
        assert file.read() == b"first"


@pytest.mark.parametrize("kind", UNDOING)
@pytest.mark.parametrize("ending", [abort, disconnect])
def test_c_an_undo_that_is_given_up_after_its_vote(
    kind: str, tmp_path: Path, serve: Serve, raw: Connect, ending: Ending
) -> None:
    disk = Disk(kind, tmp_path)
    server = serve(disk.storage)
    client = raw(server.address, **VERIFIED.options)
    uploader = Uploader(client)
    first = uploader.commit(oid_of(1), b"first")
    second = uploader.commit(oid_of(1), b"second", first)
    disk.committed(1, first, b"first")
    disk.committed(1, second, b"second")
    undoable = disk.storage.undoLog(0, 1)[0]["id"]
    client.begin()
    client.send(Undo(undoable, 1))
    client.vote()
    assert not disk.is_right()
    ending(client)
    wait_until(disk.is_right)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "demo"])
def test_c_pack_removes_what_nobody_can_see(kind: str, open_site: Any, tmp_path: Path) -> None:
    disk = Disk(kind, tmp_path)
    site = open_site(disk)
    for data in (b"a1", b"a2"):
        site.write("a", data)
    site.write("b", b"b1")
    site.delete("b")
    site.pack()
    site.keep(b"a2")
    wait_until(disk.is_right, "packed")
    # It goes on.
    site.write("a", b"a3")
    wait_until(disk.is_right)


@pytest.mark.parametrize("kind", ["wrapped", "mapping"])
@pytest.mark.parametrize("is_aborted", [False, True], ids=["finished", "aborted"])
def test_c_pack_leaves_what_is_being_committed(
    kind: str, is_aborted: bool, open_site: Any, raw: Connect, tmp_path: Path
) -> None:
    """A new blob and a new revision have their names, and nobody has their records."""
    disk = Disk(kind, tmp_path)
    site = open_site(disk)
    site.write("a", b"old")
    tid = site.write("a", b"present")
    (number,) = {number for number, _ in disk.blobs}
    uploader = Uploader(raw(site.address))
    client = uploader.client
    # Files that are no blobs are nobody's garbage.
    stranger = Path(disk.storage.fshelper.getPathForOID(oid_of(number))) / "0x1.tmp"
    with gate(disk.storage.fshelper, "getOIDForPath") as removing:
        packing = Background(site.pack)
        removing.wait_reached()
        client.begin()
        uploader.store(oid_of(number), b"next", tid)
        uploader.store(oid_of(1000), b"new")
        stranger.write_bytes(b"on its way")
        client.vote()
        removing.open()
        packing.result()
    stranger.unlink()
    site.keep(b"present")
    if is_aborted:
        client.call(TpcAbort(1))
    else:
        tid = client.finish()
        disk.committed(number, tid, b"next")
        disk.committed(1000, tid, b"new")
    wait_until(disk.is_right)


def test_c_pack_without_garbage_collection_keeps_objects(open_site: Any, tmp_path: Path) -> None:
    disk = Disk("bushy", tmp_path)
    disk.storage._pack_gc = False
    site = open_site(disk)
    for data in (b"a1", b"a2"):
        site.write("a", data)
    for data in (b"b1", b"b2"):
        site.write("b", data)
    site.delete("b")
    site.pack()
    site.keep(b"a2", b"b2")
    wait_until(disk.is_right, "packed")


# -- death of the server -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layout", "speech"),
    [
        pytest.param("bushy", VERIFIED, id="bushy-verified"),
        pytest.param("lawn", M5, id="lawn-M5", marks=pytest.mark.long),
        pytest.param("bushy", Z5, id="bushy-Z5", marks=pytest.mark.long),
    ],
)
def test_c_a_server_that_is_killed_has_left_nothing_when_it_is_back(
    tmp_path: Path, layout: str, speech: Speech
) -> None:
    """In every phase; nothing that was committed is missing, nothing else is there."""
    server = ServerProcess(tmp_path)
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    (blobs / ".layout").write_text(layout)
    server.start()
    with RawClient(server.address, **speech.options) as client:
        uploader = Uploader(client)
        first = uploader.commit(oid_of(1), b"first")
        uploader.commit(oid_of(1), b"second", first)
    expected = listing(blobs)
    assert len(expected) == 3
    for phase in (*PHASES, undone):
        with RawClient(server.address, **speech.options) as client:
            uploader = Uploader(client)
            phase(uploader)
            client.ping()
            if phase not in (begun, uploading):
                wait_until(lambda: listing(blobs) != expected)
            server.kill()
        server.start()
        assert listing(blobs) == expected, phase.__name__
    with RawClient(server.address, **speech.options) as client:
        assert read(client, oid_of(1), client.load(oid_of(1))[1]) == b"second"
        Uploader(client).commit(oid_of(2), DATA)
    assert server.stop() == 0
    assert server.tracebacks() == []
    assert debris(blobs) == []

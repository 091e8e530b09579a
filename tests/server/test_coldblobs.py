"""A server whose blobs are in an object store: commits, loads, undo and packs."""

from __future__ import annotations

import hashlib
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import zope.interface
from tests.server.conftest import Connect, Serve
from tests.support.raw import RawClient, RemoteFault, oid_of
from tests.support.rawstreams import RawStreams
from tests.support.stores import MemoryStore, down
from tests.support.waiting import DEADLINE, promptly, wait_until
from ZODB.blob import Blob
from ZODB.DB import DB
from ZODB.DemoStorage import DemoStorage
from ZODB.FileStorage import FileStorage
from ZODB.POSException import StorageError
from ZODB.serialize import referencesf

import zeolith
from zeolith.admin.asking import Target
from zeolith.admin.status import fetch_status
from zeolith.admin.statustext import render_status
from zeolith.errors import ConfigurationError
from zeolith.protocol import messages as m
from zeolith.protocol.greeting import Coding
from zeolith.protocol.hello import Terms
from zeolith.protocol.limits import FIRST_UPLOAD
from zeolith.protocol.streamrequests import (
    AttachBlob,
    OpenBlob,
    OpenUpload,
    StreamData,
    StreamEnd,
)
from zeolith.server.access import StorageAccess
from zeolith.server.monitor import make_report
from zeolith.tier.pause import Pause
from zeolith.tier.stubs import read_stub, stub_of
from zeolith.tier.tier import BlobTier

CODINGS = pytest.mark.parametrize("coding", [Coding.OWN, Coding.PICKLE], ids=["own", "zeo"])


class Site:
    """A FileStorage with a store in memory, and a server of both."""

    def __init__(self, files: FileStorage, serve: Serve, raw: Connect) -> None:
        self.files, self.store = files, MemoryStore()
        self.tier = BlobTier(
            files.fshelper, self.store, 1 << 30, pause=Pause(0), grace=0, orphan_age=1, retry=0.01
        )
        self.tier.attach(files)
        self.server = serve(files)
        self._raw = raw

    def client(self, coding: Coding = Coding.OWN) -> RawClient:
        return self._raw(self.server.address, coding=coding)

    def commit(self, number: int, data: bytes, coding: Coding = Coding.PICKLE) -> bytes:
        """Commit a blob, and wait for its stub."""
        client = self.client(coding)
        tid = commit(client, number, data)
        client.close()
        wait_until(lambda: os.path.exists(stub_of(self.path(number, tid))), "the stub is there")
        return tid

    def path(self, number: int, tid: bytes) -> str:
        return str(self.files.fshelper.getBlobFilename(oid_of(number), tid))

    def cool(self, number: int, tid: bytes) -> None:
        """Leave a blob to the store."""
        os.remove(self.path(number, tid))

    @property
    def contents(self) -> list[bytes]:
        return sorted(self.store.objects.values())

    def is_tidy(self) -> bool:
        return os.listdir(self.files.temporaryDirectory()) == []


def commit(client: RawClient, number: int, data: bytes) -> bytes:
    vote(client, number, data)
    return client.finish()


def wait_for(path: str) -> None:
    wait_until(lambda: os.path.exists(path), f"{path} is there")


def vote(client: RawClient, number: int, data: bytes) -> None:
    client.begin()
    client.store_blob(oid_of(number), b"record", data)
    client.vote()


def load(client: RawClient, number: int, tid: bytes) -> bytes:
    """Return a blob, however the client's protocol has it."""
    if not client.is_zeo:
        streams = RawStreams(client)
        streams.open(1, oid_of(number), tid, 0, 1 << 20)
        streams.read_to_end(1)
        return streams.data[1]
    del client.inbox[:]
    client.taken = 0
    client.call(m.SendBlob(oid_of(number), tid))
    return b"".join(
        notice.request.chunk
        for notice in client.inbox
        if isinstance(notice, m.Notice) and isinstance(notice.request, m.ReceiveBlobChunk)
    )


@pytest.fixture
def site(files: FileStorage, serve: Serve, raw: Connect) -> Site:
    return Site(files, serve, raw)


@pytest.fixture
def gate(site: Site) -> Iterator[Gate]:
    found = Gate(site.store)
    yield found
    found.open()


class Gate:
    """Holds up what is asked of a store."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self._may_pass = threading.Event()
        self.waiting = 0

    def close(self, *operations: str) -> None:
        def before(what: str) -> None:
            if what in operations:
                self.waiting += 1
                assert self._may_pass.wait(DEADLINE)

        self._store.before = before

    def open(self) -> None:
        self._may_pass.set()


# -- commits -------------------------------------------------------------------------------------


def test_it_is_in_the_store_before_the_vote_is_answered(site: Site) -> None:
    client = site.client(Coding.PICKLE)
    vote(client, 1, b"content")
    assert site.contents == [b"content"]
    tid = client.finish()
    wait_until(lambda: os.path.exists(stub_of(site.path(1, tid))), "the stub is there")
    assert load(client, 1, tid) == b"content"


def test_many_in_one_transaction(site: Site) -> None:
    client = site.client(Coding.PICKLE)
    client.begin()
    for number in range(50):
        client.store_blob(oid_of(number), b"record", b"%d" % number)
    client.vote()
    assert site.contents == sorted(b"%d" % number for number in range(50))
    tid = client.finish()
    for number in (0, 49):
        wait_for(stub_of(site.path(number, tid)))


def test_r7_a_slow_store_holds_up_nobody_else(site: Site, gate: Gate) -> None:
    slow, other = site.client(Coding.PICKLE), site.client()
    gate.close("put")
    slow.begin()
    slow.store_blob(oid_of(1), b"record", b"slow")
    msgid = slow.ask(m.Vote(1))
    wait_until(lambda: gate.waiting, "the upload is under way")
    with promptly():
        tid = other.commit({oid_of(7): (bytes(8), b"x")})
        assert other.load(oid_of(7))[1] == tid
    assert os.listdir(site.files.temporaryDirectory()) != []
    gate.open()
    slow.answer(msgid)
    slow.finish()
    assert site.contents == [b"slow"]


def test_the_last_of_two_for_one_object_counts(site: Site) -> None:
    """Whichever is in the store first."""
    puts = []

    def delay_the_first(what: str) -> None:
        if what == "put":
            puts.append(what)
            if len(puts) == 1:
                wait_until(lambda: site.tier.describe()["uploads"], "the second is there")

    site.store.before = delay_the_first
    client = site.client(Coding.PICKLE)
    client.begin()
    client.store_blob(oid_of(1), b"record", b"one")
    client.store_blob(oid_of(1), b"record", b"two")
    client.vote()
    path = site.path(1, client.finish())
    wait_for(stub_of(path))
    assert Path(path).read_bytes() == b"two"
    found = read_stub(stub_of(path))
    assert found is not None
    assert found.sha256 == hashlib.sha256(b"two").hexdigest()
    wait_until(lambda: site.contents == [b"two"], "the other one goes")


@CODINGS
def test_a_store_that_is_down_fails_the_vote(site: Site, coding: Coding) -> None:
    client = site.client(Coding.PICKLE)
    tid = commit(client, 1, b"local")
    site.store.before = down
    with pytest.raises(RemoteFault, match=r"StorageError.*down"):
        vote(client, 2, b"content")
    # The server lives, what is here can be had, and other commits go on.
    assert load(site.client(coding), 1, tid) == b"local"
    site.client().commit({oid_of(7): (bytes(8), b"x")})
    wait_until(site.is_tidy, "nothing is left")
    site.store.before = lambda what: None
    commit(client, 2, b"content")
    assert site.contents == [b"content", b"local"]


@pytest.mark.parametrize("how", ["abort", "disconnect", "conflict"])
def test_what_is_not_committed_goes(site: Site, how: str) -> None:
    client = site.client(Coding.PICKLE)
    if how == "conflict":
        site.client().commit({oid_of(1): (bytes(8), b"other")})
        with pytest.raises(RemoteFault, match="ConflictError"):
            vote(client, 1, b"content")
    else:
        vote(client, 1, b"content")
        assert site.contents == [b"content"]
        if how == "abort":
            client.call(m.TpcAbort(1))
        else:
            client.close()
    wait_until(lambda: not site.store.objects, "the object goes")
    wait_until(site.is_tidy, "nothing is left")


def test_a_client_that_goes_while_its_blob_is_uploaded(site: Site, gate: Gate) -> None:
    client = site.client(Coding.PICKLE)
    gate.close("put")
    client.begin()
    client.store_blob(oid_of(1), b"record", b"content")
    client.ask(m.Vote(1))
    wait_until(lambda: gate.waiting, "the upload is under way")
    client.close()
    wait_until(site.is_tidy, "the file is gone")
    gate.open()
    wait_until(lambda: "delete" in site.store.calls, "the object goes")
    assert site.contents == []


def test_a_client_that_goes_on_with_what_it_has_sent(site: Site, gate: Gate, raw: Connect) -> None:
    """The object of the first transaction goes, the file stays; the second one has its own."""
    terms, identity = Terms(checksums=("sha256",)), bytes(range(16))
    attachment = AttachBlob(
        FIRST_UPLOAD, oid_of(1), bytes(8), b"record", 1, 7, hashlib.sha256(b"content").digest()
    )
    client = raw(site.server.address, coding=Coding.OWN, terms=terms)
    gate.close("put")
    client.begin()
    client.send(OpenUpload(FIRST_UPLOAD, identity), StreamData(FIRST_UPLOAD, b"content"))
    client.send(StreamEnd(FIRST_UPLOAD), attachment)
    client.ask(m.Vote(1))
    wait_until(lambda: gate.waiting, "the upload is under way")
    client.close()
    wait_until(lambda: not site.server._lobby.connections)
    client = raw(site.server.address, coding=Coding.OWN, terms=terms)
    assert client.call(OpenUpload(FIRST_UPLOAD, identity)) == {"offset": 7}
    client.begin()
    client.send(StreamEnd(FIRST_UPLOAD), attachment)
    gate.open()
    client.vote()
    tid = client.finish()
    wait_until(lambda: "delete" in site.store.calls, "the first object goes")
    wait_until(lambda: site.contents == [b"content"])
    wait_for(stub_of(site.path(1, tid)))
    site.cool(1, tid)
    assert load(site.client(), 1, tid) == b"content"


def test_what_may_be_committed_stays(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody knows what is on disk when a finish has failed."""
    client = site.client(Coding.PICKLE)
    vote(client, 1, b"content")

    def fail(*args: Any) -> bytes:
        raise OSError("the disk has failed")

    monkeypatch.setattr(site.files, "tpc_finish", fail)
    client.ask(m.TpcFinish(1))
    client.wait_closed()
    assert site.contents == [b"content"]
    assert "delete" not in site.store.calls


# -- loads ---------------------------------------------------------------------------------------


@CODINGS
def test_what_is_away_is_fetched(site: Site, coding: Coding) -> None:
    data = bytes(range(256)) * 1000
    tid = site.commit(1, data)
    site.cool(1, tid)
    assert load(site.client(coding), 1, tid) == data
    assert Path(site.path(1, tid)).read_bytes() == data
    found = fetch_status(Target(site.server.address)).storages["1"]["tier"]
    assert (found["misses"], found["hits"], found["fetched_bytes"]) == (1, 0, len(data))


@CODINGS
def test_a_store_that_is_down_fails_loads_of_what_is_away(site: Site, coding: Coding) -> None:
    away, here = site.commit(1, b"away"), site.commit(2, b"here")
    site.cool(1, away)
    site.store.before = down
    client = site.client(coding)
    with pytest.raises(RemoteFault, match=r"StorageError.*down"):
        load(client, 1, away)
    assert load(client, 2, here) == b"here"
    site.store.before = lambda what: None
    if coding is Coding.OWN:
        client = site.client(coding)
    assert load(client, 1, away) == b"away"


def test_r7_who_waits_for_the_store_takes_no_threads_from_others(site: Site, gate: Gate) -> None:
    here = site.commit(0, b"here")
    tids = [site.commit(number, b"away") for number in range(1, 21)]
    for number, tid in enumerate(tids, 1):
        site.cool(number, tid)
    gate.close("get")
    waiting = [site.client() for _ in tids]
    msgids = [
        client.ask(OpenBlob(1, oid_of(number), tid, 0, 1000))
        for number, (client, tid) in enumerate(zip(waiting, tids), 1)
    ]
    wait_until(lambda: gate.waiting == site.tier.workers, "all that can be are under way")
    with promptly():
        assert load(site.client(), 0, here) == b"here"
        site.client().commit({oid_of(77): (bytes(8), b"x")})
    gate.open()
    for client, msgid in zip(waiting, msgids):
        client.answer(msgid)


def test_r7_those_who_wait_for_one_blob_take_one_thread(site: Site) -> None:
    first, second = site.commit(1, b"first"), site.commit(2, b"second")
    site.cool(1, first)
    site.cool(2, second)
    # As many get through at once as there are threads.
    gets = threading.Barrier(2, timeout=DEADLINE)

    def meet(what: str) -> None:
        if what == "get":
            gets.wait()

    site.store.before = meet
    clients = [site.client() for _ in range(site.tier.workers)]
    for client in clients:
        client.ask(OpenBlob(1, oid_of(1), first, 0, 1 << 20))
    wait_until(lambda: counted(site, "misses") == len(clients), "all of them wait")
    assert load(site.client(), 2, second) == b"second"
    for client in clients:
        streams = RawStreams(client)
        streams.read_to_end(1)
        assert streams.data[1] == b"first"
    assert counted(site, "hits") == 0


def counted(site: Site, name: str) -> Any:
    return site.tier.describe()[name]


def test_a_client_that_goes_while_its_blob_is_fetched(site: Site, gate: Gate) -> None:
    tid = site.commit(1, b"away")
    site.cool(1, tid)
    gate.close("get")
    for coding in (Coding.OWN, Coding.PICKLE):
        client = site.client(coding)
        client.ask(
            OpenBlob(1, oid_of(1), tid, 0, 1000)
            if coding is Coding.OWN
            else m.SendBlob(oid_of(1), tid)
        )
        client.send(*())
    wait_until(lambda: gate.waiting, "a fetch is under way")
    client.close()
    gate.open()
    assert load(site.client(), 1, tid) == b"away"


# -- undo and pack -------------------------------------------------------------------------------


@pytest.fixture
def database(site: Site, tmp_path: Path) -> Iterator[DB]:
    database = zeolith.DB(site.server.address, blob_dir=str(tmp_path / "cache"))
    yield database
    database.close()


def change(database: DB, do: Callable[[Any], object], note: str = "") -> None:
    with database.transaction(note) as connection:
        do(connection.root())


def fill(root: Any, data: bytes, key: str = "blob") -> None:
    blob = root.get(key)
    if blob is None:
        blob = root[key] = Blob()
    with blob.open("w") as file:
        file.write(data)


def test_undo_of_what_is_away(site: Site, database: DB) -> None:
    import transaction

    change(database, lambda root: fill(root, b"old"))
    change(database, lambda root: fill(root, b"new"))
    blobs = Path(site.files.fshelper.base_dir)
    wait_until(lambda: len(list(blobs.rglob("*.cold"))) == 2, "both have stubs")
    for path in blobs.rglob("*.blob"):
        path.unlink()
    last = database.undoLog(0, 1)[0]["id"]
    refusals: list[str] = []
    deadline = time.monotonic() + DEADLINE
    while True:
        assert time.monotonic() < deadline
        database.undo(last)
        try:
            transaction.commit()
            break
        except StorageError as error:
            refusals.append(str(error))
            transaction.abort()
    assert refusals
    assert all("try again in a moment" in refusal for refusal in refusals)
    with database.transaction() as connection, connection.root()["blob"].open() as file:
        assert file.read() == b"old"
    wait_until(lambda: len(list(blobs.rglob("*.cold"))) == 3, "the revision that undo made, too")
    assert site.contents == [b"new", b"old", b"old"]


@pytest.mark.parametrize(
    "keep", [False, pytest.param(True, marks=pytest.mark.long)], ids=["remove", "keep old"]
)
def test_a_pack(site: Site, database: DB, keep: bool) -> None:
    site.files.pack_keep_old = keep
    site.store.age = 1e6
    change(database, lambda root: fill(root, b"a1"))
    change(database, lambda root: fill(root, b"a2"))
    change(database, lambda root: fill(root, b"b", "b"))
    blobs = Path(site.files.fshelper.base_dir)
    wait_until(lambda: len(list(blobs.rglob("*.cold"))) == 3, "all have stubs")
    # Some here, some away.
    for path in blobs.rglob("*.blob"):
        if path.read_bytes() in (b"a1", b"b"):
            path.unlink()
    change(database, lambda root: root.pop("b"))
    time_of_pack = time.time() + 1
    site.client().call(m.Pack(time_of_pack, True))
    assert len(list(blobs.rglob("*.cold"))) == 1
    aside = Path(str(blobs) + ".old")
    if keep:
        assert len(list(aside.rglob("*.cold"))) == 3
        site.tier.packed()
        wait_until(lambda: site.store.calls[-1] == "list", "it was swept")
        assert site.contents == [b"a1", b"a2", b"b"]
        change(database, lambda root: root.update(x=1))
        site.client().call(m.Pack(time_of_pack + 10, True))
    wait_until(lambda: site.contents == [b"a2"], "what was packed away goes from the store")
    with database.transaction() as connection, connection.root()["blob"].open() as file:
        assert file.read() == b"a2"


# -- looking at it -------------------------------------------------------------------------------


def test_the_status(site: Site) -> None:
    tid = site.commit(1, b"four")
    site.cool(1, tid)
    load(site.client(), 1, tid)
    site.store.before = down
    with pytest.raises(RemoteFault):
        vote(site.client(Coding.PICKLE), 2, b"x")
    text = render_status(fetch_status(Target(site.server.address)), connections=False)
    (line,) = [line for line in text.splitlines() if line.startswith("object store")]
    assert "1 uploaded (4 B)" in line
    assert "1 of 1 loads had to wait (4 B)" in line
    (line,) = [line for line in text.splitlines() if line.startswith("OBJECT STORE")]
    assert "down" in line
    report = make_report(site.server._lobby).splitlines()
    assert report[-6:] == [
        "Blobs uploaded: 1",
        "Blobs waited for: 1",
        "Blobs evicted: 0",
        "Object store failures: 1",
        report[-2],
        "Blobs to upload: 0",
    ]
    assert re.fullmatch(r"Blob bytes here: \d+", report[-2])


class Wrapper:
    """A storage that passes everything on, as those do that compress records."""

    def __init__(self, base: Any) -> None:
        self.base = base
        zope.interface.directlyProvides(self, zope.interface.providedBy(base))

    def __len__(self) -> int:
        return len(self.base)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.base, name)


def test_within_a_wrapper(files: FileStorage) -> None:
    tier = BlobTier(files.fshelper, MemoryStore(), 1 << 30)
    tier.attach(files)
    assert StorageAccess("1", Wrapper(files)).tier is tier
    files.close()


def test_a_pack_of_a_wrapped_storage(files: FileStorage) -> None:
    """Which ZODB's own packer makes."""
    tier = BlobTier(files.fshelper, MemoryStore(), 1 << 30)
    tier.attach(files)
    files.pack_keep_old = False
    StorageAccess("1", Wrapper(files))
    database = DB(files)
    tids = []
    for data in (b"old", b"new"):
        change(database, partial(fill, data=data))
        tids.append(files.lastTransaction())
    oid = next(files.fshelper.listOIDs())[0]
    stubs = [stub_of(str(files.fshelper.getBlobFilename(oid, tid))) for tid in tids]
    for stub in stubs:
        Path(stub).write_text("{}")
    Path(stubs[0].replace(".cold", ".blob")).unlink()
    files.pack(time.time() + 1, referencesf)
    assert [os.path.exists(stub) for stub in stubs] == [False, True]
    database.close()


def test_not_where_it_is_only_read(files: FileStorage) -> None:
    BlobTier(files.fshelper, MemoryStore(), 1 << 30).attach(files)
    demo = DemoStorage(base=files)
    with pytest.raises(ConfigurationError, match="nobody would look after its blobs"):
        StorageAccess("1", demo)
    demo.close()

"""Class C of the known failures: what a client may not say about blobs.

After each of these the connection or the transaction has ended, other clients notice nothing, and
the blob directory has nothing in it but what was committed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.rules.conftest import Connect, Serve
from tests.support.blobdisk import (
    OWN,
    RECORD,
    SPEECHES,
    VERIFIED,
    Disk,
    Speech,
    Uploader,
    listing,
    read,
)
from tests.support.raw import Closed, RawClient, RemoteFault, oid_of
from tests.support.storages import gate, hook
from tests.support.waiting import wait_until

from zeolith.protocol.greeting import Coding
from zeolith.protocol.limits import FIRST_UPLOAD, MAX_STREAMS
from zeolith.protocol.messages import (
    SendBlob,
    Store,
    StoreBlobChunk,
    StoreBlobEnd,
    StoreBlobShared,
    StoreBlobStart,
    TpcAbort,
    Vote,
)
from zeolith.protocol.streamrequests import AttachBlob, OpenBlob, StreamData, StreamEnd
from zeolith.server.upload import Upload

GOOD = b"was there before"
Z64 = bytes(8)


class Victim:
    """A server with one blob, and clients that do not behave.

    :ivar disk: what the server has.
    """

    def __init__(self, disk: Disk, connect: Callable[[], RawClient]) -> None:
        self.disk = disk
        self._connect = connect
        self._other = Uploader(connect())
        self.tid = self._other.commit(oid_of(1), GOOD)
        disk.committed(1, self.tid, GOOD)
        self._next = 100

    @property
    def temporary(self) -> Path:
        return self.disk.directory / "tmp"

    def attacker(self, has_transaction: bool = True) -> Uploader:
        """Return a client that has stored a record for object 2."""
        client = self._connect()
        if has_transaction:
            client.begin()
            client.send(Store(oid_of(2), Z64, RECORD, 1))
        return Uploader(client)

    def uploads(self) -> list[str]:
        return [name for name in os.listdir(self.temporary) if name.startswith("zeolith-upload")]

    def check(self) -> None:
        """Nothing has happened to others, and the disk is clean."""
        self.check_others()
        wait_until(self.disk.is_right, "the disk is clean")

    def check_others(self) -> None:
        """Others commit and read."""
        number = self._next = self._next + 1
        self.disk.committed(number, self._other.commit(oid_of(number), b"goes on"), b"goes on")
        assert read(self._other.client, oid_of(1), self.tid) == GOOD


@pytest.fixture(params=SPEECHES, ids=lambda speech: speech.name)
def speech(request: pytest.FixtureRequest) -> Speech:
    """What everybody speaks."""
    found: Speech = request.param
    return found


@pytest.fixture
def coding(speech: Speech) -> Coding:
    """Its coding."""
    return speech.coding


@pytest.fixture
def victim(tmp_path: Path, serve: Serve, raw: Connect, speech: Speech) -> Iterator[Victim]:
    disk = Disk("bushy", tmp_path)
    server = serve(disk.storage)
    found = Victim(disk, lambda: raw(server.address, **speech.options))
    yield found
    found.check()


def fault_of_vote(client: RawClient) -> str:
    """Return what the server says of the transaction instead of committing it."""
    with pytest.raises(RemoteFault) as caught:
        client.vote()
    client.send(TpcAbort(1))
    client.ping()  # The connection goes on.
    return str(caught.value)


# -- names -------------------------------------------------------------------------------------


def test_c_names_that_leave_the_directory(victim: Victim, tmp_path: Path) -> None:
    helper = victim.disk.storage.fshelper
    here, there = (Path(helper.getPathForOID(oid_of(n), create=True)) for n in (2, 3))
    secret = tmp_path / "secret.tmp"
    secret.write_bytes(b"secret")
    (there / "others.tmp").write_bytes(b"another object's")
    (here / "directory.tmp").mkdir()
    (here / "link.tmp").symlink_to(secret)
    (here / "hard.tmp").hardlink_to(secret)
    os.mkfifo(here / "pipe.tmp")
    before = listing(tmp_path / "blobs")
    names = [
        os.path.relpath(secret, here),
        str(secret),
        "../" + "3/others.tmp",
        os.path.relpath(there / "others.tmp", here),
        "..",
        ".tmp",
        "",
        "nul\0.tmp",
        "back\\slash.tmp",
        "directory.tmp",
        "link.tmp",
        "hard.tmp",
        "pipe.tmp",
        "missing.tmp",
        os.path.relpath(helper.getBlobFilename(oid_of(1), victim.tid), here),
        "x" * 5000 + ".tmp",
    ]
    reasons = (
        "is not the name of a temporary blob file",
        "there is no file",
        "not a plain file",
        "a hard link",
    )
    for name in names:
        attacker = victim.attacker()
        attacker.client.send(StoreBlobShared(oid_of(2), Z64, RECORD, name, 1))
        said = fault_of_vote(attacker.client)
        assert any(reason in said for reason in reasons), said
        assert listing(tmp_path / "blobs") == before, name
        assert secret.read_bytes() == b"secret"
    for path in (here / "link.tmp", here / "hard.tmp", here / "pipe.tmp", there / "others.tmp"):
        path.unlink()


@pytest.mark.parametrize("size", [0, 7, 9, 200])
def test_c_an_oid_that_is_not_8_bytes(victim: Victim, coding: Coding, size: int) -> None:
    oid = b"/" * size
    for is_shared in (False, True):
        attacker = victim.attacker()
        client = attacker.client
        attacker.begin(b"data")
        try:
            if is_shared:
                client.send(StoreBlobShared(oid, Z64, RECORD, "x.tmp", 1))
            else:
                attacker.end(oid, 4)
        except ValueError:
            # Zeolith's own layouts have no room for another length.
            assert coding is Coding.OWN
            client.close()
            continue
        with pytest.raises(Closed):
            client.ping()


def test_c_asking_for_blobs_with_ids_that_are_none(victim: Victim, coding: Coding) -> None:
    attacker = victim.attacker(has_transaction=False)
    for oid, serial in (
        (b"../../..", b"/passwd\0"),
        (oid_of(1), Z64),
        (oid_of(2), victim.tid),
        (b"\xff" * 8, b"\xff" * 8),
    ):
        request = (
            OpenBlob(1, oid, serial, 0, 1000) if coding is Coding.OWN else SendBlob(oid, serial)
        )
        with pytest.raises(RemoteFault, match="POSKeyError"):
            attacker.client.call(request)
    attacker.client.ping()


# -- transactions ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["none", "another", "voted", "aborted"])
@pytest.mark.parametrize("is_shared", [False, True], ids=["sent", "shared"])
def test_c_a_blob_for_a_transaction_that_takes_none(
    victim: Victim, coding: Coding, kind: str, is_shared: bool
) -> None:
    attacker = victim.attacker(has_transaction=kind != "none")
    client = attacker.client
    if not is_shared:
        attacker.begin(b"data")
        if coding is Coding.OWN:
            client.send(StreamEnd(attacker.number))
    if kind == "voted":
        client.vote()
    elif kind == "aborted":
        client.call(TpcAbort(1))
        if coding is Coding.OWN:
            # The end of the transaction took it along; here is the next one.
            attacker.begin(b"data")
            client.send(StreamEnd(attacker.number))
    txn = 2 if kind == "another" else 1

    def last_word() -> Any:
        if is_shared:
            return StoreBlobShared(oid_of(2), Z64, RECORD, "x.tmp", txn)
        return attacker.attachment(oid_of(2), 4, txn=txn)

    # Asked, the server says why; told, it cannot, and ends the connection.
    with pytest.raises(RemoteFault, match="StorageTransactionError"):
        client.call(last_word())
    client.ping()
    if not is_shared:
        attacker.begin(b"data")
        if coding is Coding.OWN:
            client.send(StreamEnd(attacker.number))
    client.send(last_word())
    with pytest.raises(Closed):
        client.ping()


def test_c_an_upload_that_arrives_after_the_vote(victim: Victim, coding: Coding) -> None:
    """The vote waits for what was sent before it, not for what comes later."""
    attacker = victim.attacker()
    client = attacker.client
    attacker.begin(b"data")
    client.ask(Vote(1))
    attacker.end(oid_of(2), 4)
    client.wait_closed()


# -- order -------------------------------------------------------------------------------------

_OUT_OF_ORDER: dict[str, tuple[list[Any], list[Any]]] = {
    "data without a beginning": ([StoreBlobChunk(b"x")], [StreamData(FIRST_UPLOAD + 1, b"x")]),
    "an end without a beginning": (
        [StoreBlobEnd(oid_of(2), Z64, RECORD, 1)],
        [StreamEnd(FIRST_UPLOAD + 1)],
    ),
    "two beginnings": (
        [StoreBlobStart(), StoreBlobChunk(b"x"), StoreBlobStart()],
        # A beginning is the first data: this is one more than may be on their way.
        [
            StreamData(number, b"x")
            for number in range(FIRST_UPLOAD, FIRST_UPLOAD + MAX_STREAMS + 1)
        ],
    ),
    "two ends": (
        [StoreBlobStart(), *[StoreBlobEnd(oid_of(2), Z64, RECORD, 1)] * 2],
        [StreamData(FIRST_UPLOAD, b"x"), *[StreamEnd(FIRST_UPLOAD)] * 2],
    ),
    "data behind the end": (
        [StoreBlobStart(), StoreBlobEnd(oid_of(2), Z64, RECORD, 1), StoreBlobChunk(b"x")],
        [StreamData(FIRST_UPLOAD, b"x"), StreamEnd(FIRST_UPLOAD), StreamData(FIRST_UPLOAD, b"x")],
    ),
}


@pytest.mark.parametrize("kind", _OUT_OF_ORDER)
def test_c_messages_out_of_order(victim: Victim, coding: Coding, kind: str) -> None:
    classic, own = _OUT_OF_ORDER[kind]
    attacker = victim.attacker()
    attacker.client.send(*(own if coding is Coding.OWN else classic))
    with pytest.raises(Closed):
        attacker.client.ping()


def test_c_a_vote_for_an_upload_without_end(victim: Victim, coding: Coding) -> None:
    """The transaction has its record, and no blob for it; what is on its way is not taken."""
    attacker = victim.attacker()
    attacker.begin(b"data")
    attacker.client.vote()
    assert not list(victim.disk.directory.glob("0x00/**/0x02/*.blob"))
    attacker.client.call(TpcAbort(1))
    attacker.client.close()


# -- lies about files --------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 3, 5, 1 << 62])
def test_c_a_size_that_is_not_true(victim: Victim, coding: Coding, size: int) -> None:
    if coding is not Coding.OWN:
        # Nothing is announced there: what has come is what there is, also where that is less than
        # its client had.
        uploader = victim.attacker(has_transaction=False)
        victim.disk.committed(3, uploader.commit(oid_of(3), b"data"), b"data")
        return
    attacker = victim.attacker()
    attacker.begin(b"data")
    attacker.end(oid_of(2), size)
    said = fault_of_vote(attacker.client)
    assert f"a blob of {size} bytes was announced, 4 bytes have arrived" in said


def test_c_a_blob_that_grows_beyond_the_limit(
    tmp_path: Path, serve: Serve, raw: Connect, speech: Speech
) -> None:
    disk = Disk("bushy", tmp_path)
    server = serve(disk.storage, max_blob_size=1000)
    client = raw(server.address, **speech.options)
    uploader = Uploader(client)
    client.begin()
    uploader.store(oid_of(2), bytes(1001))
    assert "1000 bytes at most (max-blob-size)" in fault_of_vote(client)
    wait_until(disk.is_right)
    disk.committed(2, uploader.commit(oid_of(2), bytes(1000)), bytes(1000))
    wait_until(disk.is_right)


def test_c_a_temporary_file_that_has_vanished(victim: Victim) -> None:
    attacker = victim.attacker()
    attacker.begin(b"data")
    attacker.end(oid_of(2), 4)
    attacker.client.ping()
    (name,) = wait_until(victim.uploads)
    (victim.temporary / name).unlink()
    assert "No such file" in fault_of_vote(attacker.client)


def test_c_a_shared_file_that_has_vanished(victim: Victim) -> None:
    storage = victim.disk.storage
    path = Path(storage.fshelper.getPathForOID(oid_of(2), create=True)) / "x.tmp"
    path.write_bytes(b"data")
    attacker = victim.attacker()
    attacker.client.send(StoreBlobShared(oid_of(2), Z64, RECORD, "x.tmp", 1))
    # It was there when it was announced.
    with hook(storage, "storeBlob", before=lambda *_args: path.unlink()):
        assert "No such file" in fault_of_vote(attacker.client)


def test_c_a_checksum_that_is_not_true(victim: Victim, speech: Speech) -> None:
    if speech is not VERIFIED:
        # Nobody has agreed upon one: in Zeolith's own protocol a checksum is a violation.
        attacker = victim.attacker()
        attacker.begin(b"data")
        if speech is OWN:
            attacker.client.send(
                StreamEnd(attacker.number),
                AttachBlob(attacker.number, oid_of(2), Z64, RECORD, 1, 4, bytes(32)),
            )
            attacker.client.wait_closed()
        attacker.client.close()
        return
    for digest in (bytes(32), None):
        attacker = victim.attacker()
        attacker.begin(b"data")
        attacker.client.send(
            StreamEnd(attacker.number),
            AttachBlob(attacker.number, oid_of(2), Z64, RECORD, 1, 4, digest),
        )
        if digest is None:
            attacker.client.wait_closed()
        else:
            assert "BlobDamaged" in fault_of_vote(attacker.client)


# -- directories that cannot be used -----------------------------------------------------------


def test_c_no_temporary_directory(victim: Victim) -> None:
    """Nothing is refused to root but this: a file in the place of the directory."""
    aside = victim.disk.directory.parent / "aside"
    victim.temporary.rename(aside)
    victim.temporary.write_bytes(b"")
    attacker = victim.attacker()
    attacker.begin(b"data")
    attacker.end(oid_of(2), 4)
    assert "Not a directory" in fault_of_vote(attacker.client)
    victim.temporary.unlink()
    aside.rename(victim.temporary)


def test_c_no_directory_for_the_object(victim: Victim) -> None:
    helper = victim.disk.storage.fshelper
    path = Path(helper.getPathForOID(oid_of(2)))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    attacker = victim.attacker()
    attacker.begin(b"data")
    attacker.end(oid_of(2), 4)
    assert "Not a directory" in fault_of_vote(attacker.client)
    path.unlink()


def test_c_a_blob_that_cannot_be_read(victim: Victim, coding: Coding) -> None:
    path = Path(victim.disk.storage.fshelper.getBlobFilename(oid_of(1), victim.tid))
    path.unlink()
    path.mkdir()
    client = victim.attacker(has_transaction=False).client
    request = (
        OpenBlob(1, oid_of(1), victim.tid, 0, 1000)
        if coding is Coding.OWN
        else SendBlob(oid_of(1), victim.tid)
    )
    with pytest.raises(RemoteFault, match="Is a directory"):
        client.call(request)
    client.ping()
    path.rmdir()
    path.write_bytes(GOOD)


# -- other clients' uploads, and too many ------------------------------------------------------


def test_c_the_upload_of_another_connection(victim: Victim, coding: Coding) -> None:
    """Uploads have no name that another client could use."""
    owner, thief = victim.attacker(), victim.attacker()
    owner.begin(b"the owner's")
    if coding is Coding.OWN:
        owner.client.send(StreamEnd(owner.number))
    owner.client.ping()
    request = owner.attachment(oid_of(2), 11)
    thief.client.send(request)
    with pytest.raises(Closed):
        thief.client.ping()
    # Its owner goes on.
    owner.client.send(request)
    owner.client.vote()
    victim.disk.committed(2, owner.client.finish(), b"the owner's")


def test_c_uploads_that_no_transaction_takes(
    victim: Victim, coding: Coding, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R8: each takes a file at the server; there is a limit for each client, and all of them go
    with it."""
    monkeypatch.setattr("zeolith.server.uploads.SHORT", 0)
    clients = [victim.attacker(has_transaction=False) for _ in range(4)]
    for attacker in clients:
        if coding is not Coding.OWN:
            attacker.begin(b"data")
            attacker.client.ping()
            continue
        for _ in range(MAX_STREAMS):
            attacker.begin(b"data")
            attacker.client.send(StreamEnd(attacker.number))
        attacker.client.ping()
    most = (MAX_STREAMS if coding is Coding.OWN else 1) * len(clients)
    wait_until(lambda: len(victim.uploads()) == most)
    for attacker in clients:
        attacker.begin(b"one more")
        with pytest.raises(Closed):
            attacker.client.ping()
    wait_until(lambda: not victim.uploads())


def test_c_an_upload_that_never_goes_on(victim: Victim, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stops nobody, and goes with its client."""
    monkeypatch.setattr("zeolith.server.uploads.SHORT", 0)
    attacker = victim.attacker()
    with gate(Upload, "write", when=lambda _upload, data: data == b"stuck") as writing:
        attacker.begin(b"stuck")
        writing.wait_reached()
        victim.check_others()
        writing.open()
    attacker.client.close()

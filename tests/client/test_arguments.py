"""What callers may hand to a storage; anything else is refused before it harms the connection."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import transaction.interfaces
from ZODB.Connection import TransactionMetaData
from ZODB.POSException import POSKeyError, StorageError, TransactionTooLargeError

import zeolith
from tests.support.raw import oid_of
from tests.support.waiting import promptly
from zeolith.client.storage import ClientStorage
from zeolith.errors import MessageTooLarge, ObjectTooLarge
from zeolith.protocol.greeting import Coding
from zeolith.protocol.hello import Terms
from zeolith.protocol.limits import Limits
from zeolith.protocol.peers import ServerPeer
from zeolith.server import transport
from zeolith.types import MAX_TID, NO_TID

from .conftest import Open
from .scripted import tid

OID = oid_of(1)
TID = tid(1)


class Named(bytes):
    """A class of an application's own, as ``zodbpickle.binary`` is one."""


@pytest.fixture
def address(tmp_path: Path) -> Iterator[Any]:
    found, stop = zeolith.server(
        str(tmp_path / "Data.fs"), blob_dir=str(tmp_path / "blobs"), threaded=True
    )
    yield found
    stop()


@pytest.fixture
def storage(address: Any, client: Open, tmp_path: Path) -> ClientStorage:
    return client(address, blob_dir=str(tmp_path / "cache"))


def begin(storage: ClientStorage) -> TransactionMetaData:
    meta = TransactionMetaData()
    storage.tpc_begin(meta)
    return meta


def commit(storage: ClientStorage, meta: TransactionMetaData) -> bytes:
    storage.tpc_vote(meta)
    return storage.tpc_finish(meta)


def blob_file(tmp_path: Path) -> str:
    path = tmp_path / "upload"
    path.write_bytes(b"blob")
    return str(path)


Act = Callable[[ClientStorage, Any, Any], Any]

BAD_OIDS = [("abcdefgh", TypeError), (b"short", ValueError), (1, TypeError), (None, TypeError)]
BAD_TIDS = [("abcdefgh", TypeError), (b"", ValueError), (1, TypeError)]

WRITES_WITH_OID: dict[str, Act] = {
    "store": lambda s, value, txn: s.store(value, NO_TID, b"x", "", txn),
    "storeBlob": lambda s, value, txn: s.storeBlob(value, NO_TID, b"x", "nowhere", "", txn),
    "restore": lambda s, value, txn: s.restore(value, TID, b"x", "", None, txn),
    "deleteObject": lambda s, value, txn: s.deleteObject(value, TID, txn),
    "checkCurrent": lambda s, value, txn: s.checkCurrentSerialInTransaction(value, TID, txn),
}

WRITES_WITH_TID: dict[str, Act] = {
    "store": lambda s, value, txn: s.store(OID, value, b"x", "", txn),
    "storeBlob": lambda s, value, txn: s.storeBlob(OID, value, b"x", "nowhere", "", txn),
    "restore": lambda s, value, txn: s.restore(OID, value, b"x", "", None, txn),
    "restore prev": lambda s, value, txn: s.restore(OID, TID, b"x", "", value, txn),
    "deleteObject": lambda s, value, txn: s.deleteObject(OID, value, txn),
    "checkCurrent": lambda s, value, txn: s.checkCurrentSerialInTransaction(OID, value, txn),
}

OTHER_WRITES: dict[str, Act] = {
    "text stored": lambda s, _, txn: s.store(OID, NO_TID, "x", "", txn),  # type: ignore[arg-type]
    "None stored": lambda s, _, txn: s.store(OID, NO_TID, None, "", txn),  # type: ignore[arg-type]
    "bytearray stored": lambda s, _, txn: s.store(OID, NO_TID, bytearray(b"x"), "", txn),  # type: ignore[arg-type]
    "None with a blob": lambda s, _, txn: s.storeBlob(OID, NO_TID, None, "nowhere", "", txn),  # type: ignore[arg-type]
    "text restored": lambda s, _, txn: s.restore(OID, TID, "x", "", None, txn),  # type: ignore[arg-type]
    "restored without a serial": lambda s, _, txn: s.restore(OID, None, b"x", "", None, txn),  # type: ignore[arg-type]
    "deleted without a serial": lambda s, _, txn: s.deleteObject(OID, None, txn),  # type: ignore[arg-type]
    "text undone": lambda s, _, txn: s.undo("x", txn),  # type: ignore[arg-type]
}

WRITES = [
    *(
        pytest.param(act, value, error, id=f"{name} oid {value!r}")
        for name, act in WRITES_WITH_OID.items()
        for value, error in BAD_OIDS
    ),
    *(
        pytest.param(act, value, error, id=f"{name} tid {value!r}")
        for name, act in WRITES_WITH_TID.items()
        for value, error in BAD_TIDS
    ),
    *(pytest.param(act, None, TypeError, id=name) for name, act in OTHER_WRITES.items()),
]


@pytest.mark.parametrize(("act", "value", "error"), WRITES)
def test_what_cannot_be_written_is_refused_and_the_connection_goes_on(
    storage: ClientStorage, act: Act, value: Any, error: type[Exception]
) -> None:
    connection = storage._link.channel()
    meta = begin(storage)
    with pytest.raises(error):
        act(storage, value, meta)
    # The transaction itself is as good as before.
    storage.store(OID, NO_TID, b"data", "", meta)
    committed = commit(storage, meta)
    assert storage.load(OID) == (b"data", committed)
    assert storage._link.channel() is connection


READS: dict[str, tuple[Callable[[ClientStorage], Any], type[Exception]]] = {
    "loadSerial text": (lambda s: s.loadSerial("abcdefgh", TID), TypeError),  # type: ignore[arg-type]
    "loadSerial short oid": (lambda s: s.loadSerial(b"a", TID), POSKeyError),
    "loadSerial short tid": (lambda s: s.loadSerial(OID, b"a"), ValueError),
    "load text": (lambda s: s.load("abcdefgh"), TypeError),  # type: ignore[arg-type]
    "load short oid": (lambda s: s.load(b"a"), POSKeyError),
    "loadBefore short tid": (lambda s: s.loadBefore(OID, b"a"), ValueError),
    "getTid text": (lambda s: s.getTid("abcdefgh"), TypeError),  # type: ignore[arg-type]
    "getTid short": (lambda s: s.getTid(b"a"), POSKeyError),
    "history text": (lambda s: s.history("abcdefgh"), TypeError),  # type: ignore[arg-type]
    "record_iternext": (lambda s: s.record_iternext("abcdefgh"), TypeError),
    "iterator start": (lambda s: s.iterator("abcdefgh"), TypeError),  # type: ignore[arg-type]
    "iterator stop": (lambda s: s.iterator(None, b"short"), ValueError),
    "undoLog": (lambda s: s.undoLog(0.5, 20), TypeError),  # type: ignore[arg-type]
    "undoInfo": (lambda s: s.undoInfo(0, "20"), TypeError),  # type: ignore[arg-type]
    "loadBlob text": (lambda s: s.loadBlob("abcdefgh", TID), TypeError),  # type: ignore[arg-type]
    "loadBlob short oid": (lambda s: s.loadBlob(b"a", TID), POSKeyError),
    "loadBlob short tid": (lambda s: s.loadBlob(OID, b"a"), ValueError),
    "open blob": (lambda s: s.openCommittedBlobFile(OID, None), TypeError),  # type: ignore[arg-type]
    "pack": (lambda s: s.pack("yesterday"), TypeError),  # type: ignore[arg-type]
    "prefetch": (lambda s: s.prefetch(["abcdefgh"], MAX_TID), TypeError),  # type: ignore[list-item]
}


@pytest.mark.parametrize(("act", "error"), READS.values(), ids=list(READS))
def test_what_cannot_be_read_is_refused_and_the_connection_goes_on(
    storage: ClientStorage, act: Callable[[ClientStorage], Any], error: type[Exception]
) -> None:
    connection = storage._link.channel()
    with pytest.raises(error):
        act(storage)
    storage.ping()
    assert storage._link.channel() is connection


@pytest.mark.parametrize("serial", [None, NO_TID], ids=["None", "zeros"])
def test_new_objects_have_no_serial(storage: ClientStorage, serial: bytes | None) -> None:
    meta = begin(storage)
    storage.store(OID, serial, b"data", "", meta)
    committed = commit(storage, meta)
    assert storage.load(OID) == (b"data", committed)


def test_new_objects_with_blobs_have_no_serial(storage: ClientStorage, tmp_path: Path) -> None:
    meta = begin(storage)
    storage.storeBlob(OID, None, b"data", blob_file(tmp_path), "", meta)
    committed = commit(storage, meta)
    assert Path(storage.loadBlob(OID, committed)).read_bytes() == b"blob"


def test_restored_records_may_have_no_data(storage: ClientStorage) -> None:
    meta = begin(storage)
    storage.restore(OID, tid(5), None, "", None, meta)
    commit(storage, meta)
    with pytest.raises(POSKeyError):
        storage.load(OID)


def test_classes_made_from_bytes_are_bytes(storage: ClientStorage) -> None:
    meta = begin(storage)
    storage.store(Named(OID), Named(NO_TID), Named(b"data"), "", meta)
    committed = commit(storage, meta)
    assert storage.load(OID) == (b"data", committed)
    assert type(storage.load(OID)[0]) is bytes
    assert storage.getTid(Named(OID)) == committed
    assert storage.loadSerial(Named(OID), Named(committed)) == b"data"


@pytest.mark.parametrize(
    ("change", "keywords", "error"),
    [
        ({}, {"tid": "abcdefgh"}, TypeError),
        ({}, {"tid": b"short"}, ValueError),
        ({}, {"status": b" "}, TypeError),
        ({"user": 1}, {}, TypeError),
        ({"description": None}, {}, TypeError),
        ({"extension": [1]}, {}, TypeError),
    ],
    ids=str,
)
def test_what_describes_no_transaction_is_refused_and_the_next_one_begins(
    storage: ClientStorage, change: dict[str, Any], keywords: dict[str, Any], error: type[Exception]
) -> None:
    connection = storage._link.channel()
    wrong: Any = TransactionMetaData()
    for name, value in change.items():
        setattr(wrong, f"_{name}" if name == "extension" else name, value)
    with pytest.raises(error):
        storage.tpc_begin(wrong, **keywords)
    with promptly(5):
        meta = begin(storage)
    storage.store(OID, NO_TID, b"data", "", meta)
    commit(storage, meta)
    assert storage._link.channel() is connection


# -- sizes -------------------------------------------------------------------------------------


@pytest.fixture
def small_messages(monkeypatch: pytest.MonkeyPatch) -> int:
    """Servers accept messages of so many bytes, and say so."""
    limit = 10_000

    def make(
        coding: Coding, limits: Limits, program: str, terms: Terms, pickle: bool
    ) -> ServerPeer:
        return ServerPeer(coding, replace(limits, max_message_size=limit), program, terms, pickle)

    monkeypatch.setattr(transport, "ServerPeer", make)
    return limit


LARGE: dict[str, Act] = {
    "store": lambda s, data, txn: s.store(OID, NO_TID, data, "", txn),
    "store new": lambda s, data, txn: s.store(OID, None, data, "", txn),
    "restore": lambda s, data, txn: s.restore(OID, TID, data, "", None, txn),
}


@pytest.mark.parametrize("act", LARGE.values(), ids=list(LARGE))
@pytest.mark.parametrize("over", [-2, 1, 1_000_000])
def test_an_object_that_the_server_does_not_take_is_refused_before_it_is_sent(
    small_messages: int, storage: ClientStorage, act: Act, over: int
) -> None:
    connection = storage._link.channel()
    meta = begin(storage)
    with pytest.raises(ObjectTooLarge) as caught:
        act(storage, bytes(small_messages + over), meta)
    error = caught.value
    assert (error.oid, error.limit) == (OID, small_messages)
    assert error.size > small_messages
    for part in ("0x01", str(error.size), str(small_messages)):
        assert part in str(error)
    assert not isinstance(error, transaction.interfaces.TransientError)
    assert isinstance(error, (StorageError, TransactionTooLargeError))
    with promptly(5):
        storage.tpc_abort(meta)
    meta = begin(storage)
    storage.store(OID, NO_TID, bytes(small_messages - 100), "", meta)
    commit(storage, meta)
    assert storage._link.channel() is connection


def test_a_blob_may_be_larger_than_a_message_but_not_its_record(
    small_messages: int, storage: ClientStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zeolith.client.blobs.CHUNK_SIZE", 5000)
    path = Path(blob_file(tmp_path))
    path.write_bytes(bytes(5 * small_messages))
    meta = begin(storage)
    storage.storeBlob(OID, NO_TID, b"data", str(path), "", meta)
    commit(storage, meta)
    meta = begin(storage)
    with pytest.raises(ObjectTooLarge):
        storage.storeBlob(oid_of(2), NO_TID, bytes(small_messages), blob_file(tmp_path), "", meta)
    storage.tpc_abort(meta)
    storage.ping()


def test_a_transaction_whose_description_is_too_large_is_refused(
    small_messages: int, storage: ClientStorage
) -> None:
    connection = storage._link.channel()
    with pytest.raises(MessageTooLarge, match=str(small_messages)):
        storage.tpc_begin(TransactionMetaData(description="x" * small_messages))
    with promptly(5):
        commit(storage, begin(storage))
    assert storage._link.channel() is connection


def test_other_threads_keep_their_connection_when_one_stores_300_mb(
    storage: ClientStorage,
) -> None:
    """With the limits as they are; the bytes are never touched, so this costs no memory."""
    connection = storage._link.channel()
    meta = begin(storage)
    failures: list[BaseException] = []
    is_over = threading.Event()

    def ping() -> None:
        try:
            while not is_over.is_set():
                storage.ping()
        except BaseException as error:  # noqa: BLE001 - asserted below
            failures.append(error)

    pinging = threading.Thread(target=ping)
    pinging.start()
    with pytest.raises(ObjectTooLarge, match="314572800 bytes"):
        storage.store(OID, NO_TID, bytes(300 << 20), "", meta)
    storage.tpc_abort(meta)
    is_over.set()
    pinging.join(10)
    assert not failures
    assert storage._link.channel() is connection

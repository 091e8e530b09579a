"""Conflicts, and who is asked to resolve them."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
from BTrees.Length import Length
from BTrees.OOBTree import OOBTree
from tests.support.conflicting import Counter, Payload, nameless_record, record_of
from ZODB.ConflictResolution import ConflictResolvingStorage
from ZODB.POSException import ConflictError
from ZODB.serialize import ObjectWriter
from ZODB.tests.StorageTestBase import zodb_pickle

from zeolith.server.conflicts import Conflict, class_of, conflict_error, handling, take_over

OID, ONE, TWO = b"\0" * 7 + b"\7", b"\1" * 8, b"\2" * 8


class Storage(ConflictResolvingStorage):
    def loadSerial(self, oid: bytes, serial: bytes) -> bytes:  # noqa: N802 - ZODB's name
        return {ONE: b"old", TWO: b"committed"}[serial]


def test_the_class_of_a_record() -> None:
    for record in (zodb_pickle(Length(3)), ObjectWriter().serialize(Length(3))):
        assert class_of(record) == "BTrees.Length.Length"
    assert class_of(zodb_pickle(OOBTree())) == "BTrees.OOBTree.OOBTree"
    assert class_of(record_of(Counter, {})) == "tests.support.conflicting.Counter"
    assert class_of(b"\x80\x04\x8c\x02os\x8c\x06system\x93.") == "os.system"
    assert class_of(b"(cZODB.tests.x\nOld\n(t.") == "ZODB.tests.x.Old"


@pytest.mark.parametrize(
    "record",
    [
        b"",
        b"\x80",
        b"\x80\x03",
        b"c",
        b"cmodule",
        b"cmodule\nname",
        b"cmod\xff\nname\n.",
        b"\x80\x03]q\x00cos\nsystem\n.",
        b"\x80\x03X\x02\0\0\0osNX\x06\0\0\0system\x86.",
        b"\x80\x03X\x02\0\0\0os\x86.",
        b"\x80\x03X\xff\xff\xff\x7fos",
        b"cmod\x1b[2J\nname\n.",
        b"cmod\rule\nname\n.",
        b"c" + b"m" * 1000 + b"\nname\n.",
        b".h6162",
    ],
)
def test_records_that_do_not_say(record: bytes) -> None:
    assert class_of(record) == ""


def test_errors_name_object_serials_and_class(monkeypatch: pytest.MonkeyPatch) -> None:
    """And ask nobody else for the class."""
    monkeypatch.delattr("ZODB.utils.get_pickle_metadata")
    error = conflict_error(OID, TWO, ONE, record_of(Counter, {}))
    assert isinstance(error, ConflictError)
    assert (error.oid, error.serials) == (OID, (TWO, ONE))
    assert error.class_name == "tests.support.conflicting.Counter"
    assert conflict_error(OID, TWO, ONE).class_name is None  # type: ignore[attr-defined]


def test_no_error_of_zodb_unpickles_a_record(tmp_path: Path) -> None:
    """Not even to name its class."""
    take_over()
    path = tmp_path / "ran"
    for record in (nameless_record(path), pickle.dumps(Payload(path), 3)):
        error = ConflictError(oid=OID, serials=(TWO, ONE), data=record)
        assert not path.exists()
        assert error.class_name in (".", "tests.support.conflicting._tell")
    error = ConflictError(oid=OID, data=zodb_pickle(Length(3)))
    assert error.class_name == "BTrees.Length.Length"


def test_who_is_asked() -> None:
    take_over()
    take_over()
    storage = Storage()
    asked: list[Any] = []

    def handle(*arguments: Any) -> bytes:
        asked.append(arguments)
        return b"resolved"

    with handling(handle):
        assert storage.tryToResolveConflict(OID, TWO, ONE, b"new") == b"resolved"
        assert storage.tryToResolveConflict(OID, TWO, ONE, b"new", b"x") == b"resolved"
        with handling(None), pytest.raises(ConflictError):
            storage.tryToResolveConflict(OID, TWO, ONE, b"new")
    (asker, own, *arguments), (_, _, *others) = asked
    assert (asker, arguments, others) == (storage, [OID, TWO, ONE, b"new"], [*arguments, b"x"])
    with pytest.raises(ConflictError):
        own(*arguments)
    # Nobody is asked outside of it: other databases of the process have nothing to do with this.
    with pytest.raises(ConflictError):
        storage.tryToResolveConflict(OID, TWO, ONE, b"new")
    assert len(asked) == 2


def test_a_storage_that_resolves_itself_is_not_asked_again() -> None:
    take_over()
    storage = Storage()

    def handle(asker: Any, own: Any, oid: bytes, *rest: bytes) -> bytes:
        committed, read, data = rest
        method = storage.tryToResolveConflict
        return Conflict(asker, method, oid, committed, read, data, b"").resolve()

    with handling(handle), pytest.raises(ConflictError):
        storage.tryToResolveConflict(OID, TWO, ONE, b"new")


def test_states_are_made_plain() -> None:
    storage = Storage()
    storage._crs_untransform_record_data = lambda data: data.upper()
    storage._crs_transform_record_data = lambda data: data.lower()
    conflict = Conflict(storage, storage.tryToResolveConflict, OID, TWO, ONE, b"new", b"")
    assert conflict.records() == (b"OLD", b"COMMITTED", b"NEW")
    assert conflict._replace(committed_data=b"x").records() == (b"OLD", b"X", b"NEW")
    assert conflict.to_store(b"DONE") == b"done"

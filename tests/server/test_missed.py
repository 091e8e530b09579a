"""What a client is told that it missed: from the log, from the storage, within bounds."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.server.conftest import Connect, Serve
from tests.support.histories import Z64, commit, fill, listed
from tests.support.raw import oid_of
from tests.support.storages import gate
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage
from ZODB.serialize import referencesf

from zeolith.protocol.messages import GetInvalidations
from zeolith.server import missed
from zeolith.server.access import StorageAccess
from zeolith.server.missed import read_missed

X = oid_of(7)


@pytest.fixture(params=["file", "mapping"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    kind = request.param
    found = FileStorage(str(tmp_path / "Data.fs")) if kind == "file" else MappingStorage()
    yield found
    found.close()


def changed_after(storage: Any, tid: bytes) -> set[bytes]:
    return {oid for _, oids in listed(storage, tid) for oid in oids}


def test_what_the_storage_says_is_complete(storage: Any) -> None:
    tids = fill(storage, 30)
    access = StorageAccess("1", storage)
    for tid in (Z64, *tids[:-1:7]):
        found = read_missed(access, tid, tids[-1])
        assert found is not None
        assert found[0] == tids[-1]
        assert sorted(found[1]) == sorted(changed_after(storage, tid))


def test_r1_nothing_is_told_that_was_not_announced(storage: Any) -> None:
    tids = fill(storage, 5)
    commit(storage, oid_of(1000))
    found = read_missed(StorageAccess("1", storage), tids[2], tids[-1])
    assert found is not None
    assert found[0] == tids[-1]
    assert oid_of(1000) not in found[1]


def test_after_a_pack_nothing_is_missing(tmp_path: Path) -> None:
    storage = FileStorage(str(tmp_path / "Data.fs"), pack_gc=False)
    try:
        tids = fill(storage, 30)
        expected = changed_after(storage, tids[9])
        storage.pack(time.time(), referencesf)
        found = read_missed(StorageAccess("1", storage), tids[9], tids[-1])
        assert found is not None
        assert set(found[1]) == expected
    finally:
        storage.close()


def test_r8_the_work_is_bounded(storage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tids = fill(storage, 10)
    access = StorageAccess("1", storage)
    assert read_missed(access, Z64, tids[-1], seconds=-1.0) is None
    count = len(changed_after(storage, Z64))
    monkeypatch.setattr(missed, "MISSED_OBJECTS", count)
    assert read_missed(access, Z64, tids[-1]) is not None
    monkeypatch.setattr(missed, "MISSED_OBJECTS", count - 1)
    assert read_missed(access, Z64, tids[-1]) is None


def test_a_storage_that_fails_says_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The client verifies what it has; it would not get in otherwise."""
    path = tmp_path / "Data.fs"
    storage = FileStorage(str(path))
    try:
        tids = fill(storage, 3)
        with open(path, "r+b") as file:
            file.seek(-30, 2)
            file.write(bytes(30))
        assert read_missed(StorageAccess("1", storage), tids[0], tids[-1]) is None
        assert "its history cannot be read: the database file is damaged" in caplog.text
    finally:
        storage.close()


@pytest.mark.parametrize("quick", [missed.QUICK_BYTES, -1], ids=["loop", "worker"])
def test_the_log_is_asked_first(
    serve: Serve, raw: Connect, monkeypatch: pytest.MonkeyPatch, quick: int
) -> None:
    """Much of it on a worker, while others are served."""
    monkeypatch.setattr(missed, "QUICK_BYTES", quick)
    client = raw(serve(MappingStorage()).address)
    tids = [client.commit({oid_of(n): (Z64, b"x")}) for n in range(5)]
    tid, oids = client.call(GetInvalidations(tids[1]))
    assert tid == tids[-1]
    assert sorted(oids) == [oid_of(n) for n in range(2, 5)]
    monkeypatch.setattr(missed, "MISSED_OBJECTS", 2)
    assert client.call(GetInvalidations(tids[1])) is None


@pytest.mark.parametrize(("age", "is_told"), [(600.0, True), (0.0, False), (None, False)])
def test_how_far_the_storage_is_asked(
    serve: Serve, raw: Connect, storage: Any, age: float | None, is_told: bool
) -> None:
    client = raw(serve(storage, invalidation_queue_size=2, invalidation_age=age).address)
    tids = [client.commit({oid_of(n): (Z64, b"x")}) for n in range(20)]
    answer = client.call(GetInvalidations(tids[3]))
    if is_told:
        assert answer[0] == tids[-1]
        assert set(answer[1]) == changed_after(storage, tids[3])
    else:
        assert answer is None
    assert client.call(GetInvalidations(tids[-2])) is not None
    # Forty years ago.
    assert client.call(GetInvalidations(b"\x01" + tids[0][1:])) is None


def test_others_are_served_while_the_storage_is_read(serve: Serve, raw: Connect) -> None:
    storage = MappingStorage()
    tids = fill(storage, 5)
    server = serve(storage, invalidation_queue_size=0)
    asking, other = raw(server.address), raw(server.address)
    with gate(storage, "iterator") as stop:
        question = asking.ask(GetInvalidations(tids[0]))
        stop.wait_reached()
        tid = other.commit({X: (Z64, b"x")})
        assert other.load(X)[1] == tid
        # So does the client that asks; what was announced since it is told in the usual way.
        assert asking.load(X)[1] == tid
        assert asking.invalidations() == [(tid, [X])]
        stop.open()
        answer = asking.answer(question)
    assert answer[0] == tids[-1]
    assert X not in answer[1]

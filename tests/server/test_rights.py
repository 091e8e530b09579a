"""What a session may do, and with which storage."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from tests.server.conftest import Connect, Serve
from tests.support.raw import Z64, Closed, RemoteFault, oid_of
from tests.support.waiting import wait_until
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage

from zeolith.protocol import additions as a
from zeolith.protocol import messages as m
from zeolith.protocol import streamrequests as s
from zeolith.protocol.greeting import Coding
from zeolith.protocol.lead import GiveLead, TakeLead
from zeolith.protocol.limits import FIRST_UPLOAD
from zeolith.protocol.loadrequests import LoadMany, SyncTo
from zeolith.protocol.outcome import Outcome
from zeolith.server.handlers import HANDLERS

READING = frozenset(
    {
        m.LoadBefore, LoadMany, SyncTo, m.GetInfo, m.LastTransaction, m.Ping, m.ServerStatus,
        m.SetClientLabel, m.GetInvalidations, m.LoadSerial, m.GetTid, m.History, m.RecordIternext,
        m.UndoLog, m.UndoInfo, m.SendBlob, m.IteratorStart, m.IteratorNext, m.IteratorRecordStart,
        m.IteratorRecordNext, m.IteratorGc, s.OpenBlob, s.OpenIteration, s.StreamCredit,
        s.StreamCancel, a.VerifyMany, a.ChangesSince, a.CacheReport, Outcome,
        GiveLead,
        m.TpcAbort,  # of nothing, as whoever only reads has no transaction
    }
)  # fmt: skip
"""Requests that change nothing: all that a session takes which may only read."""

WRITING: tuple[Any, ...] = (
    m.NewOids(5),
    TakeLead(),
    m.TpcBegin(1, b"", b"", b"", None, " "),
    m.Store(oid_of(1), Z64, b"x", 1),
    m.Restore(oid_of(1), Z64, b"x", None, 1),
    m.DeleteObject(oid_of(1), Z64, 1),
    m.CheckCurrentSerial(oid_of(1), Z64, 1),
    m.Undo(Z64, 1),
    m.Vote(1),
    m.TpcFinish(1),
    m.StoreBlobStart(),
    m.StoreBlobChunk(b"x"),
    m.StoreBlobEnd(oid_of(1), Z64, b"x", 1),
    m.StoreBlobShared(oid_of(1), Z64, b"x", "x.tmp", 1),
    s.OpenUpload(FIRST_UPLOAD, bytes(16)),
    s.ForgetUpload(FIRST_UPLOAD),
    s.AttachBlob(FIRST_UPLOAD, oid_of(1), Z64, b"x", 1, 1),
    s.StreamData(FIRST_UPLOAD, b"x"),
    s.StreamEnd(FIRST_UPLOAD),
    s.StreamFault(FIRST_UPLOAD, "x", ()),
)
"""One of each request that changes something, or is on the way to it."""

OTHERS = frozenset({m.Register, m.Pack})
"""Judged by themselves: see tests/rules/test_r9_users.py."""


def test_of_every_request_it_is_known_whether_it_writes() -> None:
    """A new one has to be put into one of the tables; if it writes, it is refused below."""
    writing = [type(request) for request in WRITING]
    assert len(set(writing)) == len(writing)
    assert {*writing, *READING, *OTHERS} == set(HANDLERS)
    assert len(writing) + len(READING) + len(OTHERS) == len(HANDLERS)


@pytest.mark.parametrize("request_", WRITING, ids=lambda request: type(request).__name__)
def test_r9_who_may_only_read_writes_nothing(
    files: FileStorage, serve: Serve, raw: Connect, tmp_path: Path, request_: Any
) -> None:
    server = serve(files)
    is_own = type(request_).__module__ in (s.__name__, TakeLead.__module__)
    coding = Coding.OWN if is_own else Coding.MSGPACK
    reader = raw(server.address, coding=coding, read_only=True)
    never_calls = (s.StreamData, s.StreamEnd, s.StreamFault, s.ForgetUpload)
    if type(request_) not in never_calls:
        with pytest.raises((RemoteFault, Closed)):
            reader.call(request_)
    # As a notice, and in a transaction that is to fail.
    other = raw(server.address, coding=coding, read_only=True)
    other.send(m.TpcBegin(1, b"", b"", b"" if is_own else {}, None, " "), request_)
    with pytest.raises((RemoteFault, Closed, ConnectionError)):
        other.vote()
    assert files.lastTransaction() == Z64
    assert [each.name for each in (tmp_path / "blobs" / "tmp").iterdir()] == []


def test_r9_who_may_only_read_removes_no_file(
    files: FileStorage, serve: Serve, raw: Connect
) -> None:
    """The end of a transaction removes what it did not use."""
    path = Path(files.fshelper.getPathForOID(oid_of(1), create=True)) / "x.tmp"
    path.write_bytes(b"another's")
    server = serve(files)
    reader = raw(server.address, coding=Coding.OWN, read_only=True)
    reader.begin()
    with pytest.raises(RemoteFault, match="ReadOnlyError"):
        reader.call(m.StoreBlobShared(oid_of(1), Z64, b"x", "x.tmp", 1))
    reader.close()
    wait_until(lambda: not server._lobby.connections)
    assert path.exists()


@pytest.mark.parametrize("is_server", [False, True])
def test_read_only(files: FileStorage, serve: Serve, raw: Connect, is_server: bool) -> None:
    server = serve(files, read_only=is_server)
    if is_server:
        undecided = raw(server.address, None)
        with pytest.raises(RemoteFault, match="ReadOnlyError"):
            undecided.call(m.Register("1", False))
        # The same connection may ask for less.
        assert undecided.call(m.Register("1", True)) == Z64
    reader = raw(server.address, read_only=True)
    for request in (
        m.NewOids(),
        m.TpcBegin(1, b"", b"", {}, None, " "),
        m.Store(oid_of(1), Z64, b"x", 1),
        m.Vote(1),
        m.TpcFinish(1),
    ):
        with pytest.raises(RemoteFault, match="ReadOnlyError"):
            reader.call(request)
    assert reader.call(m.TpcAbort(1)) is None
    # As a notice, the first one has no answer: its error is the vote's.
    reader.begin()
    reader.store(oid_of(1), b"x")
    with pytest.raises(RemoteFault, match="ReadOnlyError"):
        reader.vote()
    assert reader.call(m.Pack(time.time())) is None


def test_unknown_storages_are_refused_by_name(
    mapping: MappingStorage, serve: Serve, raw: Connect
) -> None:
    server = serve({"main": mapping, "other": MappingStorage()})
    client = raw(server.address, None)
    with pytest.raises(RemoteFault) as caught:
        client.call(m.Register("1", False))
    assert caught.value.name == "builtins.ValueError"
    assert "unknown storage: '1'" in str(caught.value)
    assert "'main', 'other'" in str(caught.value)
    assert client.call(m.Register("main", False)) == Z64


def test_storages_do_not_meet(mapping: MappingStorage, serve: Serve, raw: Connect) -> None:
    server = serve({"main": mapping, "other": MappingStorage()})
    one, two = raw(server.address, "main"), raw(server.address, "other")
    one.commit({oid_of(1): (Z64, b"x")})
    two.ping()
    assert two.invalidations() == []
    assert {name: status["commits"] for name, status in server.status().items()} == {
        "main": 1,
        "other": 0,
    }

"""ZEO_CACHE_TRACE: which caches of clients are traced, and where to."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
import transaction
from persistent.mapping import PersistentMapping
from ZODB.POSException import POSKeyError

import zeolith
from zeolith.cache import RingCache, SharedCache
from zeolith.cache.traced import TracedCache
from zeolith.cache.traces import Code, Event, open_trace
from zeolith.client.cacheplace import open_shared
from zeolith.client.cachetracing import TRACE_VARIABLE, find_trace, make_ring
from zeolith.client.storage import ClientStorage
from zeolith.errors import ConfigurationError
from zeolith.protocol.hello import Database
from zeolith.types import MAX_TID


@pytest.fixture
def address() -> Iterator[Any]:
    address, stop = zeolith.server()
    try:
        yield address
    finally:
        stop()


def read(path: Path) -> list[Event]:
    with open_trace(str(path)) as reader:
        return list(reader)


@pytest.mark.parametrize(
    ("value", "cache", "trace"),
    [
        ("", "/var/app-1.zec", None),
        ("1", "/var/app-1.zec", "/var/app-1.zec.trace"),
        ("yes", "/var/app-1.zec", "/var/app-1.zec.trace"),
        ("/tmp/load", "/var/app-1.zec", "/tmp/load"),
        ("log/load", None, "log/load"),
        ("load.trace", "/var/app-1.zec", "load.trace"),
        ("load.trace", None, "load.trace"),
        ("1", None, None),
    ],
)
def test_the_variable(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    value: str,
    cache: str | None,
    trace: str | None,
) -> None:
    monkeypatch.setenv(TRACE_VARIABLE, value)
    with caplog.at_level(logging.WARNING):
        assert find_trace(cache) == trace
    is_in_vain = bool(value) and trace is None
    assert [record.message[:36] for record in caplog.records] == (
        ["environment variable ZEO_CACHE_TRACE"] if is_in_vain else []
    )


def test_without_the_variable_there_is_not_even_a_question(
    monkeypatch: pytest.MonkeyPatch, address: Any
) -> None:
    """Off costs nothing: a load goes to the very method of the cache that knows of no trace."""
    monkeypatch.delenv(TRACE_VARIABLE, raising=False)
    with closing(ClientStorage(address)) as storage:
        assert type(storage._cache) is RingCache
        assert storage._cached.__func__ is RingCache.load_before  # type: ignore[attr-defined]


def test_an_application_is_traced(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, address: Any
) -> None:
    monkeypatch.setenv(TRACE_VARIABLE, "1")
    for _ in range(2):
        db = zeolith.DB(address, client="app", var=str(tmp_path))
        with db.transaction() as connection:
            root = connection.root()
            if "x" in root:
                assert root["x"]["y"] == 1
            else:
                root["x"] = PersistentMapping(y=1)
        db.close()
    events = read(tmp_path / "app-1.zec.trace")
    codes = [event.code for event in events]
    second = codes.index(Code.START, 1)
    assert Code.STORE in codes[:second]
    # The second start is warm.
    assert set(codes[second + 1 :]) == {Code.LOAD_HIT}


def test_another_clients_changes_are_traced(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, address: Any
) -> None:
    trace = tmp_path / "reader.trace"
    monkeypatch.setenv(TRACE_VARIABLE, str(trace))
    with closing(zeolith.DB(address)) as reader:
        monkeypatch.delenv(TRACE_VARIABLE)
        with closing(zeolith.DB(address)) as writer:
            with writer.transaction() as connection:
                connection.root()["x"] = 1
            with closing(reader.open(transaction.TransactionManager())) as connection:
                reader.storage.sync_to(writer.storage.lastTransaction(), 30)
                connection.sync()
                assert connection.root()["x"] == 1
    codes = [event.code for event in read(trace)]
    at = codes.index(Code.INVALIDATE_KEEP)
    assert codes[at : at + 3] == [Code.INVALIDATE_KEEP, Code.LOAD_MISS, Code.STORE]


def test_two_storages_of_a_process_have_a_file_each(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, address: Any
) -> None:
    monkeypatch.setenv(TRACE_VARIABLE, str(tmp_path / "app.trace"))
    with closing(ClientStorage(address)), closing(ClientStorage(address)):
        pass
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"app.trace", f"app-{os.getpid()}.trace"}


def test_a_trace_that_cannot_be_written_stops_nobody(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, address: Any, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(TRACE_VARIABLE, str(tmp_path / "nowhere" / "app.trace"))
    with caplog.at_level(logging.WARNING), closing(ClientStorage(address)) as storage:
        assert not isinstance(storage._cache, TracedCache)
    (said,) = [r.message for r in caplog.records if r.name == "zeolith.client.cachetracing"]
    assert "the cache is not traced: [Errno 2] No such file" in said


def test_what_a_sibling_answers_is_traced_as_if_the_server_had(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    oid, tid, database = b"\0" * 7 + b"\1", b"\0" * 7 + b"\2", Database("identity", 1)
    monkeypatch.delenv(TRACE_VARIABLE, raising=False)
    path = str(tmp_path / "app.zec")
    with closing(open_shared(path, 100_000, None)) as writer:
        assert type(writer) is SharedCache
        writer.set_last_tid(tid)
        writer.set_database(database)
        writer.store(oid, tid, None, b"data")
        writer.save()
        monkeypatch.setenv(TRACE_VARIABLE, "1")
        with closing(open_shared(path, 100_000, None)) as reader:
            reader.set_last_tid(tid)
            reader.set_database(database)
            assert reader.load_before(oid, MAX_TID) == (b"data", tid, None)
            assert reader.load_before(b"\0" * 8, MAX_TID) is None
    _, *events = read(tmp_path / "app.zec.2.trace")
    assert [(event.code, event.length) for event in events] == [
        (Code.LOAD_MISS, 0),
        (Code.STORE, 4),
        (Code.LOAD_MISS, 0),
    ]
    assert events[1].start == tid


def test_a_cache_that_cannot_be_made_leaves_its_trace_free(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    trace = tmp_path / "app.trace"
    monkeypatch.setenv(TRACE_VARIABLE, str(trace))
    with pytest.raises(ConfigurationError, match="nowhere"):
        make_ring(None, 100_000, directory=str(tmp_path / "nowhere"))
    with closing(make_ring(None, 100_000)) as cache:
        assert isinstance(cache, TracedCache)
        assert cache.trace.path == str(trace)


def test_a_child_has_a_trace_of_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, address: Any
) -> None:
    trace = tmp_path / "app.trace"
    monkeypatch.setenv(TRACE_VARIABLE, str(trace))
    with closing(ClientStorage(address)) as storage:
        with pytest.raises(POSKeyError):
            storage.load(b"\0" * 8)
        child = os.fork()
        if child == 0:
            try:
                with suppress(POSKeyError):
                    storage.load(b"\0" * 7 + b"\1")
                storage.close()
            finally:
                os._exit(0)
        os.waitpid(child, 0)
    assert [event.oid[-1] for event in read(trace)[1:]] == [0]
    assert [event.oid[-1] for event in read(tmp_path / f"app-{child}.trace")[1:]] == [1]

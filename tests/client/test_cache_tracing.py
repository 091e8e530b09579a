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
from zeolith.cache import RingCache
from zeolith.cache.traced import TracedCache
from zeolith.cache.traces import Code, Event, open_trace
from zeolith.client.cachetracing import TRACE_VARIABLE, find_trace
from zeolith.client.storage import ClientStorage


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

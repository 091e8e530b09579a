"""Iterations as streams from the server, over real sockets."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from tests.server.conftest import Connect, Serve
from tests.support.raw import RawClient, RemoteFault, oid_of
from tests.support.rawstreams import RawStreams
from tests.support.storages import gate
from tests.support.waiting import wait_until
from ZODB.Connection import TransactionMetaData
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage

from zeolith.protocol.entries import EntryReader, Header, Record
from zeolith.protocol.greeting import Coding
from zeolith.protocol.limits import (
    DEFAULT_LIMITS,
    MAX_STREAM_CREDIT,
    STREAM_WINDOW,
)
from zeolith.protocol.messages import Notice, TpcFinish
from zeolith.protocol.streamrequests import (
    OpenIteration,
    StreamCancel,
    StreamCredit,
    StreamEnd,
)
from zeolith.server import sources


def entries(data: bytes) -> list[Any]:
    reader = EntryReader(DEFAULT_LIMITS)
    reader.feed(data)
    found = []
    while (entry := reader.next()) is not None:
        found.append(entry)
    reader.check_end()
    return found


def test_an_iteration(files: FileStorage, serve: Serve, raw: Connect, loop: str) -> None:
    client = raw(serve(files, loop=loop).address, coding=Coding.OWN)
    tids = [client.commit({oid_of(number): (bytes(8), b"data")}) for number in range(1, 4)]
    found = RawStreams(client)
    for number, (start, stop, expected) in enumerate(
        [(None, None, tids), (tids[1], None, tids[1:]), (tids[1], tids[1], tids[1:2])]
    ):
        assert client.call(OpenIteration(number, start, stop, STREAM_WINDOW)) is None
        assert found.read_to_end(number) == StreamEnd(number)
        headers = [entry for entry in entries(found.data[number]) if isinstance(entry, Header)]
        assert [header.tid for header in headers] == expected
    records = [entry for entry in entries(found.data[2]) if isinstance(entry, Record)]
    assert records == [Record(oid_of(2), tids[1], b"data", None)]


def test_an_iteration_comes_as_far_as_there_is_credit(
    files: FileStorage, serve: Serve, raw: Connect, loop: str
) -> None:
    client = raw(serve(files, loop=loop).address, coding=Coding.OWN)
    # One record of a megabyte: far more than a message, than the credit, than is read at once.
    tid = client.commit({oid_of(1): (bytes(8), b"x" * 1_000_000), oid_of(2): (bytes(8), b"y")})
    found = RawStreams(client)
    client.call(OpenIteration(0, None, None, 10_000))
    found.read_until(0, 10_000)
    found.settle()
    assert len(found.data[0]) == 10_000
    client.send(StreamCredit(0, STREAM_WINDOW))
    assert found.read_to_end(0) == StreamEnd(0)
    _, first, second, _ = entries(found.data[0])
    assert first == Record(oid_of(1), tid, b"x" * 1_000_000, None)
    assert second == Record(oid_of(2), tid, b"y", None)


def test_r8_iterations_are_limited_apart(
    files: FileStorage, serve: Serve, raw: Connect, loop: str
) -> None:
    client = raw(serve(files, loop=loop, max_iterators=3).address, coding=Coding.OWN)
    client.commit({oid_of(1): (bytes(8), b"data")})
    found = RawStreams(client)
    for number in range(3):
        client.call(OpenIteration(number, None, None, 0))
    with pytest.raises(RemoteFault, match=r"StorageError.*3 iterators"):
        client.call(OpenIteration(3, None, None, 0))
    client.send(StreamCancel(1))
    found.read_to_end(1)
    client.call(OpenIteration(3, None, None, 1000))
    found.read_to_end(3)


def test_an_iteration_that_fails_tells_what_came_before(
    files: FileStorage, serve: Serve, raw: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = raw(serve(files).address, coding=Coding.OWN)
    tid = client.commit({oid_of(1): (bytes(8), b"data")})
    iterate = files.iterator

    def fails(start: Any, stop: Any) -> Any:
        yield from iterate(start, stop)
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(files, "iterator", fails)
    found = RawStreams(client)
    client.call(OpenIteration(0, None, None, STREAM_WINDOW))
    fault = found.read_to_end(0)
    assert (fault.name, fault.details[0]) == ("builtins.OSError", 5)
    assert entries(found.data[0])[0].tid == tid


def test_a_storage_that_cannot_iterate(serve: Serve, raw: Connect) -> None:
    class Plain(MappingStorage):
        iterator = None

    client = raw(serve(Plain()).address, coding=Coding.OWN)
    with pytest.raises(RemoteFault, match="Unsupported"):
        client.call(OpenIteration(0, None, None, 0))


class Later:
    """An iterator that looks at its storage again when it has come to the end of what it knew."""

    def __init__(self, storage: FileStorage, monkeypatch: pytest.MonkeyPatch) -> None:
        self._iterate = storage.iterator
        self.before_second: Callable[[], None] = lambda: None
        """Called on the worker thread before it looks again."""
        monkeypatch.setattr(storage, "iterator", self.iterator)

    def iterator(self, start: Any, stop: Any) -> Any:
        last = bytes(8)
        for transaction in self._iterate(start, stop):
            yield transaction
            last = transaction.tid
        self.before_second()
        yield from self._iterate((int.from_bytes(last, "big") + 1).to_bytes(8, "big"), stop)


def begin_iteration(observer: RawClient) -> RawStreams:
    """Open an iteration, and take all that there is now."""
    found = RawStreams(observer)
    observer.call(OpenIteration(0, None, None, STREAM_WINDOW))
    found.read_to_end(0)
    size = len(found.data[0])
    observer.call(OpenIteration(1, None, None, size))
    found.read_until(1, size)
    return found


def places(observer: RawClient, tid: bytes) -> tuple[list[int], list[int]]:
    """Return where in the inbox *tid* is announced, and where a stream reveals it."""
    notices = [
        (at, message.request)
        for at, message in enumerate(observer.inbox)
        if isinstance(message, Notice)
    ]
    return (
        [at for at, request in notices if getattr(request, "tid", None) == tid],
        [at for at, request in notices if tid in getattr(request, "data", b"")],
    )


def test_r1_an_iteration_cannot_overtake_the_invalidation_it_reveals(
    files: FileStorage, serve: Serve, raw: Connect, loop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The storage shows a transaction whose finish is under way; nothing waits in memory for it."""
    later = Later(files, monkeypatch)
    server = serve(files, loop=loop)
    writer, observer = (raw(server.address, coding=Coding.OWN) for _ in range(2))
    first = writer.commit({oid_of(1): (bytes(8), b"one")})
    observer.ping()
    found = begin_iteration(observer)
    looked = threading.Event()
    later.before_second = looked.set
    writer.begin()
    # Some hundred messages of a stream.
    for number in range(1, 9):
        writer.store(oid_of(number), b"x" * 500_000, first if number == 1 else bytes(8))
    writer.vote()
    service = server._lobby.services["1"]
    with gate(files, "tpc_finish", after=True) as finished:
        finish = writer.ask(TpcFinish(1))
        finished.wait_reached()
        observer.send(StreamCredit(1, MAX_STREAM_CREDIT))
        # It is read only as soon as it may be sent.
        wait_until(lambda: service._held)
        waiting = len(service._held)
        assert not looked.is_set()
        finished.open()
        second = writer.answer(finish)
    assert waiting <= 2
    found.read_to_end(1)
    told, revealed = places(observer, second)
    assert len(told) == 1
    assert len(revealed) == 8
    assert told[0] < revealed[0]


def test_r1_an_iteration_drains_the_publisher(
    files: FileStorage, serve: Serve, raw: Connect, loop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody publishes, and nothing else brings that to the loop's attention."""
    later = Later(files, monkeypatch)
    server = serve(files, loop=loop)
    observer = raw(server.address, coding=Coding.OWN)
    observer.commit({oid_of(1): (bytes(8), b"one")})
    found = begin_iteration(observer)
    seconds: list[bytes] = []

    def commit() -> None:
        # As if another thread had done so a moment before this one looks.
        meta = TransactionMetaData()
        files.tpc_begin(meta)
        files.store(oid_of(2), bytes(8), b"two", "", meta)
        files.tpc_vote(meta)
        seconds.append(files.tpc_finish(meta))
        publisher = server._lobby.services["1"].publisher
        publisher.publish(seconds[0], [oid_of(2)], origin=cast("Any", object()))

    later.before_second = commit
    observer.send(StreamCredit(1, STREAM_WINDOW))
    found.read_to_end(1)
    told, revealed = places(observer, seconds[0])
    assert len(told) == len(revealed) == 1
    assert told[0] < revealed[0]


# -- sources -----------------------------------------------------------------------------------


def test_a_long_record_waits_in_a_file(files: FileStorage, tmp_path: Path) -> None:
    from zeolith.server.access import StorageAccess

    meta = TransactionMetaData()
    files.tpc_begin(meta)
    data = os.urandom(300_000)
    files.store(oid_of(1), bytes(8), data, "", meta)
    files.store(oid_of(2), bytes(8), b"short", "", meta)
    files.tpc_vote(meta)
    tid = files.tpc_finish(meta)
    source = sources.IterationSource(StorageAccess("1", files), None, None, spill_size=100_000)
    found = []
    was_spilled = False
    while not source.is_exhausted:
        found.append(source.read(10_000))
        assert len(found[-1]) <= 10_000
        assert len(source._rest) <= 100_000
        was_spilled = was_spilled or source._spilled is not None
    source.close()
    assert was_spilled
    _, first, second, _ = entries(b"".join(found))
    assert (first.data, second.data, second.tid) == (data, b"short", tid)
    # Closed in the middle: a file that is left open would be a ResourceWarning.
    source = sources.IterationSource(StorageAccess("1", files), None, None, spill_size=100_000)
    source.read(10_000)
    assert source._spilled is not None
    source.close()
    files.close()

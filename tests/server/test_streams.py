"""Streams from the server, over real sockets."""

from __future__ import annotations

import os
import select
import ssl
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trustme
from tests.server.conftest import Connect, Serve
from tests.support.raw import Closed, RawClient, RemoteFault, oid_of
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
    FIRST_UPLOAD,
    MAX_STREAM_CREDIT,
    MAX_STREAMS,
    STREAM_FRAME,
    STREAM_WINDOW,
)
from zeolith.protocol.messages import LoadBefore, NewOids, Notice, Ping, Reply, TpcFinish
from zeolith.protocol.streamrequests import (
    OpenBlob,
    OpenIteration,
    StreamCancel,
    StreamCredit,
    StreamData,
    StreamEnd,
    StreamFault,
)
from zeolith.server import sources, streams
from zeolith.types import MAX_TID

KIB = 1024


def store_blob(storage: FileStorage, tmp_path: Path, number: int, data: bytes) -> bytes:
    """Commit a blob behind the server's back, before it is there."""
    path = tmp_path / f"new-{number}"
    path.write_bytes(data)
    meta = TransactionMetaData()
    storage.tpc_begin(meta)
    storage.storeBlob(oid_of(number), bytes(8), b"record", str(path), "", meta)
    storage.tpc_vote(meta)
    tid: bytes = storage.tpc_finish(meta)
    return tid


class Site:
    """A server with one large blob, and a client of it."""

    def __init__(self, server: Any, raw: Connect, oid: bytes, tid: bytes, data: bytes) -> None:
        self.server, self.oid, self.tid, self.data = server, oid, tid, data
        self.client = raw(server.address, coding=Coding.OWN)
        self.streams = RawStreams(self.client)

    def open(self, number: int, offset: int = 0, credit: int = 0) -> Any:
        return self.streams.open(number, self.oid, self.tid, offset, credit)

    @property
    def session(self) -> Any:
        (connection,) = [
            connection
            for connection in self.server._lobby.connections
            if connection.session is not None and connection.session._streams is not None
        ]
        return connection.session


@pytest.fixture
def site(files: FileStorage, tmp_path: Path, serve: Serve, raw: Connect, loop: str) -> Site:
    data = os.urandom(4 * 1024 * KIB + 77)
    tid = store_blob(files, tmp_path, 1, data)
    return Site(serve(files, loop=loop), raw, oid_of(1), tid, data)


def test_a_blob_is_sent_as_far_as_there_is_credit(site: Site) -> None:
    credit = 3 * STREAM_FRAME + 5
    assert site.open(0, credit=credit) == {"size": len(site.data)}
    site.streams.read_until(0, credit)
    site.streams.settle()
    assert site.streams.data[0] == site.data[:credit]
    site.client.send(StreamCredit(0, 1))
    site.streams.read_until(0, credit + 1)
    site.client.send(StreamCredit(0, STREAM_WINDOW))
    assert site.streams.read_to_end(0) == StreamEnd(0)
    assert site.streams.data[0] == site.data


def test_a_blob_is_gone_on_with_at_an_offset(site: Site) -> None:
    for number, offset in enumerate((1, 100_000, len(site.data) - 1, len(site.data))):
        assert site.open(number, offset, STREAM_WINDOW) == {"size": len(site.data)}
        assert site.streams.read_to_end(number) == StreamEnd(number)
        assert site.streams.data[number] == site.data[offset:]
    with pytest.raises(RemoteFault, match=f"ValueError.*has {len(site.data)} bytes"):
        site.open(9, len(site.data) + 1)


def test_an_empty_blob_ends_at_once(
    files: FileStorage, tmp_path: Path, serve: Serve, raw: Connect, loop: str
) -> None:
    tid = store_blob(files, tmp_path, 1, b"")
    found = RawStreams(raw(serve(files, loop=loop).address, coding=Coding.OWN))
    assert found.open(0, oid_of(1), tid) == {"size": 0}
    assert found.read_to_end(0) == StreamEnd(0)


def test_blobs_that_are_not_there(site: Site) -> None:
    for _ in range(MAX_STREAMS + 1):  # none of them counts as open
        with pytest.raises(RemoteFault, match="POSKeyError"):
            site.streams.open(5, oid_of(77), site.tid)
    site.open(5, credit=1)
    site.streams.read_until(5, 1)


def test_a_storage_without_blobs(mapping: MappingStorage, serve: Serve, raw: Connect) -> None:
    found = RawStreams(raw(serve(mapping).address, coding=Coding.OWN))
    with pytest.raises(RemoteFault, match=r"Unsupported.*blobs"):
        found.open(0, oid_of(1), bytes(8))


class Pool:
    """Runs jobs when it is told to."""

    def __init__(self) -> None:
        self.jobs: list[tuple[Any, Any]] = []

    def submit(self, job: Any, done: Any) -> None:
        self.jobs.append((job, done))

    def run(self) -> None:
        jobs, self.jobs = self.jobs, []
        results = [job() for job, _ in jobs]
        for (_, done), result in zip(jobs, results, strict=True):
            done(result, None)


class Bytes:
    """A source without a file."""

    is_exhausted = False

    def read(self, size: int) -> bytes:
        return bytes(size)

    def close(self) -> None:
        pass


def test_several_streams_take_turns() -> None:
    pool = Pool()
    sent: list[StreamData] = []
    session = SimpleNamespace(
        began=lambda: None,
        ended=lambda: None,
        answer=lambda msgid, value, error: None,
        is_writable=False,
        publisher=SimpleNamespace(is_held=False),
        connection=SimpleNamespace(limit_output=lambda mark: None, unsent=0),
        service=SimpleNamespace(
            pools=SimpleNamespace(quick=pool), when_settled=lambda callback: callback()
        ),
        lobby=SimpleNamespace(options=SimpleNamespace(workers=8)),
        codec=SimpleNamespace(max_payload=1 << 20, notice=lambda request: request),
        send=sent.append,
    )
    found = streams.Streams(cast("Any", session))
    for number in range(4):
        found.open(number, number, 1 << 20, lambda: (Bytes(), None), is_iteration=False)
    pool.run()
    assert sent == []  # the client takes nothing
    session.is_writable = True
    found.resume()
    for _ in range(3):
        assert len(pool.jobs) == 4
        session.is_writable = False
        pool.run()
        session.is_writable = True
        found.resume()
    turns = [request.stream for request in sent]
    assert turns == [0, 1, 2, 3] * (3 * streams.READ_SIZE // STREAM_FRAME)


def test_several_streams_at_once(site: Site) -> None:
    numbers = range(4)
    size = 1024 * KIB
    for number in numbers:
        site.open(number)
    site.client.send(*(StreamCredit(number, size) for number in numbers))
    for number in numbers:
        site.streams.read_until(number, size)
        assert site.streams.data[number] == site.data[:size]


def test_a_cancelled_stream_ends(site: Site) -> None:
    site.open(0, credit=STREAM_WINDOW)
    site.client.send(StreamCancel(0))
    assert site.streams.read_to_end(0, gives_credit=False) == StreamEnd(0)
    assert site.data.startswith(site.streams.data[0])
    # The number is free, and what crossed the end does no harm.
    site.client.send(StreamCancel(0), StreamCredit(0, 1), StreamCredit(99, 1))
    del site.streams.ends[0], site.streams.data[0]
    site.open(0, len(site.data) - 5, 5)
    assert site.streams.read_to_end(0) == StreamEnd(0)


def test_a_stream_may_be_cancelled_before_it_is_open(site: Site, files: FileStorage) -> None:
    with gate(files, "loadBlob") as opening:
        msgid = site.client.ask(OpenBlob(0, site.oid, site.tid, 0, STREAM_WINDOW))
        opening.wait_reached()
        site.client.send(StreamCancel(0))
        site.client.ping()
        opening.open()
        site.client.answer(msgid)
    assert site.streams.read_to_end(0) == StreamEnd(0)
    assert site.streams.data[0] == b""
    assert len(site.session.streams) == 0


def test_the_answer_comes_before_the_stream(site: Site, files: FileStorage, raw: Connect) -> None:
    """Also where both had to wait for the end of a commit, and another stream before them."""
    site.open(0)
    other = raw(site.server.address, coding=Coding.OWN)
    other.begin()
    other.store(oid_of(7), b"data")
    other.vote()
    with gate(files, "tpc_finish") as finishing, gate(files, "loadBlob") as opening:
        msgid = site.client.ask(OpenBlob(1, site.oid, site.tid, len(site.data), 5))
        opening.wait_reached()
        finished = other.ask(TpcFinish(1))
        finishing.wait_reached()
        found = site.session.streams
        site.client.send(StreamCredit(0, 5))
        wait_until(lambda: found._is_waiting)
        opening.open()
        wait_until(lambda: found._open[1].source is not None)
        finishing.open()
        other.answer(finished)
    answers = []
    while 1 not in site.streams.ends:
        message = site.streams.next()
        if isinstance(message, Reply):
            answers.append(message.msgid)
    assert msgid in answers
    assert site.streams.ends[1] == StreamEnd(1)


def test_a_file_that_loses_bytes_is_a_fault(site: Site, files: FileStorage) -> None:
    site.open(0, credit=STREAM_FRAME)
    site.streams.read_until(0, STREAM_FRAME)
    path = files.loadBlob(site.oid, site.tid)
    os.chmod(path, 0o600)
    os.truncate(path, 200_000)
    site.client.send(StreamCredit(0, 1024 * KIB))
    fault = site.streams.read_to_end(0)
    assert isinstance(fault, StreamFault)
    assert fault.name == "ZODB.POSException.StorageError"
    assert "has lost" in fault.details[0]
    assert len(site.streams.data[0]) == 200_000
    site.client.ping()


# -- hostile -----------------------------------------------------------------------------------


def test_r8_blobs_on_their_way_are_limited(site: Site) -> None:
    for number in range(MAX_STREAMS):
        site.open(number)
    with pytest.raises(RemoteFault, match=f"StorageError.*{MAX_STREAMS} blobs on their way"):
        site.open(MAX_STREAMS)
    site.client.send(StreamCancel(7))
    site.streams.read_to_end(7)
    site.open(MAX_STREAMS, credit=10)
    site.streams.read_until(MAX_STREAMS, 10)


def test_r7_one_client_does_not_take_all_threads(
    site: Site, files: FileStorage, raw: Connect
) -> None:
    """Where it takes long to open a blob, others' calls go on."""
    other = raw(site.server.address, coding=Coding.OWN)
    with gate(files, "loadBlob") as opening:
        asked = [
            site.client.ask(OpenBlob(number, site.oid, site.tid, 0, 5))
            for number in range(MAX_STREAMS)
        ]
        opening.wait_reached()
        site.client.ping()
        assert other.call(NewOids(1))
        opening.open()
        for msgid in asked:
            site.client.answer(msgid)


def test_r7_a_client_that_leaves_takes_its_streams_with_it(
    site: Site, files: FileStorage, raw: Connect
) -> None:
    opened = 0

    def count(*arguments: Any) -> bool:
        nonlocal opened
        opened += 1
        return True

    with gate(files, "loadBlob", when=count) as opening:
        for number in range(MAX_STREAMS):
            site.client.ask(OpenBlob(number, site.oid, site.tid, 0, 5))
        opening.wait_reached()
        site.client.ping()
        found = site.session.streams
        site.client.close()
        wait_until(lambda: len(found) == opened)
        assert 0 < opened < MAX_STREAMS
        opening.open()
        wait_until(lambda: not len(found))


def test_a_number_that_is_in_use(site: Site) -> None:
    site.open(3)
    with pytest.raises(RemoteFault, match=r"IllegalMessage.*open already"):
        site.open(3)
    site.client.send(StreamCredit(3, 10))
    site.streams.read_until(3, 10)


@pytest.mark.parametrize(
    "requests",
    [
        [StreamCredit(0, 0)],
        [StreamCredit(0, MAX_STREAM_CREDIT)],
        [StreamCancel(0), StreamCancel(0)],
        [StreamCancel(0), StreamCredit(0, 1)],
        [StreamCredit(FIRST_UPLOAD, 1)],
        [StreamCancel(FIRST_UPLOAD)],
        [StreamEnd(0)],
        [StreamFault(0, "x", ())],
    ],
    ids=repr,
)
def test_what_is_not_legal_ends_the_connection(
    site: Site, files: FileStorage, requests: list[Any]
) -> None:
    with gate(files, "loadBlob") as opening:
        site.client.ask(OpenBlob(0, site.oid, site.tid, 0, 1))
        opening.wait_reached()
        site.client.send(*requests)
        with pytest.raises(Closed):
            site.client.ping()
        opening.open()
    wait_until(lambda: not site.server._lobby.connections)


@pytest.mark.parametrize("is_tls", [False, True], ids=["plain", "tls"])
def test_r8_a_client_that_does_not_read(
    files: FileStorage, tmp_path: Path, serve: Serve, raw: Connect, loop: str, is_tls: bool
) -> None:
    """Whatever credit there is: what waits in the server has a bound, and others are served."""
    data = os.urandom(2 * 1024 * KIB)
    tid = store_blob(files, tmp_path, 1, data)
    context = trusting = None
    if is_tls:
        authority = trustme.CA()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("localhost").configure_cert(context)
        trusting = ssl.create_default_context()
        authority.configure_trust(trusting)
    server = serve(files, loop=loop, ssl=context)
    greedy = raw(server.address, coding=Coding.OWN, receive_buffer=65536, tls=trusting)
    for number in range(20):
        greedy.ask(OpenBlob(number, oid_of(1), tid, 0, MAX_STREAM_CREDIT))
    other = raw(server.address, coding=Coding.OWN, tls=trusting)

    def session() -> Any:
        for connection in server._lobby.connections:
            if connection.session is not None and connection.session._streams is not None:
                return connection.session
        return None

    found = wait_until(session)
    wait_until(lambda: not found.is_writable)
    wait_until(lambda: server._lobby.services["1"].pools.quick.is_idle)
    for _ in range(20):
        other.ping()
    reads = found.streams
    waiting = sum(len(stream.waiting) for stream in reads._open.values())
    assert 0 < waiting <= reads._read_ahead <= streams.READ_AHEAD
    assert found.connection.unsent <= streams.OUTPUT_MARK + STREAM_FRAME
    # It was patient, not lost.
    everything = RawStreams(greedy)
    for number in range(20):
        everything.read_to_end(number, gives_credit=False)
        assert everything.data.pop(number) == data


def test_a_client_that_goes_leaves_no_file_open(site: Site) -> None:
    # A file that is left open would be a ResourceWarning.
    for number in range(5):
        site.open(number, credit=STREAM_WINDOW)
    session = site.session
    site.client.close()
    wait_until(lambda: session.is_lost and len(session.streams) == 0)


# -- calls beside ------------------------------------------------------------------------------


def test_small_calls_overtake_a_large_transfer(site: Site) -> None:
    """Between the call and its answer come no more data than were on their way already."""
    site.open(0, credit=STREAM_WINDOW)
    site.streams.read_until(0, STREAM_FRAME)
    for _ in range(5):
        before = len(site.streams.data[0])
        key = site.client.ask(LoadBefore(site.oid, MAX_TID))
        while True:
            message = site.streams.next()
            if isinstance(message, Reply) and message.msgid == key:
                break
            # The client goes on giving credit all the time.
            given = len(site.streams.data[0]) - before
            assert given <= STREAM_WINDOW + 4 * STREAM_FRAME, "the call waits for the stream"
            site.client.send(StreamCredit(0, STREAM_FRAME))
    assert 0 not in site.streams.ends
    site.client.send(StreamCredit(0, STREAM_WINDOW))
    site.streams.read_to_end(0)
    assert site.streams.data[0] == site.data


def test_loads_of_many_have_the_first_turn(site: Site) -> None:
    """Whenever the client takes data again: streams take all the room there is."""
    site.open(0)
    session = site.session
    order: list[str] = []
    saved = session._bulk, session._streams
    session._bulk, session._streams = (
        SimpleNamespace(resume=partial(order.append, name)) for name in ("bulk", "streams")
    )
    session.resumed()
    session._bulk, session._streams = saved
    assert order == ["bulk", "streams"]


def test_another_client_does_not_notice_a_large_transfer(site: Site, raw: Connect) -> None:
    other = raw(site.server.address, coding=Coding.OWN)
    site.open(0, credit=STREAM_WINDOW)
    for _ in range(3):
        before = len(site.streams.data[0])
        msgid = other.ask(Ping())
        while not select.select([other.socket], [], [], 0)[0]:
            site.streams.read_until(0, len(site.streams.data[0]) + STREAM_FRAME)
            site.client.send(StreamCredit(0, STREAM_FRAME))
            assert len(site.streams.data[0]) - before < 1024 * KIB
        other.answer(msgid)


# -- iterations --------------------------------------------------------------------------------


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

"""Streams of blobs from the server, over real sockets, and calls beside them."""

from __future__ import annotations

import os
import select
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from tests.server.conftest import Connect, Serve
from tests.support.blobsites import KIB, Site, store_blob
from tests.support.raw import RemoteFault, oid_of
from tests.support.rawstreams import RawStreams
from tests.support.storages import gate
from tests.support.waiting import wait_until
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage

from zeolith.protocol.greeting import Coding
from zeolith.protocol.limits import (
    MAX_STREAMS,
    STREAM_FRAME,
    STREAM_WINDOW,
)
from zeolith.protocol.messages import LoadBefore, Ping, Reply, TpcFinish
from zeolith.protocol.streamrequests import (
    OpenBlob,
    StreamCancel,
    StreamCredit,
    StreamData,
    StreamEnd,
    StreamFault,
)
from zeolith.server import streams
from zeolith.types import MAX_TID


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
        connection=SimpleNamespace(limit_output=lambda mark: None, unsent=0, gathering=nullcontext),
        service=SimpleNamespace(
            pools=SimpleNamespace(quick=pool),
            when_settled=lambda callback: callback(),
            cold=None,
        ),
        lobby=SimpleNamespace(options=SimpleNamespace(workers=8)),
        codec=SimpleNamespace(
            max_payload=1 << 20, data_frame=STREAM_FRAME, notice=lambda request: request
        ),
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

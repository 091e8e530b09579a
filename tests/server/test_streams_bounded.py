"""Streams of clients that want too much, say what is not legal, or go."""

from __future__ import annotations

import hashlib
import os
import ssl
from pathlib import Path
from typing import Any

import pytest
import trustme
from tests.server.conftest import Connect, Serve
from tests.support.blobsites import KIB, Site, store_blob
from tests.support.raw import Closed, RemoteFault, oid_of
from tests.support.rawstreams import RawStreams
from tests.support.storages import gate
from tests.support.waiting import wait_until
from ZODB.FileStorage import FileStorage

from zeolith.protocol.greeting import Coding
from zeolith.protocol.hello import Terms
from zeolith.protocol.limits import (
    FIRST_UPLOAD,
    MAX_STREAM_CREDIT,
    MAX_STREAMS,
    STREAM_FRAME,
    STREAM_WINDOW,
)
from zeolith.protocol.messages import NewOids
from zeolith.protocol.streamrequests import (
    OpenBlob,
    StreamCancel,
    StreamCredit,
    StreamEnd,
    StreamFault,
)
from zeolith.server import streams
from zeolith.server.sources import AT_ONCE, BlobSource


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


@pytest.mark.parametrize("credit", [0, 1000, AT_ONCE])
@pytest.mark.parametrize("room", [streams.READ_AHEAD, 0])
def test_r8_a_short_blob_is_read_when_it_is_opened_if_that_may_be(
    tmp_path: Path,
    files: FileStorage,
    serve: Serve,
    raw: Connect,
    monkeypatch: pytest.MonkeyPatch,
    credit: int,
    room: int,
) -> None:
    monkeypatch.setattr(streams, "READ_AHEAD", room)
    read, reads = BlobSource.read, []

    def note(source: BlobSource, size: int) -> bytes:
        reads.append(size)
        return read(source, size)

    monkeypatch.setattr(BlobSource, "read", note)
    data = os.urandom(AT_ONCE)
    tid = store_blob(files, tmp_path, 1, data)
    server = serve(files)
    terms = Terms(checksums=("sha256",))
    client = raw(server.address, coding=Coding.OWN, terms=terms)
    site = Site(server, client, oid_of(1), tid, data)
    site.open(0, credit=credit)
    if credit < AT_ONCE:
        client.send(StreamCredit(0, AT_ONCE - credit))
    end = site.streams.read_to_end(0, gives_credit=False)
    assert site.streams.data[0] == data
    assert end == StreamEnd(0, hashlib.sha256(data).digest())
    assert reads == [AT_ONCE], "once, if it is not sent past the server's memory"
    assert site.session._streams._read_ahead == 0

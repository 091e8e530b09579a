"""What a status says of blobs: how many went which way, and what is under way."""

from __future__ import annotations

import re
from typing import Any

import pytest
from tests.server.conftest import Connect, Serve
from tests.support.blobsites import Site
from tests.support.raw import RawClient, oid_of
from tests.support.rawstreams import RawStreams
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage

from zeolith.admin.asking import Target
from zeolith.admin.status import fetch_status
from zeolith.admin.statustext import render_status
from zeolith.protocol import messages as m
from zeolith.protocol.greeting import Coding
from zeolith.protocol.limits import FIRST_UPLOAD
from zeolith.protocol.streamrequests import StreamCancel, StreamData
from zeolith.server.monitor import make_report

NOTHING = {
    "received": 0,
    "received_bytes": 0,
    "sent": 0,
    "sent_bytes": 0,
    "arriving": 0,
    "leaving": 0,
    "unattached": 0,
    "resumed": 0,
    "parked": 0,
    "parked_bytes": 0,
}


def blobs(server: Any) -> Any:
    """Return what the server says of the blobs of its storage."""
    return fetch_status(Target(server.address)).storages["1"]["blobs"]


@pytest.fixture
def server(files: FileStorage, serve: Serve) -> Any:
    return serve(files)


def test_there_and_back_as_zeo_has_it(server: Any, raw: Connect) -> None:
    client = raw(server.address)
    client.begin()
    client.store_blob(oid_of(1), b"record", bytes(100_000))
    client.vote()
    tid = client.finish()
    assert blobs(server) == {**NOTHING, "received": 1, "received_bytes": 100_000}
    client.call(m.SendBlob(oid_of(1), tid))
    found = blobs(server)
    assert found == {
        **NOTHING, "received": 1, "received_bytes": 100_000, "sent": 1, "sent_bytes": 100_000
    }  # fmt: skip


def test_there_and_back_on_streams(server: Any, raw: Connect) -> None:
    client = raw(server.address, coding=Coding.OWN)
    streams = RawStreams(client)
    tid = streams.commit(oid_of(1), bytes(100_000))
    assert blobs(server) == {**NOTHING, "received": 1, "received_bytes": 100_000}
    streams.open(1, oid_of(1), tid, credit=200_000)
    streams.read_to_end(1)
    found = blobs(server)
    assert (found["sent"], found["sent_bytes"], found["leaving"]) == (1, 100_000, 0)


def test_what_is_under_way(site: Site, raw: Connect) -> None:
    assert site.open(1)["size"] == len(site.data)  # no credit: it waits
    zeo = raw(site.server.address)
    zeo.begin()
    zeo.send(m.StoreBlobStart(), m.StoreBlobChunk(b"part"))
    uploader = RawStreams(raw(site.server.address, coding=Coding.OWN))
    uploader.upload(FIRST_UPLOAD, b"complete")
    uploader.client.send(StreamData(FIRST_UPLOAD + 1, b"not complete"))
    for client in (zeo, uploader.client):
        client.ping()
    expected = {**NOTHING, "arriving": 2, "leaving": 1, "unattached": 1}
    assert blobs(site.server) == expected
    text = render_status(fetch_status(Target(site.server.address)), connections=False)
    line = "0 received (0 B), 0 sent (0 B), 2 arriving, 1 leaving, 1 unattached"
    assert re.search(rf"^blobs +{re.escape(line)}$", text, re.MULTILINE)


def test_what_was_broken_off_is_counted_in_bytes(site: Site) -> None:
    site.open(1, credit=10_000)
    site.streams.read_until(1, 10_000)
    site.client.send(StreamCancel(1))
    site.streams.read_to_end(1)
    found = blobs(site.server)
    assert (found["sent"], found["sent_bytes"], found["leaving"]) == (0, 10_000, 0)


def test_a_blob_that_is_refused_is_not_received(files: FileStorage, serve: Serve, raw: Any) -> None:
    server = serve(files, max_blob_size=1024)
    client: RawClient = raw(server.address)
    client.begin()
    client.store_blob(oid_of(1), b"record", bytes(2048))
    with pytest.raises(Exception, match="max-blob-size"):
        client.vote()
    assert blobs(server) == NOTHING


def test_a_storage_without_blobs_says_nothing(mapping: MappingStorage, serve: Serve) -> None:
    server = serve(mapping)
    assert blobs(server) is None
    status = fetch_status(Target(server.address))
    assert "\nblobs" not in render_status(status, connections=False)
    assert "Blob" not in make_report(server._lobby)


def test_the_monitor_tells_them(server: Any, raw: Connect) -> None:
    RawStreams(raw(server.address, coding=Coding.OWN)).commit(oid_of(1), b"four")
    report = make_report(server._lobby).splitlines()
    assert report[-4:] == [
        "Blobs received: 1", "Blob bytes received: 4", "Blobs sent: 0", "Blob bytes sent: 0"
    ]  # fmt: skip

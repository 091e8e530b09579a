"""Streams to the server, over real sockets."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from tests.server.conftest import Connect, Serve
from tests.support.raw import Closed, RawClient, RemoteFault, oid_of
from tests.support.rawstreams import RawStreams
from tests.support.storages import gate
from tests.support.waiting import wait_until
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage

from zeolith.protocol.greeting import Coding
from zeolith.protocol.limits import (
    FIRST_UPLOAD,
    MAX_STREAMS,
    STREAM_FRAME,
    STREAM_WINDOW,
)
from zeolith.protocol.messages import Store, TpcAbort
from zeolith.protocol.streamrequests import (
    AttachBlob,
    StreamCancel,
    StreamCredit,
    StreamData,
    StreamEnd,
    StreamFault,
)
from zeolith.server.held import SHORT
from zeolith.server.upload import Upload

FIRST, SECOND, THIRD = FIRST_UPLOAD, FIRST_UPLOAD + 1, FIRST_UPLOAD + 2


@pytest.fixture
def client(files: FileStorage, serve: Serve, raw: Connect, loop: str) -> RawClient:
    return raw(serve(files, loop=loop).address, coding=Coding.OWN)


@pytest.fixture
def uploads(client: RawClient) -> RawStreams:
    return RawStreams(client)


_LONG = b"long" * (SHORT // 4) + b"!"
"""What does not wait in memory."""


def data_of(number: int, data: bytes) -> list[StreamData]:
    return [
        StreamData(number, data[at : at + STREAM_FRAME]) for at in range(0, len(data), STREAM_FRAME)
    ]


def temporaries(files: FileStorage) -> list[str]:
    return [name for name in os.listdir(files.temporaryDirectory()) if "upload" in name]


@pytest.mark.parametrize("size", [0, 1, STREAM_FRAME, STREAM_WINDOW])
def test_a_blob_within_the_first_credit(uploads: RawStreams, files: FileStorage, size: int) -> None:
    data = os.urandom(size)
    tid = uploads.commit(oid_of(1), data)
    assert Path(files.loadBlob(oid_of(1), tid)).read_bytes() == data
    assert temporaries(files) == []


def test_credit_comes_as_the_disk_takes_the_data(uploads: RawStreams, files: FileStorage) -> None:
    client = uploads.client
    client.begin()
    total, sent = 3 * STREAM_WINDOW, 0
    data = os.urandom(total)
    while sent < total:
        while uploads.credit[FIRST] + STREAM_WINDOW - sent < STREAM_FRAME:
            uploads.next()
        client.send(StreamData(FIRST, data[sent : sent + STREAM_FRAME]))
        sent += STREAM_FRAME
    client.send(StreamEnd(FIRST))
    uploads.attach(FIRST, oid_of(1), total)
    client.vote()
    tid = client.finish()
    assert Path(files.loadBlob(oid_of(1), tid)).read_bytes() == data
    assert uploads.credit[FIRST] >= total - STREAM_WINDOW


def test_no_credit_comes_while_the_disk_is_stuck(
    uploads: RawStreams, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = uploads.client
    with gate(Upload, "write") as writing:
        client.send(*[StreamData(FIRST, bytes(STREAM_FRAME))] * (STREAM_WINDOW // STREAM_FRAME))
        writing.wait_reached()
        uploads.settle()
        assert uploads.credit[FIRST] == 0
        writing.open()
        while uploads.credit[FIRST] < STREAM_WINDOW // 2:
            uploads.next()


def test_several_uploads_at_once_keep_their_bytes(uploads: RawStreams, files: FileStorage) -> None:
    """A: chunks of two blobs interleave (ZEO#150)."""
    client = uploads.client
    numbers = [FIRST, SECOND, THIRD]
    data = [os.urandom(100_000) for _ in numbers]
    client.begin()
    for at in range(0, 100_000, 10_000):
        client.send(
            *(
                StreamData(number, part[at : at + 10_000])
                for number, part in zip(numbers, data, strict=True)
            )
        )
    # Complete and attached in another order than begun.
    for index in (2, 0, 1):
        client.send(StreamEnd(numbers[index]))
    for index in (1, 2, 0):
        uploads.attach(numbers[index], oid_of(index + 1), 100_000)
    client.vote()
    tid = client.finish()
    for index in range(3):
        assert Path(files.loadBlob(oid_of(index + 1), tid)).read_bytes() == data[index]


def test_another_size_than_announced_fails_the_vote(
    uploads: RawStreams, files: FileStorage
) -> None:
    uploads.client.begin()
    uploads.upload(FIRST, b"0123456789")
    uploads.attach(FIRST, oid_of(1), 11)
    with pytest.raises(RemoteFault, match="11 bytes was announced, 10 bytes have arrived"):
        uploads.client.vote()
    wait_until(lambda: temporaries(files) == [])
    # The connection goes on.
    uploads.client.send(TpcAbort(1))
    uploads.commit(oid_of(1), b"right", SECOND)


def test_a_disk_that_refuses_cancels_the_upload_and_fails_the_vote(
    uploads: RawStreams, files: FileStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Upload, chunk: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Upload, "write", refuse)
    client = uploads.client
    client.begin()
    uploads.client.send(*data_of(FIRST, _LONG))
    while FIRST not in uploads.cancelled:
        uploads.next()
    # What was on its way is ignored, and nothing more is said of it.
    client.send(StreamData(FIRST, b"y" * STREAM_FRAME), StreamEnd(FIRST))
    uploads.attach(FIRST, oid_of(1), len(_LONG) + STREAM_FRAME)
    with pytest.raises(RemoteFault, match="No space left"):
        client.vote()
    uploads.settle()
    assert uploads.credit[FIRST] == 0
    wait_until(lambda: temporaries(files) == [])


def test_a_storage_without_blobs_cancels(
    mapping: MappingStorage, serve: Serve, raw: Connect
) -> None:
    uploads = RawStreams(raw(serve(mapping).address, coding=Coding.OWN))
    client = uploads.client
    client.begin()
    client.send(StreamData(FIRST, b"x"))
    while FIRST not in uploads.cancelled:
        uploads.next()
    client.send(StreamEnd(FIRST))
    uploads.attach(FIRST, oid_of(1), 1)
    with pytest.raises(RemoteFault, match=r"Unsupported.*blobs"):
        client.vote()


def test_a_client_gives_an_upload_up(uploads: RawStreams, files: FileStorage) -> None:
    client = uploads.client
    client.send(StreamData(FIRST, b"x"), StreamFault(FIRST, "builtins.OSError", ()))
    client.send(StreamFault(SECOND, "builtins.OSError", ()))  # before anything was sent
    client.ping()
    wait_until(lambda: temporaries(files) == [])
    client.begin()
    client.send(AttachBlob(FIRST, oid_of(1), None, b"", 1, 1))
    with pytest.raises(Closed):
        client.ping()


def test_e_the_reason_of_a_client_feigns_no_lines_in_the_log(
    uploads: RawStreams, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    uploads.client.send(StreamFault(FIRST, "x\nCRITICAL " + "y" * 1000, ()))
    uploads.client.ping()
    (line,) = [text for text in caplog.messages if "gives an upload up" in text]
    assert "\n" not in line
    assert len(line) < 200


def test_the_end_of_a_connection_removes_everything(
    uploads: RawStreams, files: FileStorage
) -> None:
    client = uploads.client
    client.begin()
    client.send(*data_of(FIRST, _LONG))
    uploads.upload(SECOND, _LONG)
    uploads.upload(THIRD, b"attached")
    uploads.attach(THIRD, oid_of(1), 8)
    client.ping()
    wait_until(lambda: len(temporaries(files)) == 3)
    client.close()
    wait_until(lambda: temporaries(files) == [])


def test_the_end_of_a_transaction_removes_what_it_did_not_take(
    uploads: RawStreams, files: FileStorage
) -> None:
    client = uploads.client
    client.begin()
    uploads.upload(FIRST, _LONG)
    client.send(*data_of(SECOND, _LONG))
    client.ping()
    client.call(TpcAbort(1))
    wait_until(lambda: len(temporaries(files)) == 1)
    # The other one goes on.
    client.begin()
    client.send(StreamEnd(SECOND))
    uploads.attach(SECOND, oid_of(1), len(_LONG))
    client.vote()
    tid = client.finish()
    assert Path(files.loadBlob(oid_of(1), tid)).read_bytes() == _LONG


def test_a_full_table_of_uploads_is_free_again(uploads: RawStreams, files: FileStorage) -> None:
    for turn in range(2):
        first = FIRST + turn * MAX_STREAMS
        uploads.client.begin()
        for number in range(first, first + MAX_STREAMS):
            uploads.upload(number, b"")
        uploads.client.call(TpcAbort(1))
    wait_until(lambda: temporaries(files) == [])


# -- hostile -----------------------------------------------------------------------------------

_DATA = StreamData(FIRST, b"x")
_FRAME = bytes(STREAM_FRAME)


@pytest.mark.parametrize(
    "requests",
    [
        pytest.param([StreamData(SECOND, b"x")], id="not the next number"),
        pytest.param([StreamEnd(SECOND)], id="the end of another number"),
        pytest.param([StreamData(0, b"x")], id="a number of the server's"),
        pytest.param([_DATA, StreamEnd(FIRST), _DATA], id="data behind the end"),
        pytest.param([_DATA, StreamEnd(FIRST), StreamEnd(FIRST)], id="two ends"),
        pytest.param([_DATA, StreamFault(FIRST, "x", ()), _DATA], id="data behind a fault"),
        pytest.param(
            [_DATA, *[StreamData(FIRST, _FRAME)] * (STREAM_WINDOW // STREAM_FRAME)],
            id="beyond the credit",
        ),
        pytest.param(
            [StreamData(number, b"x") for number in range(FIRST, FIRST + MAX_STREAMS + 1)],
            id="too many",
        ),
        pytest.param([StreamCredit(FIRST, 1)], id="credit for an upload"),
        pytest.param([StreamCancel(FIRST)], id="an upload cancelled"),
        pytest.param([AttachBlob(FIRST, oid_of(1), None, b"", 1, 0)], id="attached unsent"),
        pytest.param(
            [_DATA, AttachBlob(FIRST, oid_of(1), None, b"", 1, 1)], id="attached incomplete"
        ),
    ],
)
def test_what_is_not_legal_ends_the_connection(
    uploads: RawStreams, files: FileStorage, requests: list[Any]
) -> None:
    uploads.client.begin()
    uploads.client.send(Store(oid_of(1), None, b"record", 1))
    with gate(Upload, "write"):  # so that no credit is given meanwhile
        uploads.client.send(*requests)
        with pytest.raises(Closed):
            uploads.client.ping()
    wait_until(lambda: temporaries(files) == [])


def test_a_client_that_may_not_write_uploads_nothing(
    files: FileStorage, serve: Serve, raw: Connect
) -> None:
    client = raw(serve(files).address, coding=Coding.OWN, read_only=True)
    client.send(_DATA)
    with pytest.raises(Closed):
        client.ping()
    assert temporaries(files) == []


def test_an_incomplete_upload_asked_for_by_a_call(uploads: RawStreams) -> None:
    uploads.client.begin()
    uploads.client.send(_DATA)
    with pytest.raises(RemoteFault, match="IllegalMessage"):
        uploads.client.call(AttachBlob(FIRST, oid_of(1), None, b"", 1, 1))
    uploads.client.send(StreamEnd(FIRST))
    assert uploads.client.call(AttachBlob(FIRST, oid_of(1), None, b"", 1, 1)) is None

"""Many files of one transaction are brought to disk together, before its vote (R4)."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from tests.server.conftest import Connect, Serve
from tests.support.raw import Z64, RawClient, RemoteFault, oid_of
from tests.support.rawstreams import RawStreams
from tests.support.storages import gate
from tests.support.waiting import wait_until
from ZODB.FileStorage import FileStorage

from zeolith.protocol.greeting import Coding
from zeolith.protocol.limits import FIRST_UPLOAD
from zeolith.protocol.messages import TpcAbort, Vote
from zeolith.server import blobsync, flushing
from zeolith.server.flushing import BATCH, do_all
from zeolith.server.voted import UPLOAD_PREFIX

_MANY = 2 * BATCH + 5


@pytest.fixture
def client(files: FileStorage, serve: Serve, raw: Connect) -> RawClient:
    return raw(serve(files).address, coding=Coding.OWN)


@pytest.fixture
def uploads(client: RawClient) -> RawStreams:
    return RawStreams(client)


def send_many(uploads: RawStreams, count: int = _MANY) -> None:
    uploads.client.begin()
    for number in range(count):
        data = b"blob %d" % number
        uploads.upload(FIRST_UPLOAD + number, data)
        uploads.attach(FIRST_UPLOAD + number, oid_of(number + 1), len(data))


def open_uploads(files: FileStorage) -> list[str]:
    """Return the uploads to *files* that this process, and so the server, has open."""
    start = os.path.join(os.path.realpath(files.temporaryDirectory()), UPLOAD_PREFIX)
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            path = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue  # that of the directory
        if path.startswith(start):
            found.append(path)
    return found


def temporaries(files: FileStorage) -> list[str]:
    return [name for name in os.listdir(files.temporaryDirectory()) if "upload" in name]


@pytest.fixture
def flushes(files: FileStorage, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many files were open when each of them was flushed."""
    found: list[int] = []
    original = blobsync.flush

    def flush(descriptor: int, status: Any) -> object:
        found.append(len(open_uploads(files)))
        return original(descriptor, status)

    monkeypatch.setattr("zeolith.server.upload.flush", flush)
    return found


def test_r4_each_file_is_flushed_once_before_the_vote(
    uploads: RawStreams, files: FileStorage, flushes: list[int]
) -> None:
    send_many(uploads)
    uploads.client.vote()
    assert len(flushes) == _MANY
    assert open_uploads(files) == []
    tid = uploads.client.finish()
    for number in range(_MANY):
        blob = Path(files.loadBlob(oid_of(number + 1), tid))
        assert blob.read_bytes() == b"blob %d" % number
    assert temporaries(files) == []


def test_r8_not_too_many_files_are_open(uploads: RawStreams, flushes: list[int]) -> None:
    send_many(uploads)
    uploads.client.vote()
    assert max(flushes) == BATCH


def test_r4_one_file_that_cannot_be_flushed_fails_the_vote(
    uploads: RawStreams, files: FileStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = blobsync.flush
    lock = threading.Lock()
    left = [BATCH + 2]

    def flush(descriptor: int, status: Any) -> object:
        with lock:
            left[0] -= 1
            if left[0] == 0:
                raise OSError(5, "Input/output error")
        return original(descriptor, status)

    monkeypatch.setattr("zeolith.server.upload.flush", flush)
    send_many(uploads)
    with pytest.raises(RemoteFault, match="Input/output"):
        uploads.client.vote()
    wait_until(lambda: not open_uploads(files) and not temporaries(files))
    monkeypatch.undo()
    uploads.client.send(TpcAbort(1))
    uploads.commit(oid_of(1), b"right", FIRST_UPLOAD + _MANY)


def test_r7_a_disk_that_is_busy_with_blobs_stops_nobody_else(
    files: FileStorage, serve: Serve, raw: Connect
) -> None:
    server = serve(files)
    uploads = RawStreams(raw(server.address, coding=Coding.OWN))
    other = raw(server.address)
    with gate(sys.modules["zeolith.server.upload"], "flush") as disk:
        send_many(uploads)
        vote = uploads.client.ask(Vote(1))
        disk.wait_reached()
        # Neither loads nor commits wait for it: the lock is not asked for before.
        tid = other.commit({oid_of(1000): (Z64, b"data")})
        assert other.load(oid_of(1000))[:2] == (b"data", tid)
        disk.open()
        uploads.client.answer(vote)
    uploads.client.finish()


@pytest.mark.parametrize("end", ["abort", "disconnect"])
def test_a_transaction_that_is_given_up_leaves_no_file_open(
    uploads: RawStreams, files: FileStorage, end: str
) -> None:
    send_many(uploads, BATCH + 3)
    wait_until(lambda: len(temporaries(files)) == BATCH + 3)
    if end == "abort":
        uploads.client.call(TpcAbort(1))
    else:
        uploads.client.close()
    wait_until(lambda: not open_uploads(files) and not temporaries(files))


@pytest.mark.parametrize("count", [0, 1, 3, 4, 50])
def test_all_is_done_once(count: int) -> None:
    done: list[int] = []
    do_all(done.append, range(count))
    assert sorted(done) == list(range(count))


def test_several_at_once() -> None:
    meeting = threading.Barrier(flushing._THREADS)
    do_all(lambda item: meeting.wait(30), range(flushing._THREADS))


def test_short_ones_are_done_by_one_thread_if_they_are_quick(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(flushing, "monotonic", lambda: 0.0)
    threads = set()
    do_all(lambda item: threads.add(threading.get_ident()), range(50), are_short=True)
    assert threads == {threading.get_ident()}


def test_short_ones_get_other_threads_if_the_disk_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(1000))
    monkeypatch.setattr(flushing, "monotonic", lambda: next(now))
    meeting = threading.Barrier(flushing._THREADS)
    do_all(lambda item: item and meeting.wait(30), range(1 + flushing._THREADS), are_short=True)


def test_nothing_is_begun_after_an_error() -> None:
    done: list[int] = []

    def work(item: int) -> None:
        done.append(item)
        if item == 10:
            raise ValueError(item)

    with pytest.raises(ValueError, match="10"):
        do_all(work, range(1000))
    assert len(done) < 1000

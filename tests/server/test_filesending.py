"""Files past the transport: whole messages, whatever the socket takes of them."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tests.server.conftest import Connect, Serve
from tests.support.blobsites import Site, store_blob
from tests.support.raw import RawClient, oid_of
from tests.support.waiting import wait_until
from ZODB.FileStorage import FileStorage

from zeolith.protocol.checksums import ALGORITHMS, make_hasher
from zeolith.protocol.greeting import Coding
from zeolith.protocol.hello import Terms
from zeolith.protocol.limits import BULK_WINDOW
from zeolith.protocol.messages import LoadBefore, Reply
from zeolith.protocol.streamrequests import StreamCancel, StreamCredit, StreamEnd
from zeolith.server.filesending import FileSender
from zeolith.server.publisher import Publisher
from zeolith.server.sources import BlobSource
from zeolith.server.warming import warm
from zeolith.types import MAX_TID

DATA = os.urandom(5_000_000)
HEAD = b"123456789"


@pytest.fixture
def descriptor(tmp_path: Path) -> Iterator[int]:
    path = tmp_path / "file"
    path.write_bytes(DATA)
    found = os.open(path, os.O_RDONLY)
    yield found
    os.close(found)


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    one, other = socket.socketpair()
    one.setblocking(False)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 100_000)
    with one, other:
        yield one, other


def test_what_the_socket_does_not_take_is_told(
    ends: tuple[socket.socket, socket.socket], descriptor: int
) -> None:
    ours, theirs = ends
    sender = FileSender(ours.fileno())
    small = sender.send(HEAD, descriptor, 1000, 500)
    assert small == len(HEAD) + 500
    sent = sender.send(HEAD, descriptor, 2000, 1_000_000)
    assert 0 < sent < 1_000_000
    assert sender.send(HEAD, descriptor, 0, 1) == 0, "nothing of a message that has no room"
    arrived = b""
    while len(arrived) < small + sent:
        arrived += theirs.recv(1 << 20)
    expected = HEAD + DATA[1000:1500] + HEAD + DATA[2000 : 2000 + sent - len(HEAD)]
    assert arrived == expected
    # It is a descriptor of its own.
    sender.close()
    sender.close()
    ours.send(b"still open")


def test_a_file_that_ends_early_is_no_endless_loop(
    ends: tuple[socket.socket, socket.socket], descriptor: int
) -> None:
    sender = FileSender(ends[0].fileno())
    assert sender.send(HEAD, descriptor, len(DATA) - 10, 100) == len(HEAD) + 10
    sender.close()


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP])
def test_files_that_cannot_be_sent_in_this_way_are_read(
    site: Site, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Not every file system has it."""

    def refuse(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "sendfile", refuse)
    site.open(0, credit=BULK_WINDOW)
    site.client.send(StreamCredit(0, BULK_WINDOW), StreamCredit(0, BULK_WINDOW))
    data, _, end = read_all(site.client, 0, len(DATA))
    assert (data == DATA, end.checksum) == (True, digest_of(DATA))


def test_warming_reads_no_further_than_the_file(descriptor: int) -> None:
    warm(descriptor, 0, len(DATA) + 1_000_000)
    with pytest.raises(OSError, match="Bad file descriptor"):
        warm(-1, 0, 1)


@pytest.fixture
def site(files: FileStorage, serve: Serve, raw: Connect, loop: str, tmp_path: Path) -> Site:
    """The client's system takes little at once, and so does the server's."""
    tid = store_blob(files, tmp_path, 1, DATA)
    server = serve(files, loop=loop)
    client = raw(
        server.address,
        coding=Coding.OWN,
        receive_buffer=200_000,
        terms=Terms(checksums=ALGORITHMS),
    )
    return Site(server, client, oid_of(1), tid, DATA)


def digest_of(data: bytes) -> bytes:
    hasher = make_hasher(ALGORITHMS[0])
    hasher.update(data)
    return hasher.digest()


def read_all(client: RawClient, number: int, size: int) -> tuple[bytes, list[Any], StreamEnd]:
    """Take messages until the stream ends; return its data, the answers between, and its end."""
    data, answers = b"", []
    while True:
        message = client.next()
        if isinstance(message, Reply):
            answers.append(message)
            continue
        request: Any = message.request  # type: ignore[union-attr]
        if isinstance(request, StreamEnd):
            return data, answers, request
        data += bytes(request.data)
        if len(data) % 7 == 0 and len(data) < size:
            client.ask(LoadBefore(oid_of(1), MAX_TID))


def test_messages_stay_whole_where_the_socket_takes_parts(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    send, taken = FileSender.send, []

    def note(self: FileSender, head: bytes, descriptor: int, offset: int, size: int) -> int:
        sent = send(self, head, descriptor, offset, size)
        taken.append((sent, len(head) + size))
        return sent

    monkeypatch.setattr(FileSender, "send", note)
    site.open(0, credit=BULK_WINDOW)
    site.client.send(StreamCredit(0, BULK_WINDOW), StreamCredit(0, BULK_WINDOW))
    site.client.ask(LoadBefore(site.oid, MAX_TID))
    # Nothing is read before the system has no room left, or it may have room all the time.
    wait_until(lambda: any(sent < wanted for sent, wanted in taken))
    data, answers, end = read_all(site.client, 0, len(DATA))
    assert data == DATA
    assert end == StreamEnd(0, digest_of(DATA))
    assert answers
    assert any(0 < sent < wanted for sent, wanted in taken), "nothing was taken in parts"


def test_each_part_is_followed_by_whatever_else_the_loop_has(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that takes all at once must not keep it from others."""
    send, steps = FileSender.send, []
    loop = site.server._lobby.loop

    def note(self: FileSender, head: bytes, descriptor: int, offset: int, size: int) -> int:
        steps.append("send")
        loop.call_soon(steps.append, "other")
        return send(self, head, descriptor, offset, size)

    monkeypatch.setattr(FileSender, "send", note)
    site.open(0, credit=BULK_WINDOW)
    site.client.send(StreamCredit(0, BULK_WINDOW), StreamCredit(0, BULK_WINDOW))
    data, _, _ = read_all(site.client, 0, len(DATA))
    assert data == DATA
    pairs = list(pairwise(steps))
    assert ("send", "other") in pairs
    assert ("send", "send") not in pairs


def test_r1_invalidations_leave_before_a_part_of_a_file(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    drain, send, steps = Publisher.drain, FileSender.send, []

    def note_drain(self: Publisher) -> None:
        steps.append("drain")
        drain(self)

    def note_file(self: FileSender, head: bytes, descriptor: int, offset: int, size: int) -> int:
        steps.append("file")
        return send(self, head, descriptor, offset, size)

    monkeypatch.setattr(Publisher, "drain", note_drain)
    monkeypatch.setattr(FileSender, "send", note_file)
    site.open(0, credit=BULK_WINDOW)
    site.client.send(StreamCredit(0, BULK_WINDOW), StreamCredit(0, BULK_WINDOW))
    read_all(site.client, 0, 0)
    assert {before for before, step in pairwise(steps) if step == "file"} == {"drain"}


def test_an_offset(site: Site) -> None:
    """The checksum is that of the whole blob."""
    site.open(0, offset=4_000_000, credit=BULK_WINDOW)
    data, _, end = read_all(site.client, 0, 1_000_000)
    assert data == DATA[4_000_000:]
    assert end.checksum == digest_of(DATA)


def test_a_file_that_shrinks_in_the_middle_of_a_message_ends_the_connection(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the client would wait for the rest, or take the next message for it."""
    monkeypatch.setattr(BlobSource, "has_shrunk", False)
    monkeypatch.setattr(
        FileSender, "send", lambda self, head, descriptor, offset, size: len(head) + 1
    )
    monkeypatch.setattr(os, "pread", lambda *args: b"")
    site.open(0, credit=BULK_WINDOW)
    site.client.wait_closed()


def test_the_second_descriptor_is_given_back_with_the_last_stream(site: Site) -> None:
    site.open(0)
    session = site.session
    site.client.send(StreamCredit(0, 1000))
    wait_until(lambda: session.connection._files is not None)
    site.client.send(StreamCancel(0))
    read_all(site.client, 0, 0)
    assert session.connection._files is None

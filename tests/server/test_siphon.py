"""Long messages of uploads that a thread takes from the socket itself."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.server.conftest import Connect, Serve
from tests.support.raw import Closed, RemoteFault, oid_of
from tests.support.rawstreams import RawStreams
from tests.support.storages import Gate, gate
from tests.support.waiting import wait_until
from ZODB.FileStorage import FileStorage

from zeolith.protocol.greeting import Coding
from zeolith.protocol.hello import Terms
from zeolith.protocol.limits import BULK_FRAME, FIRST_UPLOAD, STREAM_WINDOW
from zeolith.protocol.messages import Ping, Reply, TpcAbort
from zeolith.protocol.streamlayouts import data_head
from zeolith.protocol.streamrequests import AttachBlob, OpenUpload, StreamData, StreamEnd
from zeolith.server import siphon, transport
from zeolith.server.siphon import LEAST, PIECE, Siphon
from zeolith.server.upload import Upload

NUMBER = FIRST_UPLOAD
FAR = 1 << 40


class Pair:
    """Both ends of a connection, and what a thread takes from one of them.

    :ivar ours: the end that is read.
    :ivar theirs: the other one.
    :ivar got: what was taken.
    """

    def __init__(self) -> None:
        self.ours, self.theirs = socket.socketpair()
        self.got = bytearray()
        self.told: list[int] = []

    def run(self, left: int, **changed: Any) -> Siphon:
        """Take what there is, in the middle of a message of which *left* bytes are to come."""
        source = self.ours.dup()
        source.setblocking(False)
        given: dict[str, Any] = {
            "limit": FAR,
            "most": FAR,
            "longest": BULK_FRAME,
            "write": self.got.extend,
            "tell": lambda: self.told.append(made.taken),
        }
        made: Siphon = Siphon(source, NUMBER, left, **(given | changed))
        try:
            made.run()
        finally:
            assert source.fileno() == -1
        return made

    def rest(self) -> bytes:
        """Return what was left for the loop."""
        self.theirs.close()
        self.ours.setblocking(True)
        return b"".join(iter(lambda: self.ours.recv(1 << 16), b""))


@pytest.fixture
def pair(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pair]:
    monkeypatch.setattr(siphon, "SLICE", 3600.0)
    pair = Pair()
    yield pair
    pair.ours.close()
    pair.theirs.close()


def message(size: int, number: int = NUMBER) -> bytes:
    return data_head(number, size) + os.urandom(size)


def test_it_takes_the_message_and_those_behind_it(pair: Pair) -> None:
    body, more = os.urandom(1000), message(LEAST)
    pair.theirs.sendall(body + more)
    made = pair.run(1000)
    assert pair.got == body + more[9:]
    assert (made.taken, made.left) == (1000 + LEAST, 0)
    assert pair.told[-1] == made.taken
    assert pair.rest() == b""


def test_in_the_middle_of_a_message(pair: Pair) -> None:
    pair.theirs.sendall(bytes(700))
    assert pair.run(1000).left == 300
    assert len(pair.got) == 700


@pytest.mark.parametrize(
    ("behind", "changed"),
    [
        (b"\x00\x00\x00\x01\x02a call", {}),
        (message(LEAST, NUMBER + 1), {}),
        (message(LEAST - 1), {}),
        (message(LEAST), {"limit": 1000 + LEAST - 1}),
        (message(LEAST), {"most": 1000 + LEAST - 1}),
        (message(LEAST), {"longest": LEAST - 1}),
        (message(LEAST)[:5], {}),
    ],
    ids=["call", "other stream", "short", "credit", "too long a blob", "too long", "half a head"],
)
def test_what_is_not_for_it_is_left_to_the_loop(
    pair: Pair, behind: bytes, changed: dict[str, Any]
) -> None:
    pair.theirs.sendall(bytes(1000) + behind)
    made = pair.run(1000, **changed)
    assert (made.taken, made.left) == (1000, 0)
    assert pair.rest() == behind


def test_the_end_of_the_connection_is_left_to_the_loop(pair: Pair) -> None:
    pair.theirs.sendall(bytes(500))
    pair.theirs.close()
    assert pair.run(1000).left == 500
    assert pair.rest() == b""


def test_what_cannot_be_written_was_taken(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the loop would take what comes next for the rest of the message."""

    def write(data: memoryview) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    pair.theirs.sendall(bytes(1000) + b"next")
    made: list[Siphon] = []
    original = Siphon.run

    def run(self: Siphon) -> None:
        made.append(self)
        original(self)

    monkeypatch.setattr(Siphon, "run", run)
    with pytest.raises(OSError, match="No space"):
        pair.run(1000, write=write)
    assert (made[0].taken, made[0].left) == (1000, 0)
    assert pair.rest() == b"next"


def test_it_stops_when_it_is_told_to(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    pair.theirs.setblocking(False)
    made: list[Siphon] = []
    original = Siphon.run
    data = memoryview(bytes(16) + message(PIECE) * 2)
    sent = pair.theirs.send(data)

    def write(piece: memoryview) -> None:
        nonlocal sent
        made[0].stop()
        sent += pair.theirs.send(data[sent:])

    def run(self: Siphon) -> None:
        made.append(self)
        original(self)

    monkeypatch.setattr(Siphon, "run", run)
    pair.run(16, write=write)
    assert made[0].taken < sent - len(message(0)) * 2


def test_a_piece_stays_as_it_is_until_the_next_was_written(pair: Pair) -> None:
    """A thread of its own may be summing it up."""
    seen: list[tuple[memoryview, bytes]] = []

    def write(piece: memoryview) -> None:
        if seen:
            last, copy = seen[-1]
            assert bytes(last) == copy
        seen.append((piece, bytes(piece)))
        if len(seen) < 5:
            pair.theirs.sendall(os.urandom(100))

    pair.theirs.sendall(os.urandom(100))
    assert pair.run(500, write=write).taken == 500
    assert len(seen) == 5


# -- at a server ---------------------------------------------------------------------------------


TERMS = Terms(checksums=("sha256",))


@pytest.fixture
def server(files: FileStorage, serve: Serve, loop: str) -> Any:
    return serve(files, loop=loop, max_blob_size=8 << 20)


@pytest.fixture
def uploads(server: Any, raw: Connect) -> RawStreams:
    return RawStreams(raw(server.address, coding=Coding.OWN, terms=TERMS))


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How much each thread has taken; none gives up before something comes that is not for it."""
    monkeypatch.setattr(siphon, "PATIENCE", 30.0)
    monkeypatch.setattr(siphon, "SLICE", 3600.0)
    monkeypatch.setattr(transport, "BEGIN_TIME", 3600.0)
    found: list[int] = []
    original: Callable[[Siphon], None] = Siphon.run

    def run(made: Siphon) -> None:
        try:
            original(made)
        finally:
            found.append(made.taken)

    monkeypatch.setattr(Siphon, "run", run)
    return found


def temporaries(files: FileStorage) -> list[str]:
    return [name for name in os.listdir(files.temporaryDirectory()) if "upload" in name]


ENOUGH = LEAST + 1000
"""Bytes for which a thread is asked to take the rest; so few fit into the socket of who does not
read."""


def begin_at_once(server: Any, uploads: RawStreams, data: bytes, size: int) -> None:
    """Send the beginning of *data*, in a message of *size* bytes.

    It comes at once, as from a client that is quicker than the loop: only then a thread takes over.
    """
    with Gate() as busy:
        server._lobby.loop.call_soon_threadsafe(busy)
        busy.wait_reached()
        uploads.client.socket.sendall(data_head(NUMBER, size) + data[:ENOUGH])


def send(server: Any, uploads: RawStreams, data: bytes) -> None:
    """Send *data* in long messages, as the server gives credit, until it wants none.

    A thread, which waits for more, takes over at once.
    """
    client, at, credit, frame = uploads.client, STREAM_WINDOW, 0, STREAM_WINDOW
    begin_at_once(server, uploads, data, frame)
    wait_until(lambda: any(connection._siphon for connection in server._lobby.connections))
    client.socket.sendall(data[ENOUGH:frame])
    while at < len(data):
        credit += uploads.credit.pop(NUMBER, 0)
        if NUMBER in uploads.cancelled:
            return
        size = min(len(data) - at, frame, credit)
        if size < min(frame, len(data) - at):
            uploads.next()
            continue
        client.socket.sendall(data_head(NUMBER, size) + data[at : at + size])
        at += size
        credit -= size


def overrun(uploads: RawStreams) -> None:
    """Send as if there were credit for everything."""
    for _ in range(64):
        uploads.client.socket.sendall(message(BULK_FRAME))
    uploads.settle()


def finish(uploads: RawStreams, oid: bytes, data: bytes) -> bytes:
    checksum = hashlib.sha256(data).digest()
    uploads.client.send(
        StreamEnd(NUMBER), AttachBlob(NUMBER, oid, bytes(8), b"record", 1, len(data), checksum)
    )
    uploads.client.vote()
    return uploads.client.finish()


def test_a_long_blob_comes_that_way(
    server: Any, uploads: RawStreams, files: FileStorage, taken: list[int]
) -> None:
    data = os.urandom(6 << 20)
    uploads.client.begin()
    send(server, uploads, data)
    tid = finish(uploads, oid_of(1), data)
    assert Path(files.loadBlob(oid_of(1), tid)).read_bytes() == data
    assert taken[0] > STREAM_WINDOW, "it is told of more credit"
    assert temporaries(files) == []


def test_calls_between_its_messages_are_answered_in_order(
    uploads: RawStreams, files: FileStorage, taken: list[int]
) -> None:
    data = os.urandom(4 << 20)
    client = uploads.client
    client.begin()
    codec = client.peer.codec
    assert codec is not None
    asked = [10_000 + number for number in range(64)]
    numbers = iter(asked)
    at, credit = 0, STREAM_WINDOW
    while at < len(data):
        credit += uploads.credit.pop(NUMBER, 0)
        if credit < LEAST:
            uploads.next()
            continue
        size = min(len(data) - at, credit, STREAM_WINDOW)
        call = codec.call(next(numbers), Ping())
        client.socket.sendall(data_head(NUMBER, size) + data[at : at + size] + call)
        at += size
        credit -= size
    tid = finish(uploads, oid_of(1), data)
    replies = [found.msgid for found in client.inbox if isinstance(found, Reply)]
    answered = [msgid for msgid in replies if msgid in asked]
    assert answered == asked[: len(answered)]
    assert len(answered) >= len(data) // STREAM_WINDOW
    assert Path(files.loadBlob(oid_of(1), tid)).read_bytes() == data
    assert taken


def test_more_than_there_is_credit_for_ends_the_connection(
    server: Any, uploads: RawStreams, files: FileStorage, taken: list[int]
) -> None:
    uploads.client.begin()
    send(server, uploads, bytes(1 << 20))
    with pytest.raises((Closed, OSError)):
        overrun(uploads)
    wait_until(lambda: temporaries(files) == [])
    assert taken


def test_a_blob_that_is_too_long_is_cancelled(
    server: Any, uploads: RawStreams, files: FileStorage, taken: list[int]
) -> None:
    data = bytes(9 << 20)
    uploads.client.begin()
    send(server, uploads, data)
    uploads.settle()
    assert NUMBER in uploads.cancelled
    with pytest.raises(RemoteFault, match="max-blob-size"):
        finish(uploads, oid_of(1), data)
    assert taken
    wait_until(lambda: temporaries(files) == [])


def test_a_disk_that_is_full_fails_the_vote(
    server: Any,
    uploads: RawStreams,
    files: FileStorage,
    taken: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = bytes(4 << 20)
    original = Upload.write
    failed: list[bool] = []

    def write(upload: Upload, chunk: Any) -> None:
        if upload.written > 1 << 20 and not failed:
            failed.append(True)
            raise OSError(errno.ENOSPC, "No space left on device")
        original(upload, chunk)

    monkeypatch.setattr(Upload, "write", write)
    uploads.client.begin()
    send(server, uploads, data)
    with pytest.raises(RemoteFault, match="No space"):
        finish(uploads, oid_of(1), data)
    wait_until(lambda: temporaries(files) == [])
    assert taken
    uploads.client.call(TpcAbort(1))


def test_a_client_that_goes_away_leaves_nothing(
    uploads: RawStreams, files: FileStorage, taken: list[int]
) -> None:
    uploads.client.begin()
    with gate(Siphon, "run") as busy:
        uploads.client.send(StreamData(NUMBER, bytes(100)))
        uploads.client.socket.sendall(message(STREAM_WINDOW - 100))
        busy.wait_reached()
        uploads.client.close()
        busy.open()
    wait_until(lambda: temporaries(files) == [])


def test_while_a_thread_reads_the_loop_does_not(
    uploads: RawStreams, files: FileStorage, serve: Serve
) -> None:
    """What is read by both would come in any order."""
    uploads.client.begin()
    data = os.urandom(STREAM_WINDOW)
    with gate(Siphon, "run") as busy:
        uploads.client.socket.sendall(data_head(NUMBER, len(data)) + data[: 3 * LEAST])
        busy.wait_reached()
        uploads.client.socket.sendall(data[3 * LEAST :])
        busy.open()
    tid = finish(uploads, oid_of(1), data)
    assert Path(files.loadBlob(oid_of(1), tid)).read_bytes() == data


@pytest.fixture
def withdrawn(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each attempt to withdraw a siphon was in time."""
    found: list[bool] = []
    original = Siphon.withdraw

    def withdraw(made: Siphon) -> bool:
        found.append(original(made))
        return found[-1]

    monkeypatch.setattr(Siphon, "withdraw", withdraw)
    return found


def test_while_no_thread_has_begun_calls_are_answered(
    server: Any, uploads: RawStreams, files: FileStorage, withdrawn: list[bool]
) -> None:
    """What a client brings to disk may take long, and other threads of it load meanwhile."""
    client = uploads.client
    client.begin()
    data = os.urandom(STREAM_WINDOW)
    with gate(Upload, "write") as busy:
        begin_at_once(server, uploads, data, len(data))
        busy.wait_reached()
        client.socket.sendall(data[ENOUGH:-1])
        wait_until(lambda: True in withdrawn)
        client.socket.sendall(data[-1:])
        client.ping()
        busy.open()
    tid = finish(uploads, oid_of(1), data)
    assert Path(files.loadBlob(oid_of(1), tid)).read_bytes() == data


def test_a_connection_that_is_dropped_ends_while_all_threads_are_busy(
    server: Any,
    uploads: RawStreams,
    files: FileStorage,
    withdrawn: list[bool],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The descriptor that waits for a thread would keep it alive."""
    monkeypatch.setattr(transport, "BEGIN_TIME", 3600.0)
    client = uploads.client
    client.begin()
    with gate(Upload, "write") as busy:
        begin_at_once(server, uploads, bytes(STREAM_WINDOW), STREAM_WINDOW)
        busy.wait_reached()
        (connection,) = server._lobby.connections
        wait_until(lambda: connection._siphon is not None)
        connection._lobby.loop.call_soon_threadsafe(connection.abort)
        client.wait_closed()
        assert True in withdrawn
        busy.open()
    wait_until(lambda: temporaries(files) == [])


def test_an_upload_goes_on_elsewhere_behind_what_a_thread_was_taking(
    server: Any,
    uploads: RawStreams,
    files: FileStorage,
    raw: Connect,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its client is not waited for; what the thread has taken by then is not written twice."""
    monkeypatch.setattr(transport, "BEGIN_TIME", 3600.0)
    other = raw(server.address, coding=Coding.OWN, terms=TERMS)
    identity, data = bytes(16), os.urandom(STREAM_WINDOW)
    with gate(Siphon, "_fill") as busy:
        uploads.client.send(OpenUpload(NUMBER, identity))
        begin_at_once(server, uploads, data, len(data))
        busy.wait_reached()
        uploads.client.socket.sendall(data[ENOUGH:-1])
        msgid = other.ask(OpenUpload(NUMBER, identity))
        wait_until(lambda: len(server._lobby.connections) == 1)
        busy.open()
        offset = other.answer(msgid)["offset"]
    assert ENOUGH <= offset < len(data)
    other.begin()
    other.socket.sendall(data_head(NUMBER, len(data) - offset) + data[offset:])
    tid = finish(RawStreams(other), oid_of(1), data)
    assert Path(files.loadBlob(oid_of(1), tid)).read_bytes() == data


def test_over_a_unix_socket(
    files: FileStorage, serve: Serve, raw: Connect, loop: str, taken: list[int], tmp_path: Path
) -> None:
    server = serve(files, address=str(tmp_path / "zeo.sock"), loop=loop)
    uploads = RawStreams(raw(server.address, coding=Coding.OWN, terms=TERMS))
    data = os.urandom(4 << 20)
    uploads.client.begin()
    send(server, uploads, data)
    tid = finish(uploads, oid_of(1), data)
    assert Path(files.loadBlob(oid_of(1), tid)).read_bytes() == data
    assert taken[0] >= STREAM_WINDOW - ENOUGH


@pytest.mark.parametrize("seed", range(8))
def test_uploads_among_each_other_and_among_calls(
    server: Any,
    uploads: RawStreams,
    files: FileStorage,
    seed: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever reads, the loop, a thread, or the one after the other gave up: all comes in order,
    and nothing waits or is counted at the end."""
    chosen = random.Random(seed)
    for module, name, values in (
        (siphon, "PIECE", (3000, 70_000, PIECE)),
        (siphon, "SLICE", (0.0005, 0.02)),
        (siphon, "PATIENCE", (0.0001, 0.01)),
        (transport, "BEGIN_TIME", (0.0, 0.01)),
    ):
        monkeypatch.setattr(module, name, chosen.choice(values))
    for module in (siphon, transport):
        monkeypatch.setattr(module, "LEAST", chosen.choice((1000, 20_000)))
    client = uploads.client
    codec = client.peer.codec
    assert codec is not None
    blobs = [os.urandom(chosen.choice((300_000, 2_000_000))) for _ in range(3)]
    numbers = range(NUMBER, NUMBER + len(blobs))
    at, credit = dict.fromkeys(numbers, 0), dict.fromkeys(numbers, STREAM_WINDOW)
    client.begin()
    ready = bytearray()
    for number in numbers:  # opened in this order
        ready += data_head(number, 100) + blobs[number - NUMBER][:100]
        at[number], credit[number] = 100, STREAM_WINDOW - 100
    while open_ones := [number for number in numbers if at[number] < len(blobs[number - NUMBER])]:
        for number in numbers:
            credit[number] += uploads.credit.pop(number, 0)
        able = [number for number in open_ones if credit[number]]
        if not able:
            client.socket.sendall(ready)
            ready.clear()
            uploads.next()
            continue
        number = chosen.choice(able)
        left = blobs[number - NUMBER][at[number] :]
        size = min(len(left), credit[number], chosen.choice((100, 66_000, 200_000, BULK_FRAME)))
        ready += data_head(number, size) + left[:size]
        at[number] += size
        credit[number] -= size
        if chosen.random() < 0.1:
            ready += codec.call(client.next_id(), Ping())
        part = chosen.randint(0, len(ready))
        client.socket.sendall(ready[:part])
        del ready[:part]
    client.socket.sendall(ready)
    for number, blob in zip(numbers, blobs):
        oid, digest = oid_of(number - NUMBER), hashlib.sha256(blob).digest()
        client.send(
            StreamEnd(number), AttachBlob(number, oid, bytes(8), b"record", 1, len(blob), digest)
        )
    client.vote()
    tid = client.finish()
    for place, blob in enumerate(blobs):
        assert Path(files.loadBlob(oid_of(place), tid)).read_bytes() == blob
    (connection,) = server._lobby.connections
    wait_until(lambda: not (connection._stalls or connection._is_hushed))
    wait_until(lambda: server._lobby.incoming == connection.session.uploads.cost == 0)


def test_without_descriptors_it_goes_through_the_loop(
    server: Any,
    uploads: RawStreams,
    files: FileStorage,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Which is not told for each part: what needs descriptors says so."""
    refused: list[object] = []

    def refuse(made: object) -> None:
        refused.append(made)
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(transport, "make_source", refuse)
    data = os.urandom(STREAM_WINDOW)
    uploads.client.begin()
    begin_at_once(server, uploads, data, len(data))
    wait_until(lambda: refused)
    uploads.client.socket.sendall(data[ENOUGH:])
    tid = finish(uploads, oid_of(1), data)
    assert Path(files.loadBlob(oid_of(1), tid)).read_bytes() == data
    assert not [record for record in caplog.records if record.levelname == "WARNING"]

"""Uploads that are cut off, and gone on with on another connection; over real sockets."""

from __future__ import annotations

import errno
import hashlib
import os
import ssl
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trustme
from tests.server.conftest import Connect, Serve
from tests.support.processes import running_server
from tests.support.raw import Closed, RawClient, RemoteFault, oid_of
from tests.support.storages import gate, hook
from tests.support.waiting import wait_until
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage

from zeolith.admin.asking import Target
from zeolith.admin.kick import kick_clients
from zeolith.admin.status import fetch_status
from zeolith.admin.statustext import render_status
from zeolith.protocol.greeting import Coding
from zeolith.protocol.hello import NO_TERMS, Terms
from zeolith.protocol.limits import FIRST_UPLOAD, STREAM_FRAME, STREAM_WINDOW
from zeolith.protocol.messages import TpcAbort, TpcBegin, Vote
from zeolith.protocol.outcome import Outcome
from zeolith.protocol.streamrequests import (
    AttachBlob,
    OpenUpload,
    StreamData,
    StreamEnd,
    StreamFault,
)
from zeolith.server import flushing, parking, session, upload
from zeolith.server.upload import Upload

FIRST, SECOND, THIRD = FIRST_UPLOAD, FIRST_UPLOAD + 1, FIRST_UPLOAD + 2
ONE, TWO, THREE = (bytes([number]) * 16 for number in (1, 2, 3))
DATA = os.urandom(100_000)
HALF = 40_000
TERMS = Terms(checksums=("sha256",))


class Site:
    """A server, and clients of it that verify blobs."""

    def __init__(self, server: Any, raw: Connect, files: FileStorage) -> None:
        self.server, self._raw, self.files = server, raw, files
        self.parking = server._services["1"].parking

    def client(self, terms: Terms = TERMS, storage: str = "1") -> RawClient:
        return self._raw(self.server.address, storage, coding=Coding.OWN, terms=terms)

    def temporaries(self) -> list[str]:
        directory = self.files.temporaryDirectory()
        return [name for name in os.listdir(directory) if "upload" in name]

    def wait_parked(self, count: int) -> None:
        wait_until(lambda: not self.server._lobby.connections)
        wait_until(lambda: len(self.parking) == len(self.temporaries()) == count)

    def wait_empty(self) -> None:
        wait_until(lambda: self.temporaries() == [])

    def read(self, oid: bytes, tid: bytes) -> bytes:
        return Path(self.files.loadBlob(oid, tid)).read_bytes()

    def blobs(self) -> Any:
        return fetch_status(Target(self.server.address)).storages["1"]["blobs"]


@pytest.fixture
def site(files: FileStorage, serve: Serve, raw: Connect, loop: str) -> Site:
    return Site(serve(files, loop=loop), raw, files)


@pytest.fixture
def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's, and a client's."""
    authority = trustme.CA()
    ours = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(ours)
    theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(theirs)
    return ours, theirs


def pieces(number: int, data: bytes) -> list[StreamData]:
    step = STREAM_FRAME
    return [StreamData(number, data[at : at + step]) for at in range(0, len(data), step)]


def attachment(number: int, data: bytes = DATA, oid: bytes = oid_of(1)) -> AttachBlob:
    checksum = hashlib.sha256(data).digest()
    return AttachBlob(number, oid, bytes(8), b"record", 1, len(data), checksum)


def commit(client: RawClient, number: int, rest: bytes, data: bytes = DATA) -> bytes:
    """Send *rest*, which is left of *data*, and commit it."""
    client.begin()
    client.send(*pieces(number, rest), StreamEnd(number), attachment(number, data))
    client.vote()
    return client.finish()


def settle(site: Site, client: RawClient) -> None:
    """Wait until all that was sent is on the server's disk."""
    client.ping()
    sessions = [connection.session for connection in site.server._lobby.connections]
    wait_until(lambda: all(session.uploads.is_idle for session in sessions))


def cut(site: Site, client: RawClient) -> None:
    """Close the connection then."""
    settle(site, client)
    client.close()


def leave_half(site: Site, identity: bytes = ONE, size: int = HALF) -> None:
    client = site.client()
    client.send(OpenUpload(FIRST, identity), *pieces(FIRST, DATA[:size]))
    cut(site, client)


# -- going on --------------------------------------------------------------------------------------


def test_a_part_is_gone_on_with(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    leave_half(site)
    site.wait_parked(1)
    (path,) = (os.path.join(site.files.temporaryDirectory(), name) for name in site.temporaries())
    is_open = [os.path.realpath(entry.path) for entry in os.scandir("/proc/self/fd")]
    assert os.path.realpath(path) not in is_open
    found = site.blobs()
    assert (found["parked"], found["parked_bytes"], found["resumed"]) == (1, HALF, 0)
    client = site.client()
    assert client.call(OpenUpload(FIRST, ONE)) == {"offset": HALF}
    tid = commit(client, FIRST, DATA[HALF:])
    assert site.read(oid_of(1), tid) == DATA
    found = site.blobs()
    assert (found["parked"], found["parked_bytes"], found["resumed"]) == (0, 0, 1)
    assert found["received_bytes"] == len(DATA)
    text = render_status(fetch_status(Target(site.server.address)), connections=False)
    assert "1 received (100.0 kB), 0 sent (0 B), 1 resumed" in text
    site.wait_empty()
    # Whoever reads the log cannot go on with it.
    assert ONE.hex() not in caplog.text
    assert repr(ONE) not in caplog.text


def test_what_nobody_knows_begins_at_0(site: Site) -> None:
    client = site.client()
    assert client.call(OpenUpload(FIRST, ONE)) == {"offset": 0}
    tid = commit(client, FIRST, DATA)
    assert site.read(oid_of(1), tid) == DATA
    # Committed, it is not known any more.
    assert client.call(OpenUpload(SECOND, ONE)) == {"offset": 0}


@pytest.mark.parametrize("how_far", ["complete", "attached", "flushed"])
def test_a_whole_one_is_not_sent_again(site: Site, how_far: str) -> None:
    client = site.client()
    client.begin()
    client.send(OpenUpload(FIRST, ONE), *pieces(FIRST, DATA), StreamEnd(FIRST))
    if how_far != "complete":
        client.send(attachment(FIRST))
    count = 1
    if how_far == "flushed":
        # Beside so many others that files are brought to disk, and closed.
        count = flushing.BATCH + 8
        for number in range(SECOND, FIRST + count):
            client.send(OpenUpload(number, number.to_bytes(16, "big")), StreamData(number, b"x"))
            client.send(StreamEnd(number), attachment(number, b"x", oid_of(number)))
    cut(site, client)
    site.wait_parked(count)
    again = site.client()
    assert again.call(OpenUpload(FIRST, ONE)) == {"offset": len(DATA)}
    tid = commit(again, FIRST, b"")
    assert site.read(oid_of(1), tid) == DATA


def test_that_of_a_vote_that_waits_for_the_lock(site: Site) -> None:
    other, client = site.client(), site.client()
    other.begin()
    other.store(oid_of(7), b"data")
    other.vote()
    client.begin()
    client.send(OpenUpload(FIRST, ONE), *pieces(FIRST, DATA), StreamEnd(FIRST), attachment(FIRST))
    client.ask(Vote(1))
    wait_until(lambda: site.server._services["1"].coordinator.waiting == 1)
    cut(site, client)
    wait_until(lambda: len(site.parking) == 1)
    other.finish()
    again = site.client()
    assert again.call(OpenUpload(FIRST, ONE)) == {"offset": len(DATA)}
    assert site.read(oid_of(1), commit(again, FIRST, b"")) == DATA


def test_a_whole_one_may_go_on(site: Site) -> None:
    """Its client decides what the whole is."""
    client = site.client()
    client.begin()
    client.send(OpenUpload(FIRST, ONE), *pieces(FIRST, DATA[:HALF]), StreamEnd(FIRST))
    client.send(attachment(FIRST, DATA[:HALF]))
    cut(site, client)
    site.wait_parked(1)
    again = site.client()
    assert again.call(OpenUpload(FIRST, ONE)) == {"offset": HALF}
    assert site.read(oid_of(1), commit(again, FIRST, DATA[HALF:])) == DATA


def test_r4_what_was_flushed_and_goes_on_is_flushed_again(site: Site) -> None:
    sizes: list[int] = []
    reached, go_on = threading.Event(), threading.Event()

    def note(file: int, status: object) -> None:
        sizes.append(os.fstat(file).st_size)
        if len(sizes) == 2:
            reached.set()
            go_on.wait(30)

    with hook(upload, "flush", before=note):
        client = site.client()
        client.begin()
        client.send(OpenUpload(FIRST, ONE), *pieces(FIRST, DATA[:HALF]), StreamEnd(FIRST))
        client.send(attachment(FIRST, DATA[:HALF]))
        client.send(StreamData(SECOND, b"x"), StreamEnd(SECOND))
        client.send(attachment(SECOND, b"x", oid_of(2)))
        client.ask(Vote(1))
        assert reached.wait(30)
        client.close()
        wait_until(lambda: not site.server._lobby.connections)
        go_on.set()
        site.wait_parked(1)
        client = site.client()
        client.call(OpenUpload(FIRST, ONE))
        commit(client, FIRST, DATA[HALF:])
    assert sizes == [HALF, 1, len(DATA)]


def test_several_at_once_over_several_connections(site: Site) -> None:
    sent = dict.fromkeys((ONE, TWO, THREE), 0)
    for _ in range(3):
        client = site.client()
        client.begin()
        for number, identity in enumerate(sent, FIRST):
            assert client.call(OpenUpload(number, identity)) == {"offset": sent[identity]}
        for number, identity in enumerate(sent, FIRST):
            at = sent[identity]
            sent[identity] += 7_000 * (number - FIRST + 1)
            client.send(StreamData(number, DATA[at : sent[identity]]))
        cut(site, client)
        site.wait_parked(3)
    client = site.client()
    client.begin()
    for number, (identity, size) in enumerate(sent.items(), FIRST):
        assert client.call(OpenUpload(number, identity)) == {"offset": size}
        client.send(*pieces(number, DATA[size:]), StreamEnd(number))
        client.send(attachment(number, DATA, oid_of(number)))
    client.vote()
    tid = client.finish()
    assert [site.read(oid_of(number), tid) for number in (FIRST, SECOND, THIRD)] == [DATA] * 3


def test_the_credit_begins_anew(site: Site) -> None:
    leave_half(site)
    client = site.client()
    client.call(OpenUpload(FIRST, ONE))
    data = DATA[:HALF] + bytes(STREAM_WINDOW)
    tid = commit(client, FIRST, data[HALF:], data)
    assert site.read(oid_of(1), tid) == data


def test_over_tls(
    files: FileStorage, serve: Serve, raw: Connect, loop: str, contexts: tuple[Any, Any]
) -> None:
    ours, theirs = contexts
    site = Site(serve(files, loop=loop, ssl=ours), raw, files)
    client = raw(site.server.address, coding=Coding.OWN, terms=TERMS, tls=theirs)
    client.send(OpenUpload(FIRST, ONE), *pieces(FIRST, DATA[:HALF]))
    cut(site, client)  # without a word
    site.wait_parked(1)
    client = raw(site.server.address, coding=Coding.OWN, terms=TERMS, tls=theirs)
    assert client.call(OpenUpload(FIRST, ONE)) == {"offset": HALF}
    assert site.read(oid_of(1), commit(client, FIRST, DATA[HALF:])) == DATA


# -- a connection that is still there --------------------------------------------------------------


def test_who_asks_has_left_the_other_connection(site: Site) -> None:
    first = site.client()
    first.begin()
    first.send(OpenUpload(FIRST, ONE), *pieces(FIRST, DATA[:HALF]))
    settle(site, first)
    second = site.client()
    assert second.call(OpenUpload(FIRST, ONE)) == {"offset": HALF}
    first.wait_closed()
    assert site.read(oid_of(1), commit(second, FIRST, DATA[HALF:])) == DATA


def test_who_asks_for_another_transaction_has_left_it_too(site: Site) -> None:
    """Whose end it has not seen, while others of its transactions upload."""
    first, second = site.client(), site.client()
    uid = bytes(range(16))
    first.send(TpcBegin(2, b"", b"", b"", None, " ", uid))
    first.send(OpenUpload(FIRST, ONE), *pieces(FIRST, DATA[:HALF]))
    settle(site, first)
    assert second.call(Outcome(uid, bytes(8)))["state"] == "not committed"
    first.wait_closed()
    assert second.call(OpenUpload(FIRST, ONE)) == {"offset": HALF}


def test_what_is_being_written_is_waited_for(site: Site) -> None:
    """No two connections' jobs write to one file."""
    first, second = site.client(), site.client()
    with gate(Upload, "write") as writing:
        first.send(OpenUpload(FIRST, ONE), StreamData(FIRST, DATA[:1000]))
        writing.wait_reached()
        first.send(StreamData(FIRST, DATA[1000:2000]))
        first.ping()
        msgid = second.ask(OpenUpload(FIRST, ONE))
        first.wait_closed()
        second.ping()
        assert not any(getattr(each, "msgid", None) == msgid for each in second.inbox)
        writing.open()
    # What had not begun to be written is not.
    assert second.answer(msgid) == {"offset": 1000}
    assert site.read(oid_of(1), commit(second, FIRST, DATA[1000:])) == DATA


def test_the_newest_connection_gets_it(site: Site) -> None:
    first, second, third = site.client(), site.client(), site.client()
    with gate(Upload, "write") as writing:
        first.send(OpenUpload(FIRST, ONE), StreamData(FIRST, DATA[:1000]))
        writing.wait_reached()
        second.ask(OpenUpload(FIRST, ONE))
        first.wait_closed()
        msgid = third.ask(OpenUpload(FIRST, ONE))
        second.wait_closed()
        writing.open()
    assert third.answer(msgid) == {"offset": 1000}
    assert site.read(oid_of(1), commit(third, FIRST, DATA[1000:])) == DATA


def test_who_waits_may_be_cut_off_too(site: Site) -> None:
    first, second = site.client(), site.client()
    with gate(Upload, "write") as writing:
        first.send(OpenUpload(FIRST, ONE), StreamData(FIRST, DATA[:1000]))
        writing.wait_reached()
        second.ask(OpenUpload(FIRST, ONE))
        first.wait_closed()
        second.close()
        wait_until(lambda: not site.server._lobby.connections)
        writing.open()
    site.wait_parked(1)
    third = site.client()
    assert third.call(OpenUpload(FIRST, ONE)) == {"offset": 1000}


def test_who_waits_may_give_it_up(site: Site) -> None:
    first, second = site.client(), site.client()
    with gate(Upload, "write") as writing:
        first.send(OpenUpload(FIRST, ONE), StreamData(FIRST, DATA[:1000]))
        writing.wait_reached()
        msgid = second.ask(OpenUpload(FIRST, ONE))
        first.wait_closed()
        second.send(StreamFault(FIRST, "builtins.OSError", ()))
        second.ping()
        writing.open()
    assert second.answer(msgid) == {"offset": 1000}
    site.wait_empty()
    # The next number is the next one's.
    assert site.read(oid_of(1), commit(second, SECOND, DATA)) == DATA


# -- what is not kept ------------------------------------------------------------------------------


def test_after_a_while_it_is_gone(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parking, "PARK_TIME", 0.05)
    leave_half(site)
    site.wait_empty()
    wait_until(lambda: len(site.parking) == 0)
    assert site.client().call(OpenUpload(FIRST, ONE)) == {"offset": 0}


def test_nothing_of_a_transaction_that_ended(site: Site) -> None:
    client = site.client()
    client.begin()
    client.send(OpenUpload(FIRST, ONE), *pieces(FIRST, DATA), StreamEnd(FIRST), attachment(FIRST))
    client.send(OpenUpload(SECOND, TWO), *pieces(SECOND, DATA), StreamEnd(SECOND))
    settle(site, client)
    client.call(TpcAbort(1))
    # It is not that one's any more.
    other = site.client()
    assert other.call(OpenUpload(FIRST, ONE)) == {"offset": 0}
    assert client.call(OpenUpload(THIRD, TWO)) == {"offset": 0}
    other.send(StreamFault(FIRST, "x", ()))
    cut(site, other)
    cut(site, client)
    site.wait_parked(0)


def test_nothing_of_a_transaction_that_has_voted(site: Site) -> None:
    client = site.client()
    client.begin()
    client.send(OpenUpload(FIRST, ONE), *pieces(FIRST, DATA), StreamEnd(FIRST), attachment(FIRST))
    client.vote()
    cut(site, client)
    site.wait_parked(0)
    again = site.client()
    assert again.call(OpenUpload(FIRST, ONE)) == {"offset": 0}


def test_nothing_that_its_client_has_given_up(site: Site) -> None:
    client = site.client()
    client.send(OpenUpload(FIRST, ONE), StreamData(FIRST, DATA[:1000]))
    client.send(StreamFault(FIRST, "builtins.OSError", ()))
    assert client.call(OpenUpload(SECOND, ONE)) == {"offset": 0}
    cut(site, client)
    site.wait_parked(0)


def test_nothing_that_the_disk_did_not_take(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Upload, chunk: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Upload, "write", refuse)
    client = site.client()
    client.send(OpenUpload(FIRST, ONE), StreamData(FIRST, DATA[:1000]))
    cut(site, client)
    site.wait_parked(0)


def test_nothing_of_a_client_that_was_kicked(site: Site) -> None:
    client = site.client()
    client.send(OpenUpload(FIRST, ONE), StreamData(FIRST, DATA[:1000]))
    client.ping()
    assert len(kick_clients(Target(site.server.address), None).connections) == 1
    site.wait_parked(0)


def test_a_client_that_is_silent_may_come_back(site: Site) -> None:
    client = site.client()
    client.send(OpenUpload(FIRST, ONE), StreamData(FIRST, DATA[:1000]))
    settle(site, client)
    (connection,) = site.server._lobby.connections
    site.server._inbox.post(lambda: connection.fall_silent(120.0))
    site.wait_parked(1)


def test_nothing_at_the_end_of_the_server(
    tmp_path: Path, raw: Connect, loop: str, caplog: pytest.LogCaptureFixture
) -> None:
    files = FileStorage(str(tmp_path / "Data.fs"), blob_dir=str(tmp_path / "blobs"))
    directory = files.temporaryDirectory()
    with running_server(files, loop=loop) as server:
        site = Site(server, raw, files)
        leave_half(site)
        site.wait_parked(1)
        # On its way when the server ends.
        client = site.client()
        client.send(OpenUpload(FIRST, TWO), StreamData(FIRST, DATA[:1000]))
        client.ping()
    assert [name for name in os.listdir(directory) if "upload" in name] == []
    assert [each for each in caplog.records if each.levelname == "ERROR"] == []


def test_nothing_of_a_storage_that_failed(
    files: FileStorage, serve: Serve, raw: Connect, loop: str
) -> None:
    # With another one, so that the server goes on.
    site = Site(serve({"1": files, "2": MappingStorage()}, loop=loop), raw, files)
    leave_half(site)
    site.wait_parked(1)
    client = site.client()
    with hook(site.files, "_finish_finish", before=_fail):
        client.begin()
        client.store(oid_of(5), b"data")
        client.vote()
        with pytest.raises((RemoteFault, Closed)):
            client.finish()
        site.wait_parked(0)


def _fail(*args: Any) -> None:
    raise OSError(errno.EIO, "Input/output error")


# -- bounds ----------------------------------------------------------------------------------------


def cut_many(site: Site, count: int, size: int, first: int = 0) -> None:
    """Cut off a connection with so many uploads."""
    client = site.client()
    for number in range(first, first + count):
        stream = FIRST + number - first
        client.send(OpenUpload(stream, number.to_bytes(16, "big")), StreamData(stream, bytes(size)))
    cut(site, client)
    wait_until(lambda: not site.server._lobby.connections)


def test_r8_their_number_is_bounded(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parking, "MAX_PARKED_EACH", 3)
    cut_many(site, 5, 100)
    site.wait_parked(3)
    monkeypatch.setattr(parking, "MAX_PARKED_EACH", 100)
    monkeypatch.setattr(parking, "MAX_PARKED", 4)
    cut_many(site, 5, 100, first=10)
    site.wait_parked(4)
    # Those who were first stay.
    client = site.client()
    offsets = [
        client.call(OpenUpload(FIRST + number, number.to_bytes(16, "big")))["offset"]
        for number in range(5)
    ]
    assert offsets == [100, 100, 100, 0, 0]


def test_r8_their_bytes_are_bounded(
    files: FileStorage, serve: Serve, raw: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Site(serve(files, max_blob_size=1000), raw, files)
    cut_many(site, 5, 400)
    site.wait_parked(2)
    cut_many(site, 5, 200, first=10)
    site.wait_parked(3)


def test_r8_of_a_transaction_the_newest_are_kept(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "MAX_PARKED_EACH", 3)
    client = site.client()
    client.begin()
    for number in range(5):
        stream = FIRST + number
        client.send(OpenUpload(stream, number.to_bytes(16, "big")), StreamData(stream, b"x"))
        client.send(StreamEnd(stream), attachment(stream, b"x", oid_of(stream)))
    cut(site, client)
    site.wait_parked(3)
    again = site.client()
    assert [
        again.call(OpenUpload(FIRST + number, number.to_bytes(16, "big")))["offset"]
        for number in range(5)
    ] == [0, 0, 1, 1, 1]


# -- hostile ---------------------------------------------------------------------------------------


def test_another_storage_knows_nothing_of_it(
    files: FileStorage, tmp_path: Path, serve: Serve, raw: Connect
) -> None:
    other = FileStorage(str(tmp_path / "Other.fs"), blob_dir=str(tmp_path / "others"))
    site = Site(serve({"1": files, "2": other}), raw, files)
    leave_half(site)
    stranger = site.client(storage="2")
    assert stranger.call(OpenUpload(FIRST, ONE)) == {"offset": 0}
    stranger.send(StreamFault(FIRST, "x", ()))
    assert site.client().call(OpenUpload(FIRST, ONE)) == {"offset": HALF}


def test_another_algorithm_is_of_no_use(site: Site) -> None:
    leave_half(site)
    client = site.client(Terms(checksums=("blake3",)))
    assert client.peer.codec is not None
    assert client.peer.codec.checksum == "blake3"
    assert client.call(OpenUpload(FIRST, ONE)) == {"offset": 0}
    wait_until(lambda: len(site.temporaries()) == 1)  # the new one


def test_who_goes_on_at_another_place_is_found_out(site: Site) -> None:
    leave_half(site)
    client = site.client()
    client.call(OpenUpload(FIRST, ONE))
    with pytest.raises(RemoteFault, match="BlobDamaged"):
        commit(client, FIRST, DATA[HALF - 1 : -1])
    client.send(TpcAbort(1))
    site.wait_empty()
    client.ping()


def test_a_size_that_leaves_out_what_was_there_fails_the_vote(site: Site) -> None:
    leave_half(site)
    client = site.client()
    client.call(OpenUpload(FIRST, ONE))
    client.begin()
    client.send(*pieces(FIRST, DATA[HALF:]), StreamEnd(FIRST))
    client.send(attachment(FIRST)._replace(size=len(DATA) - HALF))
    with pytest.raises(RemoteFault, match="60000 bytes was announced, 100000 bytes have arrived"):
        client.vote()


def test_the_limit_counts_what_was_there(files: FileStorage, serve: Serve, raw: Connect) -> None:
    site = Site(serve(files, max_blob_size=50_000), raw, files)
    leave_half(site)
    client = site.client()
    client.call(OpenUpload(FIRST, ONE))
    with pytest.raises(RemoteFault, match="max-blob-size"):
        commit(client, FIRST, DATA[HALF:60_000], DATA[:60_000])


def test_a_file_that_somebody_has_changed_fails_the_vote(site: Site) -> None:
    leave_half(site)
    site.wait_parked(1)
    (name,) = site.temporaries()
    os.truncate(os.path.join(site.files.temporaryDirectory(), name), 10)
    client = site.client()
    client.call(OpenUpload(FIRST, ONE))
    with pytest.raises(RemoteFault, match="has been changed"):
        commit(client, FIRST, DATA[HALF:])
    site.wait_empty()


def test_open_on_this_connection(site: Site) -> None:
    client = site.client()
    client.send(OpenUpload(FIRST, ONE), *pieces(FIRST, DATA[:HALF]))
    with pytest.raises(RemoteFault, match="open on this connection"):
        client.call(OpenUpload(SECOND, ONE))
    # Its number is used up; the upload itself goes on.
    client.send(*pieces(FIRST, DATA[HALF:]), *pieces(THIRD, b"another"))
    client.begin()
    client.send(StreamEnd(FIRST), attachment(FIRST))
    client.vote()
    assert site.read(oid_of(1), client.finish()) == DATA


def test_waited_for_on_this_connection(site: Site) -> None:
    first, second = site.client(), site.client()
    with gate(Upload, "write") as writing:
        first.send(OpenUpload(FIRST, ONE), StreamData(FIRST, DATA[:1000]))
        writing.wait_reached()
        msgid = second.ask(OpenUpload(FIRST, ONE))
        with pytest.raises(RemoteFault, match="open on this connection"):
            second.call(OpenUpload(SECOND, ONE))
        writing.open()
    assert second.answer(msgid) == {"offset": 1000}


def test_a_number_out_of_turn_is_refused(site: Site) -> None:
    client = site.client()
    with pytest.raises(RemoteFault, match="not the next"):
        client.call(OpenUpload(SECOND, ONE))
    assert site.read(oid_of(1), commit(client, FIRST, DATA)) == DATA


def _opening(identity: bytes) -> OpenUpload:
    return OpenUpload(FIRST, identity)


@pytest.mark.parametrize(
    ("terms", "requests"),
    [
        pytest.param(TERMS, [OpenUpload(SECOND, ONE)], id="not the next number"),
        pytest.param(TERMS, [OpenUpload(0, ONE)], id="a number of the server's"),
        pytest.param(TERMS, [_opening(ONE[:15])], id="too short"),
        pytest.param(TERMS, [_opening(ONE + b"x")], id="too long"),
        pytest.param(TERMS, [_opening(ONE), _opening(TWO)], id="the same number again"),
        pytest.param(TERMS, [StreamData(FIRST, b"x"), _opening(ONE)], id="behind the first data"),
        pytest.param(
            TERMS, [_opening(ONE), OpenUpload(SECOND, ONE)], id="begun twice as a new one"
        ),
        pytest.param(NO_TERMS, [_opening(ONE)], id="no checksums agreed upon"),
    ],
)
def test_what_is_not_legal_ends_the_connection_and_leaves_nothing(
    site: Site, terms: Terms, requests: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    client = site.client(terms)
    client.send(*requests)
    with pytest.raises(Closed):
        client.ping()
    site.wait_parked(0)
    assert "unexpected error" not in caplog.text


@pytest.mark.parametrize("then", [StreamData(FIRST, b"x"), StreamEnd(FIRST)])
def test_who_does_not_wait_for_the_answer_is_closed_and_harms_nobody(
    site: Site, then: Any, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = site.client(), site.client()
    with gate(Upload, "write") as writing:
        first.send(OpenUpload(FIRST, ONE), StreamData(FIRST, DATA[:1000]))
        writing.wait_reached()
        second.ask(OpenUpload(FIRST, ONE))
        second.send(then)
        with pytest.raises(Closed):
            second.ping()
        writing.open()
    assert "the answer to its opening is not awaited" in caplog.text
    site.wait_parked(1)
    assert site.client().call(OpenUpload(FIRST, ONE)) == {"offset": 1000}


def test_who_may_only_read_gets_nothing(site: Site, raw: Connect) -> None:
    leave_half(site)
    reader = raw(site.server.address, coding=Coding.OWN, terms=TERMS, read_only=True)
    with pytest.raises(RemoteFault, match="ReadOnlyError"):
        reader.call(OpenUpload(FIRST, ONE))
    assert site.client().call(OpenUpload(FIRST, ONE)) == {"offset": HALF}


# -- by itself -------------------------------------------------------------------------------------


class Alone:
    """Stands for a session whose jobs are done at once, and for its connection."""

    is_lost = False

    def __init__(self, user: str | None, address: str) -> None:
        self.connection: Any = self
        self.user = None if user is None else SimpleNamespace(name=user)
        self.address = address
        self.codec = SimpleNamespace(checksum="sha256")
        self.uploads: Any = self

    def submit(self, job: Any, done: Any) -> None:
        job()
        done(None, None)


class Lot(parking.Parking):
    """A parking without a loop.

    :ivar timers: what it will call, in order.
    """

    def __init__(self, directory: Path) -> None:
        self.timers: list[Any] = []
        pool: Any = SimpleNamespace(submit=lambda job: job())
        super().__init__(self, pool, 10)  # type: ignore[arg-type]
        self.directory = directory

    def call_later(self, delay: float, callback: Any, *args: Any) -> Any:
        assert delay == parking.PARK_TIME
        timer = SimpleNamespace(run=lambda: callback(*args))
        timer.cancel = lambda: self.timers.remove(timer)
        self.timers.append(timer)
        return timer

    def leave(self, session: Any, identity: bytes, size: int = 3) -> Upload:
        """Have an upload of *session* cut off."""
        file = Upload("sha256")
        self.enlist(session, identity, file)
        file.start(str(self.directory))
        file.write(bytes(size))
        self.park([file])
        return file

    def find(self, session: Any, identity: bytes) -> Upload | None:
        found: list[Upload | None] = []
        self.take(session, identity, found.append)
        (file,) = found
        return file


def test_r9_another_user_knows_nothing_of_it(tmp_path: Path) -> None:
    lot = Lot(tmp_path)
    file = lot.leave(Alone("alice", "10.0.0.1"), ONE)
    for stranger in (Alone("bob", "10.0.0.1"), Alone(None, "10.0.0.1")):
        assert not lot.knows(stranger, ONE)  # type: ignore[arg-type]
        assert lot.find(stranger, ONE) is None
    # Wherever she is.
    assert lot.find(Alone("alice", "10.0.0.2"), ONE) is file
    assert (len(lot), lot.timers) == (0, [])
    file.discard()
    assert list(tmp_path.iterdir()) == []


def test_r8_one_user_leaves_room_for_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parking, "MAX_PARKED_EACH", 2)
    lot = Lot(tmp_path)
    owners = [Alone("alice", "a"), Alone("alice", "b"), Alone("alice", "c"), Alone("bob", "a")]
    owners += [Alone(None, "d"), Alone(None, "d"), Alone(None, "d"), Alone(None, "e")]
    for number, owner in enumerate(owners):
        lot.leave(owner, number.to_bytes(16, "big"), size=1)
    kept = [
        number for number, owner in enumerate(owners)
        if lot.knows(owner, number.to_bytes(16, "big"))  # type: ignore[arg-type]
    ]  # fmt: skip
    assert kept == [0, 1, 3, 4, 5, 7]
    assert (len(lot), lot.size) == (6, 6)
    for timer in list(lot.timers):
        timer.run()
    assert (len(lot), lot.size, lot.timers, list(tmp_path.iterdir())) == (0, 0, [], [])


def test_r8_all_together_have_two_blobs_of_the_greatest_size(tmp_path: Path) -> None:
    lot = Lot(tmp_path)
    sizes = {"a": 10, "b": 9, "c": 2, "d": 1}
    for number, (user, size) in enumerate(sizes.items()):
        lot.leave(Alone(user, "host"), bytes([number]) * 16, size)
    assert (len(lot), lot.size) == (3, 20)
    lot.close()
    assert (len(lot), lot.timers, list(tmp_path.iterdir())) == (0, [], [])
    # Afterwards nothing is kept.
    lot.leave(Alone("e", "host"), ONE)
    assert (len(lot), lot.timers, list(tmp_path.iterdir())) == (0, [], [])

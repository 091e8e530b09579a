"""Several transactions of one connection in progress at once."""

from __future__ import annotations

import os
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.server.conftest import Connect, Serve
from tests.support.raw import Z64, Closed, RawClient, RemoteFault, oid_of
from tests.support.rawstreams import RawStreams
from tests.support.storages import gate, hook
from tests.support.waiting import wait_until
from ZODB.FileStorage import FileStorage

from zeolith.protocol.greeting import Coding
from zeolith.protocol.hello import TRANSACTIONS, Terms
from zeolith.protocol.limits import (
    BULK_WINDOW,
    FIRST_UPLOAD,
    MAX_TRANSACTIONS,
    STREAM_FRAME,
    STREAM_WINDOW,
)
from zeolith.protocol.messages import (
    Fault,
    Reply,
    Store,
    TpcAbort,
    TpcBegin,
    TpcFinish,
    Vote,
)
from zeolith.protocol.streamrequests import AttachBlob, ForgetUpload, StreamData, StreamEnd
from zeolith.server import blobs, flushing
from zeolith.server.held import SHORT
from zeolith.server.kicking import _end
from zeolith.server.upload import Upload

FIRST, SECOND = FIRST_UPLOAD, FIRST_UPLOAD + 1


@pytest.fixture
def server(files: FileStorage, serve: Serve) -> Any:
    return serve(files)


@pytest.fixture
def client(server: Any, raw: Connect) -> RawClient:
    return raw(server.address, coding=Coding.OWN)


@pytest.fixture
def uploads(client: RawClient) -> RawStreams:
    return RawStreams(client)


def session_of(server: Any) -> Any:
    (connection,) = server._lobby.connections
    return connection.session


def temporaries(files: FileStorage) -> list[str]:
    return [name for name in os.listdir(files.temporaryDirectory()) if "upload" in name]


def begin(number: int) -> TpcBegin:
    return TpcBegin(number, b"", b"", b"", None, " ")


def test_each_has_its_own_operations(client: RawClient, files: FileStorage) -> None:
    client.begin(1)
    client.begin(2)
    for txn in (2, 1):
        client.store(oid_of(txn), b"%d" % txn, txn=txn)
    client.vote(2)
    second = client.finish(2)
    # Begun and collected before the other one was committed, and voted on behind it.
    client.store(oid_of(2), b"changed", Z64, txn=1)
    with pytest.raises(RemoteFault, match="ConflictError"):
        client.vote(1)
    assert files.load(oid_of(2))[:2] == (b"2", second)
    client.send(TpcAbort(1))
    client.begin(3)
    client.store(oid_of(1), b"1", txn=3)
    client.vote(3)
    third = client.finish(3)
    assert files.load(oid_of(1))[:2] == (b"1", third)


def test_they_have_one_place_in_the_queue_for_the_lock(
    server: Any, client: RawClient, raw: Connect
) -> None:
    """R7: one that has the lock holds up the others' votes, and nothing else of theirs; and other
    clients do not wait for all of them."""
    other = raw(server.address, coding=Coding.OWN)
    for txn in (1, 2, 3):
        client.begin(txn)
        client.store(oid_of(txn), b"x", txn=txn)
    client.vote(1)
    second, third = client.ask(Vote(2)), client.ask(Vote(3))
    client.begin(4)
    client.ping()
    other.begin()
    other.store(oid_of(4), b"x")
    others = other.ask(Vote(1))
    other.ping()
    coordinator = server._services["1"].coordinator
    assert coordinator.waiting == 1
    tids = [client.finish(1)]
    other.answer(others)
    client.ping()
    assert not [found for found in client.inbox if getattr(found, "msgid", None) == second]
    tids.append(other.finish())
    for txn, vote in ((2, second), (3, third)):
        assert not client.answer(vote)
        tids.append(client.finish(txn))
    assert tids == sorted(tids)


def test_an_abort_that_comes_too_late_means_nothing(client: RawClient, files: FileStorage) -> None:
    """Of a client that was interrupted, and cannot tell what it has said; others go on."""
    for txn in (1, 2):
        client.begin(txn)
        client.store(oid_of(txn), b"x", txn=txn)
    client.vote(1)
    finish = client.next_id()
    client.send((finish, TpcFinish(1)), TpcAbort(1))
    tid = client.answer(finish)
    assert files.load(oid_of(1))[:2] == (b"x", tid)
    client.vote(2)
    assert client.finish(2) > tid


def test_what_follows_an_abort_that_comes_too_late_waits_for_the_end(client: RawClient) -> None:
    """For its client it is over, so another one may begin in its place."""
    for txn in range(MAX_TRANSACTIONS):
        client.begin(txn)
    client.store(oid_of(1), b"x", txn=1)
    client.vote(1)
    finish = client.next_id()
    client.send((finish, TpcFinish(1)), TpcAbort(1), begin(MAX_TRANSACTIONS))
    assert client.answer(finish)
    client.vote(MAX_TRANSACTIONS)


@pytest.mark.parametrize("ends", ["conflict", "abort"])
def test_the_next_one_votes_however_the_first_ends(
    files: FileStorage, serve: Serve, raw: Connect, ends: str
) -> None:
    """One that has a conflict for the client to resolve keeps its place until it votes again."""
    server = serve(files, client_conflict_resolution=True)
    client, other = (raw(server.address, coding=Coding.OWN) for _ in range(2))
    other.commit({oid_of(1): (Z64, b"theirs")})
    other.begin()
    other.vote()
    first_oid = 1 if ends == "conflict" else 2
    for txn, number in ((1, first_oid), (2, 3), (3, 4)):
        client.begin(txn)
        client.store(oid_of(number), b"x", txn=txn)
    first, second, third = (client.ask(Vote(txn)) for txn in (1, 2, 3))
    client.ping()
    if ends == "abort":
        client.call(TpcAbort(1))
        with pytest.raises(RemoteFault, match="aborted"):
            client.answer(first)
    other.call(TpcAbort(1))
    if ends == "conflict":
        (found,) = client.answer(first)
        assert found["oid"] == oid_of(1)
        client.store(oid_of(1), b"resolved", found["serials"][0], txn=1)
        client.ping()
        assert not [found for found in client.inbox if getattr(found, "msgid", None) == second]
        client.vote(1)
        client.finish(1)
    assert not client.answer(second)
    client.finish(2)
    assert not client.answer(third)
    client.finish(3)
    assert sorted(files._index) == [oid_of(number) for number in (1, 3, 4)]


def test_r1_answers_are_in_the_order_of_the_commits(client: RawClient) -> None:
    numbers = range(1, 5)
    for txn in numbers:
        client.begin(txn)
        client.store(oid_of(txn), b"x", txn=txn)
    votes = [client.ask(Vote(txn)) for txn in numbers]
    tids = []
    for txn, vote in zip(numbers, votes, strict=True):
        client.answer(vote)
        tids.append(client.finish(txn))
    assert tids == sorted(tids)
    replies = [message for message in client.inbox if isinstance(message, Reply)]
    order = [reply.msgid for reply in replies if reply.msgid in votes]
    assert order == votes
    assert client.invalidations() == []


def test_in_zeos_protocol_there_is_one(server: Any, raw: Connect) -> None:
    client = raw(server.address, coding=Coding.MSGPACK)
    client.begin(1)
    with pytest.raises(RemoteFault, match=r"StorageTransactionError.*another transaction of this"):
        client.call(TpcBegin(2, b"", b"", {}, None, " "))
    client.store(oid_of(1), b"x", txn=1)
    client.vote(1)
    client.finish(1)


def test_r8_there_is_a_most(client: RawClient) -> None:
    for txn in range(MAX_TRANSACTIONS):
        client.begin(txn)
    with pytest.raises(RemoteFault, match=f"StorageTransactionError.*{MAX_TRANSACTIONS} trans"):
        client.call(begin(MAX_TRANSACTIONS))
    client.send(TpcAbort(0), begin(MAX_TRANSACTIONS))
    client.store(oid_of(1), b"x", txn=MAX_TRANSACTIONS)
    client.vote(MAX_TRANSACTIONS)
    client.finish(MAX_TRANSACTIONS)


def test_the_server_says_how_many(server: Any, raw: Connect) -> None:
    client = raw(server.address, coding=Coding.OWN)
    codec = client.peer.codec
    assert codec is not None
    assert codec.transactions == MAX_TRANSACTIONS
    assert server._lobby.terms.capabilities[TRANSACTIONS] == {"most": MAX_TRANSACTIONS}


def test_r8_all_but_one_share_a_part_of_the_memory(
    files: FileStorage, serve: Serve, raw: Connect
) -> None:
    memory = MAX_TRANSACTIONS * 1000
    server = serve(files, commit_memory=memory)
    client = raw(server.address, coding=Coding.OWN)
    for txn in range(MAX_TRANSACTIONS):
        client.begin(txn)
        client.store(oid_of(txn), bytes(1500), txn=txn)
    client.ping()
    logs = [found.log for found in session_of(server).transactions.values()]
    assert [log.has_file for log in logs] == [False] + [True] * (MAX_TRANSACTIONS - 1)
    for txn in range(MAX_TRANSACTIONS):
        client.vote(txn)
        tid = client.finish(txn)
        assert files.load(oid_of(txn))[:2] == (bytes(1500), tid)
    client.begin(1)
    client.ping()
    assert session_of(server).commit_memory < memory == 32 * session_of(server).commit_memory


def test_r7_an_upload_that_waits_for_the_disk_holds_up_no_other_vote(
    uploads: RawStreams, files: FileStorage
) -> None:
    client = uploads.client
    client.begin(1)
    with gate(Upload, "place") as writing:
        client.send(StreamData(FIRST, b"blob"), StreamEnd(FIRST))
        uploads.attach(FIRST, oid_of(1), 4, txn=1)
        writing.wait_reached()
        client.begin(2)
        client.store(oid_of(2), b"small", txn=2)
        client.vote(2)
        tid = client.finish(2)
        assert files.load(oid_of(2))[:2] == (b"small", tid)
        first = client.ask(Vote(1))
        client.ping()
        writing.open()
        client.answer(first)
    assert Path(files.loadBlob(oid_of(1), client.finish(1))).read_bytes() == b"blob"


@pytest.mark.parametrize("ends", ["finish", "abort", "refused"])
def test_the_end_of_one_costs_the_others_no_upload(
    uploads: RawStreams, files: FileStorage, ends: str
) -> None:
    """What is complete may be about to be attached."""
    client = uploads.client
    client.begin(1)
    client.begin(2)
    uploads.upload(FIRST, b"a blob")
    if ends == "abort":
        client.call(TpcAbort(2))
    elif ends == "finish":
        client.vote(2)
        client.finish(2)
    else:
        uploads.attach(FIRST, oid_of(1), 7, txn=2)  # another size
        with pytest.raises(RemoteFault, match="7 bytes"):
            client.vote(2)
        uploads.upload(SECOND, b"a blob")
    uploads.attach(SECOND if ends == "refused" else FIRST, oid_of(1), 6, txn=1)
    client.vote(1)
    tid = client.finish(1)
    assert Path(files.loadBlob(oid_of(1), tid)).read_bytes() == b"a blob"
    wait_until(lambda: temporaries(files) == [])


def test_the_end_of_the_last_removes_what_nobody_attached(
    server: Any, uploads: RawStreams, files: FileStorage
) -> None:
    client = uploads.client
    client.begin(1)
    client.begin(2)
    uploads.upload(FIRST, b"nobody's")
    client.call(TpcAbort(1))
    assert session_of(server).incoming.unattached == 1
    client.call(TpcAbort(2))
    assert session_of(server).incoming.unattached == 0
    wait_until(lambda: temporaries(files) == [])
    client.begin(3)
    client.send(AttachBlob(FIRST, oid_of(1), Z64, b"record", 3, 8))
    with pytest.raises(Closed):
        client.ping()


def test_what_is_given_up_goes_while_others_are_in_progress(
    server: Any, uploads: RawStreams, files: FileStorage
) -> None:
    """Whatever the client has said of it: complete, incomplete, nothing, or attached."""
    client = uploads.client
    client.begin(1)
    third, fourth, fifth = FIRST + 2, FIRST + 3, FIRST + 4
    uploads.upload(FIRST, b"complete")
    client.send(StreamData(SECOND, b"incomplete"))
    uploads.upload(fourth - 1, b"attached")
    uploads.attach(third, oid_of(3), 8, txn=1)
    for number in (FIRST, SECOND, third, fourth, FIRST, fourth):
        client.send(ForgetUpload(number))
    uploads.upload(fifth, b"after a number that was left out")
    uploads.attach(fifth, oid_of(5), 32, txn=1)
    client.ping()
    assert len(session_of(server).incoming) == 0
    wait_until(lambda: len(temporaries(files)) == 2)
    client.vote(1)
    tid = client.finish(1)
    assert Path(files.loadBlob(oid_of(3), tid)).read_bytes() == b"attached"
    assert Path(files.loadBlob(oid_of(5), tid)).read_bytes() == b"after a number that was left out"
    assert temporaries(files) == []
    # It does not come back.
    client.begin(2)
    client.send(AttachBlob(FIRST, oid_of(1), Z64, b"record", 2, 8))
    with pytest.raises(Closed):
        client.ping()


def test_an_upload_that_is_given_up_takes_no_data_any_more(uploads: RawStreams) -> None:
    client = uploads.client
    client.send(StreamData(FIRST, b"x"), ForgetUpload(FIRST))
    client.ping()
    client.send(StreamData(FIRST, b"x"))
    with pytest.raises(Closed):
        client.ping()


def test_the_end_of_the_connection_ends_all(
    server: Any, uploads: RawStreams, files: FileStorage, raw: Connect
) -> None:
    client = uploads.client
    for txn in (1, 2, 3):
        client.begin(txn)
        uploads.upload(FIRST + txn - 1, b"blob")
        if txn < 3:
            uploads.attach(FIRST + txn - 1, oid_of(txn), 4, txn=txn)
    client.vote(1)
    client.ask(Vote(2))
    client.ping()
    service = server._services["1"]
    assert service.stats.active_txns == 3
    client.close()
    wait_until(lambda: not service.publisher.subscribers)
    wait_until(lambda: temporaries(files) == [] and not service.stats.active_txns)
    other = raw(server.address, coding=Coding.OWN)
    other.commit({oid_of(1): (Z64, b"free")})
    assert len(files) == 1


def test_nobody_votes_for_a_client_that_has_gone(
    server: Any, client: RawClient, raw: Connect
) -> None:
    """One that waits for the others of its client does not come to the lock because they end."""
    other = raw(server.address, coding=Coding.OWN)
    other.begin()
    other.vote()
    for txn in (1, 2, 3):
        client.begin(txn)
        client.ask(Vote(txn))
    client.ping()
    service = server._services["1"]
    voted: list[Any] = []
    with hook(service.coordinator, "vote", before=lambda *args: voted.append(args)):
        client.close()
        wait_until(lambda: service.stats.active_txns == 1)
        other.finish()
        other.ping()
    assert voted == []


def test_r8_files_that_are_open_until_they_are_flushed_are_counted_together(
    server: Any, uploads: RawStreams, files: FileStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flushing, "BATCH", 4)
    client = uploads.client
    for txn in (1, 2):
        client.begin(txn)
    session = session_of(server)
    for number in range(6):
        txn = 1 + number % 2
        uploads.upload(FIRST + number, b"blob")
        uploads.attach(FIRST + number, oid_of(number + 1), 4, txn=txn)
        client.ping()
        transactions = session.transactions.values()
        waiting = sum(len(found.unflushed) for found in transactions)
        assert waiting == (number + 1) % 4
    for txn in (1, 2):
        client.vote(txn)
        client.finish(txn)
    assert temporaries(files) == []
    assert len(files) == 6


def test_r8_records_of_blobs_are_counted_together(
    server: Any, uploads: RawStreams, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blobs, "MAX_BLOB_RECORDS", 10_000)
    client = uploads.client
    for number, is_refused in ((0, False), (1, True)):
        txn = number + 1
        client.begin(txn)
        uploads.upload(FIRST + number, b"blob")
        record = bytes(6000)
        client.send(
            Store(oid_of(txn), Z64, record, txn),
            AttachBlob(FIRST + number, oid_of(txn), Z64, record, txn, 4),
        )
        if is_refused:
            with pytest.raises(RemoteFault, match="TransactionTooLargeError"):
                client.vote(txn)
    client.vote(1)
    client.finish(1)
    client.begin(3)
    client.ping()
    assert session_of(server).transaction.blob_records == 0


def test_a_server_that_stops_answers_what_it_has_committed(
    server: Any, client: RawClient, files: FileStorage
) -> None:
    """And nothing else: a lost connection can be retried, an aborted vote would be an error."""
    for txn in (1, 2, 3):
        client.begin(txn)
        client.store(oid_of(txn), b"x", txn=txn)
    client.vote(1)
    second = client.ask(Vote(2))
    client.ping()
    with gate(files, "tpc_finish") as finishing:
        first = client.ask(TpcFinish(1))
        finishing.wait_reached()
        server.stop()
        wait_until(lambda: server._lobby.is_closing)
        finishing.open()
        tid = client.answer(first)
        with suppress(Closed):
            while True:
                client.receive()
    answers = [found for found in client.inbox if getattr(found, "msgid", None) == second]
    assert not [found for found in answers if isinstance(found, Fault)]
    assert len(tid) == 8


def test_who_is_kicked_keeps_only_what_is_being_written(
    server: Any, client: RawClient, files: FileStorage, raw: Connect
) -> None:
    for txn in (1, 2):
        client.begin(txn)
        client.store(oid_of(txn), b"x", txn=txn)
    client.vote(1)
    client.ask(Vote(2))
    client.ping()
    service = server._services["1"]
    with gate(files, "tpc_finish") as finishing:
        first = client.ask(TpcFinish(1))
        finishing.wait_reached()
        server._inbox.post(partial(_end, session_of(server).connection, "kicked"))
        finishing.open()
        tid = client.answer(first)
        client.wait_closed()
    wait_until(lambda: service.stats.active_txns == 0)
    assert files.load(oid_of(1))[:2] == (b"x", tid)
    assert len(files) == 1
    raw(server.address, coding=Coding.OWN).commit({oid_of(3): (Z64, b"free")})


def test_r8_what_a_client_may_be_ahead_does_not_grow_with_its_uploads(
    server: Any, raw: Connect
) -> None:
    client = raw(server.address, coding=Coding.OWN, terms=Terms(checksums=("sha256",)))
    for count in range(1, MAX_TRANSACTIONS + 1):
        client.send(StreamData(FIRST + count - 1, b"x"))
        client.ping()
        incoming = session_of(server).incoming
        assert incoming._most_ahead == max(BULK_WINDOW // count, STREAM_WINDOW)
        assert count * incoming._most_ahead <= max(BULK_WINDOW, count * STREAM_WINDOW)
    assert server._options.upload_mark >= MAX_TRANSACTIONS * STREAM_WINDOW


def test_a_long_upload_has_the_window_of_those_that_are_there(server: Any, raw: Connect) -> None:
    """Which changes when others come."""
    client = raw(server.address, coding=Coding.OWN, terms=Terms(checksums=("sha256",)))
    streams = RawStreams(client)
    parts = SHORT // STREAM_FRAME + 1
    client.send(*[StreamData(FIRST, bytes(STREAM_FRAME))] * parts)
    client.ping()
    (upload,) = session_of(server).incoming._open.values()
    assert upload.window.most == BULK_WINDOW
    for number in range(1, 4):
        client.send(StreamData(FIRST + number, b"x"))
    client.send(StreamData(FIRST, bytes(STREAM_FRAME)))
    wait_until(lambda: upload.window.most == BULK_WINDOW // 4)
    streams.settle()

"""Iterating on streams."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ZODB.Connection import TransactionMetaData
from ZODB.FileStorage import FileStorage
from ZODB.POSException import StorageError

from zeolith.client.storage import ClientStorage
from zeolith.errors import ClientDisconnected, ClientStorageError, ServerError, UndecodableMessage
from zeolith.protocol.entries import CLOSE, Entry, Header, Record, serialize_entry
from zeolith.protocol.limits import STREAM_FRAME, STREAM_WINDOW
from zeolith.protocol.messages import Notice
from zeolith.protocol.streamrequests import (
    OpenIteration,
    StreamCancel,
    StreamCredit,
    StreamData,
    StreamEnd,
    StreamFault,
)

from ..support.processes import running_server
from ..support.raw import FakeConnection, oid_of
from ..support.waiting import Background, wait_until
from .conftest import Attach, Open
from .scripted import tid

# -- with a server -----------------------------------------------------------------------------

SIZES = [1, 5, 300, 2_000, 70_000, 1_000_000]
"""Of the records of each transaction."""


@pytest.fixture
def files(tmp_path: Path) -> FileStorage:
    """A storage with ten transactions of several records."""
    storage = FileStorage(str(tmp_path / "Data.fs"))
    for turn in range(10):
        meta = TransactionMetaData(b"joe", b"%d" % turn, {"turn": turn})
        storage.tpc_begin(meta)
        for number, size in enumerate(SIZES):
            oid = oid_of(turn * len(SIZES) + number)
            storage.store(oid, bytes(8), bytes([turn]) * size, "", meta)
        storage.tpc_vote(meta)
        storage.tpc_finish(meta)
    return storage


@pytest.fixture
def server(files: FileStorage) -> Iterator[Any]:
    with running_server(files, max_iterators=5) as found:
        yield found


@pytest.fixture
def storage(server: Any, client: Open) -> ClientStorage:
    return client(server.address)


def described(records: Any) -> list[tuple[bytes, bytes, bytes, Any]]:
    return [(record.oid, record.tid, record.data, record.data_txn) for record in records]


def everything(transactions: Any) -> list[Any]:
    return [
        (t.tid, t.status, t.user, t.description, t.extension, described(t)) for t in transactions
    ]


def streams_at(server: Any) -> int:
    sessions = [connection.session for connection in server._lobby.connections]
    return sum(len(s._streams) for s in sessions if s is not None and s._streams is not None)


def test_all_that_the_storage_holds(storage: ClientStorage, files: FileStorage) -> None:
    expected = everything(files.iterator())
    assert everything(storage.iterator()) == expected
    assert len(expected) == 10
    tids = [item[0] for item in expected]
    assert everything(storage.iterator(tids[3], tids[5])) == expected[3:6]
    assert everything(storage.iterator(tids[9])) == expected[9:]
    assert everything(storage.iterator(None, tids[0])) == expected[:1]


def test_records_are_not_asked_for(storage: ClientStorage) -> None:
    tids = [transaction.tid for transaction in storage.iterator()]
    assert len(tids) == 10
    assert tids == sorted(tids)


def test_records_twice_later_and_two_at_a_time(storage: ClientStorage, files: FileStorage) -> None:
    expected = [described(transaction) for transaction in files.iterator()]
    transactions = storage.iterator()
    first: Any = next(transactions)
    assert described(first) == expected[0]
    assert described(first) == expected[0]
    second: Any = next(transactions)
    one, other = iter(second), iter(second)
    mixed = [[next(one), next(other)] for _ in SIZES]
    assert [described(pair) for pair in zip(*mixed, strict=True)] == [expected[1], expected[1]]
    assert next(one, None) is next(other, None) is None
    # Begun, then left for the next transaction, then gone on with.
    third: Any = next(transactions)
    begun = iter(third)
    head = [next(begun), next(begun)]
    fourth = next(transactions)
    assert described([*head, *begun]) == expected[2]
    assert described(fourth) == expected[3]
    # Of one that is over.
    assert described(first) == expected[0]


def test_an_iterator_that_has_ended_has_ended(storage: ClientStorage) -> None:
    transactions = storage.iterator(tid(1), tid(2))
    assert next(transactions, None) is None
    assert next(transactions, None) is None


def test_iterators_that_nobody_holds_are_given_back(server: Any, storage: ClientStorage) -> None:
    for _ in range(20):  # more than may be open
        found = storage.iterator()
        transaction: Any = next(found)
        next(iter(transaction))
        del found, transaction
        gc.collect()
    wait_until(lambda: streams_at(server) <= 1)
    kept = [storage.iterator() for _ in range(4)]
    with pytest.raises(StorageError, match="5 iterators"):
        kept += [storage.iterator() for _ in range(2)]


def test_several_iterators_at_once_and_calls_between(
    storage: ClientStorage, files: FileStorage
) -> None:
    expected = everything(files.iterator())
    several = [storage.iterator() for _ in range(4)]
    for number, transactions in enumerate(zip(*several, strict=True)):
        for found in everything(transactions):
            assert found == expected[number]
        assert storage.load(oid_of(number))[0] == expected[number // 6][5][number % 6][2]


def test_threads_that_share_an_iterator_share_its_transactions(storage: ClientStorage) -> None:
    transactions = storage.iterator()
    takers = [Background(lambda: [t.tid for t in transactions]) for _ in range(4)]
    found: list[Any] = [taker.result() for taker in takers]
    tids = [each for part in found for each in part]
    assert len(tids) == len(set(tids)) == 10


# -- with a server that is the test ------------------------------------------------------------

HEADER = Header(tid(5), " ", b"joe", b"text", b"")


def begin(storage: ClientStorage, server: FakeConnection) -> tuple[Any, int]:
    beginning = Background(storage.iterator)
    call = server.expect(OpenIteration)
    assert call.request.credit == STREAM_WINDOW
    server.reply(call, None)
    return beginning.result(), call.request.stream


def say(server: FakeConnection, number: int, *entries: Entry) -> None:
    data = b"".join(map(serialize_entry, entries))
    for at in range(0, len(data), STREAM_FRAME):
        server.notify(StreamData(number, data[at : at + STREAM_FRAME]))


def test_r8_what_the_application_does_not_take_is_not_sent(attach: Attach) -> None:
    storage, server = attach()
    transactions, number = begin(storage, server)
    record = Record(oid_of(1), tid(5), b"x" * 20_000, None)
    entries: list[Entry] = [HEADER, *[record] * 40, CLOSE]
    data = b"".join(map(serialize_entry, entries))
    sent = 0
    for at in range(0, STREAM_WINDOW, STREAM_FRAME):
        server.notify(StreamData(number, data[at : at + STREAM_FRAME]))
        sent += STREAM_FRAME
    pinging = Background(storage.ping)
    # No credit comes before: nothing was taken.
    server.reply(server.next_call_named("ping"), None)
    pinging.result()
    transaction = next(transactions)
    reading = Background(lambda: len(list(transaction)))
    while sent < len(data):
        notice = server.next()
        assert isinstance(notice, Notice)
        assert isinstance(notice.request, StreamCredit)
        end = sent + notice.request.size
        for at in range(sent, min(end, len(data)), STREAM_FRAME):
            server.notify(StreamData(number, data[at : min(at + STREAM_FRAME, end)]))
        sent = end
    server.notify(StreamEnd(number))
    assert reading.result() == 40
    assert next(transactions, None) is None


def test_an_iterator_is_never_used_on_another_connection(fake: Any, attach: Attach) -> None:
    storage, server = attach()
    transactions, number = begin(storage, server)
    say(server, number, HEADER)
    found = next(transactions)
    server.close()
    again = fake.accept()
    again.admit(tid(1))
    wait_until(storage.is_connected)
    for use in (lambda: next(transactions), lambda: iter(found)):
        with pytest.raises(ClientDisconnected):
            Background(use).result(10)


def test_an_iterator_begun_without_a_server_belongs_to_the_next_one(
    fake: Any, attach: Attach
) -> None:
    storage, server = attach()
    server.close()
    wait_until(lambda: not storage.is_connected())
    beginning = Background(storage.iterator)
    again = fake.accept()
    again.admit(tid(1))
    call = again.expect(OpenIteration)
    again.reply(call, None)
    transactions: Any = beginning.result()
    again.notify(StreamEnd(call.request.stream))
    assert next(transactions, None) is None


def test_an_abandoned_iterator_is_cancelled_with_the_next_one(attach: Attach) -> None:
    storage, server = attach()
    transactions, number = begin(storage, server)
    say(server, number, HEADER)
    next(transactions)
    del transactions
    gc.collect()
    beginning = Background(storage.iterator)
    assert server.expect(StreamCancel).request == StreamCancel(number)
    # What is on its way does no harm.
    say(server, number, CLOSE)
    server.notify(StreamEnd(number))
    call = server.expect(OpenIteration)
    server.reply(call, None)
    server.notify(StreamEnd(call.request.stream))
    found: Any = beginning.result()
    assert list(found) == []


def test_an_iterator_that_has_ended_is_not_cancelled(attach: Attach) -> None:
    storage, server = attach()
    transactions, number = begin(storage, server)
    server.notify(StreamEnd(number))
    assert list(transactions) == []
    del transactions
    gc.collect()
    begin(storage, server)  # expects no other message


def test_an_error_of_the_server_comes_behind_what_was_read(attach: Attach) -> None:
    storage, server = attach()
    transactions, number = begin(storage, server)
    say(server, number, HEADER, CLOSE)
    server.notify(StreamFault(number, "builtins.OSError", (5, "Input/output error")))
    assert next(transactions).tid == tid(5)
    for _ in range(2):
        with pytest.raises(ServerError, match="OSError"):
            next(transactions)
    begin(storage, server)


def test_a_transaction_that_is_gone(attach: Attach) -> None:
    """Packed away between its coming and the second look at its records."""
    storage, server = attach()
    transactions, number = begin(storage, server)
    say(server, number, HEADER, CLOSE)
    transaction = next(transactions)
    assert list(transaction) == []
    looking = Background(lambda: list(transaction))
    call = server.expect(OpenIteration)
    assert (call.request.start, call.request.stop) == (tid(5), tid(5))
    server.reply(call, None)
    server.notify(StreamEnd(call.request.stream))
    with pytest.raises(ClientStorageError, match="not there any more"):
        looking.result()


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xff\xff\xff",
        b"\0\0\0\1\xc1",
        serialize_entry(CLOSE),
        serialize_entry(HEADER) * 2,
        serialize_entry(Record(oid_of(1), tid(5), b"", None)),
    ],
    ids=["too long", "no msgpack", "an end", "two headers", "a record"],
)
def test_nonsense_ends_the_connection(attach: Attach, data: bytes) -> None:
    storage, server = attach()
    transactions, number = begin(storage, server)
    server.notify(StreamData(number, data))
    with pytest.raises(ClientDisconnected) as caught:
        list(transactions)
    assert isinstance(caught.value.__cause__, UndecodableMessage)


def test_an_end_within_a_transaction_ends_the_connection(attach: Attach) -> None:
    storage, server = attach()
    transactions, number = begin(storage, server)
    say(server, number, HEADER)
    server.notify(StreamEnd(number))
    transaction = next(transactions)
    with pytest.raises(ClientDisconnected, match="within a transaction"):
        list(transaction)


def test_extension_data_that_name_a_class_are_not_shown(attach: Attach) -> None:
    storage, server = attach()
    transactions, number = begin(storage, server)
    bad = b"\x80\x03cos\nsystem\nq\0X\x01\0\0\0xq\x01\x85R."
    say(server, number, HEADER._replace(extension=bad), CLOSE)
    say(server, number, HEADER._replace(extension=b"\x80\x03}q\0X\1\0\0\0aq\1K\1s."), CLOSE)
    assert next(transactions).extension == {}
    assert next(transactions).extension == {"a": 1}

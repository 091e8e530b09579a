"""Iterators by number."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
from ZODB.Connection import TransactionMetaData
from ZODB.FileStorage import FileStorage
from ZODB.POSException import StorageError, Unsupported

from zeolith.server.access import StorageAccess
from zeolith.server.iterators import Iterators
from zeolith.server.tally import Tally

Z64 = bytes(8)


@pytest.fixture
def storage(files: FileStorage) -> Iterator[FileStorage]:
    """A storage with three transactions of one object each, but the last has two."""
    serial = Z64
    for number in range(3):
        meta = TransactionMetaData(b"user", b"%d" % number, {"x": number})
        files.tpc_begin(meta)
        files.store(bytes(7) + b"\1", serial, b"data %d" % number, "", meta)
        if number == 2:
            files.store(bytes(7) + b"\2", Z64, b"other", "", meta)
        files.tpc_vote(meta)
        serial = files.tpc_finish(meta)
    yield files
    files.close()


@pytest.fixture
def iterators(storage: FileStorage) -> Iterator[Iterators]:
    found = Iterators(StorageAccess("1", storage), 4, Tally())
    yield found
    found.close()


def test_transactions_and_their_records(iterators: Iterators) -> None:
    number = iterators.start(None, None)
    found = []
    while (item := iterators.next(number)) is not None:
        tid, status, user, description, extension = item
        assert (status, user) == (" ", b"user")
        records = iterators.start_records(number, tid)
        data = []
        while (record := iterators.next_record(records)) is not None:
            assert record[1] == tid
            data.append((record[0][-1], record[2], record[3]))
        found.append((description, extension, data))
    assert found == [
        (b"0", {"x": 0}, [(1, b"data 0", None)]),
        (b"1", {"x": 1}, [(1, b"data 1", None)]),
        (b"2", {"x": 2}, [(1, b"data 2", None), (2, b"other", None)]),
    ]
    # All have come to their end.
    assert len(iterators) == 0


def test_from_one_transaction_to_another(iterators: Iterators) -> None:
    number = iterators.start(None, None)
    tids = [item[0] for item in iter(lambda: iterators.next(number), None) if item]
    number = iterators.start(tids[1], tids[1])
    assert iterators.next(number)[0] == tids[1]  # type: ignore[index]
    assert iterators.next(number) is None


def test_numbers_of_the_other_kind(iterators: Iterators) -> None:
    """Found by the fuzzer: it was an error that nobody had expected."""
    transactions = iterators.start(None, None)
    item = iterators.next(transactions)
    assert item is not None
    records = iterators.start_records(transactions, item[0])
    with pytest.raises(KeyError):
        iterators.next_record(transactions)
    with pytest.raises(KeyError):
        iterators.next(records)
    assert len(iterators) == 2
    iterators.close()
    assert len(iterators) == 0


@pytest.mark.parametrize("method", ["next", "next_record"])
def test_unknown_numbers(iterators: Iterators, method: str) -> None:
    with pytest.raises(KeyError):
        getattr(iterators, method)(17)
    with pytest.raises(KeyError):
        iterators.start_records(17, Z64)


def test_an_iterator_that_has_ended_is_unknown(iterators: Iterators) -> None:
    number = iterators.start(None, Z64)
    assert iterators.next(number) is None
    with pytest.raises(KeyError):
        iterators.next(number)


def test_records_before_the_first_transaction(iterators: Iterators) -> None:
    number = iterators.start(None, None)
    with pytest.raises(KeyError):
        iterators.start_records(number, Z64)


def test_records_of_another_transaction(iterators: Iterators) -> None:
    number = iterators.start(None, None)
    first = iterators.next(number)
    iterators.next(number)
    assert first is not None
    with pytest.raises(ValueError, match=first[0].hex()):
        iterators.start_records(number, first[0])


def test_r8_their_number_is_limited(iterators: Iterators) -> None:
    numbers = [iterators.start(None, None) for _ in range(4)]
    with pytest.raises(StorageError, match="4 iterators"):
        iterators.start(None, None)
    iterators.close(numbers[:2])
    assert len(iterators) == 2
    assert iterators.start(None, None) not in numbers


def test_closing_releases_files(iterators: Iterators) -> None:
    # A file that is left open would be a ResourceWarning.
    numbers = [iterators.start(None, None) for _ in range(2)]
    iterators.next(numbers[0])
    iterators.close([*numbers, numbers[0], 99])
    assert len(iterators) == 0
    gc.collect()


def test_a_storage_without_iteration() -> None:
    class Plain:
        loadBefore = getName = None  # noqa: N815

    iterators = Iterators(StorageAccess("plain", Plain()), 4, Tally())
    with pytest.raises(Unsupported, match="plain"):
        iterators.start(None, None)
    assert len(iterators) == 0

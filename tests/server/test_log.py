"""The operations of a transaction, in memory and in a file."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from zeolith.protocol.messages import CheckCurrentSerial, DeleteObject, Restore, Store, Undo
from zeolith.server.log import CommitLog, Operation

OID, TID = b"\0" * 7 + b"\1", b"\2" * 8

OPERATIONS: list[Operation] = [
    Store(OID, TID, b"data", 7),
    Store(OID, None, b"", 7),
    CheckCurrentSerial(OID, TID, 7),
    DeleteObject(OID, TID, 7),
    Restore(OID, TID, b"restored", TID, 7),
    Restore(OID, TID, None, None, 7),
    Undo(b"transaction", 7),
]


@pytest.fixture
def log() -> Iterator[CommitLog]:
    found = CommitLog(memory=1000)
    yield found
    found.close()


def test_operations_come_back_in_order(log: CommitLog) -> None:
    for operation in OPERATIONS[:2]:
        assert log.append(operation) == 0
    assert list(log) == OPERATIONS[:2]
    assert (log.count, log.has_file) == (2, False)
    assert log.size > 4


def test_what_exceeds_the_memory_goes_to_a_file(log: CommitLog) -> None:
    spilled = 0
    for _ in range(5):
        for operation in OPERATIONS:
            excess = log.append(operation)
            if excess:
                assert log.has_file
                log.spill()
                spilled += excess
    assert spilled > 0
    assert log.size - spilled <= 1000
    # Types too: a Store must not come back as a mere tuple.
    assert [(type(op), op) for op in log] == [(type(op), op) for op in OPERATIONS * 5]


def test_a_second_reading_and_more_operations(log: CommitLog) -> None:
    """A transaction is replayed again after its client has resolved conflicts."""
    first = Store(OID, TID, b"x" * 2000, 7)
    assert log.append(first) > 2000
    log.spill()
    assert list(log) == list(log) == [first]
    second = Store(OID, TID, b"y" * 2000, 7)
    assert log.append(second) > 2000
    log.spill()
    assert log.append(OPERATIONS[0]) == 0
    assert list(log) == [first, second, OPERATIONS[0]]


def test_blocks_not_yet_written_are_read_all_the_same(log: CommitLog) -> None:
    big = [Store(OID, TID, bytes([n]) * 2000, 7) for n in range(3)]
    for operation in big:
        assert log.append(operation)
    log.spill()
    assert list(log) == big


def test_forgetting_what_waits(log: CommitLog) -> None:
    log.append(Store(OID, TID, b"x" * 2000, 7))
    log.forget()
    # The job is on its way already; the file it might have begun has to be closed.
    log.spill()
    assert log.has_file
    assert list(log) == []


def test_closing_twice(log: CommitLog) -> None:
    log.append(Store(OID, TID, b"x" * 2000, 7))
    log.spill()
    log.close()
    log.close()
    assert not log.has_file

"""The transactions of a storage after a given one, wherever they are known from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Protocol

from ZODB.POSException import StorageError

from .access import StorageAccess, parts_of, wrapped_by_blobs
from .filehistory import FileHistory
from .filereader import can_read_directly
from .invalidations import split


class Transaction(Protocol):
    """One transaction of the past."""

    @property
    def tid(self) -> bytes: ...

    def oids(self) -> Iterable[bytes]:
        """Return the objects that it changed, in any order; may be asked more than once."""


class LoggedTransaction:
    """A transaction that the server remembers.

    :ivar tid: its id.
    """

    __slots__ = ("_oids", "tid")

    def __init__(self, tid: bytes, oids: bytes) -> None:
        self.tid = tid
        self._oids = oids

    def oids(self) -> Iterable[bytes]:
        """Return the objects that it changed."""
        return split(self._oids)


class IteratedTransaction:
    """A transaction as ZODB's iterators describe one.

    :ivar tid: its id.
    """

    __slots__ = ("_record", "tid")

    def __init__(self, record: Any) -> None:
        self.tid: bytes = record.tid
        self._record = record

    def oids(self) -> Iterable[bytes]:
        """Yield the objects that it changed."""
        for record in self._record:
            yield record.oid


class History:
    """The transactions after one, up to another one, in order.

    To be used by one thread at a time.

    :param transactions: yields them; what comes after *stop* is left out.  Its ``close`` is called
        if it has one.
    :param position: the transaction after which they begin.
    :param stop: the last one.
    :ivar position: the transaction up to which everything has been taken.
    :ivar stop: see above.
    """

    def __init__(self, transactions: Iterator[Transaction], position: bytes, stop: bytes) -> None:
        self.position = position
        self.stop = stop
        self._transactions = transactions
        self._ahead: Transaction | None = None

    def peek(self) -> Transaction | None:
        """Return the next transaction and leave it there; None at the end.

        :raises StorageError: the storage lists its transactions out of order.
        """
        if self._ahead is None:
            found = next(self._transactions, None)
            if found is not None and found.tid <= self.position:
                # To go on would leave out what a client has a right to know.
                raise StorageError(
                    f"the storage lists transaction {found.tid.hex()} after {self.position.hex()}"
                )
            if found is not None and found.tid <= self.stop:
                self._ahead = found
        return self._ahead

    def take(self) -> None:
        """Go on behind the transaction that :meth:`peek` has returned."""
        assert self._ahead is not None
        self.position = self._ahead.tid
        self._ahead = None

    def rest(self) -> None:
        """Hold as little as possible until the next :meth:`peek`."""
        if isinstance(self._transactions, FileHistory):
            self._transactions.rest(self.position, self._ahead is not None)
            self._ahead = None

    def close(self) -> None:
        """Release what the iterator holds; may be called any number of times."""
        close = getattr(self._transactions, "close", None)
        if close is not None:
            close()


def can_iterate(access: StorageAccess) -> bool:
    """Return whether the storage, and whatever it is made of, can list its transactions."""
    return all(hasattr(part, "iterator") for part in parts_of(access.storage))


def open_history(access: StorageAccess, after: bytes, stop: bytes) -> History:
    """Return the transactions of a storage.  May take long; runs on a worker thread.

    :param after: the first one is the next after this tid.
    :param stop: the last one; it has been announced.
    :raises Exception: whatever the storage raises.
    """
    storage = wrapped_by_blobs(access.storage)
    if can_read_directly(storage):
        return History(FileHistory(storage, after), after, stop)
    start = (int.from_bytes(after, "big") + 1).to_bytes(8, "big")
    return History(_iterate(access.iterator(start, stop)), after, stop)


def _iterate(records: Iterator[Any]) -> Iterator[IteratedTransaction]:
    try:
        for record in records:
            yield IteratedTransaction(record)
    finally:
        close = getattr(records, "close", None)
        if close is not None:
            close()

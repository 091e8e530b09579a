"""One client's iterators over transactions and their records."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from ZODB.Connection import TransactionMetaData
from ZODB.POSException import StorageError

from .access import StorageAccess
from .tally import Limit, Tally


class Iterators:
    """Iterators by number, as protocol 5 has them.

    Runs on worker threads; the caller sees to it that only one method runs at a time.

    :param access: the storage.
    :param limit: how many may be open.
    :param tally: counts where it was reached.
    """

    __slots__ = ("_access", "_iterators", "_last", "_limit", "_next_id", "_records", "_tally")

    def __init__(self, access: StorageAccess, limit: int, tally: Tally) -> None:
        self._tally = tally
        self._access = access
        self._limit = limit
        self._next_id = 0
        self._iterators: dict[int, Iterator[Any]] = {}
        # Those over records: a client may mix up the numbers.
        self._records: dict[int, Iterator[Any]] = {}
        # The transaction that each transaction iterator handed out last: its records can be asked
        # for.
        self._last: dict[int, Any] = {}

    def __len__(self) -> int:
        return len(self._iterators) + len(self._records)

    def start(self, start: bytes | None, stop: bytes | None) -> int:
        """Open an iterator over the transactions from *start* to *stop*; return its number."""
        return self._add(self._iterators, lambda: self._access.iterator(start, stop))

    def next(
        self, number: int, wants_bytes: bool = False
    ) -> tuple[bytes, str, bytes, bytes, dict[Any, Any] | bytes] | None:
        """Return the next transaction, or None at the end, when the iterator closes itself.

        :param wants_bytes: return its extension data as the storage keeps it, not its value.
        :raises KeyError: there is no such iterator.
        """
        record = next(self._iterators[number], None)
        if record is None:
            self.close([number])
            return None
        self._last[number] = record
        extension = extension_bytes(record) if wants_bytes else record.extension
        return record.tid, record.status, record.user, record.description, extension

    def start_records(self, number: int, tid: bytes) -> int:
        """Open an iterator over the records of the last transaction of iterator *number*.

        :param tid: the transaction the client means.
        :raises KeyError: there is no such iterator, or it has not been used.
        :raises ValueError: its last transaction is another one.
        """
        record = self._last[number]
        if record.tid != tid:
            raise ValueError(f"the last transaction of iterator {number} is not {tid.hex()}")
        return self._add(self._records, lambda: iter(record))

    def next_record(self, number: int) -> tuple[bytes, bytes, bytes | None, bytes | None] | None:
        """Return the next record, or None at the end, when the iterator closes itself.

        :raises KeyError: there is no such iterator.
        """
        record = next(self._records[number], None)
        if record is None:
            self.close([number])
            return None
        return record.oid, record.tid, record.data, record.data_txn

    def close(self, numbers: Iterable[int] | None = None) -> None:
        """Close the iterators *numbers*, or all; unknown numbers are ignored."""
        for number in [*self._iterators, *self._records] if numbers is None else numbers:
            iterator = self._iterators.pop(number, self._records.pop(number, None))
            self._last.pop(number, None)
            close = getattr(iterator, "close", None)
            if close is not None:
                close()

    def _add(self, where: dict[int, Iterator[Any]], make: Any) -> int:
        if len(self) >= self._limit:
            self._tally.hit(Limit.ITERATORS)
            raise StorageError(f"a client may have {self._limit} iterators open, no more")
        iterator = make()
        number = self._next_id
        self._next_id += 1
        where[number] = iterator
        return number


def extension_bytes(record: Any) -> bytes:
    """Return the extension data of a transaction as storages keep it."""
    found: bytes | None = getattr(record, "extension_bytes", None)
    if found is None:
        # Not one of ZODB's classes; they know how it is written.
        found = TransactionMetaData(extension=record.extension).extension_bytes
    return found

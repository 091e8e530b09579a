"""Iterating over the transactions of a remote storage (ZODB's IStorageIteration).

The state is the server's; here are ids for it.  Ids of iterators that nobody holds any more are
given back when the next transaction ends, because a finaliser may run in any thread at any moment
and must not touch the connection.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

from ZODB.BaseStorage import DataRecord, TransactionRecord

from ..errors import ClientDisconnected
from ..protocol.messages import (
    IteratorNext,
    IteratorRecordNext,
    IteratorRecordStart,
    IteratorStart,
    Request,
)


class Iterators:
    """All iterators of one client storage.  Any thread.

    :param call: makes a call on the present connection.
    :param generation: returns the number of the present connection; iterators of another one are
        dead.
    """

    def __init__(self, call: Callable[[Request], Any], generation: Callable[[], int]) -> None:
        self._call = call
        self._generation = generation
        self._lock = threading.Lock()
        self._abandoned: list[tuple[int, int]] = []

    def start(self, start: bytes | None, stop: bytes | None) -> TransactionIterator:
        """Return an iterator over the transactions from *start* to *stop*."""
        generation = self._generation()
        return TransactionIterator(self, generation, self._call(IteratorStart(start, stop)))

    def call(self, generation: int, request: Request) -> Any:
        """Make a call for an iterator of connection *generation*.

        :raises ClientDisconnected: that connection was lost, and the iterator with it.
        """
        if generation != self._generation():
            raise ClientDisconnected("the connection that this iterator belongs to was lost")
        return self._call(request)

    def abandon(self, generation: int, iid: int) -> None:
        """Nobody holds the iterator any more.  May be called by a finaliser."""
        # list.append is atomic, so this needs no lock; a finaliser must not wait for one that
        # its own thread may be holding.
        self._abandoned.append((generation, iid))

    def take_abandoned(self) -> list[int]:
        """Return the ids that the server may forget."""
        if not self._abandoned:
            return []
        with self._lock:
            abandoned, self._abandoned = self._abandoned, []
        present = self._generation()
        return [iid for generation, iid in abandoned if generation == present]


class _Remote:
    """An iterator at the server."""

    def __init__(self, iterators: Iterators, generation: int, iid: int) -> None:
        self._iterators = iterators
        self.generation = generation
        self.iid = iid
        self._is_exhausted = False
        self._abandon = weakref.finalize(self, iterators.abandon, generation, iid)
        self._abandon.atexit = False

    def _fetch(self, request: Request) -> Any:
        """Return the next item.

        :raises StopIteration: there is none.
        """
        if self._is_exhausted:
            raise StopIteration
        item = self._iterators.call(self.generation, request)
        if item is None:
            # The server forgets an iterator when it ends.
            self._is_exhausted = True
            self._abandon.detach()
            raise StopIteration
        return item


class TransactionIterator(_Remote):
    """Iterates over transactions; each is an iterable of its records."""

    def __iter__(self) -> TransactionIterator:
        return self

    def __next__(self) -> RemoteTransaction:
        tid, status, user, description, extension = self._fetch(IteratorNext(self.iid))
        return RemoteTransaction(self._iterators, self, tid, status, user, description, extension)


class RecordIterator(_Remote):
    """Iterates over the records of one transaction."""

    def __iter__(self) -> RecordIterator:
        return self

    def __next__(self) -> DataRecord:
        return DataRecord(*self._fetch(IteratorRecordNext(self.iid)))


class RemoteTransaction(TransactionRecord):
    """A transaction of a remote storage, as ZODB's iterators describe one."""

    def __init__(
        self,
        iterators: Iterators,
        parent: TransactionIterator,
        tid: bytes,
        status: str,
        user: bytes,
        description: bytes,
        extension: Any,
    ) -> None:
        super().__init__(tid, status, user, description, extension)
        self._iterators = iterators
        # Held, because the server starts record iterators off the transaction iterator.
        self._parent = parent

    def __iter__(self) -> Iterator[DataRecord]:
        generation = self._parent.generation
        iid = self._iterators.call(generation, IteratorRecordStart(self._parent.iid, self.tid))
        return RecordIterator(self._iterators, generation, iid)

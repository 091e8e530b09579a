"""What a client keeps of a transaction that it is committing, and how the cache learns of it."""

from __future__ import annotations

from typing import Any

from ..cache.interface import ClientCache
from .channel import Channel
from .journal import Journal

KEEP_MARK = 16 * 1024 * 1024
"""Bytes of records kept for the cache.  Beyond it only the names of changed objects are kept: they
are loaded when they are next needed, and memory stays bounded (rule R8)."""


class Transaction:
    """A transaction in progress.

    Not thread-safe: used by the committing thread, and by whichever thread reads the answer to
    ``tpc_finish`` while the committing one waits.

    :param txn: ZODB's object for it.
    :param number: its id on its connection.
    :ivar uid: 16 bytes by which a server can be asked what became of it; None if it cannot.
    """

    __slots__ = (
        "_kept",
        "_records",
        "blobs",
        "channel",
        "journal",
        "number",
        "resolved",
        "txn",
        "uid",
    )

    def __init__(self, txn: Any, number: int) -> None:
        self.txn = txn
        self.number = number
        self.uid: bytes | None = None
        self.channel: Channel
        """The connection it was begun on, once it is; it is void on any other, unless it has been
        said again there."""
        self.journal: Journal | None = None
        """What has been said on it; None if it is never said again."""
        self.resolved: list[bytes] = []
        """Objects whose conflicts were resolved: their records are not what was stored."""
        self.blobs: list[tuple[bytes, str]] = []
        """Objects with blobs, and the uploaded files."""
        self._records: dict[bytes, bytes | None] = {}
        self._kept = 0

    def stored(self, oid: bytes, data: bytes | None) -> None:
        """*oid* is stored with *data*; None if what it becomes is not known, or nothing."""
        if data is not None:
            self._kept += len(data)
            if self._kept > KEEP_MARK:
                data = None
        self._records[oid] = data

    def resolved_here(self, oid: bytes, data: bytes) -> None:
        """We resolved a conflict: *data* is what *oid* becomes."""
        self.resolved.append(oid)
        self.stored(oid, data)

    def unresolved(self) -> None:
        """The transaction is said again as it was before its conflicts were resolved."""
        for oid in self.resolved:
            self._records[oid] = None  # what it becomes is not known until the next vote
        self.resolved.clear()

    def resolved_there(self, oid: bytes) -> None:
        """The server resolved a conflict (or undid): what *oid* becomes is not known."""
        self.resolved.append(oid)
        self._records[oid] = None

    def take_blobs(self) -> list[tuple[bytes, str]]:
        """Return ``blobs`` and forget them: who takes them moves or removes the files."""
        blobs, self.blobs = self.blobs, []
        return blobs

    def forget(self, cache: ClientCache) -> None:
        """The transaction was committed, some time ago: have *cache* forget what it changed.

        What it stored may have been replaced since.
        """
        for oid in self._records:
            cache.invalidate(oid, None)

    def update(self, cache: ClientCache, tid: bytes) -> None:
        """The transaction was committed as *tid*: tell the cache."""
        if tid <= cache.last_tid():
            # No server of ours answers so late.  Whether a later transaction, which the cache
            # knows already, has changed these objects again is not clear.
            self.forget(cache)
            return
        for oid, data in self._records.items():
            if data is None:
                cache.invalidate(oid, tid)
            else:
                cache.replace(oid, tid, data)

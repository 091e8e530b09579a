"""What a client keeps of a transaction that it is committing, and how the cache learns of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from ..cache.interface import ClientCache
from ..protocol.limits import MAX_TRANSACTIONS
from .blobfiles import Taken
from .channel import Channel
from .journal import Journal

KEEP_MARK: Final = 16 * 1024 * 1024
"""Bytes of records kept for the cache by all transactions of a client together.  Beyond it only the
names of changed objects are kept: they are loaded when they are next needed, and memory stays
bounded (rule R8)."""

KEEP_SHARE: Final = KEEP_MARK // MAX_TRANSACTIONS
"""Bytes that each may keep whatever the others have."""


class Transaction:
    """A transaction in progress.

    Not thread-safe: used by the committing thread, and by whichever thread reads the answer to
    ``tpc_finish`` while the committing one waits.

    :param txn: ZODB's object for it.
    :param number: its id on its connection.
    :param together: returns how many bytes all transactions of the client keep, this one included.
    :ivar kept: bytes of records that it keeps for the cache.
    :ivar uid: 16 bytes by which a server can be asked what became of it; None if it cannot.
    """

    __slots__ = (
        "_records",
        "_together",
        "blobs",
        "channel",
        "journal",
        "kept",
        "number",
        "resolved",
        "txn",
        "uid",
    )

    def __init__(self, txn: Any, number: int, together: Callable[[], int]) -> None:
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
        self.blobs: list[tuple[bytes, Taken]] = []
        """Objects with blobs, and the uploaded files."""
        self._records: dict[bytes, bytes | None] = {}
        self._together = together
        self.kept = 0

    def stored(self, oid: bytes, data: bytes | None) -> None:
        """*oid* is stored with *data*; None if what it becomes is not known, or nothing."""
        if data is not None:
            self.kept += len(data)
            if self.kept > KEEP_SHARE and self._together() > KEEP_MARK:
                self.kept -= len(data)
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

    def take_blobs(self) -> list[tuple[bytes, Taken]]:
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

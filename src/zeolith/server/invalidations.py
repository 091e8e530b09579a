"""What the last transactions changed."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from itertools import islice
from typing import Final, TypeAlias

from ..types import NO_TID

Entry: TypeAlias = tuple[bytes, bytes]
"""A transaction's id, and the ids of the objects that it changed, eight bytes each, one after the
other."""

ENTRY_OVERHEAD: Final = 160
"""Bytes that an entry takes beside its object ids, about: three objects of Python's."""


class InvalidationLog:
    """The object ids that the last transactions changed.

    Complete for every transaction after :attr:`floor`; :attr:`last_tid` is the newest.
    Not thread-safe: it belongs to the event loop.

    :param size: transactions kept.
    :param memory: bytes kept, over all transactions; the newest transactions win.
    """

    def __init__(self, size: int, memory: int) -> None:
        self._size = size
        self._memory = memory
        self._entries: deque[Entry] = deque()
        self._used = 0
        self.floor: bytes = NO_TID
        self.last_tid: bytes = NO_TID

    def __len__(self) -> int:
        return len(self._entries)

    def reset(self, last_tid: bytes, entries: Iterable[Entry]) -> None:
        """Forget everything and start anew.

        :param last_tid: the storage's last transaction.
        :param entries: its last transactions without gaps, oldest first.  May be empty.
        """
        self._entries.clear()
        self._used = 0
        self.floor = self.last_tid = NO_TID
        for tid, oids in entries:
            self._add(tid, oids)
        if self.last_tid != last_tid:
            # No entries, or the storage moved on while it listed them: they prove nothing then.
            self._entries.clear()
            self._used = 0
            self.floor = self.last_tid = last_tid
        elif self._entries and self.floor == NO_TID:
            # What came before the oldest entry is unknown.
            self.floor = self._entries[0][0]

    def append(self, tid: bytes, oids: Iterable[bytes]) -> None:
        """Add a transaction, newer than all before."""
        self._add(tid, b"".join(oids))

    def _add(self, tid: bytes, oids: bytes) -> None:
        self._entries.append((tid, oids))
        self._used += len(oids) + ENTRY_OVERHEAD
        self.last_tid = tid
        while self._entries and (len(self._entries) > self._size or self._used > self._memory):
            self.floor, dropped = self._entries.popleft()
            self._used -= len(dropped) + ENTRY_OVERHEAD

    def after(self, tid: bytes, count: int | None = None) -> list[Entry] | None:
        """Return the first *count* transactions after *tid*, or all, oldest first; None if they
        are not known."""
        if tid < self.floor:
            return None
        newer = 0
        for entry_tid, _ in reversed(self._entries):
            if entry_tid <= tid:
                break
            newer += 1
        first = len(self._entries) - newer
        return list(islice(self._entries, first, None if count is None else first + count))

    def has_changed(self, oid: bytes, tid: bytes) -> bool:
        """Return whether *oid* may have changed in a transaction after *tid*."""
        if tid < self.floor:
            return True
        for entry_tid, oids in reversed(self._entries):
            if entry_tid <= tid:
                break
            at = oids.find(oid)
            while at >= 0:
                if at % 8 == 0:
                    return True
                at = oids.find(oid, at + 1)
        return False


def split(oids: bytes) -> list[bytes]:
    """Return the object ids of an entry."""
    return [oids[at : at + 8] for at in range(0, len(oids), 8)]

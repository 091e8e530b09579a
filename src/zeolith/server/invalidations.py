"""What the last transactions changed."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from itertools import islice

from ..types import NO_TID


class InvalidationLog:
    """The object ids that the last transactions changed.

    Complete for every transaction after :attr:`floor`; :attr:`last_tid` is the newest.
    Not thread-safe: it belongs to the event loop.

    :param size: transactions kept.
    :param max_oids: object ids kept, over all transactions; the newest transactions win.
    """

    def __init__(self, size: int, max_oids: int) -> None:
        self._size = size
        self._max_oids = max_oids
        self._entries: deque[tuple[bytes, tuple[bytes, ...]]] = deque()
        self._oids = 0
        self.floor: bytes = NO_TID
        self.last_tid: bytes = NO_TID

    def __len__(self) -> int:
        return len(self._entries)

    def reset(self, last_tid: bytes, entries: Iterable[tuple[bytes, Iterable[object]]]) -> None:
        """Forget everything and start anew.

        :param last_tid: the storage's last transaction.
        :param entries: (tid, oids) of its last transactions without gaps, oldest first; an oid
            may also come as the first element of a tuple.  May be empty.
        """
        self._entries.clear()
        self._oids = 0
        self.floor = self.last_tid = NO_TID
        for tid, oids in entries:
            self.append(tid, (oid[0] if isinstance(oid, tuple) else oid for oid in oids))  # type: ignore[misc]
        if self.last_tid != last_tid:
            # No entries, or the storage moved on while it listed them: they prove nothing then.
            self._entries.clear()
            self._oids = 0
            self.floor = self.last_tid = last_tid
        elif self._entries and self.floor == NO_TID:
            # What came before the oldest entry is unknown.
            self.floor = self._entries[0][0]

    def append(self, tid: bytes, oids: Iterable[bytes]) -> None:
        """Add a transaction, newer than all before."""
        changed = tuple(oids)
        self._entries.append((tid, changed))
        self._oids += len(changed)
        self.last_tid = tid
        while self._entries and (len(self._entries) > self._size or self._oids > self._max_oids):
            self.floor, dropped = self._entries.popleft()
            self._oids -= len(dropped)

    def since(self, tid: bytes) -> tuple[bytes, list[bytes]] | None:
        """Return the last tid and the oids changed after *tid*; None if that is not known."""
        if tid < self.floor:
            return None
        changed: dict[bytes, None] = {}
        for entry_tid, oids in reversed(self._entries):
            if entry_tid <= tid:
                break
            changed.update(dict.fromkeys(oids))
        return self.last_tid, list(changed)

    def after(self, tid: bytes, count: int) -> list[tuple[bytes, tuple[bytes, ...]]] | None:
        """Return the first *count* transactions after *tid* with their oids, oldest first; None if
        that is not known."""
        if tid < self.floor:
            return None
        newer = 0
        for entry_tid, _ in reversed(self._entries):
            if entry_tid <= tid:
                break
            newer += 1
        first = len(self._entries) - newer
        return list(islice(self._entries, first, first + count))

    def has_changed(self, oid: bytes, tid: bytes) -> bool:
        """Return whether *oid* may have changed in a transaction after *tid*."""
        if tid < self.floor:
            return True
        for entry_tid, oids in reversed(self._entries):
            if entry_tid <= tid:
                break
            if oid in oids:
                return True
        return False

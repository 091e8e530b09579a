"""Revisions that are no longer current: which range of tids each answers, and where it lies.

Few objects have any, so the index of current revisions knows nothing of them.  All that is known
of one object is one ``bytes`` value, a row of entries ordered by start tid.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Any, Final

from BTrees.QOBTree import QOBTree

from .index import number_of

_ENTRY: Final = struct.Struct(">8s8s6s")
"""start tid, end tid, place."""

MAX_REVISIONS: Final = 64
"""Earlier revisions kept of one object.  Readers of the past want the last few; without a bound an
object written in every transaction would make each step cost as much as its history is long."""


class EarlierRevisions:
    """Earlier revisions by object id.  One thread at a time."""

    def __init__(self) -> None:
        self.rows: Final[Any] = QOBTree()
        """Object id as an integer → its entries; false while nothing is held."""

    def add(self, oid: bytes, start: bytes, end: bytes, place: int) -> int:
        """Add a revision that *oid* does not have yet.

        :returns: how many others were dropped to keep within :data:`MAX_REVISIONS`.
        """
        key = number_of(oid)
        row: bytes = self.rows.get(key, b"")
        size = _ENTRY.size
        at = len(row)
        while at and row[at - size : at - size + 8] > start:
            at -= size
        row = row[:at] + _ENTRY.pack(start, end, place.to_bytes(6, "big")) + row[at:]
        excess = max(0, len(row) // size - MAX_REVISIONS)
        self.rows[key] = row[excess * size :]
        return excess

    def find(self, oid: bytes, tid: bytes) -> tuple[bytes, bytes, int] | None:
        """Return ``(start, end, place)`` of the revision with start < *tid* <= end, or None."""
        row: bytes = self.rows.get(number_of(oid), b"")
        for at in range(len(row) - _ENTRY.size, -1, -_ENTRY.size):
            start, end, place = _ENTRY.unpack_from(row, at)
            if start < tid:
                return (start, end, number_of(place)) if tid <= end else None
        return None

    def has(self, oid: bytes, start: bytes) -> bool:
        """Whether the revision of *oid* that begins at *start* is known."""
        row: bytes = self.rows.get(number_of(oid), b"")
        return any(row[at : at + 8] == start for at in range(0, len(row), _ENTRY.size))

    def last_end(self, oid: bytes) -> bytes:
        """Return the tid that ended the last known earlier revision of *oid*, ``b""`` if none."""
        row: bytes = self.rows.get(number_of(oid), b"")
        return row[8 - _ENTRY.size : 16 - _ENTRY.size]

    def has_place(self, oid: bytes, place: int) -> bool:
        """Whether a revision of *oid* lies at *place*."""
        return self._find_place(oid, place) is not None

    def move(self, oid: bytes, place: int, copy: int) -> None:
        """The revision of *oid* at *place* lies at *copy* now."""
        at = self._find_place(oid, place)
        if at is not None:
            key = number_of(oid)
            row: bytes = self.rows[key]
            self.rows[key] = row[: at + 16] + copy.to_bytes(6, "big") + row[at + _ENTRY.size :]

    def _find_place(self, oid: bytes, place: int) -> int | None:
        row: bytes = self.rows.get(number_of(oid), b"")
        packed = place.to_bytes(6, "big")
        for at in range(0, len(row), _ENTRY.size):
            if row[at + 16 : at + 22] == packed:
                return at
        return None

    def remove(self, oid: bytes, place: int) -> bool:
        """Remove the revision of *oid* at *place*; return whether it was there."""
        at = self._find_place(oid, place)
        if at is None:
            return False
        key = number_of(oid)
        row: bytes = self.rows[key]
        row = row[:at] + row[at + _ENTRY.size :]
        if row:
            self.rows[key] = row
        else:
            del self.rows[key]
        return True

    def cut(self, is_left: Callable[[int], bool]) -> int:
        """Remove everything whose place *is_left* denies; return how much that was."""
        gone = [
            (oid.to_bytes(8, "big"), place)
            for oid, row in self.rows.items()
            for _, _, place in entries_of(row)
            if not is_left(place)
        ]
        for oid, place in gone:
            self.remove(oid, place)
        return len(gone)

    def clear(self) -> None:
        """Remove everything."""
        self.rows.clear()

    def dump(self) -> list[tuple[int, bytes]]:
        """Return all that is known: object id as a number, and its row."""
        return list(self.rows.items())

    def load(self, rows: list[tuple[int, bytes]]) -> None:
        """Add what :meth:`dump` returned."""
        self.rows.update(rows)


def entries_of(row: bytes) -> Iterator[tuple[bytes, bytes, int]]:
    """Yield ``(start, end, place)`` of each revision in a row of :meth:`EarlierRevisions.dump`."""
    for start, end, place in _ENTRY.iter_unpack(row):
        yield start, end, number_of(place)


def pack_row(entries: list[tuple[bytes, bytes, int]]) -> bytes:
    """Return the row that :func:`entries_of` makes *entries* of."""
    return b"".join(_ENTRY.pack(s, e, place.to_bytes(6, "big")) for s, e, place in entries)

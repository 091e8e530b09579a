"""Where the current revision of each object lies: oid → place, in as little memory as possible.

Object ids are handed out in sequence, so the index is made of *pages*, each for a range of ids
that differ in their last 14 bits.  A page is a bucket of BTrees' ``fsBTree``: keys of two bytes
(the last two of the id) and values of six, in two packed, sorted arrays: eight bytes an object
plus spare room.  A dictionary would take more than a hundred, a BTree of integers 25 to 38.

The range is a compromise: putting an id into a page, or taking it out, moves what lies behind it,
so pages should be small; each page costs 300 bytes, so they should be large.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from BTrees.fsBTree import fsBucket

PAGE_BITS: Final = 14
"""An id shifted right by this is the number of its page.  At most 16: a page knows two bytes."""

PLACE_SIZE: Final = 6
"""Bytes of a packed place."""


class PlaceIndex:
    """A map from object id (8 bytes) to place (an integer of at most 48 bits).

    Any thread may read, also straight from ``pages``, while one thread writes: each step is one
    operation of a built-in type.
    """

    def __init__(self) -> None:
        self.pages: Final[dict[int, Any]] = {}
        """Page number → last two bytes of the id → place, big-endian.  Never replaced."""

    def get(self, oid: bytes) -> int | None:
        """Return the place of *oid*, or None."""
        page = self.pages.get(int.from_bytes(oid, "big") >> PAGE_BITS)
        # Operators, not methods: looking up a method of a BTrees object costs more than the search.
        if page is None or oid[6:] not in page:
            return None
        return int.from_bytes(page[oid[6:]], "big")

    def set(self, oid: bytes, place: int) -> None:
        """Put *oid* at *place*."""
        number = int.from_bytes(oid, "big") >> PAGE_BITS
        page = self.pages.get(number)
        if page is None:
            page = self.pages[number] = fsBucket()
        page[oid[6:]] = place.to_bytes(PLACE_SIZE, "big")

    def delete(self, oid: bytes) -> None:
        """Remove *oid*.

        :raises KeyError: it is not there.
        """
        number = int.from_bytes(oid, "big") >> PAGE_BITS
        page = self.pages[number]
        del page[oid[6:]]
        if not page:
            del self.pages[number]

    def items_of(self, number: int) -> list[tuple[bytes, int]]:
        """Return the objects of page *number* with their places; empty if there is no such page."""
        # The last two bits of the number are the first two of the suffix.
        head = (number >> (16 - PAGE_BITS)).to_bytes(6, "big")
        items = self.pages[number].items() if number in self.pages else ()
        return [(head + suffix, int.from_bytes(place, "big")) for suffix, place in items]

    def discard(self, oid: bytes, place: int) -> bool:
        """Remove *oid* if it is at *place*; return whether it was."""
        number = int.from_bytes(oid, "big") >> PAGE_BITS
        page = self.pages.get(number)
        suffix = oid[6:]
        if page is None or suffix not in page:
            return False
        if page[suffix] != place.to_bytes(PLACE_SIZE, "big"):
            return False
        del page[suffix]
        if not page:
            del self.pages[number]
        return True

    def clear(self) -> None:
        """Remove everything."""
        self.pages.clear()

    def dump(self) -> list[tuple[int, bytes]]:
        """Return all that is in it: number of the page, then its keys and values as bytes."""
        return [(number, page.toBytes()) for number, page in self.pages.items()]

    def load(self, parts: list[tuple[int, bytes]]) -> None:
        """Add what :meth:`dump` returned."""
        for number, data in parts:
            self.pages[number] = page = fsBucket()
            page.fromBytes(data)

    def cut(self, is_left: Callable[[int], bool]) -> int:
        """Remove everything whose place *is_left* denies; return how much that was."""
        removed = 0
        for number, page in list(self.pages.items()):
            for suffix in [
                suffix
                for suffix, place in page.items()
                if not is_left(int.from_bytes(place, "big"))
            ]:
                del page[suffix]
                removed += 1
            if not page:
                del self.pages[number]
        return removed

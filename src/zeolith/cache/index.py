"""Where the current revision of each object lies: oid → place, in as little memory as possible.

Object ids are handed out in sequence, so the index is made of *pages*, each for a range of ids
that differ in their last 14 bits.  A page is a bucket of BTrees' ``fsBTree``: keys of two bytes
(the last two of the id) and values of six, in two packed, sorted arrays: eight bytes an object
plus spare room.  A dictionary would take more than a hundred, a BTree of integers 25 to 38.

The range is a compromise: putting an id into a page, or taking it out, moves what lies behind it,
so pages should be small; each page costs 300 bytes, so they should be large.

**Two layers.**  What may be served lies in :attr:`PlaceIndex.pages`.  What is held but may be out
of date, the *suspects*, lies in pages of the same kind beside them, so that those who look for what
may be served need not ask.  An object is in one layer at most.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from BTrees.fsBTree import fsBucket

PAGE_BITS: Final = 14
"""An id shifted right by this is the number of its page.  At most 16: a page knows two bytes."""

PLACE_SIZE: Final = 6
"""Bytes of a packed place."""

number_of: Final = int.from_bytes
"""The number that big-endian bytes mean; without a look-up in its class, and without saying what is
the default, it takes half of the time, which is a tenth of a hit."""


class PlaceIndex:
    """A map from object id (8 bytes) to place (an integer of at most 48 bits).

    Any thread may read, also straight from ``pages``, while one thread writes: each step is one
    operation of a built-in type.
    """

    def __init__(self) -> None:
        self.pages: Final[dict[int, Any]] = {}
        """Page number → last two bytes of the id → place, big-endian.  Never replaced."""
        self.suspects: Final[dict[int, Any]] = {}
        """The same of what may not be served."""

    def get(self, oid: bytes) -> int | None:
        """Return the place of *oid*, whether it may be served or not; None if it has none."""
        page = self._page_of(oid)
        return None if page is None else number_of(page[oid[6:]])

    def is_suspect(self, oid: bytes) -> bool:
        """Whether *oid* is held, but may not be served."""
        if not self.suspects:
            return False
        page = self.suspects.get(number_of(oid) >> PAGE_BITS)
        return page is not None and oid[6:] in page

    def _page_of(self, oid: bytes) -> Any:
        """Return the page that *oid* is in; None if there is none."""
        number = number_of(oid) >> PAGE_BITS
        page = self.pages.get(number)
        # Operators, not methods: looking up a method of a BTrees object costs more than the search.
        if page is not None and oid[6:] in page:
            return page
        if self.suspects:
            page = self.suspects.get(number)
            if page is not None and oid[6:] in page:
                return page
        return None

    def set(self, oid: bytes, place: int) -> None:
        """Put *oid*, which is no suspect, at *place*."""
        number = number_of(oid) >> PAGE_BITS
        page = self.pages.get(number)
        if page is None:
            page = self.pages[number] = fsBucket()
        page[oid[6:]] = place.to_bytes(PLACE_SIZE, "big")

    def move(self, oid: bytes, place: int) -> None:
        """*oid*, which is held, lies at *place* now; whether it may be served stays as it is.

        :raises KeyError: it is not there.
        """
        page = self._page_of(oid)
        if page is None:
            raise KeyError(oid)
        page[oid[6:]] = place.to_bytes(PLACE_SIZE, "big")

    def delete(self, oid: bytes) -> None:
        """Remove *oid*.

        :raises KeyError: it is not there.
        """
        page = self._page_of(oid)
        if page is None:
            raise KeyError(oid)
        self._remove(page, oid)

    def _remove(self, page: Any, oid: bytes) -> None:
        del page[oid[6:]]
        if not page:
            number = number_of(oid) >> PAGE_BITS
            del (self.pages if self.pages.get(number) is page else self.suspects)[number]

    def discard(self, oid: bytes, place: int) -> bool:
        """Remove *oid* if it is at *place*; return whether it was."""
        page = self._page_of(oid)
        if page is None or page[oid[6:]] != place.to_bytes(PLACE_SIZE, "big"):
            return False
        self._remove(page, oid)
        return True

    def clear(self) -> None:
        """Remove everything."""
        self.pages.clear()
        self.suspects.clear()

    # -- suspects ----------------------------------------------------------------------------------

    def suspect_all(self) -> None:
        """Let nothing be served that is here now."""
        for number, page in self.pages.items():
            others = self.suspects.get(number)
            if others is not None:
                others.update(page.items())
            else:
                self.suspects[number] = page
        self.pages.clear()

    def suspects_of(self, number: int) -> list[tuple[bytes, int]]:
        """Return the suspects of page *number* with their places; empty if there are none."""
        return list(_items_of(number, self.suspects[number])) if number in self.suspects else []

    def acquit(self, oid: bytes) -> None:
        """Let *oid*, which is a suspect, be served.

        :raises KeyError: it is none.
        """
        page = self.suspects[number_of(oid) >> PAGE_BITS]
        place = number_of(page[oid[6:]])
        self._remove(page, oid)
        self.set(oid, place)

    def acquit_page(self, number: int) -> None:
        """Let all suspects of page *number* be served, however many they are."""
        page = self.suspects.get(number)
        if page is None:
            return
        others = self.pages.get(number)
        if others is not None:
            page.update(others.items())
        # In this order: nobody else looks at the suspects without the cache's lock.
        self.pages[number] = page
        del self.suspects[number]

    # -- all of it ---------------------------------------------------------------------------------

    def items(self) -> Iterator[tuple[bytes, int]]:
        """Yield all objects with their places, suspects too."""
        for pages in (self.pages, self.suspects):
            for number, page in pages.items():
                yield from _items_of(number, page)

    def dump(self) -> list[tuple[int, bytes]]:
        """Return all that may be served: number of the page, then its keys and values as bytes."""
        return [(number, page.toBytes()) for number, page in self.pages.items()]

    def dump_suspects(self) -> list[tuple[int, bytes]]:
        """Return the suspects, as :meth:`dump` does."""
        return [(number, page.toBytes()) for number, page in self.suspects.items()]

    def load(
        self, parts: Iterable[tuple[int, bytes]], suspects: Iterable[tuple[int, bytes]] = ()
    ) -> None:
        """Add what :meth:`dump` and :meth:`dump_suspects` returned."""
        for pages, source in ((self.pages, parts), (self.suspects, suspects)):
            for number, data in source:
                pages[number] = page = fsBucket()
                page.fromBytes(data)

    def cut(self, is_left: Callable[[int], bool]) -> int:
        """Remove everything whose place *is_left* denies; return how much that was."""
        removed = 0
        for pages in (self.pages, self.suspects):
            for number, page in list(pages.items()):
                for suffix in [
                    suffix for suffix, place in page.items() if not is_left(number_of(place))
                ]:
                    del page[suffix]
                    removed += 1
                if not page:
                    del pages[number]
        return removed


def _items_of(number: int, page: Any) -> Iterator[tuple[bytes, int]]:
    # The last two bits of the number are the first two of the suffix.
    head = (number >> (16 - PAGE_BITS)).to_bytes(6, "big")
    for suffix, place in page.items():
        yield head + suffix, number_of(place)

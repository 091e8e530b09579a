"""Current revisions that may be out of date: held, but not served.

A client that was away, and cannot learn what changed meanwhile, knows of each current revision
when it began, but not whether it has ended since.  It makes all of them *suspects*, goes on, and
has them looked into one page after the other.  A suspect is one no more

- when the server says that it is current: by the answer to a load, or of a whole page of suspects;
- when it is forgotten, because the server names another revision, or announces a change.

So what a page is cleared of need not be done in the order of the server's messages: an announcement
that came after the server had looked has taken away the suspect that it is about.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Final

from .index import PlaceIndex

SLICE: Final = 1024
"""Suspects that are read or forgotten at once, in a millisecond or two; in between others get the
cache's lock."""


class Suspects:
    """The suspects of one cache.

    :meth:`page` and :meth:`settle` are called by one thread at a time; the other methods by any.

    :param lock: the cache's.
    :param index: the cache's.
    :param start_of: returns the start tid of the current revision of an object at a place; None if
        it had to be forgotten.
    :param forget: forgets the current revision of an object.
    :param failed: told of an error of the disk.
    """

    def __init__(
        self,
        lock: AbstractContextManager[object],
        index: PlaceIndex,
        start_of: Callable[[bytes, int], bytes | None],
        forget: Callable[[bytes], None],
        failed: Callable[[OSError], None],
    ) -> None:
        self._lock = lock
        self._index = index
        self._start_of = start_of
        self._forget = forget
        self._failed = failed

    def __len__(self) -> int:
        """Return how many there are."""
        return sum(map(len, list(self._index.suspects.values())))

    def suspect_all(self) -> None:
        """Whatever is held as current now is a suspect, until something else is known of it."""
        with self._lock:
            self._index.suspect_all()

    def page(self) -> tuple[int, list[tuple[bytes, bytes]]] | None:
        """Return the number of a page of suspects, and ``(oid, start)`` of all that are in it; None
        if there are no suspects.  Pages are small enough for one question to a server."""
        while (number := next(iter(list(self._index.suspects)), None)) is not None:
            with self._lock:
                oids = [oid for oid, _ in self._index.suspects_of(number)]
            found = [pair for part in _slices(oids) for pair in self._starts(part)]
            if found:
                return number, found
        return None

    def _starts(self, oids: list[bytes]) -> list[tuple[bytes, bytes]]:
        found = []
        with self._lock:
            for oid in oids:
                # One may have been forgotten, or cleared by a load, since the page was listed.
                place = self._index.get(oid) if self._index.is_suspect(oid) else None
                if place is None:
                    continue
                try:
                    start = self._start_of(oid, place)
                except OSError as error:
                    self._failed(error)
                    # What cannot be named cannot be cleared.
                    self._drop(oid)
                else:
                    if start is not None:
                        found.append((oid, start))
        return found

    def settle(self, number: int, stale: Iterable[bytes]) -> None:
        """The server has looked at all that :meth:`page` returned for page *number*: all but
        *stale* was current then, and what it has announced since was applied or will be."""
        for part in _slices(list(stale)):
            self._forget_those(part)
        with self._lock:
            self._index.acquit_page(number)

    def forget_all(self) -> int:
        """Forget all suspects; return how many they were."""
        count = 0
        while (number := next(iter(list(self._index.suspects)), None)) is not None:
            with self._lock:
                oids = [oid for oid, _ in self._index.suspects_of(number)]
            count += sum(map(self._forget_those, _slices(oids)))
        return count

    def _forget_those(self, oids: list[bytes]) -> int:
        with self._lock:
            return sum(map(self._drop, oids))

    def _drop(self, oid: bytes) -> bool:
        is_suspect = self._index.is_suspect(oid)
        if is_suspect:
            self._forget(oid)
        return is_suspect


def _slices(oids: list[bytes]) -> Iterator[list[bytes]]:
    for at in range(0, len(oids), SLICE):
        yield oids[at : at + SLICE]

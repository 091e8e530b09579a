"""Zeolith's own cache: revisions in a circular file, their places in a compact index.

Policy lives here; :mod:`.log` knows bytes, :mod:`.index` and :mod:`.earlier` know places.

**A hit takes no lock.**  A reader notes the *sweep count*, looks the place up, reads the record
with one ``pread`` and looks at the count again.  Room is given up in sweeps, in this order: take
out of the index, count, overwrite.  So if the count has not moved, what the index named was not
overwritten meanwhile and the record is whole; otherwise the reader asks again under the lock.
Everything but such a hit (an earlier revision, a miss, a failure) goes through the lock: these are
rare, or followed by a request to the server.

**Replacement** is a clock.  A hit sets a mark for the stretch of the file that it read.  A sweep
takes the oldest records; a current one that is marked is copied to the head, unmarked, and the
others are dropped.  At most half of what is swept is copied, so that a store never costs more than
that, even if everything is in use.

**Earlier revisions.**  An invalidation writes nothing: the record stays where it is, and the tid
that ended it is remembered.  So a full disk cannot keep the cache from learning of a change.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from os import pread
from threading import RLock
from typing import Any, Final, NamedTuple

from ..errors import ConfigurationError
from ..types import NO_TID
from .earlier import EarlierRevisions
from .index import PAGE_BITS, PLACE_SIZE, PlaceIndex
from .interface import Revision
from .log import HEADER, LENGTH_BITS, LENGTH_MASK, MINIMUM_SIZE, NO_ROOM, LogDamaged, RecordLog

logger = logging.getLogger(__name__)

_DATA_AT: Final = HEADER.size

_MARK_BITS: Final = 4
"""One mark serves this many granules, as a power of two: 256 bytes in all but huge caches.  Finer
marks would take memory, coarser ones would keep the neighbours of what is in use."""

_MARK_SHIFT: Final = LENGTH_BITS + _MARK_BITS


KEPT_SHARE: Final = 2
"""A sweep may keep one part in this many of what it reads.  So a store never costs more than
rewriting its own size, even when everything the cache holds is in use."""


class CacheStatistics(NamedTuple):
    """A snapshot of what a cache holds and has done.

    :ivar revisions: revisions held, earlier ones included.
    :ivar capacity: most bytes the file takes now; 0 once the cache has given up.
    :ivar stored: revisions taken in.
    :ivar dropped: revisions swept out.
    :ivar kept: revisions that a sweep copied because they had been used.
    """

    revisions: int
    capacity: int
    stored: int
    dropped: int
    kept: int


class RingCache:
    """A bounded MVCC cache in an anonymous temporary file; see :class:`.ClientCache`.

    Of failures of the disk no caller hears: the cache makes do with the room it has, or drops
    everything and stays empty, and says so once in the log.

    :param size: most bytes the file may take; raised to :data:`.log.MINIMUM_SIZE` if below.
        Records larger than a quarter of it, or than 4 MiB, are not kept.  The index in memory
        takes about 10 bytes for a current revision where ids lie close together, up to 40 where
        they are scattered, and about 100 for an earlier one.
    :param directory: where to make the file; None for the system's temporary directory.
    :raises ConfigurationError: *size* is not a number of bytes, or no file can be made.
    """

    def __init__(self, size: int, *, directory: str | None = None) -> None:
        if not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise ConfigurationError("cache size", f"{size!r} is not a number of bytes")
        # Re-entrant: the garbage collector may run an application's finalizer in the middle of
        # anything, and that may load an object.
        self._lock = RLock()
        self._pid = os.getpid()
        self._log = RecordLog(max(size, MINIMUM_SIZE), directory)
        self._index = PlaceIndex()
        self._earlier = EarlierRevisions()
        self._last_tid: bytes = NO_TID
        self._count = 0
        self._is_off = False
        self._credit = self._log.max_record
        self._stored = self._dropped = self._kept = 0
        # What a hit needs, one attribute away.
        self._sweeps = 0
        self._pages = self._index.pages
        self._fd = self._log.fd
        self._shift = self._log.shift
        self._marks = bytearray((self._log.capacity >> self._shift >> _MARK_BITS) + 1)

    def __repr__(self) -> str:
        state = "off" if self._is_off else f"{self._log.capacity} bytes"
        return f"<RingCache {state}, {self._count} revisions, last tid {self._last_tid.hex()}>"

    def __len__(self) -> int:
        return self._count

    def statistics(self) -> CacheStatistics:
        """Return what the cache holds and has done; any thread."""
        with self._lock:
            capacity = 0 if self._is_off else self._log.capacity
            return CacheStatistics(self._count, capacity, self._stored, self._dropped, self._kept)

    # -- reading -------------------------------------------------------------------------------

    def load_before(self, oid: bytes, tid: bytes) -> Revision | None:
        """Return the revision of *oid* that was current just before *tid*, or None if not held."""
        sweeps = self._sweeps
        try:
            page = self._pages[int.from_bytes(oid, "big") >> PAGE_BITS]
            place = int.from_bytes(page[oid[6:]], "big")
            length = place & LENGTH_MASK
            record = pread(self._fd, length, place >> LENGTH_BITS << self._shift)
        except KeyError:
            # Not held as current.  Without earlier revisions there is nothing to ask the lock for:
            # to miss what is just being stored is no mistake.
            return self._load_locked(oid, tid) if self._earlier.rows else None
        except OSError:
            return self._load_locked(oid, tid)
        start = record[8:16]
        if start < tid and self._sweeps == sweeps and len(record) == length and record[:8] == oid:
            self._marks[place >> _MARK_SHIFT] = 1
            return record[_DATA_AT:], start, None
        return self._load_locked(oid, tid)

    def _load_locked(self, oid: bytes, tid: bytes) -> Revision | None:
        with self._lock:
            try:
                place = self._index.get(oid)
                if place is not None:
                    record = self._log.read(place, oid)
                    start = record[8:16]
                    if start < tid:
                        self._marks[place >> _MARK_SHIFT] = 1
                        return record[_DATA_AT:], start, None
                if not self._earlier.rows:
                    return None
                found = self._earlier.find(oid, tid)
                if found is None:
                    return None
                start, end, place = found
                record = self._log.read(place, oid)
                if record[8:16] == start:
                    return record[_DATA_AT:], start, end
                self._degrade(LogDamaged(f"another revision of {oid.hex()} than was written"))
            except (OSError, LogDamaged) as error:
                self._degrade(error)
            return None

    def current(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield ``(oid, start)`` of the current revisions; see :class:`.ClientCache`."""
        for number in list(self._pages):
            # One page at a time, or those who store would wait for all of it.
            yield from self._current_of(number)

    def _current_of(self, number: int) -> list[tuple[bytes, bytes]]:
        with self._lock:
            items = self._index.items_of(number)
            try:
                return [(oid, self._log.read_start(place, oid)) for oid, place in items]
            except (OSError, LogDamaged) as error:
                self._degrade(error)
                # What cannot be named may be out of date.
                for oid, _ in self._index.items_of(number):
                    self._forget(oid)
                return []

    # -- changing ------------------------------------------------------------------------------

    def store(self, oid: bytes, start: bytes, end: bytes | None, data: bytes) -> None:
        """Keep the revision of *oid* that is valid from *start* up to before *end*.

        What contradicts the revision offered gives way to the newer knowledge: a current one
        that is older than *start* or *end* is forgotten, and one offered as current is refused
        when a later one, or a later end, is known.
        """
        with self._lock:
            if self._is_off:
                return
            try:
                if end is not None:
                    if start < end:
                        self._store_earlier(oid, start, end, data)
                    return
                index = self._index
                held = index.get(oid)
                if held is not None:
                    if self._log.read_start(held, oid) >= start:
                        return
                    # Whether it ended at *start* or before is not known.
                    self._forget(oid)
                if self._earlier.rows and self._earlier.last_end(oid) > start:
                    return
                place = self._append(oid, start, data)
                if place is not None:
                    index.set(oid, place)
                    self._count += 1
            except (OSError, LogDamaged) as error:
                self._degrade(error)

    def store_many(self, records: Sequence[tuple[bytes, bytes, bytes | None, bytes]]) -> None:
        """Keep each of *records*, which are the arguments of :meth:`store`, one after the other.

        Current revisions of objects of which none is held, as a rule all, are written at once.
        """
        with self._lock:
            if self._is_off:
                return
            rows, last_end = self._earlier.rows, self._earlier.last_end
            held = self._index.get
            room = largest = self._log.max_record
            padding = (1 << self._shift) - 1
            fresh: list[tuple[bytes, bytes, bytes]] = []
            oids: set[bytes] = set()
            try:
                for oid, start, end, data in records:
                    if (
                        end is not None
                        or oid in oids
                        or held(oid) is not None
                        or (rows and last_end(oid) > start)
                    ):
                        self._append_fresh(fresh)
                        self.store(oid, start, end, data)
                        room = largest
                        continue
                    length = _DATA_AT + len(data)
                    if length > largest:
                        continue
                    length += -length & padding
                    if length > room:
                        self._append_fresh(fresh)
                        room = largest
                    room -= length
                    fresh.append((oid, start, data))
                    oids.add(oid)
                self._append_fresh(fresh)
            except (OSError, LogDamaged) as error:
                self._degrade(error)

    def _append_fresh(self, fresh: list[tuple[bytes, bytes, bytes]]) -> None:
        """Write current revisions of objects of which none is held; empty the list."""
        if not fresh or self._is_off:
            return
        while (places := self._log.append_many(fresh)) is None:
            self._sweep()
        put = self._index.set
        for (oid, _, _), place in zip(fresh, places):
            put(oid, place)
        self._count += len(fresh)
        self._stored += len(fresh)
        fresh.clear()

    def _store_earlier(self, oid: bytes, start: bytes, end: bytes, data: bytes) -> None:
        held = self._index.get(oid)
        if held is not None:
            held_start = self._log.read_start(held, oid)
            if held_start == start:
                self._end_current(oid, held, start, end)
                return
            if held_start < end:
                self._forget(oid)
        if self._earlier.has(oid, start):
            return
        place = self._append(oid, start, data)
        if place is not None:
            self._count += 1 - self._earlier.add(oid, start, end, place)

    def invalidate(self, oid: bytes, tid: bytes | None) -> None:
        """*oid* was changed by transaction *tid*: the current revision, if held, ends there."""
        with self._lock:
            held = self._index.get(oid)
            if held is None:
                return
            if tid is None:
                self._forget(oid)
                return
            try:
                start = self._log.read_start(held, oid)
            except (OSError, LogDamaged) as error:
                self._degrade(error)
                return
            if start < tid:
                self._end_current(oid, held, start, tid)

    def _end_current(self, oid: bytes, place: int, start: bytes, end: bytes) -> None:
        # It becomes an earlier one before it ceases to be the current one: readers find it always.
        self._count += 1 - self._earlier.add(oid, start, end, place)
        self._forget(oid)

    def _forget(self, oid: bytes) -> None:
        self._index.delete(oid)
        self._count -= 1

    # -- the last tid --------------------------------------------------------------------------

    def last_tid(self) -> bytes:
        """Return the last transaction whose invalidations were applied, ``NO_TID`` if none."""
        return self._last_tid

    def set_last_tid(self, tid: bytes) -> None:
        """All invalidations up to *tid* have been applied.

        :raises ValueError: *tid* is older than the present one.
        """
        with self._lock:
            if tid < self._last_tid:
                raise ValueError(
                    f"last tid {tid.hex()} is older than the cache's {self._last_tid.hex()}"
                )
            self._last_tid = tid

    # -- room ----------------------------------------------------------------------------------

    def _append(self, oid: bytes, start: bytes, data: bytes) -> int | None:
        """Write a record, with sweeps as needed; None if it is too large to be kept."""
        length = _DATA_AT + len(data)
        if length > self._log.max_record:
            return None
        record = HEADER.pack(oid, start, length) + data
        while (place := self._log.append(record)) is None:
            self._sweep()
        self._stored += 1
        return place

    def _sweep(self) -> None:
        """Give up the room of the oldest records."""
        log, marks, shift = self._log, self._marks, self._shift
        pages, earlier = self._pages, self._earlier
        batch = log.oldest()
        chunk, base, places, end = batch
        # Credit is carried over, so that a record larger than a batch can be kept too.
        credit = min(self._credit + len(chunk) // KEPT_SHARE, log.max_record)
        kept: list[bytes] = []
        entries: list[tuple[Any, bytes]] = []
        for place in places:
            at = (place >> LENGTH_BITS << shift) - base
            oid = chunk[at : at + 8]
            number = int.from_bytes(oid, "big") >> PAGE_BITS
            page = pages.get(number)
            suffix = oid[6:]
            if (
                page is not None
                and suffix in page
                and page[suffix] == place.to_bytes(PLACE_SIZE, "big")
            ):
                length = place & LENGTH_MASK
                if marks[place >> _MARK_SHIFT] and length <= credit:
                    credit -= length
                    kept.append(chunk[at : at + length])
                    entries.append((page, suffix))
                    continue
                del page[suffix]
                if not page:
                    del pages[number]
            elif not earlier.rows or not earlier.remove(oid, place):
                continue
            self._count -= 1
            self._dropped += 1
        self._credit = credit
        larger: list[bytes] = []
        if kept:
            for record, (page, suffix), copy in zip(kept, entries, log.copy(kept)):
                if copy is None:
                    self._forget(record[:8])
                    larger.append(record)
                else:
                    page[suffix] = copy.to_bytes(PLACE_SIZE, "big")
            self._kept += len(kept) - len(larger)
        self._sweeps += 1
        log.release(batch)
        # The last mark may belong to the next record as well: its own sweep will clear it.
        first, last = places[0] >> _MARK_SHIFT, end >> _MARK_BITS
        marks[first:last] = bytes(last - first)
        for record in larger:
            # What the gap was too small for may go where it came from.
            (copy,) = log.copy([record])
            if copy is None:
                self._dropped += 1
            else:
                self._index.set(record[:8], copy)
                self._count += 1
                self._kept += 1

    def clear(self) -> None:
        """Forget everything, the last tid too."""
        with self._lock:
            self._empty()
            self._last_tid = NO_TID
            if not self._is_off:
                self._log.clear()

    def _empty(self) -> None:
        self._index.clear()
        self._earlier.clear()
        self._count = 0
        self._sweeps += 1
        self._marks[:] = bytes(len(self._marks))

    def _degrade(self, error: Exception) -> None:
        """Go on after a failure of the disk: smaller if that will do, empty otherwise."""
        if self._is_off:
            return
        if isinstance(error, OSError) and error.errno in NO_ROOM and self._log.shrink():
            logger.warning(
                "the client cache goes on with %d bytes, its disk has no more: %s",
                self._log.capacity,
                error,
            )
            return
        self._is_off = True
        self._empty()
        logger.warning("the client cache is dropped and stays empty: %s", error)
        try:
            self._log.discard()
        except OSError as failure:
            logger.debug("its room is not given back: %s", failure)

    def close(self) -> None:
        """Release the file; may be called twice.  ``load_before`` returns None afterwards.

        It is all that a child made by ``fork`` may call: the file is its parent's too.
        """
        if os.getpid() != self._pid:
            # A thread that the child does not have may hold the lock for ever.
            self._lock = RLock()
        with self._lock:
            self._is_off = True
            self._empty()
            self._log.close()

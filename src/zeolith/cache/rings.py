"""What stays in the cache and what goes: two rings of records in one file.

The policy is that of S3-FIFO (Yang and others, SOSP 2023).  What is new is written to the *small*
ring.  What was used until its turn to leave comes goes on to the *main* ring; what was not is
dropped, and its id remembered for a while (:mod:`.ghosts`): an object that comes back soon goes to
the main ring at once.  So what is read only once, a scan above all, passes through the small ring
and leaves the main one alone.  In the main ring each object stays for as many more rounds as it
was used since the last, up to three.  ``docs/cache.md`` has the numbers behind the choice.

Uses are counted by *marks*, one byte for a stretch of the file: who reads a record adds to the mark
of its place, without a lock; a use that is lost so does not matter.

Whoever calls holds the cache's lock; only ``marks`` is written, and ``sweeps`` read, without it.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Mapping
from typing import IO, Final, NamedTuple

from .earlier import EarlierRevisions
from .ghosts import Ghosts
from .index import PlaceIndex
from .log import (
    LENGTH_BITS,
    LENGTH_MASK,
    POSITION_BITS,
    SMALLEST_GRANULE_BITS,
    Batch,
    LogState,
    RecordLog,
    end_of,
)
from .records import CHECKSUM_SIZE
from .seals import MOST_SEGMENTS, Seals

MARK_BITS: Final = 4
"""One mark serves this many granules, as a power of two: 256 bytes in all but huge caches.  Finer
marks would take memory, coarser ones would keep the neighbours of what is in use."""

MARK_SHIFT: Final = LENGTH_BITS + MARK_BITS

MOST_USES: Final = 3
"""Uses that are counted: more would keep what was popular once for too long."""

SMALL_SHARE: Final = 4
"""The small ring is one part in this many.  A tenth is better for steady use; with a quarter the
cache is never worse than a circle like ZEO's, also where what is used changes."""

LEAST_SMALL: Final = 1024
"""Bytes of the smallest small ring."""

GHOST_SHARE: Final = 512
"""An id is remembered for this many bytes of the cache: about as many as it has objects."""

KEPT_PERCENT: Final = 75
"""A sweep of the main ring may keep so much of what it reads.  So a store never costs more than
rewriting three times its own size, even when everything the cache holds is in use; half would be
too little where most of it is."""


class RingsState(NamedTuple):
    """Where everything is in a file, to go on with it later.

    :ivar shift: bytes of a granule, as a power of two.
    :ivar segment_bits: granules of a segment, as a power of two.
    :ivar seeds: of the segments, four bytes each; see :mod:`.seals`.
    """

    shift: int
    segment_bits: int
    seeds: bytes
    small: LogState
    main: LogState

    @property
    def seals(self) -> Seals:
        """The seeds, to be asked."""
        return Seals(self.segment_bits, list(array("I", self.seeds)))

    @property
    def capacity(self) -> int:
        """Most bytes that both rings take."""
        return (self.small.end - self.small.first + self.main.end - self.main.first) << self.shift

    @property
    def used(self) -> int:
        """Bytes that records take, those included that were replaced and not yet swept out."""
        return (self.small.used + self.main.used) << self.shift


class Rings:
    """Keeps records, as many as there is room for.

    :param file: open for reading and writing, unbuffered; closed with this.
    :param size: bytes of both rings together.
    :param header_size: bytes at the beginning of the file that hold no records.
    :param index: where current revisions lie; kept up to date here for those that move or go.
    :param earlier: the same of earlier revisions.
    :param state: of rings in the same file; None if there are no records.
    """

    def __init__(
        self,
        file: IO[bytes],
        size: int,
        header_size: int,
        index: PlaceIndex,
        earlier: EarlierRevisions,
        state: RingsState | None = None,
    ) -> None:
        self._file = file
        self.fd: Final = file.fileno()
        self._index = index
        self._earlier = earlier
        if state is None:
            shift = SMALLEST_GRANULE_BITS
            while (header_size + size) >> shift >= 1 << POSITION_BITS:
                shift += 1
            first, end = header_size >> shift, (header_size + size) >> shift
            small = max(size // SMALL_SHARE, LEAST_SMALL) >> shift
            self.seals = Seals.divide(small, end)
            border = (first + small) & ~self.seals.mask
            logs = LogState.empty(first, border), LogState.empty(border, end)
        else:
            shift = state.shift
            self.seals = state.seals
            logs = state.small, state.main
        self.shift: Final = shift
        """Offset in bytes = position in granules shifted left by this."""
        self._small = RecordLog(file, shift, self.seals, logs[0])
        self._main = RecordLog(file, shift, self.seals, logs[1])
        self._ghosts = Ghosts(size // GHOST_SHARE)
        self.marks = bytearray((logs[1].end >> MARK_BITS) + 1)
        self.sweeps = 0
        """Counted after what a sweep gives up has left the index, before it is written over."""
        self.count = 0
        """Revisions held, earlier ones included."""
        self.stored = self.dropped = self.kept = 0
        self._credit = self._main.max_record

    @property
    def state(self) -> RingsState:
        """Where everything is now."""
        seals = self.seals
        return RingsState(self.shift, seals.bits, seals.dump(), self._small.state, self._main.state)

    @property
    def capacity(self) -> int:
        """Most bytes that both rings take."""
        return self._small.capacity + self._main.capacity

    @property
    def max_record(self) -> int:
        """Bytes of the longest record that is taken."""
        return (self._main if self._has_main else self._small).max_record

    @property
    def _has_main(self) -> bool:
        return self._main.capacity > 0

    # -- reading ---------------------------------------------------------------------------------

    def read(self, place: int, oid: bytes) -> bytes:
        """Return the record of *oid* at *place*; see :meth:`.RecordLog.read`."""
        return self._small.read(place, oid)

    def read_start(self, place: int, oid: bytes) -> bytes:
        """Return its start tid; see :meth:`.RecordLog.read_start`."""
        return self._small.read_start(place, oid)

    # -- adding ----------------------------------------------------------------------------------

    def append(self, oid: bytes, body: bytes) -> int:
        """Write the record of *oid* with that *body* and return its place.

        :param body: of a record of at most :attr:`max_record` bytes.
        :raises OSError: it could not be written.
        """
        is_small = len(body) + CHECKSUM_SIZE <= self._small.max_record
        if self._has_main and (self._ghosts.take(oid) or not is_small):
            place = self._append_main(body)
        else:
            while (found := self._small.append(body)) is None:
                self._sweep_small()
            place = found
        self.stored += 1
        return place

    def add_many(self, bodies: Mapping[bytes, bytes]) -> None:
        """Write the current revisions of objects of which none is held, and put them into the
        index, in as few steps as may be.

        :param bodies: of their records, by object id.  Those that are too large to be kept are left
            out.
        :raises OSError: some could not be written.
        """
        limit, padding = self._small.max_record, (1 << self.shift) - 1
        batch: dict[bytes, bytes] = {}
        # There is room for so much after some sweeps: an empty ring begins anew.
        largest = room = self._small.capacity * 3 // 4
        for oid, body in bodies.items():
            length = len(body) + CHECKSUM_SIZE
            size = length + (-length & padding)
            if size <= limit and not (self._has_main and self._ghosts.take(oid)):
                if size > room:
                    self._add_small(batch)
                    room = largest
                room -= size
                batch[oid] = body
            elif self._has_main and length <= self.max_record:
                self._index.set(oid, self._append_main(body))
                self.count += 1
                self.stored += 1
        self._add_small(batch)

    def _add_small(self, bodies: dict[bytes, bytes]) -> None:
        """As :meth:`add_many`, to the small ring; empty the dictionary."""
        if not bodies:
            return
        while (places := self._small.extend(list(bodies.values()))) is None:
            self._sweep_small()
        put = self._index.set
        for oid, place in zip(bodies, places):
            put(oid, place)
        self.count += len(bodies)
        self.stored += len(bodies)
        bodies.clear()

    def _append_main(self, body: bytes) -> int:
        while (place := self._main.append(body)) is None:
            self._sweep_main()
        return place

    # -- giving up -------------------------------------------------------------------------------

    def _sweep_small(self) -> None:
        """Give up the room of the oldest records of the small ring."""
        batch = self._small.oldest()
        chunk, base, shift, marks = batch.chunk, batch.base, self.shift, self.marks
        index, ghosts = self._index, self._ghosts
        # Until the main ring is full nothing has to go.  It may be the smaller one, on a full disk.
        largest = self._main.max_record if self._has_main else 0
        is_filling = self._main.is_filling
        leaving: list[tuple[int, bytes, bool]] = []
        bodies: list[bytes] = []
        for place in batch.places:
            at = (place >> LENGTH_BITS << shift) - base
            oid = chunk[at : at + 8]
            length = place & LENGTH_MASK
            if length <= largest and (is_filling or marks[place >> MARK_SHIFT]):
                is_current = index.get(oid) == place
                if is_current or self._is_earlier(oid, place):
                    leaving.append((place, oid, is_current))
                    bodies.append(chunk[at : at + length - CHECKSUM_SIZE])
            elif index.discard(oid, place):
                ghosts.add(oid)
                self._dropped_one()
            else:
                self._drop_earlier(oid, place)
        if bodies:
            self._move_main(leaving, bodies)
            self.kept += len(bodies)
        self._release(self._small, batch)

    def _move_main(self, leaving: list[tuple[int, bytes, bool]], bodies: list[bytes]) -> None:
        """Write *bodies* to the main ring, and tell the index.

        :param leaving: of each its present place, its object id, whether it is a current revision.
        """
        # What a sweep brings is not much more than the gap, so one sweep makes room for it.
        copies = self._main.extend(bodies)
        if copies is None:
            self._sweep_main()
            copies = self._main.extend(bodies)
        for at, (place, oid, is_current) in enumerate(leaving):
            # One after the other, each has to be in the index before the next sweep.
            copy = self._append_main(bodies[at]) if copies is None else copies[at]
            if is_current:
                self._index.move(oid, copy)
            else:
                self._earlier.move(oid, place, copy)

    def _sweep_main(self) -> None:
        """Give up the room of the oldest records of the main ring."""
        main, marks, shift, index = self._main, self.marks, self.shift, self._index
        batch = main.oldest()
        chunk, base = batch.chunk, batch.base
        # Credit is carried over, so that a record larger than a batch can be kept too.
        credit = min(self._credit + len(chunk) * KEPT_PERCENT // 100, main.max_record)
        kept: list[tuple[bytes, int]] = []
        bodies: list[bytes] = []
        for place in batch.places:
            at = (place >> LENGTH_BITS << shift) - base
            oid = chunk[at : at + 8]
            length = place & LENGTH_MASK
            uses = marks[place >> MARK_SHIFT]
            if uses and length <= credit and index.get(oid) == place:
                credit -= length
                kept.append((oid, uses))
                bodies.append(chunk[at : at + length - CHECKSUM_SIZE])
            elif index.discard(oid, place):
                self._dropped_one()
            else:
                self._drop_earlier(oid, place)
        self._credit = credit
        larger: list[bytes] = []
        for (oid, uses), body, copy in zip(kept, bodies, main.copy(bodies) if bodies else []):
            if copy is None:
                if not index.is_suspect(oid):  # one that came back would be one no more
                    larger.append(body)
                index.delete(oid)
                self._dropped_one()
            else:
                index.move(oid, copy)
                marks[copy >> MARK_SHIFT] = uses - 1
                self.kept += 1
        self._release(main, batch)
        for body in larger:
            # What the gap was too small for may go where it came from.
            (copy,) = main.copy([body])
            if copy is not None:
                index.set(body[:8], copy)
                self.count += 1
                self.dropped -= 1
                self.kept += 1

    def _is_earlier(self, oid: bytes, place: int) -> bool:
        earlier = self._earlier
        return bool(earlier.rows) and earlier.has_place(oid, place)

    def _drop_earlier(self, oid: bytes, place: int) -> None:
        if self._earlier.rows and self._earlier.remove(oid, place):
            self._dropped_one()

    def _dropped_one(self) -> None:
        self.count -= 1
        self.dropped += 1

    def _release(self, log: RecordLog, batch: Batch) -> None:
        self.sweeps += 1
        log.release(batch)
        # The last mark may belong to the next record as well: its own sweep will clear it.
        first, last = batch.base >> self.shift >> MARK_BITS, batch.end >> MARK_BITS
        self.marks[first:last] = bytes(last - first)

    # -- all of it -------------------------------------------------------------------------------

    def empty(self) -> None:
        """Take everything out of the index."""
        self._index.clear()
        self._earlier.clear()
        self._ghosts.clear()
        self.count = 0
        self.sweeps += 1
        self.marks[:] = bytes(len(self.marks))

    def clear(self) -> None:
        """Give up everything."""
        self.empty()
        self._small.clear()
        self._main.clear()

    def go_on(self, size: int, header_size: int) -> bool:
        """Take up what another process has left, with *size* bytes; what lies behind them is lost.

        :returns: whether that can be done; the small ring stays as large as it is, and the segments
            too.
        :raises OSError: the file cannot be cut or written.
        """
        end = (header_size + size) >> self.shift
        small = self._small.state
        if end >= 1 << POSITION_BITS or end - small.end < small.end - small.first:
            return False
        if self.seals.segments(end) > MOST_SEGMENTS:
            return False
        if end < self._main.state.end:
            os.ftruncate(self.fd, min(end << self.shift, os.fstat(self.fd).st_size))

            def is_left(place: int) -> bool:
                return end_of(place, self.shift) <= end

            self.count -= self._index.cut(is_left) + self._earlier.cut(is_left)
        self.seals.resize(end)
        self._main.resize(end)
        self._small.go_on()
        self._main.go_on()
        self.marks = bytearray((end >> MARK_BITS) + 1)
        return True

    def shrink(self) -> bool:
        """After a write without room: make do with what the file has, if that is worth it."""
        main = self._main.state
        if not self._has_main:
            return False
        if main.head > main.first:
            if self._main.shrink():
                return True
            if main.is_wrapped:
                return False

            # Not worth it.
            def is_left(place: int) -> bool:
                return place >> LENGTH_BITS < main.first

            self.count -= self._index.cut(is_left) + self._earlier.cut(is_left)
        elif not self._small.shrink():
            # There is not even room for all of the small ring.
            return False
        # The small ring is the only one then.
        self._main.resize(main.first)
        return True

    def discard(self) -> None:
        """Give the disk its room back; nothing can be added any more."""
        os.ftruncate(self.fd, 0)

    def close(self) -> None:
        """Close the file; may be called twice."""
        self._file.close()

"""The file under the cache: a circle of records.  Bytes without policy.

:mod:`.records` says what a record is.  Records
lie one behind the other and begin at multiples of a granule.  New ones are written at the *head*;
the *tail* is the oldest.  At the end of the file the head goes on at its start: a record never
straddles the end.  Between head and tail there is always a gap, so that what is worth keeping can
be copied to the head before the room it came from is given up.

::

    first      head        tail                     limit   capacity
    |##newer###|....gap....|##########older##########|.......|

What lies before the first record is the header of the file, if it has one.

A *place* is one integer of 48 bits: where a record begins (in granules) and how long it is (in
bytes), so that one ``pread`` brings all of it.  48 bits is what a value of BTrees' smallest index
holds; the granule grows with the file to make that suffice.

Only ``pread`` and ``pwrite`` touch the file, so there is no file position to share between threads.

**Damage.**  A record is taken for what it is only if its checksum is right.  Where the walk along
the records meets something else, it goes on at the next granule at which a whole record begins.
"""

from __future__ import annotations

import errno
import os
from typing import IO, Final, NamedTuple

from .records import CHECKSUM_SIZE, HEADER, LENGTH, LENGTH_AT, OVERHEAD, is_whole, seal
from .seals import Seals, new_seed

LENGTH_BITS: Final = 22
LENGTH_MASK: Final = (1 << LENGTH_BITS) - 1
POSITION_BITS: Final = 26
SMALLEST_GRANULE_BITS: Final = 4

MINIMUM_SIZE: Final = 4096
"""Below this a circle of records has no room to turn."""

_MINIMUM_GRANULES: Final = MINIMUM_SIZE >> SMALLEST_GRANULE_BITS

LARGEST_SHARE: Final = 3
"""A record may take one part in this many of the file; a larger one would flush too much."""

NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""The disk, the quota or the process's limit is exhausted; what was written stays good."""


class LogDamaged(Exception):
    """The file does not hold what was written to it."""


def end_of(place: int, shift: int) -> int:
    """Return the position behind the record at *place*, whose granules are 2 to the *shift*."""
    return (place >> LENGTH_BITS) + ((place & LENGTH_MASK) + (1 << shift) - 1 >> shift)


class Batch(NamedTuple):
    """The oldest records, as they lie in the file.

    :ivar chunk: the bytes from the tail on.
    :ivar base: offset of the chunk in the file, in bytes.
    :ivar places: the records that lie wholly in it, oldest first.
    :ivar end: where the tail stands once they are released, in granules.
    """

    chunk: bytes
    base: int
    places: list[int]
    end: int


class LogState(NamedTuple):
    """Where everything is, to go on with the same file later; all in granules.

    :ivar first: where the log begins in the file.
    :ivar end: where it ends at most.
    :ivar head: where the next record goes.
    :ivar tail: where the oldest record begins.
    :ivar limit: where the older records end, while they lie behind the head.
    :ivar is_wrapped: whether the head has come to the end before.
    """

    first: int
    end: int
    head: int
    tail: int
    limit: int
    is_wrapped: bool

    @property
    def used(self) -> int:
        """How much records take."""
        if self.head < self.tail:
            return self.head - self.first + self.limit - self.tail
        return self.head - self.tail

    @classmethod
    def empty(cls, first: int, end: int) -> LogState:
        """Return the state of a log without records."""
        return cls(first, end, first, first, first, False)


class RecordLog:
    """A circle of records in a part of a file.

    One thread at a time may call its methods; ``fd`` and ``shift`` may be read by any.

    :param file: open for reading and writing, unbuffered.
    :param shift: bytes of a granule, as a power of two.
    :param seals: of the whole file; no segment belongs to two logs.
    :param state: which part of the file, and what is in it.
    """

    def __init__(self, file: IO[bytes], shift: int, seals: Seals, state: LogState) -> None:
        self.fd: Final = file.fileno()
        self._seals = seals
        self._seed = new_seed()
        """Of what is written next."""
        self.shift: Final = shift
        """Offset in bytes = position in granules shifted left by this."""
        self._round = (1 << shift) - 1
        self._first, self._end, self._head, self._tail, self._limit, self._wrapped = state
        self._set_end(self._end)

    @property
    def state(self) -> LogState:
        """Where everything is now."""
        return LogState(self._first, self._end, self._head, self._tail, self._limit, self._wrapped)

    @property
    def is_filling(self) -> bool:
        """Whether there is room that has never been used."""
        return not self._wrapped

    def _set_end(self, end: int) -> None:
        self._end = end
        granules = end - self._first
        self.max_record = min((granules << self.shift) // LARGEST_SHARE, LENGTH_MASK)
        # The gap: large enough to make sweeps few, small enough not to be missed.
        self._gap = max(1, min(granules // 16, (64 * 1024) >> self.shift))
        self._set_stop()

    def _set_stop(self) -> None:
        # Up to here records can be appended at the head with the gap left over, no questions asked.
        stop = self._barrier() - 1 if self._head < self._tail else self._end
        self._stop = stop - self._gap

    def _barrier(self) -> int:
        """Return what the head, behind which the tail is, has to stay before: what is left of the
        last round keeps its segments to itself, so that they keep their seed."""
        return (self._tail - 1) & ~self._seals.mask

    @property
    def capacity(self) -> int:
        """Most bytes that it takes."""
        return (self._end - self._first) << self.shift

    def offset(self, place: int) -> int:
        """Return where in the file the record at *place* begins, in bytes."""
        return place >> LENGTH_BITS << self.shift

    # -- writing -------------------------------------------------------------------------------

    def append(self, body: bytes) -> int | None:
        """Write the record with that *body* at the head and return its place; None if that would
        eat up the gap.

        :raises OSError: it could not be written; the log is as before.
        """
        length = len(body) + CHECKSUM_SIZE
        granules = (length + self._round) >> self.shift
        position = self._head
        if position + granules > self._stop:
            found = self._find(granules, self._gap)
            if found is None:
                return None
            position = found
        seed = self._seed if position == self._head else new_seed()
        self._write(seal(body, seed), position, granules, seed)
        return position << LENGTH_BITS | length

    def copy(self, bodies: list[bytes]) -> list[int | None]:
        """As :meth:`append`, into the gap: for what is to be kept of the oldest records.

        :returns: the places, None for a record that the gap has no room for.
        :raises OSError: some could not be written.  None of them should be looked for.
        """
        places = self._write_all(bodies, 0)
        if places is not None:
            return list(places)
        if len(bodies) == 1:
            return [None]
        return [place for body in bodies for place in self.copy([body])]

    def extend(self, bodies: list[bytes]) -> list[int] | None:
        """Write the records with those *bodies* at the head, one behind the other, and return their
        places; None if that would eat up the gap.

        :raises OSError: some could not be written.  None of them should be looked for.
        """
        return self._write_all(bodies, self._gap)

    def _write_all(self, bodies: list[bytes], spare: int) -> list[int] | None:
        shift, padding = self.shift, self._round + CHECKSUM_SIZE
        granules = [(len(body) + padding) >> shift for body in bodies]
        total = sum(granules)
        position = self._find(total, spare)
        if position is None:
            return None
        seed = self._seed if position == self._head else new_seed()
        padded = [seal(body, seed).ljust(n << shift, b"\0") for body, n in zip(bodies, granules)]
        self._write(b"".join(padded), position, total, seed)
        places = []
        for body, n in zip(bodies, granules):
            places.append(position << LENGTH_BITS | len(body) + CHECKSUM_SIZE)
            position += n
        return places

    def _find(self, granules: int, spare: int) -> int | None:
        """Return where *granules* go so that *spare* are left in the gap, None if nowhere."""
        head, wanted = self._head, granules + spare
        if head < self._tail:
            return head if head + wanted < self._barrier() else None
        if head + wanted <= self._end:
            return head
        if self._first + wanted >= self._barrier():
            return None
        return head if head + granules <= self._end else self._first

    def _write(self, data: bytes, position: int, granules: int, seed: int) -> None:
        offset = position << self.shift
        written = os.pwrite(self.fd, data, offset)
        while written < len(data):
            # A disk that fills up takes a part first; the next call says why.
            more = os.pwrite(self.fd, data[written:], offset + written)
            if more == 0:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            written += more
        self._seals.set(position, granules, seed)
        if position == self._head:
            self._head = position + granules
        else:
            self._seed = seed
            self._limit = self._head
            self._wrapped = True
            self._head = position + granules
            self._set_stop()

    def go_on(self) -> None:
        """Go on with records of another process: what is written from now on is told from what that
        one may have written, at the same places, after it had told its state.

        :raises OSError: the file cannot be written.
        """
        if self._head == self._tail:
            self.clear()
            return
        mask = self._seals.mask
        head = min((self._head + mask) & ~mask, self._end)
        if head > self._head:
            # The walk along the records shall see at once that nothing is there.
            size = (head - self._head) << self.shift
            if os.pwrite(self.fd, bytes(size), self._head << self.shift) != size:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._head = head
        self._seed = new_seed()
        self._set_stop()

    # -- reading -------------------------------------------------------------------------------

    def read(self, place: int, oid: bytes) -> bytes:
        """Return the record of *oid* at *place*.

        :raises LogDamaged: something else is there.
        :raises OSError: it cannot be read.
        """
        length = place & LENGTH_MASK
        record = os.pread(self.fd, length, self.offset(place))
        if record[:8] != oid or not self.is_whole(record, place >> LENGTH_BITS):
            raise LogDamaged(f"no record of object {oid.hex()} at offset {self.offset(place)}")
        return record

    def is_whole(self, record: bytes, position: int) -> bool:
        """Return whether *record* is what was written at *position*."""
        return is_whole(record, self._seals.seed_at(position))

    def read_start(self, place: int, oid: bytes) -> bytes:
        """Return the start tid of the record of *oid* at *place*; raises as :meth:`read`.

        The checksum is not looked at: what is wrong here shows when the record is read.
        """
        head = os.pread(self.fd, 16, self.offset(place))
        if len(head) != 16 or head[:8] != oid:
            raise LogDamaged(f"no record of object {oid.hex()} at offset {self.offset(place)}")
        return head[8:]

    # -- giving up the oldest ------------------------------------------------------------------

    def oldest(self) -> Batch:
        """Return the oldest records, about as many bytes of them as the gap has, at least one.

        What is damaged is left out, and there may be none then.

        :raises LogDamaged: the log is empty.
        :raises OSError: they cannot be read.
        """
        shift = self.shift
        tail = self._tail
        stop = self._limit if self._head < tail else self._head
        base = tail << shift
        room = (stop - tail) << shift
        if room <= 0:
            raise LogDamaged("there are no records")
        size = min(self._gap << shift, room)
        chunk = os.pread(self.fd, size, base)
        places: list[int] = []
        at = 0
        while at < size:
            if at + HEADER.size > len(chunk):
                if not at or len(chunk) < size:
                    at = size  # the file has been cut off
                break
            (length,) = LENGTH.unpack_from(chunk, at + LENGTH_AT)
            if not OVERHEAD <= length <= room - at:
                at = self._next_whole(chunk, at, room, base)
                continue
            if at + length > len(chunk):
                if at:
                    break  # its turn is next
                chunk = os.pread(self.fd, length, base)
                if len(chunk) != length:
                    at = size
                    break
            position = tail + (at >> shift)
            if not self.is_whole(chunk[at : at + length], position):
                at = self._next_whole(chunk, at, room, base)
                continue
            places.append(position << LENGTH_BITS | length)
            at += (length + self._round) >> shift << shift
        return Batch(chunk, base, places, tail + (at >> shift))

    def _next_whole(self, chunk: bytes, at: int, room: int, base: int) -> int:
        """Return where in *chunk* the first whole record behind *at* begins; if there is none, the
        first place behind *at* that has to be looked at together with what follows the chunk."""
        step = 1 << self.shift
        place = at + step
        while place + HEADER.size <= len(chunk):
            (length,) = LENGTH.unpack_from(chunk, place + LENGTH_AT)
            if OVERHEAD <= length <= room - place:
                record = chunk[place : place + length]
                if len(record) < length:
                    record = os.pread(self.fd, length, base + place)
                if self.is_whole(record, (base + place) >> self.shift):
                    return place
            place += step
        return place

    def release(self, batch: Batch) -> None:
        """Give up the room of *batch*, which :meth:`oldest` returned: it may be written over."""
        self._tail = batch.end
        if self._tail == self._head:
            self.clear()
        elif self._head < self._tail == self._limit:
            self._tail = self._first
        self._set_stop()

    def clear(self) -> None:
        """Give up everything."""
        self._head = self._tail = self._first
        self._seed = new_seed()
        self._set_stop()

    def resize(self, end: int) -> None:
        """Have the log end at *end*, in granules.  What lies behind that is lost; :meth:`go_on` has
        to follow if there was anything."""
        if end < self._end:
            if self._head < self._tail:
                if self._tail < end:
                    self._limit = min(self._limit, end)
                else:
                    self._tail = self._first
                self._head = min(self._head, end)
            elif self._tail < end:
                self._head = min(self._head, end)
            else:
                self._head = self._tail = self._first  # all of it lies behind
        elif end > self._end:
            self._wrapped = False
        self._set_end(end)

    def shrink(self) -> bool:
        """After a write without room: make do with what the file has, if that is worth it.

        Until the head first came to the end of the file, everything lies before the head; so that
        is a smaller file's end just as well.

        :returns: whether the log goes on, smaller than before.
        """
        held = self._head - self._first
        if self._wrapped or held < _MINIMUM_GRANULES or not self._tail <= self._head < self._end:
            return False
        self._set_end(self._head)
        return True

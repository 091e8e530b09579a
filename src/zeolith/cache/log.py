"""The file under the cache: a circle of records.  Bytes without policy.

A *record* is a header (oid, start tid, length of the whole record) followed by the data.  Records
lie one behind the other and begin at multiples of a granule.  New ones are written at the *head*;
the *tail* is the oldest.  At the end of the file the head goes on at its start: a record never
straddles the end.  Between head and tail there is always a gap, so that what is worth keeping can
be copied to the head before the room it came from is given up.

::

    0          head        tail                     limit   capacity
    |##newer###|....gap....|##########older##########|.......|

A *place* is one integer of 48 bits: where a record begins (in granules) and how long it is (in
bytes), so that one ``pread`` brings all of it.  48 bits is what a value of BTrees' smallest index
holds; the granule grows with the file to make that suffice.

The file is anonymous: it has no name and goes with its descriptor.  Only ``pread`` and ``pwrite``
touch it, so there is no file position to share between threads.
"""

from __future__ import annotations

import errno
import os
import struct
import tempfile
from collections.abc import Sequence
from typing import Final, NamedTuple

from ..errors import ConfigurationError

HEADER: Final = struct.Struct(">8s8sI")
"""oid, start tid, length of the record in bytes, this header included."""

_pack_header = HEADER.pack

_LENGTH: Final = struct.Struct(">I")
_LENGTH_AT: Final = 16

LENGTH_BITS: Final = 22
LENGTH_MASK: Final = (1 << LENGTH_BITS) - 1
POSITION_BITS: Final = 26
SMALLEST_GRANULE_BITS: Final = 4

MINIMUM_SIZE: Final = 4096
"""Below this a circle of records has no room to turn."""

_MINIMUM_GRANULES: Final = MINIMUM_SIZE >> SMALLEST_GRANULE_BITS

LARGEST_SHARE: Final = 4
"""A record may take one part in this many of the file; a larger one would flush too much."""

NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""The disk, the quota or the process's limit is exhausted; what was written stays good."""


class LogDamaged(Exception):
    """The file does not hold what was written to it."""


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


class RecordLog:
    """A circular file of records.

    One thread at a time may call its methods; ``fd`` and ``shift`` may be read by any.

    :param size: most bytes the file may take, at least :data:`MINIMUM_SIZE`.
    :param directory: where to make the file; None for the system's temporary directory.
    :raises ConfigurationError: no file can be made there.
    """

    def __init__(self, size: int, directory: str | None = None) -> None:
        try:
            self._file = tempfile.TemporaryFile("w+b", buffering=0, dir=directory)  # noqa: SIM115
        except OSError as error:
            raise ConfigurationError(
                f"cache directory {directory or 'for temporary files'!r}",
                f"cannot make a file: {error}",
                "name a directory that exists and is writable",
            ) from error
        self.fd: Final = self._file.fileno()
        shift = SMALLEST_GRANULE_BITS
        while size >> shift >= 1 << POSITION_BITS:
            shift += 1
        self.shift: Final = shift
        """Offset in bytes = position in granules shifted left by this."""
        self._round = (1 << shift) - 1
        self._wrapped = False
        self._head = self._tail = 0
        # Where the older records end; of use while they lie behind the head.
        self._limit = 0
        self._set_capacity(size >> shift)

    def _set_capacity(self, granules: int) -> None:
        self._capacity = granules
        size = granules << self.shift
        self.max_record = min(size // LARGEST_SHARE, LENGTH_MASK)
        # The gap: large enough to make sweeps few, small enough not to be missed.
        self._gap = max(1, min(granules // 16, (64 * 1024) >> self.shift))
        self._set_stop()

    def _set_stop(self) -> None:
        # Up to here records can be appended at the head with the gap left over, no questions asked.
        stop = self._tail - 1 if self._head < self._tail else self._capacity
        self._stop = stop - self._gap

    @property
    def capacity(self) -> int:
        """Most bytes the file takes."""
        return self._capacity << self.shift

    def offset(self, place: int) -> int:
        """Return where in the file the record at *place* begins, in bytes."""
        return place >> LENGTH_BITS << self.shift

    # -- writing -------------------------------------------------------------------------------

    def append(self, record: bytes) -> int | None:
        """Write *record* at the head and return its place; None if that would eat up the gap.

        :raises OSError: it could not be written; the log is as before.
        """
        length = len(record)
        granules = (length + self._round) >> self.shift
        position = self._head
        if position + granules > self._stop:
            found = self._find(granules, self._gap)
            if found is None:
                return None
            position = found
        self._write(record, position, granules)
        return position << LENGTH_BITS | length

    def append_many(self, records: Sequence[tuple[bytes, bytes, bytes]]) -> list[int] | None:
        """As :meth:`append`, for records of ``(oid, start tid, data)``, in one write.

        Together they take, each rounded up to a granule, no more than a record may.

        :returns: their places, in order; None if they would eat up the gap.
        """
        shift, padding = self.shift, self._round
        size = HEADER.size
        lengths = [size + len(data) for _, _, data in records]
        granules = sum([(length + padding) >> shift for length in lengths])
        position = self._head
        if position + granules > self._stop:
            found = self._find(granules, self._gap)
            if found is None:
                return None
            position = found
        parts: list[bytes] = []
        places: list[int] = []
        at = position
        for (oid, start, data), length in zip(records, lengths):
            places.append(at << LENGTH_BITS | length)
            at += (length + padding) >> shift
            parts += (_pack_header(oid, start, length), data, bytes(-length & padding))
        self._write(b"".join(parts), position, granules)
        return places

    def copy(self, records: list[bytes]) -> list[int | None]:
        """As :meth:`append`, into the gap: for what is to be kept of the oldest records.

        :returns: the places, None for a record that the gap has no room for.
        :raises OSError: some could not be written.  None of them should be looked for.
        """
        shift, padding = self.shift, self._round
        granules = [(len(record) + padding) >> shift for record in records]
        total = sum(granules)
        position = self._find(total, 0)
        if position is None:
            if len(records) == 1:
                return [None]
            return [place for record in records for place in self.copy([record])]
        padded = [record.ljust(n << shift, b"\0") for record, n in zip(records, granules)]
        self._write(b"".join(padded), position, total)
        places: list[int | None] = []
        for record, n in zip(records, granules):
            places.append(position << LENGTH_BITS | len(record))
            position += n
        return places

    def _find(self, granules: int, spare: int) -> int | None:
        """Return where *granules* go so that *spare* are left in the gap, None if nowhere."""
        head, wanted = self._head, granules + spare
        if head < self._tail:
            return head if head + wanted < self._tail else None
        if head + wanted <= self._capacity:
            return head
        if wanted >= self._tail:
            return None
        return head if head + granules <= self._capacity else 0

    def _write(self, data: bytes, position: int, granules: int) -> None:
        offset = position << self.shift
        written = os.pwrite(self.fd, data, offset)
        while written < len(data):
            # A disk that fills up takes a part first; the next call says why.
            more = os.pwrite(self.fd, data[written:], offset + written)
            if more == 0:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            written += more
        if position == self._head:
            self._head = position + granules
        else:
            self._limit = self._head
            self._wrapped = True
            self._head = granules
            self._set_stop()

    # -- reading -------------------------------------------------------------------------------

    def read(self, place: int, oid: bytes) -> bytes:
        """Return the record of *oid* at *place*.

        :raises LogDamaged: something else is there.
        :raises OSError: it cannot be read.
        """
        length = place & LENGTH_MASK
        record = os.pread(self.fd, length, self.offset(place))
        if len(record) != length or record[:8] != oid:
            raise LogDamaged(f"no record of object {oid.hex()} at offset {self.offset(place)}")
        return record

    def read_start(self, place: int, oid: bytes) -> bytes:
        """Return the start tid of the record of *oid* at *place*; raises as :meth:`read`."""
        head = os.pread(self.fd, 16, self.offset(place))
        if len(head) != 16 or head[:8] != oid:
            raise LogDamaged(f"no record of object {oid.hex()} at offset {self.offset(place)}")
        return head[8:]

    # -- giving up the oldest ------------------------------------------------------------------

    def oldest(self) -> Batch:
        """Return the oldest records, about as many bytes of them as the gap has, at least one.

        :raises LogDamaged: there are none, or the file's bytes are no records.
        :raises OSError: they cannot be read.
        """
        shift = self.shift
        tail = self._tail
        stop = self._limit if self._head < tail else self._head
        base = tail << shift
        room = (stop - tail) << shift
        chunk = os.pread(self.fd, min(self._gap << shift, room), base)
        places: list[int] = []
        at = 0
        while at + HEADER.size <= len(chunk):
            (length,) = _LENGTH.unpack_from(chunk, at + _LENGTH_AT)
            if length < HEADER.size or at + length > room:
                raise LogDamaged(f"no record at offset {base + at}")
            if at + length > len(chunk):
                if places:
                    break
                chunk = os.pread(self.fd, length, base)
                if len(chunk) != length:
                    raise LogDamaged(f"the file ends in the record at offset {base}")
            places.append((tail + (at >> shift)) << LENGTH_BITS | length)
            at += (length + self._round) >> shift << shift
        if not places:
            raise LogDamaged(f"no record at offset {base}")
        return Batch(chunk, base, places, tail + (at >> shift))

    def release(self, batch: Batch) -> None:
        """Give up the room of *batch*, which :meth:`oldest` returned: it may be written over."""
        self._tail = batch.end
        if self._tail == self._head:
            self.clear()
        elif self._head < self._tail == self._limit:
            self._tail = 0
        self._set_stop()

    def clear(self) -> None:
        """Give up everything."""
        self._head = self._tail = 0
        self._set_stop()

    def shrink(self) -> bool:
        """After a write without room: make do with what the file has, if that is worth it.

        Until the head first came to the end of the file, everything lies before the head; so that
        is a smaller file's end just as well.

        :returns: whether the log goes on, smaller than before.
        """
        if self._wrapped or not _MINIMUM_GRANULES <= self._head < self._capacity:
            return False
        self._set_capacity(self._head)
        return True

    def discard(self) -> None:
        """Give the disk its room back; the log must not be used any more, except to close it."""
        os.ftruncate(self.fd, 0)

    def close(self) -> None:
        """Close the file; may be called twice."""
        self._file.close()

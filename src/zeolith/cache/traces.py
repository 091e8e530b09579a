"""Traces of what a client's cache was asked, in the format of ZEO 6.2.

A trace is a file of records, one behind the other, numbers big-endian:

====== ======== ==================================================================================
offset size     what
====== ======== ==================================================================================
0      4        seconds since the epoch
4      3        length of the object record in bytes, 0 where there is none
7      1        :class:`Code`; bits 0 and 7 are flags of versions long gone
8      2        length of the object id
10     8        start tid: of the revision loaded or stored; of what changed an object
18     8        end tid: of a revision that is not current; of a load of an earlier revision that
                is not held, the tid before which it was asked for
26     variable object id
====== ======== ==================================================================================

There is no header and no version, so a file of something else shows by what its records say:
:data:`KNOWN`.

**What ours say beyond ZEO's.**  A start (:attr:`Code.START`) of a cache that is empty has an end
tid of ``ff`` bytes: a simulation forgets there what it holds.  An earlier revision that was found
names its start where ZEO's has it, as the end tid, and its length.
"""

from __future__ import annotations

import enum
import gzip
import io
import struct
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple, cast

from ..errors import ConfigurationError

RECORD: Final = struct.Struct(">IiH8s8s")
assert RECORD.size == 26

ZERO: Final = b"\0" * 8
EMPTY: Final = b"\xff" * 8
"""End tid of the start of a cache that is empty."""

LONGEST_OID: Final = 8
"""Object ids are 8 bytes in ZODB; where a longer one would be there is no record."""

LONGEST: Final = RECORD.size + LONGEST_OID
"""Bytes of the longest record."""

LONGEST_LENGTH: Final = (1 << 23) - 1
"""The longest length of an object record that can be told."""

LOOK_AHEAD: Final = 4 * LONGEST
"""Bytes of a trace that are looked at to find out whether a record begins there."""

READ_SIZE: Final = 1 << 18
"""Bytes that are read at once."""

SKIP: Final = 8
"""Where a time of 0 shows that a record was cut off by a crash, ZEO's tools go on so many bytes
behind it, and so do we."""

EARLIEST: Final = 978_307_200
"""The year 2001, when ZEO got its traces.  Where records are looked for, a time before shows none.
"""

LONGEST_PAUSE: Final = 366 * 86400
"""Seconds between two records.  Where records are looked for, another time shows none."""

CUT: Final = "it ends within a record"


class Code(enum.IntEnum):
    """What happened.  The first hexadecimal digit is the operation, the second its outcome."""

    START = 0x00
    INVALIDATE_MISS = 0x10
    INVALIDATE_VERSION = 0x1A
    INVALIDATE_KEEP = 0x1C
    INVALIDATE_DISCARD = 0x1E
    LOAD_MISS = 0x20
    LOAD_HIT = 0x22
    LOAD_EARLIER_MISS = 0x24
    LOAD_EARLIER_HIT = 0x26
    STORE_VERSION = 0x50
    STORE = 0x52
    STORE_EARLIER = 0x54


EXPLAIN: Final[dict[int, str]] = {
    Code.START: "start",
    Code.INVALIDATE_MISS: "invalidate (miss)",
    Code.INVALIDATE_VERSION: "invalidate (hit, version)",
    Code.INVALIDATE_KEEP: "invalidate (hit, kept as an earlier revision)",
    Code.INVALIDATE_DISCARD: "invalidate (hit, discarded)",
    Code.LOAD_MISS: "load (miss)",
    Code.LOAD_HIT: "load (hit)",
    Code.LOAD_EARLIER_MISS: "load (earlier revision, miss)",
    Code.LOAD_EARLIER_HIT: "load (earlier revision, hit)",
    Code.STORE_VERSION: "store (version)",
    Code.STORE: "store (current)",
    Code.STORE_EARLIER: "store (earlier revision)",
}

KNOWN: Final = frozenset(map(int, Code))

OPERATION: Final = 0x70
"""Bits of a code that say which operation it is: those of the following."""

INVALIDATE: Final = 0x10
LOAD: Final = 0x20
STORE: Final = 0x50

HITS: Final = frozenset({int(Code.LOAD_HIT), int(Code.LOAD_EARLIER_HIT)})


class TraceDamaged(Exception):
    """A trace cannot be read on from some place; what came before is good.

    :param offset: bytes from the beginning of the trace where the trouble is.
    :param problem: what is there.
    :param is_cut: whether the trace just ends there, as one does that is still being written.
    """

    def __init__(self, offset: int, problem: str, is_cut: bool = False) -> None:
        super().__init__(offset, problem, is_cut)
        self.offset = offset
        self.problem = problem
        self.is_cut = is_cut

    def __str__(self) -> str:
        return f"{self.problem} at byte {self.offset:,}"


class Event(NamedTuple):
    """One record of a trace.

    :ivar time: seconds since the epoch.
    :ivar code: a :class:`Code`, without flags.
    :ivar is_version: whether the flag of versions is set.
    :ivar length: of the object record in bytes; 0 where there is none.
    :ivar oid: object id; empty at a start.
    :ivar start: see the table above.
    :ivar end: see the table above.
    """

    time: int
    code: int
    is_version: bool
    length: int
    oid: bytes
    start: bytes
    end: bytes


def begins_trace(head: bytes) -> bool:
    """Return whether a file whose first bytes are *head* may be a trace.

    :param head: :data:`LONGEST` bytes, or all there are.
    """
    if len(head) < RECORD.size:
        return False
    time, word, oid_size, _, _ = RECORD.unpack_from(head)
    return time > 0 and word & 0x7E in KNOWN and oid_size <= LONGEST_OID


class TraceReader:
    """Iterates over the events of a trace.

    :param file: at the beginning of a trace; compressed by gzip or not; need not be seekable.
    :param is_searching: where there is no record look for the next one, instead of giving up.
        Records whose object id is 2**32 or more are taken for none then.
    :ivar count: records read.
    :ivar offset: bytes read; of a compressed trace as they were before.
    :ivar skipped: bytes that were passed over because they were no records.
    """

    def __init__(self, file: io.BufferedReader, is_searching: bool = False) -> None:
        is_compressed = file.peek(2)[:2] == b"\x1f\x8b"
        self._read = (gzip.GzipFile(fileobj=file) if is_compressed else file).read1
        self._is_searching = is_searching
        self._time: int | None = None
        self._end: TraceDamaged | None = None
        """What there is to say of the end, once all before it has been handed out."""
        self.count = self.offset = self.skipped = 0

    def __iter__(self) -> Iterator[Event]:
        """Yield the events in order.

        :raises TraceDamaged: what follows is no record, or not a whole one.
        :raises OSError: the file cannot be read.
        """
        size, unpack = RECORD.size, RECORD.unpack_from
        buffer, at = b"", 0
        while True:
            left = len(buffer) - at
            if left < LOOK_AHEAD:
                buffer, at = self._fill(buffer[at:]), 0
                left = len(buffer)
                if not left:
                    return
                if left < size and buffer.strip(b"\0"):
                    raise self._end or self._damaged(CUT, is_cut=True)
            if self._is_searching and not self._is_in_step(buffer, at):
                step = 1
                self.skipped += step
            elif buffer.startswith(ZERO[:4], at):
                step = min(SKIP, left)
                self.skipped += step
            else:
                time, word, oid_size, start, end = unpack(buffer, at)
                code = word & 0x7E
                if code not in KNOWN or oid_size > LONGEST_OID:
                    raise self._damaged("there is no record of a cache trace")
                step = size + oid_size
                if step > left:
                    raise self._end or self._damaged(CUT, is_cut=True)
                self._time = time
                self.count += 1
                oid, length = buffer[at + size : at + step], (word & 0x7FFFFF00) >> 8
                yield Event(time, code, bool(word & 0x80), length, oid, start, end)
            at += step
            self.offset += step

    def _fill(self, rest: bytes) -> bytes:
        """Return *rest* and what follows, as much as is looked at if there is so much."""
        try:
            while len(rest) < LOOK_AHEAD and not self._end and (more := self._read(READ_SIZE)):
                rest += more
        except EOFError:
            self._end = self._damaged("the compressed file ends", len(rest), is_cut=True)
        except (gzip.BadGzipFile, zlib.error) as error:
            self._end = self._damaged(f"the compressed file is damaged ({error})", len(rest))
        if not rest and self._end is not None:
            raise self._end
        return rest

    def _damaged(self, problem: str, ahead: int = 0, is_cut: bool = False) -> TraceDamaged:
        return TraceDamaged(self.offset + ahead, problem, is_cut)

    def _is_in_step(self, buffer: bytes, at: int) -> bool:
        """Return whether a record begins at *at*, and not only a part of one.

        A record that was cut off seems to be whole with the first bytes of the next one.  But what
        follows then is none, and within it begins one that another follows.
        """
        after = self._likely_end(buffer, at)
        if not after or self._likely_end(buffer, after):
            return after > 0
        inner = (self._likely_end(buffer, begin) for begin in range(at + 1, after))
        return not any(end and self._likely_end(buffer, end) for end in inner)

    def _likely_end(self, buffer: bytes, at: int) -> int:
        """Return where the record at *at* ends, or the end of the trace at *at*; 0 for neither."""
        if at == len(buffer):
            return at
        if len(buffer) - at < RECORD.size:
            return 0
        time, word, oid_size, _, _ = RECORD.unpack_from(buffer, at)
        code, end = word & 0x7E, at + RECORD.size + oid_size
        oid = buffer[at + RECORD.size : end]
        if code not in KNOWN or time < EARLIEST or end > len(buffer):
            return 0
        if oid if code == Code.START else len(oid) != 8 or oid[:4] != ZERO[:4]:
            return 0
        is_soon = self._time is None or abs(time - self._time) <= LONGEST_PAUSE
        return end if is_soon else 0


@contextmanager
def open_trace(path: str, is_searching: bool = False) -> Iterator[TraceReader]:
    """Open a trace for reading; as a context manager.

    :param path: of the file; ``-`` for standard input.
    :param is_searching: see :class:`TraceReader`.
    :raises ConfigurationError: there is no such file, or it cannot be read.
    """
    if path == "-":
        yield TraceReader(cast(io.BufferedReader, sys.stdin.buffer), is_searching)
        return
    try:
        file = open(path, "rb")  # noqa: SIM115
    except OSError as error:
        raise ConfigurationError(f"trace {path}", f"cannot be read: {error.strerror}") from error
    with file:
        yield TraceReader(file, is_searching)

"""Zeolith's own cache: revisions in a file, their places in a compact index.

What is right is known here, what stays in :mod:`.rings`; :mod:`.log` knows bytes, :mod:`.index` and
:mod:`.earlier` know places.

**A hit takes no lock.**  A reader notes the *sweep count*, looks the place up, reads the record
with one ``pread`` and looks at the count again.  Room is given up in sweeps, in this order: take
out of the index, count, overwrite.  So if the count has not moved, what the index named was not
overwritten meanwhile and the record is whole; otherwise the reader asks again under the lock.
Everything but such a hit (an earlier revision, a miss, a failure) goes through the lock: these are
rare, or followed by a request to the server.

**Suspects** (:mod:`.suspects`) are held, but lie in another layer of the index, where a hit does
not look.

**Earlier revisions.**  An invalidation writes nothing: the record stays where it is, and the tid
that ended it is remembered.  So a full disk cannot keep the cache from learning of a change.

**Persistence.**  A cache that has a :class:`.CacheHome` keeps its records in a file with a name,
and saves a snapshot of the rest now and then.  What is opened later is the last snapshot: right as
of its last tid, from where on the server tells what has changed.  Records that were written over
since do not pass for those that the snapshot means; they are forgotten when they are met.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Sequence
from os import pread
from threading import Lock, RLock
from typing import IO, Final
from zlib import crc32

from ..errors import ConfigurationError
from ..protocol.hello import Database
from ..types import NO_TID
from .earlier import EarlierRevisions
from .home import HEADER_SIZE, CacheHome
from .index import PAGE_BITS, PlaceIndex, number_of
from .interface import CacheStatistics, Revision
from .log import LENGTH_BITS, LENGTH_MASK, MINIMUM_SIZE, NO_ROOM, LogDamaged
from .records import (
    CHECKSUM_SIZE,
    HEADER,
    OVERHEAD,
    REMAINDER,
    pack_body,
)
from .rings import MARK_SHIFT, MOST_USES, Rings
from .snapshot import Snapshot
from .suspects import Suspects

logger = logging.getLogger(__name__)

_DATA_AT: Final = HEADER.size
_DATA_END: Final = -CHECKSUM_SIZE


class RingCache:
    """A bounded MVCC cache in a file; see :class:`.ClientCache`.

    Of failures of the disk no caller hears: the cache makes do with the room it has, or drops
    everything and stays empty, and says so once in the log.

    :param size: most bytes the file may take; raised to :data:`.log.MINIMUM_SIZE` if below.
        Records larger than a quarter of it, or than 4 MiB, are not kept.  The index in memory
        takes about 10 bytes for a current revision where ids lie close together, up to 40 where
        they are scattered, and about 100 for an earlier one.
    :param directory: where to make an anonymous temporary file; None for the system's temporary
        directory.
    :param home: of a persistent cache, which belongs to this one from now on; None for a temporary
        file.
    :raises ConfigurationError: *size* is not a number of bytes, or no file can be made.
    """

    def __init__(
        self, size: int, *, directory: str | None = None, home: CacheHome | None = None
    ) -> None:
        if not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise ConfigurationError("cache size", f"{size!r} is not a number of bytes")
        # Re-entrant: the garbage collector may run an application's finalizer in the middle of
        # anything, and that may load an object.
        self._lock = RLock()
        # Held while a snapshot is written; taken before _lock.
        self._saving = Lock()
        self._saved: object = None
        self._complaint = ""
        self._pid = os.getpid()
        self._home = home
        self._index = PlaceIndex()
        self.suspects: Final = Suspects(
            self._lock, self._index, self._start_of, self._forget, self._degrade
        )
        """Current revisions that may be out of date; they are not served."""
        self._earlier = EarlierRevisions()
        self._last_tid: bytes = NO_TID
        self._newest: bytes = NO_TID
        self._database: Database | None = None
        self._damaged = 0
        self._is_off = False
        size = max(size, MINIMUM_SIZE)
        if home is None:
            self._rings = Rings(_temporary_file(directory), size, 0, self._index, self._earlier)
        else:
            self._rings = self._open(home, size)
        # What a hit needs, one attribute away.
        self._pages = self._index.pages
        self._fd = self._rings.fd
        self._shift = self._rings.shift
        self._seeds = self._rings.seals.seeds
        self._seed_shift = LENGTH_BITS + self._rings.seals.bits
        self._marks = self._rings.marks

    def _open(self, home: CacheHome, size: int) -> Rings:
        """Return the rings of a persistent cache, and take up what its last snapshot says."""
        snapshot = home.load()
        if snapshot is not None:
            rings = Rings(home.file, size, HEADER_SIZE, self._index, self._earlier, snapshot.rings)
            self._index.load(snapshot.pages, snapshot.suspects)
            self._earlier.load(snapshot.rows)
            if rings.go_on(size, HEADER_SIZE):
                rings.count += snapshot.revisions
                self._last_tid = self._newest = snapshot.last_tid
                self._database = snapshot.database
                return rings
            self._index.clear()
            self._earlier.clear()
            logger.warning(
                "%s: its records cannot be found in a file of %d bytes, it begins empty",
                home.path,
                size,
            )
        home.begin_anew()
        return Rings(home.file, size, HEADER_SIZE, self._index, self._earlier)

    def __repr__(self) -> str:
        state = "off" if self._is_off else f"{self._rings.capacity} bytes"
        return f"<RingCache {state}, {len(self)} revisions, last tid {self._last_tid.hex()}>"

    def __len__(self) -> int:
        return self._rings.count

    def statistics(self) -> CacheStatistics:
        """Return what the cache holds and has done; any thread."""
        with self._lock:
            rings = self._rings
            capacity, used = (0, 0) if self._is_off else (rings.capacity, rings.state.used)
            return CacheStatistics(
                rings.count, capacity, rings.stored, rings.dropped, rings.kept, self._damaged, used
            )

    # -- reading -------------------------------------------------------------------------------

    def load_before(self, oid: bytes, tid: bytes) -> Revision | None:
        """Return the revision of *oid* that was current just before *tid*, or None if not held."""
        rings = self._rings
        sweeps = rings.sweeps
        try:
            page = self._pages[number_of(oid) >> PAGE_BITS]
            place = number_of(page[oid[6:]])
            length = place & LENGTH_MASK
            record = pread(self._fd, length, place >> LENGTH_BITS << self._shift)
        except KeyError:
            # Not held as current.  Without earlier revisions there is nothing to ask the lock for:
            # to miss what is just being stored is no mistake.
            return self._load_locked(oid, tid) if self._earlier.rows else None
        except OSError:
            return self._load_locked(oid, tid)
        start = record[8:16]
        if (
            start < tid
            and rings.sweeps == sweeps
            and record[:8] == oid
            and crc32(record, self._seeds[place >> self._seed_shift]) == REMAINDER
        ):
            marks = self._marks
            uses = marks[place >> MARK_SHIFT]
            if uses < MOST_USES:
                marks[place >> MARK_SHIFT] = uses + 1
            return record[_DATA_AT:_DATA_END], start, None
        return self._load_locked(oid, tid)

    def _load_locked(self, oid: bytes, tid: bytes) -> Revision | None:
        with self._lock:
            try:
                place = self._index.get(oid)
                if place is not None and not self._index.is_suspect(oid):
                    try:
                        record = self._rings.read(place, oid)
                    except LogDamaged as error:
                        self._forget_damaged(oid, error)
                    else:
                        start = record[8:16]
                        if start < tid:
                            self._marks[place >> MARK_SHIFT] |= 1
                            return record[_DATA_AT:_DATA_END], start, None
                if not self._earlier.rows:
                    return None
                found = self._earlier.find(oid, tid)
                if found is None:
                    return None
                start, end, place = found
                try:
                    record = self._rings.read(place, oid)
                    if record[8:16] == start:
                        return record[_DATA_AT:_DATA_END], start, end
                    raise LogDamaged(f"another revision of {oid.hex()} than was written")
                except LogDamaged as error:
                    self._forget_damaged(oid, error, place)
            except OSError as error:
                self._degrade(error)
            return None

    def _forget_damaged(self, oid: bytes, error: LogDamaged, earlier: int | None = None) -> None:
        """Forget what is not there any more: the current revision, or an *earlier* one."""
        if not self._damaged:
            # After a crash that is ordinary; and where there is one, there are many.
            level = logging.WARNING if self._home is None else logging.INFO
            logger.log(level, "the client cache forgets what is damaged: %s", error)
        self._damaged += 1
        if earlier is None:
            self._forget(oid)
        else:
            self._rings.count -= self._earlier.remove(oid, earlier)

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
            self._saw(end or start)
            try:
                if end is not None:
                    if start < end:
                        self._store_earlier(oid, start, end, data)
                    return
                index = self._index
                held = index.get(oid)
                if held is not None:
                    held_start = self._start_of(oid, held)
                    if held_start is not None:
                        is_suspect = index.is_suspect(oid)
                        if is_suspect and held_start == start:
                            index.acquit(oid)
                            return
                        if held_start >= start and not is_suspect:
                            return
                        # Whether it ended at *start* or before is not known.
                        self._forget(oid)
                if self._earlier.rows and self._earlier.last_end(oid) > start:
                    return
                place = self._append(oid, start, data)
                if place is not None:
                    index.set(oid, place)
                    self._rings.count += 1
            except OSError as error:
                self._degrade(error)

    def _start_of(self, oid: bytes, place: int) -> bytes | None:
        """Return the start tid of the current revision; None if it had to be forgotten."""
        try:
            return self._rings.read_start(place, oid)
        except LogDamaged as error:
            self._forget_damaged(oid, error)
            return None

    def store_many(self, records: Sequence[tuple[bytes, bytes, bytes | None, bytes]]) -> None:
        """Keep each of *records*, which are the arguments of :meth:`store`, one after the other.

        Current revisions of objects of which none is held, as a rule all, are written at once.
        """
        with self._lock:
            if self._is_off:
                return
            rows, last_end = self._earlier.rows, self._earlier.last_end
            held = self._index.get
            fresh: dict[bytes, bytes] = {}
            try:
                for oid, start, end, data in records:
                    if (
                        end is not None
                        or oid in fresh
                        or held(oid) is not None
                        or (rows and last_end(oid) > start)
                    ):
                        self._append_fresh(fresh)
                        self.store(oid, start, end, data)
                    else:
                        fresh[oid] = pack_body(oid, start, data)
                        self._saw(start)
                self._append_fresh(fresh)
            except OSError as error:
                self._degrade(error)

    def _append_fresh(self, fresh: dict[bytes, bytes]) -> None:
        """Write the records of objects of which none is held; empty the dictionary."""
        if not self._is_off:
            self._rings.add_many(fresh)
        fresh.clear()

    def _store_earlier(self, oid: bytes, start: bytes, end: bytes, data: bytes) -> None:
        held = self._index.get(oid)
        held_start = None if held is None else self._start_of(oid, held)
        if held is not None and held_start is not None:
            if held_start == start:
                self._end_current(oid, held, start, end)
                return
            if held_start < end:
                self._forget(oid)
        if self._earlier.has(oid, start):
            return
        place = self._append(oid, start, data)
        if place is not None:
            self._rings.count += 1 - self._earlier.add(oid, start, end, place)

    def invalidate(self, oid: bytes, tid: bytes | None) -> None:
        """*oid* was changed by transaction *tid*: the current revision, if held, ends there."""
        with self._lock:
            held = self._index.get(oid)
            if held is None:
                return
            if tid is None or self._index.is_suspect(oid):
                # It may have changed before, too: where the revision ended is not known.
                self._forget(oid)
                return
            self._saw(tid)
            try:
                start = self._start_of(oid, held)
            except OSError as error:
                self._degrade(error)
                return
            if start is not None and start < tid:
                self._end_current(oid, held, start, tid)

    def replace(self, oid: bytes, tid: bytes, data: bytes) -> None:
        """*oid* was changed by transaction *tid*, which made *data* of it.

        :param tid: later than all that the cache knows of.
        """
        with self._lock:
            if self._is_off:
                return
            self._saw(tid)
            try:
                held = self._index.get(oid)
                if held is not None and self._index.is_suspect(oid):
                    # It may have changed before, too: where the revision ended is not known.
                    self._forget(oid)
                elif held is not None:
                    start = self._start_of(oid, held)
                    if start is not None:
                        if start >= tid:
                            # A load overtook the answer: servers that let it are known.
                            return
                        self._end_current(oid, held, start, tid)
                place = self._append(oid, tid, data)
                if place is not None:
                    self._index.set(oid, place)
                    self._rings.count += 1
            except OSError as error:
                self._degrade(error)

    def _end_current(self, oid: bytes, place: int, start: bytes, end: bytes) -> None:
        # It becomes an earlier one before it ceases to be the current one: readers find it always.
        self._rings.count += 1 - self._earlier.add(oid, start, end, place)
        self._forget(oid)

    def _saw(self, tid: bytes) -> None:
        if tid > self._newest:
            self._newest = tid

    def _forget(self, oid: bytes) -> None:
        self._index.delete(oid)
        self._rings.count -= 1

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

    @property
    def database(self) -> Database | None:
        """The database that the revisions are of, as far as is known."""
        return self._database

    def set_database(self, database: Database | None) -> None:
        """The cache was verified against *database*, or one that does not say which it is."""
        with self._lock:
            self._database = database

    # -- persistence ---------------------------------------------------------------------------

    def save(self) -> None:
        """Have a persistent cache save what it knows, if that has changed; any thread.

        A failure is only logged: the cache is as good as its last snapshot when it is opened next.
        """
        with self._saving:
            self._save()

    def _save(self) -> None:
        home = self._home
        if home is None:
            return
        with self._lock:
            rings = self._rings
            state = (
                rings.stored, rings.dropped, len(self), self._last_tid, self._database,
                len(self.suspects),
            )  # fmt: skip
            if self._is_off or state == self._saved:
                return
            if self._newest > self._last_tid != NO_TID:
                # In the middle of a transaction.  Were the server restored to the state before it,
                # nobody would notice that what we know of it is wrong.
                return
            snapshot = Snapshot(
                self._last_tid,
                self._database,
                home.storage or "",
                rings.count,
                rings.state,
                self._index.dump(),
                self._earlier.dump(),
                self._index.dump_suspects(),
            )
        try:
            home.save(snapshot)
        except OSError as error:
            self._complain(f"{home.index_path} cannot be saved: {error}")
        else:
            self._saved = state
            self._complaint = ""

    def _complain(self, complaint: str) -> None:
        # Once a minute the same would be too much.
        if complaint != self._complaint:
            self._complaint = complaint
            logger.warning("%s", complaint)

    # -- room ----------------------------------------------------------------------------------

    def _append(self, oid: bytes, start: bytes, data: bytes) -> int | None:
        """Write a record; return its place, or None if it is too large to be kept."""
        if OVERHEAD + len(data) > self._rings.max_record:
            return None
        return self._rings.append(oid, pack_body(oid, start, data))

    def clear(self) -> None:
        """Forget everything, the last tid too; and for good, whatever happens to the process."""
        with self._saving:
            with self._lock:
                self._rings.clear()
                self._last_tid = self._newest = NO_TID
                self._database = None
                self._saved = None
            if self._home is not None and not self._is_off:
                try:
                    self._home.forget()
                except OSError as error:
                    self._complain(
                        f"{self._home.index_path} is wrong now and cannot be removed, remove it "
                        f"before the next start: {error}"
                    )

    def _degrade(self, error: Exception) -> None:
        """Go on after a failure of the disk: smaller if that will do, empty otherwise."""
        if self._is_off:
            return
        if isinstance(error, OSError) and error.errno in NO_ROOM and self._rings.shrink():
            logger.warning(
                "the client cache goes on with %d bytes, its disk has no more: %s",
                self._rings.capacity,
                error,
            )
            return
        self._is_off = True
        self._rings.empty()
        logger.warning("the client cache is dropped and stays empty: %s", error)
        try:
            self._rings.discard()
        except OSError as failure:
            logger.debug("its room is not given back: %s", failure)

    def close(self) -> None:
        """Release the file; may be called twice.  ``load_before`` returns None afterwards.

        It is all that a child made by ``fork`` may call: the file is its parent's too.
        """
        if os.getpid() != self._pid:
            # A thread that the child does not have may hold the locks for ever.
            self._lock = RLock()
            self._release()
            return
        with self._saving:
            # Nobody else may save once others can have the file.
            self._save()
            self._release()

    def _release(self) -> None:
        with self._lock:
            self._is_off = True
            self._rings.empty()
            self._rings.close()
            if self._home is not None:
                self._home.close()


def _temporary_file(directory: str | None) -> IO[bytes]:
    try:
        return tempfile.TemporaryFile("w+b", buffering=0, dir=directory)
    except OSError as error:
        raise ConfigurationError(
            f"cache directory {directory or 'for temporary files'!r}",
            f"cannot make a file: {error}",
            "name a directory that exists and is writable",
        ) from error

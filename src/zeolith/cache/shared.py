"""A cache that reads what other processes of this host have cached, too.

Each process has a file of its own, which nobody else writes to.  What it does not hold itself it
looks for in the files of its *siblings* (:mod:`.siblings`) before the server is asked.  What is
found there is not copied: together the processes keep what fits into all of their files.

**What is believed** (rule R6).  A sibling's snapshot says that a revision was current as of the
transaction up to which the sibling was right, *S*.  We are right up to *L*.  The revision is our
answer if

- the sibling's database is ours, its identity and its epoch: so both see one history;
- the record is whole, is the object's, and bears the seed of that snapshot;
- it began at *S* or before: a later one at the same place is another revision, of which the
  snapshot says nothing;
- it has not changed after *S* and up to *L*.  That is known from a journal (:mod:`.journal`) of
  what we were told; of what lies before the journal the server is asked once, after connecting.

A sibling may be ahead of us.  Then it is believed as of *L*, and this stays so when we come to know
more: its snapshot might come from a history that the server lost.  Such snapshots are replaced
within a minute.

**The journal goes on** only from one transaction to the next that was announced.  Wherever else the
last tid is set, however that came about, nothing is known of what changed before.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from threading import RLock
from typing import Final

from ..protocol.hello import Database
from ..types import NO_TID
from .interface import CacheStatistics, Revision
from .journal import MAX_CHANGES, ChangeJournal
from .records import CHECKSUM_SIZE, HEADER
from .ring import RingCache
from .siblings import Sibling, Siblings
from .suspects import Suspects

logger = logging.getLogger(__name__)


class SharedCache:
    """A cache of our own, and *siblings* to read from what it does not hold.

    A :class:`.ClientCache`; threads and errors are as said there.

    :param own: this process's cache, which belongs to this one from now on.
    :param siblings: where the others' files may be; likewise.
    """

    def __init__(self, own: RingCache, siblings: Siblings) -> None:
        self.own: Final = own
        self._held = own.load_before
        self._siblings: Final = siblings
        # Guards what follows; taken before the lock of our own cache.  Re-entrant as that is.
        self._lock = RLock()
        self._journal: Final = ChangeJournal(own.last_tid())
        self._announced: bytes = NO_TID
        self._is_closed = False
        self._has_told = False
        # Those that are there; and those of our database, which may be read.
        self._present: list[Sibling] = siblings.look()
        self._readable: tuple[Sibling, ...] = ()
        # What we knew when we last looked for siblings.
        self._looked_at = own.last_tid()
        self._borrowed = 0
        self._choose()

    def __repr__(self) -> str:
        return f"<SharedCache {self.own!r}, {len(self._readable)} siblings>"

    def __len__(self) -> int:
        return len(self.own)

    def begin_as_sibling(self) -> None:
        """If nothing is known here yet, begin where the newest sibling is.

        So what it holds can be read before a server has been found.
        """
        with self._lock:
            newest = next((s for s in self._present if s.database is not None), None)
            if self.own.last_tid() == NO_TID and newest is not None:
                self.set_last_tid(newest.as_of)
                self.own.set_database(newest.database)
                self._choose()

    # -- reading -------------------------------------------------------------------------------

    def load_before(self, oid: bytes, tid: bytes) -> Revision | None:
        """Return the revision of *oid* that was current just before *tid*, or None if not held."""
        return self._held(oid, tid) or self._borrow(oid, tid)

    def _borrow(self, oid: bytes, tid: bytes) -> Revision | None:
        for sibling in self._readable:
            record = sibling.read(oid)
            if record is None:
                continue
            start = record[8:16]
            if start < tid and self._is_right(sibling, oid, start):
                return record[HEADER.size : -CHECKSUM_SIZE], start, None
        return None

    def _is_right(self, sibling: Sibling, oid: bytes, start: bytes) -> bool:
        """Whether the revision of *oid* that began at *start* is current, as far as we know."""
        with self._lock:
            # It may have been given up since its file was read.
            if sibling not in self._readable:
                return False
            as_of = min(sibling.as_of, self.own.last_tid())
            if start > as_of or not self._journal.is_unchanged(oid, as_of):
                return False
            self._borrowed += 1
            return True

    @property
    def suspects(self) -> Suspects:
        """Those current revisions of our own cache that may be out of date.

        What siblings have is known to be current by another way, or not read.
        """
        return self.own.suspects

    # -- changing ------------------------------------------------------------------------------

    def store(self, oid: bytes, start: bytes, end: bytes | None, data: bytes) -> None:
        """Keep the revision of *oid* that is valid from *start* up to before *end*."""
        self.own.store(oid, start, end, data)

    def store_many(self, records: Sequence[tuple[bytes, bytes, bytes | None, bytes]]) -> None:
        """Keep each of *records*, which are the arguments of :meth:`store`, one after the other."""
        self.own.store_many(records)

    def invalidate(self, oid: bytes, tid: bytes | None) -> None:
        """*oid* was changed by transaction *tid*: the current revision, wherever, ends there."""
        with self._lock:
            if tid is None:
                # Not known when: no snapshot that is here now is to be believed.
                self._journal.note(oid, _next(self.own.last_tid()))
            else:
                self._note(oid, tid)
            self.own.invalidate(oid, tid)

    def replace(self, oid: bytes, tid: bytes, data: bytes) -> None:
        """*oid* was changed by transaction *tid*, which made *data* of it."""
        with self._lock:
            self._note(oid, tid)
            self.own.replace(oid, tid, data)

    def _note(self, oid: bytes, tid: bytes) -> None:
        self._journal.note(oid, tid)
        self._announced = tid

    def last_tid(self) -> bytes:
        """Return the last transaction whose invalidations were applied, ``NO_TID`` if none."""
        return self.own.last_tid()

    def set_last_tid(self, tid: bytes) -> None:
        """All invalidations up to *tid* have been applied.

        :raises ValueError: *tid* is older than the present one.
        """
        with self._lock:
            # In this order: a finalizer that runs in between may load an object.
            if tid > self._journal.top:
                if tid == self._announced:
                    self._journal.top = tid
                else:
                    self._journal.begin(tid)
            self.own.set_last_tid(tid)

    @property
    def database(self) -> Database | None:
        """The database that the revisions are of, as far as is known."""
        return self.own.database

    def set_database(self, database: Database | None) -> None:
        """The cache was verified against *database*, or one that does not say which it is."""
        with self._lock:
            self.own.set_database(database)
            self._hold_down(self._present)
            self._choose()
        if database is None and not self._has_told:
            self._has_told = True
            logger.warning(
                "the client cache is not shared: the server does not say which database it has "
                "(ZEO's servers do not)"
            )

    def save(self) -> None:
        """Bring to disk what would be lost with the process; any thread."""
        self.own.save()

    def clear(self) -> None:
        """Forget everything, the last tid and the database too.

        Whatever the reason is, it may be true of the siblings as they are now.
        """
        with self._lock:
            self.own.clear()
            self._journal.begin(NO_TID)
            self._announced = NO_TID
            self._present = []
            self._readable = ()
        self._siblings.distrust()

    def close(self) -> None:
        """Release the files; may be called twice.  ``load_before`` returns None afterwards.

        It is all that a child made by ``fork`` may call: the file is its parent's too.
        """
        # Without the lock: in a child there may be nobody who would give it back.
        self._is_closed = True
        self._present = []
        self._readable = ()
        self._siblings.release()
        self.own.close()

    def statistics(self) -> CacheStatistics:
        """Return what our own cache holds and has done; any thread."""
        return self.own.statistics()._replace(borrowed=self._borrowed)

    # -- siblings ------------------------------------------------------------------------------

    def look_around(self) -> None:
        """See what the siblings have saved since; one thread at a time, now and then."""
        present = self._siblings.look()
        with self._lock:
            if self._is_closed:
                return
            self._hold_down(present)
            self._present = present
            self._choose()
            # What is saved from now on is not older than what we knew when we last looked.
            needed = [s.as_of for s in self._readable if s.as_of >= self._journal.floor]
            self._journal.prune(min(needed, default=self._looked_at))
            self._looked_at = self.own.last_tid()

    def _hold_down(self, siblings: list[Sibling]) -> None:
        for sibling in siblings:
            sibling.as_of = min(sibling.as_of, self.own.last_tid())

    def _choose(self) -> None:
        database = self.own.database
        self._readable = tuple(
            sibling
            for sibling in self._present
            if database is not None and sibling.database == database
        )

    def unknown_since(self, database: Database | None, tid: bytes) -> list[bytes]:
        """Return the transactions since which changes have to be known to read from siblings, the
        latest first.

        :param database: the one that the server has.
        :param tid: up to which this cache has been verified.
        """
        if database is None:
            return []
        with self._lock:
            known = {s.as_of for s in self._present if s.database == database}
        return sorted((since for since in known if since < tid), reverse=True)

    def learn_changes(self, since: bytes, until: bytes, oids: Collection[bytes]) -> None:
        """The transactions after *since* up to *until* changed *oids*, and nothing else.

        More than :data:`.journal.MAX_CHANGES` are not taken in.
        """
        if len(oids) <= MAX_CHANGES:
            with self._lock:
                self._journal.learn(since, until, oids)


def _next(tid: bytes) -> bytes:
    return min(int.from_bytes(tid, "big") + 1, (1 << 64) - 1).to_bytes(8, "big")

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
from collections.abc import Collection
from typing import Final

from ..protocol.hello import Database
from ..types import NO_TID
from .home import CacheHome
from .interface import Revision
from .journal import MAX_CHANGES, ChangeJournal
from .records import CHECKSUM_SIZE, HEADER
from .ring import RingCache
from .siblings import Sibling, Siblings

logger = logging.getLogger(__name__)


class SharedCache(RingCache):
    """A :class:`.RingCache` that reads from *siblings* what it does not hold.

    Threads and errors are those of :class:`.ClientCache`.

    :param size: as of :class:`.RingCache`.
    :param siblings: where the others' files may be; belongs to this cache from now on.
    :param directory: as of :class:`.RingCache`.
    :param home: of this process's own file; None for a temporary one, from which nobody reads.
    """

    def __init__(
        self,
        size: int,
        siblings: Siblings,
        *,
        directory: str | None = None,
        home: CacheHome | None = None,
    ) -> None:
        super().__init__(size, directory=directory, home=home)
        self._siblings: Final = siblings
        self._journal: Final = ChangeJournal(self.last_tid())
        self._announced: bytes = NO_TID
        self._is_closed = False
        self._has_told = False
        # Those that are there; and those of our database, which may be read.
        self._present: list[Sibling] = siblings.look()
        self._readable: tuple[Sibling, ...] = ()
        # What we knew when we last looked for siblings.
        self._looked_at = self.last_tid()
        self.borrowed = 0
        """Revisions that were read from siblings."""
        self._choose()

    def begin_as_sibling(self) -> None:
        """If nothing is known here yet, begin where the newest sibling is.

        So what it holds can be read before a server has been found.
        """
        with self._lock:
            newest = next((s for s in self._present if s.database is not None), None)
            if self._last_tid == NO_TID and newest is not None:
                self.set_last_tid(newest.as_of)
                super().set_database(newest.database)
                self._choose()

    # -- reading -------------------------------------------------------------------------------

    def load_before(self, oid: bytes, tid: bytes) -> Revision | None:
        """Return the revision of *oid* that was current just before *tid*, or None if not held."""
        return RingCache.load_before(self, oid, tid) or self._borrow(oid, tid)

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
            as_of = min(sibling.as_of, self._last_tid)
            if start > as_of or not self._journal.is_unchanged(oid, as_of):
                return False
            self.borrowed += 1
            return True

    # -- changing ------------------------------------------------------------------------------

    def invalidate(self, oid: bytes, tid: bytes | None) -> None:
        """*oid* was changed by transaction *tid*: the current revision, wherever, ends there."""
        with self._lock:
            if tid is None:
                # Not known when: no snapshot that is here now is to be believed.
                self._journal.note(oid, _next(self._last_tid))
            else:
                self._journal.note(oid, tid)
                self._announced = tid
            super().invalidate(oid, tid)

    def set_last_tid(self, tid: bytes) -> None:
        """All invalidations up to *tid* have been applied.

        :raises ValueError: *tid* is older than the present one.
        """
        with self._lock:
            super().set_last_tid(tid)
            if tid <= self._journal.top:
                return
            if tid == self._announced:
                self._journal.top = tid
            else:
                self._journal.begin(tid)

    def set_database(self, database: Database | None) -> None:
        """The cache was verified against *database*, or one that does not say which it is."""
        with self._lock:
            super().set_database(database)
            self._hold_down(self._present)
            self._choose()
        if database is None and not self._has_told:
            self._has_told = True
            logger.warning(
                "the client cache is not shared: the server does not say which database it has "
                "(ZEO's servers do not)"
            )

    def clear(self) -> None:
        """Forget everything, the last tid and the database too.

        Whatever the reason is, it may be true of the siblings as they are now.
        """
        with self._lock:
            super().clear()
            self._journal.begin(NO_TID)
            self._announced = NO_TID
            self._present = []
            self._readable = ()
        self._siblings.distrust()

    def close(self) -> None:
        """Release the files; may be called twice.  ``load_before`` returns None afterwards.

        It is all that a child made by ``fork`` may call: the file is its parent's too.
        """
        self._is_closed = True
        super().close()
        self._present = []
        self._readable = ()

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
            self._looked_at = self._last_tid

    def _hold_down(self, siblings: list[Sibling]) -> None:
        for sibling in siblings:
            sibling.as_of = min(sibling.as_of, self._last_tid)

    def _choose(self) -> None:
        database = self._database
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

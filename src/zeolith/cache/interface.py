"""What a client asks of its cache.

The cache is MVCC: for one object it may hold the current revision and earlier ones, each with the
range of transactions in which it is the answer.  It is bounded in bytes and may forget anything at
any time; it must never hold anything wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, TypeAlias

from ..protocol.hello import Database
from .suspects import Suspects

Revision: TypeAlias = tuple[bytes, bytes, bytes | None]
"""``(data, start, end)``: the record, the tid that wrote it, and the tid that replaced it, or None
while it is the current one."""


class CacheStatistics(NamedTuple):
    """A snapshot of what a cache holds and has done since it was opened.

    Of a cache that does not say, all but ``revisions`` are 0.

    :ivar revisions: revisions held, earlier ones included.
    :ivar capacity: most bytes the file takes now; 0 once the cache has given up.
    :ivar stored: revisions taken in.
    :ivar dropped: revisions swept out.
    :ivar kept: revisions that a sweep copied because they had been used.
    :ivar damaged: records that were not there when they were looked for: after a crash those that
        had been written over since the last snapshot.
    :ivar used: bytes of the file that records take, those included that were replaced and not yet
        swept out.
    :ivar borrowed: revisions that were read in the files of other processes.
    """

    revisions: int
    capacity: int
    stored: int
    dropped: int
    kept: int
    damaged: int = 0
    used: int = 0
    borrowed: int = 0


class ClientCache(Protocol):
    """A bounded cache of object revisions.

    ``load_before``, ``last_tid``, ``len()`` and ``invalidate`` without a tid may be called from any
    thread at any time.  The other methods are called by one thread at a time (the one that holds
    the reading role), except ``close``.
    Object ids and tids are eight bytes.
    """

    def load_before(self, oid: bytes, tid: bytes) -> Revision | None:
        """Return the revision of *oid* that was current just before *tid*, or None if not held."""

    def store(self, oid: bytes, start: bytes, end: bytes | None, data: bytes) -> None:
        """Keep the revision of *oid* that is valid from *start* up to before *end*.

        Storing what is held already changes nothing.  Never raises for want of room.
        """

    def store_many(self, records: Sequence[tuple[bytes, bytes, bytes | None, bytes]]) -> None:
        """Keep each of *records*, which are the arguments of :meth:`store`, one after the other."""

    def invalidate(self, oid: bytes, tid: bytes | None) -> None:
        """*oid* was changed by transaction *tid*: the current revision, if held, ends there.

        A current revision that *tid* itself wrote stays as it is.  With None (the moment of the
        change is not known) the current revision is forgotten.
        """

    def replace(self, oid: bytes, tid: bytes, data: bytes) -> None:
        """*oid* was changed by transaction *tid*, which made *data* of it and is later than all
        that the cache knows of: ``invalidate`` and ``store`` in one step."""

    @property
    def suspects(self) -> Suspects | None:
        """Those current revisions that may be out of date and are not served; None if the cache
        knows no such difference."""

    def last_tid(self) -> bytes:
        """Return the last transaction whose invalidations were applied, ``NO_TID`` if none."""

    def set_last_tid(self, tid: bytes) -> None:
        """All invalidations up to *tid* have been applied.

        :raises ValueError: *tid* is older than the present one.
        """

    @property
    def database(self) -> Database | None:
        """The database that the revisions are of, as far as is known."""

    def set_database(self, database: Database | None) -> None:
        """The cache was verified against *database*, or one that does not say which it is."""

    def save(self) -> None:
        """Bring to disk what would be lost with the process, if the cache is to outlive it.

        Any thread may call it, at any time.
        """

    def clear(self) -> None:
        """Forget everything, the last tid and the database too."""

    def close(self) -> None:
        """Release files; may be called twice.  ``load_before`` returns None afterwards."""

    def __len__(self) -> int:
        """Return the number of revisions held."""

    def statistics(self) -> CacheStatistics:
        """Return what the cache holds and has done; any thread."""

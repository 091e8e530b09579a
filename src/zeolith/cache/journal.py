"""What has changed in a range of transactions, as far as a client has been told.

Pure: it is told of changes, and says whether an object has changed since a transaction.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from ..types import NO_TID

MAX_CHANGES: Final = 100_000
"""Objects that a journal names at most, which takes about 15 MB.  Half of them, those whose last
change is longest ago, are forgotten then, and the range that is known begins later."""


class ChangeJournal:
    """All changes of the transactions after :attr:`floor` up to :attr:`top`.

    Of an object it knows when it changed last, or a later transaction: it may take what is
    unchanged for changed, never the reverse.  One thread at a time.

    :param tid: where the range begins, and ends as yet.
    """

    def __init__(self, tid: bytes) -> None:
        self.floor = self.top = tid
        self._changes: dict[bytes, bytes] = {}

    def __len__(self) -> int:
        return len(self._changes)

    def begin(self, tid: bytes) -> None:
        """What changed up to *tid* is not known: forget everything."""
        self.floor = self.top = tid
        self._changes.clear()

    def note(self, oid: bytes, tid: bytes) -> None:
        """*oid* was changed by *tid*, or by a transaction before it."""
        if tid <= self.floor:
            # Not in the range.  So what a transaction changes that alone is too much is not kept.
            return
        changes = self._changes
        if changes.get(oid, NO_TID) < tid:
            changes[oid] = tid
            if len(changes) > MAX_CHANGES:
                self._thin()

    def _thin(self) -> None:
        dates = sorted(self._changes.values())
        self.prune(dates[len(dates) // 2])

    def prune(self, tid: bytes) -> None:
        """Forget the transactions up to *tid*."""
        if tid <= self.floor:
            return
        self.floor = tid
        self.top = max(self.top, tid)
        self._changes = {oid: when for oid, when in self._changes.items() if when > tid}

    def learn(self, since: bytes, until: bytes, oids: Collection[bytes]) -> None:
        """The transactions after *since* up to *until* changed *oids*, and nothing else.

        Where something between that and what is known here is not known, the later one counts.
        """
        if until < self.floor:
            return
        if since > self.top:
            self.begin(until)
            changes = dict.fromkeys(oids, until)
        else:
            changes = dict(self._changes)
            for oid in oids:
                if until > self.top:
                    changes[oid] = max(changes.get(oid, NO_TID), until)
                else:
                    # What is not known here changed before that.
                    changes.setdefault(oid, self.floor)
        # In this order: a finalizer that runs in between may ask.
        self._changes = changes
        self.floor = min(self.floor, since)
        self.top = max(self.top, until)
        if len(changes) > MAX_CHANGES:
            self._thin()

    def is_unchanged(self, oid: bytes, since: bytes) -> bool:
        """Whether *oid* is known not to have changed after *since*, up to :attr:`top`."""
        return since >= self.floor and self._changes.get(oid, NO_TID) <= since

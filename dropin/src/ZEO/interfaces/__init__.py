"""Interfaces and events, under the names that ZEO has for them.

A package and no module: see :mod:`ZEO._beside`.
"""

from __future__ import annotations

from zope.interface import Interface

from zeolith.client.events import StaleCache

from .. import _beside

__all__ = ["IClientCache", "IServeable", "StaleCache"]

_beside.refuse()


class IClientCache(Interface):
    """A cache of one's own, given to a client storage as ``cache``; used by many threads."""

    def close():
        """Release everything."""

    def load(oid):
        """Return ``(data, tid)`` of what is current, or None if it is not held."""

    def __len__():
        """Return how many revisions are held."""

    def store(oid, start_tid, end_tid, data):
        """Take in the revision of *start_tid*; *end_tid* is None, or which transaction ended it."""

    def loadBefore(oid, tid):
        """Return ``(data, start_tid, end_tid)`` of what was current before *tid*, or None."""

    def invalidate(oid, tid):
        """What is current ends with *tid*; forget the object if *tid* is None."""

    def getLastTid():
        """Return the last transaction that is known."""

    def setLastTid(tid):
        """Take note of the last transaction that is known."""

    def clear():
        """Forget everything."""


class IServeable(Interface):
    """What a server asks of a storage beyond ZODB's interfaces."""

    def tpc_transaction():
        """Return the transaction that is being committed, or None."""

    def lastInvalidations(size):
        """Return what the last transactions changed, oldest first; a storage may go without.

        At most *size* pairs: transaction id, and a list of pairs whose first item is an object id.
        """

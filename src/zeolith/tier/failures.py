"""What can go wrong with an object store."""

from __future__ import annotations

from ZODB.POSException import StorageError


class StoreFailure(StorageError):
    """The object store has not done what was asked.  The text says why, and names no secret."""


class StoreUnavailable(StoreFailure):
    """It cannot be reached, refuses us, or answers that it has a problem."""


class ObjectMissing(StoreFailure):
    """It has no object of that key."""


class ObjectDamaged(StoreFailure):
    """An object is not what was stored."""

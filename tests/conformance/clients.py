"""Client storages of both kinds, made in one way."""

from __future__ import annotations

from typing import Any

import pytest
from tests.support.hosts import Address, Kind
from ZODB.tests.hexstorage import HexStorage

FORGIVEN: dict[Kind, list[pytest.MarkDecorator]] = {
    "zeolith": [],
    "zeo": [
        pytest.mark.filterwarnings("ignore::ResourceWarning"),
        pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
        pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
    ],
}
"""Marks of tests that use a client of that kind: which warnings are no errors.

ZEO's leaves temporary files and refused connections to the garbage collector, and its networking
thread may die of what it finds open when it ends.  That is not ours to test.
"""


def client_class(kind: Kind) -> Any:
    """Return the ``ClientStorage`` class of *kind*."""
    if kind == "zeo":
        from ZEO.ClientStorage import ClientStorage

        return ClientStorage
    import zeolith

    return zeolith.ClientStorage


class SilentDatabase:
    """Takes the place of a ``ZODB.DB`` where a suite uses a storage without one."""

    def invalidate(self, *args: Any) -> None:
        pass

    def invalidateCache(self) -> None:  # noqa: N802 - IStorageWrapper's name
        pass

    def transform_record_data(self, data: bytes) -> bytes:
        return data

    untransform_record_data = transform_record_data


class ClientHexStorage(HexStorage):
    """A hexstorage that several clients may use.

    ZODB's passes on invalidations with an argument that its own ``DB`` does not take, and has
    itself told of them before it has anybody to tell.
    """

    db: Any = SilentDatabase()

    def invalidate(self, transaction_id: bytes, oids: Any, version: str = "") -> None:
        self.db.invalidate(transaction_id, oids)


def open_client(kind: Kind, address: Address, *, is_hex: bool = False, **options: Any) -> Any:
    """Return a connected client storage.

    :param is_hex: wrap it in a hexstorage.
    :param options: keywords of ``ClientStorage``.
    """
    options.setdefault("wait_timeout", 30)
    storage = client_class(kind)(address, **options)
    wrapped = ClientHexStorage(storage) if is_hex else storage
    wrapped.registerDB(SilentDatabase())
    return wrapped

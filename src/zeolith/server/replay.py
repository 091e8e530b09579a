"""A transaction's operations put into its storage.  Everything here runs on the commit thread."""

from __future__ import annotations

import logging
import os
from typing import Any, Final, NamedTuple

from ZODB.POSException import ConflictError, StorageTransactionError

from ..protocol.messages import CheckCurrentSerial, DeleteObject, Restore, Store, Undo
from ..types import MAX_TID, NO_TID, ROOT_OID
from .access import StorageAccess
from .blobsync import sync_blobs
from .transactions import Transaction, remove_file

logger = logging.getLogger(__name__)

_MAX_LOOKS: Final = 1000
"""Revisions of the root object looked at to find out whether a new client created the first."""


class Vote(NamedTuple):
    """What a vote brought.

    :ivar resolved: objects whose new state is not what the client sent.
    :ivar conflicts: conflicts that the client is to resolve, as it is told of them; if there are
        any, the storage has forgotten the transaction.
    """

    resolved: list[bytes]
    conflicts: list[dict[str, Any]]


class Replay:
    """One attempt to bring a transaction to the point where the storage can commit it.

    :param access: the storage.
    :param transaction: nobody else touches it meanwhile.
    :param last_tid: the last transaction of the storage.
    :param collect_conflicts: whether conflicts are left to the client.
    """

    def __init__(
        self,
        access: StorageAccess,
        transaction: Transaction,
        last_tid: bytes,
        collect_conflicts: bool,
    ) -> None:
        self._access = access
        self._storage = access.storage
        self._transaction = transaction
        self._meta = transaction.meta
        self._last_tid = last_tid
        self._collect = collect_conflicts
        self._changed: dict[bytes, None] = {}
        self._resolved: list[bytes] = []
        self._conflicts: dict[bytes, dict[str, Any]] = {}

    def run(self) -> Vote:
        """Begin, replay, vote; afterwards the data of blobs is on disk (R4).

        :raises Exception: whatever the storage raises; it has forgotten the transaction then.
        """
        try:
            with self._access.resolving():
                self._begin()
                self._replay()
                if not self._conflicts:
                    self._store_blobs()
                if not self._conflicts:
                    self._vote()
        except BaseException:
            abort(self._access, self._transaction)
            raise
        if self._conflicts:
            abort(self._access, self._transaction)
            return Vote([], list(self._conflicts.values()))
        self._transaction.changed = tuple(self._changed)
        return Vote(self._resolved, [])

    def _begin(self) -> None:
        tid, status = self._transaction.tid, self._transaction.status
        if tid is None and status == " ":
            self._storage.tpc_begin(self._meta)
            return
        if tid is not None and tid <= self._last_tid:
            # Clients have been told of a later one: their caches could not take it in.
            raise StorageTransactionError(
                f"transaction {tid.hex()} cannot follow {self._last_tid.hex()}, "
                "which is the last of the storage"
            )
        # Not every storage that takes a tid takes a status as well.
        arguments = (tid,) if status == " " else (tid, status)
        self._storage.tpc_begin(self._meta, *arguments)

    def _replay(self) -> None:
        replaced = self._transaction.replaced
        for number, operation in enumerate(self._transaction.log):
            if isinstance(operation, Store):
                if number >= replaced.get(operation.oid, 0):
                    self._store(operation.oid, operation.serial, operation.data, None)
            elif isinstance(operation, CheckCurrentSerial):
                check = self._access.method("checkCurrentSerialInTransaction")
                check(operation.oid, operation.serial, self._meta)
            elif isinstance(operation, DeleteObject):
                delete = self._access.method("deleteObject")
                delete(operation.oid, operation.serial, self._meta)
                self._changed[operation.oid] = None
            elif isinstance(operation, Restore):
                self._restore(operation)
            else:
                self._undo(operation)

    def _store(self, oid: bytes, serial: bytes | None, data: bytes, path: str | None) -> None:
        try:
            if path is None:
                self._storage.store(oid, serial, data, "", self._meta)
            else:
                if self._access.store_blob(oid, serial, data, path, self._meta):
                    self._transaction.moved.add(path)
        except ConflictError as error:
            if path is None and self._is_same_root(oid, serial, data):
                # The client is told that its object is not what it sent: it takes the other's.
                self._resolved.append(oid)
                return
            if not (self._collect and error.serials):
                raise
            self._conflicts[oid] = {"oid": oid, "serials": error.serials, "data": data}
        else:
            self._changed[oid] = None

    def _is_same_root(self, oid: bytes, serial: bytes | None, data: bytes) -> bool:
        """Whether a client created the root object while another one created the very same.

        Every application that finds an empty database does so at its start, and starting several
        of them at once is no conflict; nor is it if the first has written to it already.
        """
        if oid != ROOT_OID or serial not in (None, NO_TID):
            return False
        revision = self._storage.loadBefore(oid, MAX_TID)
        for _ in range(_MAX_LOOKS):
            if revision is None or revision[0] == data:
                break
            revision = self._storage.loadBefore(oid, revision[1])
        return revision is not None and revision[0] == data

    def _restore(self, operation: Restore) -> None:
        oid, serial, data, previous, _ = operation
        self._access.method("restore")(oid, serial, data, "", previous, self._meta)
        self._changed[oid] = None

    def _undo(self, operation: Undo) -> None:
        with self._access.not_fetching():
            undone = self._access.method("undo")(operation.trans_id, self._meta)
        for voted in self._access.voted:
            voted.note_made()
        if undone is None:
            return  # a storage that names the objects in its vote
        _, oids = undone
        self._changed.update(dict.fromkeys(oids))
        # The client does not know what the undo made of them.
        self._resolved.extend(oids)

    def _store_blobs(self) -> None:
        oids = [blob.oid for blob in self._transaction.blobs]
        if oids:
            for voted in self._access.voted:
                voted.note_stored(oids)
        for number, blob in enumerate(self._transaction.blobs):
            path = blob.path
            if self._collect:
                # The vote may still find a conflict.  Aborting then removes what the storage has
                # taken over, and the next attempt needs the file again.
                path = f"{path}.{self._transaction.rounds}-{number}"
                os.link(blob.path, path)
            try:
                self._store(blob.oid, blob.serial, blob.data, path)
            finally:
                if path != blob.path:
                    remove_file(path)

    def _sent(self, oid: bytes | None) -> bytes | None:
        """Return what the client wants to store as *oid*, or None if it does not."""
        found = None
        for operation in self._transaction.log:
            if isinstance(operation, Store) and operation.oid == oid:
                found = operation.data
        return found

    def _vote(self) -> None:
        try:
            resolved = self._storage.tpc_vote(self._meta)
        except ConflictError as error:
            # Errors do not always say what was to be stored; the client wants it back.
            data = self._sent(error.oid)
            if not (self._collect and error.serials) or data is None:
                raise
            self._conflicts[error.oid] = {"oid": error.oid, "serials": error.serials, "data": data}
            return
        if resolved:
            self._resolved.extend(resolved)
            self._changed.update(dict.fromkeys(resolved))
        # Now rather than when the client finishes: a failure can still be reported, and nobody
        # has to wait for the disk while loads are held back.
        if self._access.has_blobs:
            files = self._access.dirty_blobs()
            sync_blobs(files, self._transaction.flushed)
            if self._access.tier is not None:
                self._transaction.files = [path for path, _ in files]


def abort(access: StorageAccess, transaction: Transaction) -> None:
    """Have the storage forget *transaction*; a failure is logged, because nobody can help it."""
    try:
        access.abort(transaction.meta)
    except Exception:
        logger.critical(
            "storage %r could not abort a transaction; it may refuse further commits, "
            "restart the server if it does",
            access.name,
            exc_info=True,
        )

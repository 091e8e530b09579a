"""Committing: each transaction of a client storage on one connection, from begin to end.

A ZEO server has one transaction of a client in progress at a time, so the others wait for theirs in
``tpc_begin``.  In Zeolith's own protocol there may be several: each says what it stores and uploads
its blobs while others do, and they meet first in the server's queue for the commit lock, into which
the vote puts them.  Locks that a thread waits for while it has others are taken in the order of the
steps of a commit, here as there; who commits to several databases takes the same step in all of
them, in an order that all threads share, before the next one.  So there is no circle of waiting.

Operations are notices, sent in batches; the server says at the vote what became of them.  A
transaction is bound to the channel it was begun on: when that breaks, every further step fails at
once, whatever other connection there is by then.  Only one that has uploaded blobs, or is about to,
is said again on another connection until its vote has been answered: see :mod:`.journal`.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from itertools import count
from typing import Any, TypeVar

from ZODB.Connection import TransactionMetaData
from ZODB.POSException import (
    ConflictError,
    ReadOnlyError,
    StorageTransactionError,
    Unsupported,
)

from ..cache.interface import ClientCache
from ..errors import ClientDisconnected, ClientStorageError, MessageTooLarge, ObjectTooLarge
from ..protocol.messages import (
    CheckCurrentSerial,
    Committed,
    DeleteObject,
    Request,
    Restore,
    Store,
    StoreBlobShared,
    TpcAbort,
    TpcBegin,
    TpcFinish,
    Undo,
    Vote,
)
from ..types import NO_TID
from .arguments import check_bytes, check_oid, check_record, check_tid, check_tid_or_none
from .blobs import BlobDirectory
from .channel import Channel
from .iterators import Iterators
from .journal import MAX_RESUMPTIONS, RESUMPTION_TIME, Journal, Resumable, SentBlob
from .link import Link
from .outcome import LostFinish, leaves_doubt
from .transaction import Transaction
from .transfers import RESUMABLE_SIZE, SHORT, send_blob
from .turn import Turns

logger = logging.getLogger(__name__)

MAX_VOTES = 9
"""Rounds of resolving conflicts here before giving up: each found the object changed again."""

_T = TypeVar("_T")

Resolve = Callable[[bytes, bytes, bytes, bytes], bytes]
"""``(oid, committed serial, serial read, our record)`` → the record that holds both changes.
Raises ConflictError if there is none."""


class Committer:
    """Commits the transactions of one client storage.

    ``begin`` may be called by any thread and waits for a turn; the other methods by whoever has
    begun, one thread at a time for each transaction.  With one that has not begun they raise
    StorageTransactionError, and on a read-only connection ReadOnlyError.  Arguments that are no ids
    or records are refused with TypeError or ValueError, records that the server does not take with
    ObjectTooLarge; nothing is sent then, and other threads' use of the connection is not disturbed.

    :param blobs: None if there are none.
    :param resolve: resolves conflicts that the server leaves to us.
    """

    def __init__(
        self,
        link: Link,
        cache: ClientCache,
        blobs: BlobDirectory | None,
        iterators: Iterators,
        resolve: Resolve,
    ) -> None:
        self._link = link
        self._cache = cache
        self._blobs = blobs
        self._iterators = iterators
        self._resolve_conflict = resolve
        self._turns: Turns[Transaction] = Turns(lambda: link.transactions)
        # By the identity of ZODB's object for it.
        self._begun: dict[int, Transaction] = {}
        self._numbers = count(1)
        # With the number of a transaction it makes an id that nobody else's has, more quickly than
        # a random one for each.  A child made by fork has a committer of its own.
        self._uid_prefix = os.urandom(8)

    @property
    def txn(self) -> Any:
        """ZODB's object for the transaction being committed, of several the one that has begun
        last; None if there is none."""
        transactions = self._turns.holders
        return transactions[-1].txn if transactions else None

    def begin(self, txn: Any, tid: bytes | None, status: str) -> None:
        """Begin *txn*, as soon as the server takes another one beside those in progress.

        :param tid: the id it shall have; for copies of other databases.
        :raises ClientDisconnected: no server is connected at this moment.
        """
        if self._link.is_read_only:
            raise ReadOnlyError
        if id(txn) in self._begun:
            raise StorageTransactionError("Duplicate tpc_begin calls for same transaction")
        transaction = Transaction(txn, next(self._numbers), self._kept)
        channel = None
        try:
            transaction.channel = channel = self._take_turn(transaction)
            self._begun[id(txn)] = transaction
            # A ZEO server takes the value only; the bytes arrive as they are.
            extension = txn.extension
            if channel.speaks_own:
                extension = _extension_bytes(txn)
                transaction.uid = self._uid_prefix + transaction.number.to_bytes(8, "big")
                if self._blobs is not None and not self._blobs.shared:
                    transaction.journal = Journal(tid, status, self._journaled)
            number, uid = transaction.number, transaction.uid
            channel.post(TpcBegin(number, txn.user, txn.description, extension, tid, status, uid))
        except BaseException:
            try:
                if channel is not None:
                    # Interrupted, perhaps after that: the next one must not be its second.
                    with suppress(ClientStorageError):
                        channel.post(TpcAbort(transaction.number))
            finally:
                self._forget(transaction)
            raise

    def _kept(self) -> int:
        return sum(each.kept for each in list(self._begun.values()))

    def _journaled(self) -> int:
        journals = (each.journal for each in list(self._begun.values()))
        return sum(journal.size for journal in journals if journal is not None)

    def _forget(self, transaction: Transaction) -> None:
        self._turns.give_up(transaction)
        # After that: if an interrupt comes in between, to abort the transaction is still possible.
        self._begun.pop(id(transaction.txn), None)

    def _take_turn(self, transaction: Transaction) -> Channel:
        while True:
            number = self._turns.take(transaction)
            channel = self._link.channel()
            if not number or number < channel.transactions:
                return channel
            # Another server meanwhile, which takes fewer.
            self._turns.give_up(transaction)

    def _present(self, txn: Any, step: str) -> Transaction:
        if self._link.is_read_only:
            raise ReadOnlyError
        transaction = self._begun.get(id(txn))
        if transaction is None:
            raise StorageTransactionError(f"{step}: not a transaction being committed", txn)
        return transaction

    def store(self, oid: bytes, serial: bytes | None, data: bytes, txn: Any) -> None:
        """Store a record.

        :param serial: of the revision it replaces; None or eight zeros if it is new.
        """
        transaction = self._present(txn, "store")
        oid, serial, data = check_oid(oid), check_tid_or_none(serial), check_record(data)
        self._post(transaction, oid, Store(oid, serial, data, transaction.number))
        transaction.stored(oid, data)

    def store_blob(
        self, oid: bytes, serial: bytes | None, data: bytes, filename: str, txn: Any
    ) -> None:
        """Store a record with a blob, whose file becomes ours.

        :param serial: as for :meth:`store`.
        """
        transaction = self._present(txn, "storeBlob")
        blobs = self._blobs
        if blobs is None:
            raise Unsupported("no blob directory is configured: give blob_dir")
        oid, serial, data = check_oid(oid), check_tid_or_none(serial), check_record(data)
        is_sent = transaction.channel.speaks_own and not blobs.shared
        taken = blobs.prepare_upload(oid, filename, serial, SHORT if is_sent else 0)
        # From here on the file is ours, whatever becomes of the transaction.
        transaction.blobs.append((oid, taken))
        contents, taken.data = taken.data, None
        if transaction.channel.speaks_own:
            # The record comes with the blob.
            transaction.stored(oid, data)
        else:
            # As ZEO's clients do it.
            self.store(oid, serial, data, txn)
        number = transaction.number
        if blobs.shared:
            name = os.path.basename(taken.path)
            self._post(transaction, oid, StoreBlobShared(oid, serial, data, name, number))
            return
        journal = transaction.journal
        upload = None
        if journal is not None and journal.is_complete and taken.size > RESUMABLE_SIZE:
            upload = Resumable(journal)
        blob = SentBlob(oid, serial, data, taken.path, upload)
        self._keep_on(transaction, partial(self._send_blob, transaction, blob, contents))
        if journal is not None:
            journal.note(blob)

    def restore(
        self, oid: bytes, serial: bytes, data: bytes | None, prev_txn: bytes | None, txn: Any
    ) -> None:
        """Write a record as it is in another database.

        :param serial: the transaction that writes it there.
        :param data: None if that transaction undid the creation of the object.
        :param prev_txn: the transaction that wrote the same data before, None if not known.
        """
        transaction = self._present(txn, "restore")
        oid, serial, prev_txn = check_oid(oid), check_tid(serial), check_tid_or_none(prev_txn)
        data = None if data is None else check_record(data)
        self._post(transaction, oid, Restore(oid, serial, data, prev_txn, transaction.number))
        transaction.stored(oid, None)

    def delete(self, oid: bytes, serial: bytes, txn: Any) -> None:
        """Delete an object."""
        transaction = self._present(txn, "deleteObject")
        oid, serial = check_oid(oid), check_tid(serial)
        self._post(transaction, oid, DeleteObject(oid, serial, transaction.number))
        transaction.stored(oid, None)

    def check_current(self, oid: bytes, serial: bytes, txn: Any) -> None:
        """Have the vote fail if *oid* was changed after *serial*."""
        transaction = self._present(txn, "checkCurrentSerialInTransaction")
        oid, serial = check_oid(oid), check_tid(serial)
        self._post(transaction, oid, CheckCurrentSerial(oid, serial, transaction.number))

    def undo(self, trans_id: bytes, txn: Any) -> None:
        """Undo another transaction."""
        transaction = self._present(txn, "undo")
        trans_id = check_bytes(trans_id, "the id of an undoable transaction")
        self._post(transaction, NO_TID, Undo(trans_id, transaction.number))

    def vote(self, txn: Any) -> list[bytes] | None:
        """Have the server accept the transaction.

        :returns: objects whose records are not as they were stored, None if there are none.
        :raises ConflictError: another transaction was first.
        :raises ClientDisconnected: the connection was lost.
        """
        transaction = self._present(txn, "tpc_vote")
        request = Vote(transaction.number)
        conflicts: list[dict[str, Any]] = []
        try:
            for _ in range(MAX_VOTES):
                answers = (
                    self._keep_on(transaction, lambda: transaction.channel.call(request)) or ()
                )
                conflicts = [answer for answer in answers if isinstance(answer, dict)]
                for answer in answers:
                    if not isinstance(answer, dict):
                        transaction.resolved_there(answer)
                if not conflicts:
                    return list(transaction.resolved) or None
                for conflict in conflicts:
                    self._resolve(conflict, transaction)
            raise ConflictError("changed again during each vote", oid=conflicts[0]["oid"])
        except ConflictError as error:
            oid = getattr(error, "oid", None)
            if oid is not None:
                # If what we hold caused it, holding on to it would cause it for ever.
                self._cache.invalidate(oid, None)
            raise
        finally:
            if conflicts and transaction.channel.transactions > 1:
                # The server keeps our place in its queue until it hears what becomes of them.
                self._give_up(transaction)

    def _post(self, transaction: Transaction, oid: bytes, request: Request) -> None:
        """Post a step of *transaction*, which has a record of *oid* or none.

        :raises ObjectTooLarge: the server does not take that much.
        :raises ClientDisconnected: the connection was lost, and the transaction with it.
        """
        self._keep_on(transaction, lambda: _post(transaction, oid, request))
        if transaction.journal is not None:
            transaction.journal.note(request)

    def _send_blob(
        self, transaction: Transaction, blob: SentBlob, contents: bytes | None = None
    ) -> None:
        blobs = self._blobs
        assert blobs is not None  # or it would not have come so far
        oid, serial, data, path, upload = blob
        channel, number = transaction.channel, transaction.number
        try:
            send_blob(channel, blobs, path, oid, serial, data, number, upload, contents)
        except MessageTooLarge as error:
            raise ObjectTooLarge(oid, error.size, error.limit) from None

    # -- going on after a break --------------------------------------------------------------------

    def _keep_on(self, transaction: Transaction, step: Callable[[], _T]) -> _T:
        """Return what *step* does; if the connection breaks, go on with *transaction* on another
        one, if that can be, and do it there.

        :raises ClientDisconnected: it cannot, or breaks again and again.
        """
        try:
            while True:
                try:
                    return step()
                except ClientDisconnected as error:
                    # What a server says of its own storage is no break.
                    if not transaction.channel.is_broken:
                        raise
                    self._resume(transaction, error)
        except BaseException:
            # Said again, it would lack this step.
            if transaction.journal is not None:
                transaction.journal.end()
            raise

    def _resume(self, transaction: Transaction, cause: ClientDisconnected) -> None:
        """Say all of *transaction* again on another connection.

        :raises ClientDisconnected: there is none, or it is to another server, or to this one after
            another start.
        """
        journal = transaction.journal
        while True:
            # Without a blob it is done again as quickly as it is gone on with.
            if journal is None or not journal.is_complete or not transaction.blobs:
                raise cause
            journal.resumptions += 1
            lost = transaction.channel
            if journal.resumptions > MAX_RESUMPTIONS or lost.database is None:
                raise cause
            deadline = time.monotonic() + min(RESUMPTION_TIME, self._link.options.wait_timeout)
            if self._link.is_closed or not self._link.wait_lost(lost, deadline):
                raise cause
            try:
                channel = self._link.wait_until(deadline)
            except ClientDisconnected:
                raise cause from None
            # A server that was started anew gives ids of our new objects to others, and to the rest
            # of this transaction; and it may have lost what that was made from (R6).
            if not channel.life or channel.life != lost.life or self._link.is_read_only:
                raise cause
            logger.info("%s: goes on with a transaction after: %s", self._link.name, cause)
            try:
                self._say_again(transaction, channel, journal)
            except ClientDisconnected as error:
                if not channel.is_broken:
                    raise
                cause = error
            else:
                return

    def _say_again(self, transaction: Transaction, channel: Channel, journal: Journal) -> None:
        txn, number = transaction.txn, transaction.number
        transaction.channel = channel
        transaction.unresolved()
        # A server may know the other one as that of a transaction which was given up.
        uid = self._uid_prefix + next(self._numbers).to_bytes(8, "big")
        transaction.uid = uid
        begin = TpcBegin(
            number,
            txn.user,
            txn.description,
            _extension_bytes(txn),
            journal.tid,
            journal.status,
            uid,
        )
        try:
            channel.post(begin)
            for entry in journal.entries:
                if isinstance(entry, SentBlob):
                    self._send_blob(transaction, entry)
                else:
                    channel.post(entry)
        except BaseException:
            # Nobody may vote on a part of it.
            with suppress(ClientStorageError):
                channel.post(TpcAbort(number))
            raise

    def _resolve(self, conflict: dict[str, Any], transaction: Transaction) -> None:
        oid = conflict["oid"]
        committed, read = conflict["serials"]
        data = self._resolve_conflict(oid, committed, read, conflict["data"])
        data = check_record(data)
        # Said again on another connection, the first record would meet the same conflict.
        _post(transaction, oid, Store(oid, committed, data, transaction.number))
        transaction.resolved_here(oid, data)

    def finish(self, txn: Any, visible: Callable[[bytes], Any]) -> bytes:
        """Commit; return the transaction's id.

        :param visible: called with the id when the transaction becomes visible here.
        :raises ClientDisconnected: the connection had been lost before anything was sent.
        :raises NotCommitted: the connection was lost, or the server's storage failed; the
            transaction is not committed.
        :raises OutcomeUnknown: the same, and whether the transaction was committed is not known.
        """
        transaction = self._present(txn, "tpc_finish")
        channel, since = transaction.channel, self._cache.last_tid()
        is_answered = False
        tid: bytes = NO_TID

        def committed(answer: bytes | Committed) -> None:
            # Run by whoever reads the answer, before any later message (rules R2, R3).
            nonlocal is_answered, tid
            is_answered = True
            if isinstance(answer, Committed):
                tid, length, size = answer
                self._link.owner.resized(length, size)
            else:
                tid = answer
            transaction.update(self._cache, tid)
            self._link.committed(tid, visible)

        def committed_before(tid: bytes) -> None:
            # The cache and the database have been told by now, as of anybody's transaction.
            transaction.forget(self._cache)
            self._link.committed(tid, visible)

        try:
            try:
                channel.call(TpcFinish(transaction.number), committed)
            except Exception as error:
                if is_answered or not leaves_doubt(error, transaction.uid is not None):
                    raise
                lost = LostFinish(
                    self._link, channel, transaction.uid, since, committed_before, error
                )
                tid = lost.learn(self._link.options.wait_timeout)
            self._keep_blobs(transaction, tid)
        except BaseException:
            if not is_answered and channel.transactions > 1:
                self._give_up(transaction)
            raise
        finally:
            self._end(transaction)
        return tid

    def _keep_blobs(self, transaction: Transaction, tid: bytes) -> None:
        blobs = self._blobs
        if blobs is None:
            return
        for oid, taken in transaction.take_blobs():
            try:
                blobs.committed(oid, tid, taken)
            except (OSError, ClientStorageError):
                # The transaction is committed and the server has the blob; it will be fetched
                # when it is needed.
                logger.warning("blob of %s not kept in %s", oid.hex(), blobs.path, exc_info=True)
                blobs.discard(taken.path)

    def abort(self, txn: Any) -> None:
        """Abort *txn* if it is being committed; never waits for a server that has gone."""
        transaction = self._begun.get(id(txn))
        if transaction is None:
            return
        try:
            transaction.channel.call(TpcAbort(transaction.number))
        except ClientDisconnected as error:
            # The server aborts what was not finished when a connection ends.
            logger.debug("aborted without a server: %s", error)
        except BaseException:
            self._give_up(transaction)
            raise
        finally:
            self._end(transaction)

    def _give_up(self, transaction: Transaction) -> None:
        """Have the server abort *transaction* unless it has ended: an interrupt may have come
        before its last step was sent, and it would keep the commit lock while others go on."""
        # Without a connection there is none.
        with suppress(ClientStorageError):
            transaction.channel.post(TpcAbort(transaction.number))
            transaction.channel.flush()

    def _end(self, transaction: Transaction) -> None:
        try:
            for _, taken in transaction.take_blobs():
                if self._blobs is not None:
                    self._blobs.discard(taken.path)
            self._iterators.give_back(transaction.channel)
        except ClientDisconnected:
            logger.debug("iterators ended with the connection")
        finally:
            # Whatever went wrong here, others must be able to commit.
            self._forget(transaction)


def _extension_bytes(txn: Any) -> bytes:
    """Return the extension data of *txn* as storages keep it."""
    found: bytes | None = getattr(txn, "extension_bytes", None)
    if found is None:
        # Not one of ZODB's classes; they know how it is written.
        found = TransactionMetaData(extension=txn.extension).extension_bytes
    return found


def _post(transaction: Transaction, oid: bytes, request: Request) -> None:
    """Post *request*, which carries a record of *oid*.

    :raises ObjectTooLarge: the server does not take that much.
    """
    try:
        transaction.channel.post(request)
    except MessageTooLarge as error:
        raise ObjectTooLarge(oid, error.size, error.limit) from None

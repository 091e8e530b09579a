"""Requests that carry blobs."""

from __future__ import annotations

import os
from functools import partial
from typing import Final

from ZODB.POSException import TransactionTooLargeError

from ..errors import IllegalMessage
from ..protocol import messages as m
from ..protocol.streamrequests import AttachBlob
from . import flushing
from .access import StorageAccess
from .committing import check_writable, collecting_transaction
from .held import Held
from .peerlog import peer_logger
from .session import NOTICE, Session
from .tally import Limit
from .transactions import Transaction, UploadedBlob
from .upload import Upload, blob_too_large
from .workers import JOB_MEMORY, Job

logger = peer_logger(__name__)

MAX_BLOB_RECORDS: Final = 64 * 1024 * 1024
"""Bytes, for all transactions of a client together.  Records of blobs stay in memory until the vote
(R8).  They say little more than that they are blobs, so this is enough for a hundred thousand."""


def store_blob_start(session: Session, msgid: m.MsgId, request: m.StoreBlobStart) -> None:
    # Here, not only with the transaction, which may never come: who only reads must not be able to
    # fill the disk.
    check_writable(session)
    if session.upload is not None:
        raise IllegalMessage("a blob is on its way already")
    upload = session.upload = Upload()
    access = session.service.access

    def job() -> None:
        upload.start(access.temporary_directory())

    _submit(session, upload, job, 0)
    session.reply(msgid, None)


def store_blob_chunk(session: Session, msgid: m.MsgId, request: m.StoreBlobChunk) -> None:
    upload = _current(session)
    size, lobby = len(request.chunk), session.lobby
    if upload.takes(size, lobby.options.max_blob_size, lobby.tally):
        _submit(session, upload, partial(upload.write, request.chunk), size + JOB_MEMORY)
    session.reply(msgid, None)


def store_blob_end(session: Session, msgid: m.MsgId, request: m.StoreBlobEnd) -> None:
    upload = _current(session)
    session.upload = None
    add_upload(session, msgid, upload, request)


def add_upload(
    session: Session, msgid: m.MsgId, upload: Upload, request: m.StoreBlobEnd | AttachBlob
) -> None:
    """Make a blob that has arrived part of the transaction that *request* names."""
    assert session.uploads is not None
    try:
        transaction = collecting_transaction(session, request.txn)
        _check(session, msgid, transaction, request.oid)
    except Exception:
        _discard(session, upload)
        raise
    session.keep(transaction, upload)
    session.stats.stores += 1
    checksum = request.checksum if isinstance(request, AttachBlob) else None
    transaction.wait()
    finish = partial(_finish, session.service.access, upload, upload.held, request.oid, checksum)
    size = len(request.data) + JOB_MEMORY
    if upload.held is not None:
        size += upload.size + upload.held.overhead
    upload.held = None
    session.uploads.submit(finish, partial(_uploaded, session, transaction, upload, request), size)
    # Right behind it, not when it has ended: others may be on their way to the thread by then.
    flushing.add(session, transaction, upload)
    session.check_uploads()
    session.reply(msgid, None)


def _finish(
    access: StorageAccess, upload: Upload, held: Held | None, oid: bytes, checksum: bytes | None
) -> str:
    """Runs on a worker thread."""
    if held is None:
        path = upload.finish(oid, checksum)
    elif upload.error is None:
        path = upload.place(access.temporary_directory(), held.parts, oid, checksum)
    else:
        return ""  # it is too long, or not as long as it should be
    # Now, so that nobody waits for that while the commit lock is held.
    access.make_blob_directories((oid,))
    return path


def _check(session: Session, msgid: m.MsgId, transaction: Transaction, oid: bytes) -> None:
    try:
        session.service.access.check_oid(oid)
    except ValueError as error:
        if msgid is not NOTICE:
            raise
        transaction.fail(error)


def _current(session: Session) -> Upload:
    if session.upload is None:
        raise IllegalMessage("no blob is on its way")
    return session.upload


def _submit(session: Session, upload: Upload, job: Job, cost: int) -> None:
    def done(result: None, error: Exception | None) -> None:
        if error is not None and upload.error is None:
            upload.error = error
        session.check_uploads()

    assert session.uploads is not None
    session.uploads.submit(job, done, cost)
    session.check_uploads()


def _uploaded(
    session: Session,
    transaction: Transaction,
    upload: Upload,
    request: m.StoreBlobEnd | AttachBlob,
    path: str | None,
    error: Exception | None,
) -> None:
    session.check_uploads()
    ticket = upload.ticket
    if ticket is not None and ticket.session is not session:
        # The connection was cut off, and the client may go on with it on another one.  Without it
        # this transaction must not come to the lock, so its vote goes on waiting.
        return
    error = upload.error or error
    is_added = False
    if error is None and path is not None and session.has(transaction):
        blob = UploadedBlob(request.oid, request.serial, request.data, path)
        try:
            _add(session, transaction, blob)
            is_added = True
            session.stats.blobs.has_received(upload.size)
        except TransactionTooLargeError as excess:
            error = excess
    if error is not None:
        logger.error("(%s) a blob could not be received: %s", session.name, error)
        transaction.fail(error)
    if not is_added:
        _discard(session, upload)
    transaction.go_on()


def _discard(session: Session, upload: Upload) -> None:
    session.service.parking.forget(upload)
    assert session.uploads is not None
    session.uploads.submit(upload.discard, partial(_discarded, session.name))
    session.check_uploads()  # what was held of it is not any more


def _add(session: Session, transaction: Transaction, blob: UploadedBlob) -> None:
    """Make *blob* part of *transaction*, and have it in the object store, if there is one.

    :raises TransactionTooLargeError: the transactions of the client have too many blobs; this one
        is left to the caller.
    """
    size = blob.memory + sum(found.blob_records for found in session.transactions.values())
    if size > MAX_BLOB_RECORDS:
        raise TransactionTooLargeError(
            f"the records of a client's blobs take more than {MAX_BLOB_RECORDS} bytes"
        )
    transaction.add_blob(blob)
    cold = session.service.cold
    if cold is not None:
        cold.store(transaction, blob, session.name)


def _discarded(name: str, result: None, error: Exception | None) -> None:
    if error is not None:
        logger.error("(%s) a temporary blob file could not be removed: %s", name, error)


def store_blob_shared(session: Session, msgid: m.MsgId, request: m.StoreBlobShared) -> None:
    # Also where a transaction is there that is to fail: its end removes the file.
    check_writable(session)
    transaction = collecting_transaction(session, request.txn)
    _check(session, msgid, transaction, request.oid)
    oid, serial, data, filename, _ = request
    session.stats.stores += 1
    access = session.service.access

    lobby = session.lobby
    limit = lobby.options.max_blob_size

    def find() -> str:
        path = access.shared_blob_path(oid, filename)
        if os.stat(path).st_size > limit:
            lobby.tally.hit(Limit.BLOB_SIZE)
            raise blob_too_large(limit)
        return path

    def found(path: str | None, error: Exception | None) -> None:
        session.check_uploads()
        if path is not None and session.has(transaction):
            try:
                _add(session, transaction, UploadedBlob(oid, serial, data, path))
            except TransactionTooLargeError as excess:
                error = excess
        if error is not None:
            logger.error("(%s) a shared blob is refused: %s", session.name, error)
            transaction.fail(error)
        transaction.go_on()

    assert session.uploads is not None
    transaction.wait()
    session.uploads.submit(find, found, len(data))
    session.check_uploads()
    session.reply(msgid, None)


def send_blob(session: Session, msgid: m.MsgId, request: m.SendBlob) -> None:
    session.began()
    session.blob_sender.send(msgid, request)

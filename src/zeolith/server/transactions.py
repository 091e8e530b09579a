"""What a session knows of the transaction it is making."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from persistent.TimeStamp import TimeStamp
from ZODB.Connection import TransactionMetaData

from ..errors import UndecodableMessage
from ..protocol import pickles
from ..protocol.limits import Limits
from ..protocol.messages import Restore, TpcBegin, Undo
from ..protocol.values import is_plain, to_plain
from .access import StorageAccess
from .blobsync import Flushed
from .log import CommitLog, Operation

if TYPE_CHECKING:
    from ..tier.objects import StoredObject
    from .upload import Upload

logger = logging.getLogger(__name__)


class Stage(Enum):
    """How far a transaction has come, as its client sees it."""

    COLLECTING = "collecting"
    """Operations arrive."""

    VOTING = "voting"
    """The client waits for the answer to its vote."""

    VOTED = "voted"
    """The client has its answer and is to finish or abort."""

    FINISHING = "finishing"
    """The client waits for the answer to its ``tpc_finish``."""

    OVER = "over"
    """Finished, aborted or failed."""


class UploadedBlob(NamedTuple):
    """A blob whose file is on the server already.

    :ivar path: the file, which the storage will take over.
    """

    oid: bytes
    serial: bytes | None
    data: bytes
    path: str

    @property
    def memory(self) -> int:
        """Bytes that it takes in memory."""
        return len(self.data) + _BLOB_OVERHEAD


_BLOB_OVERHEAD: Final = 600
"""Bytes of an uploaded blob in memory besides its record: path, ids, state of the file, and the
tuples of them."""


class Transaction:
    """A transaction in progress.

    Belongs to the event loop, except while a job on the commit thread has it.

    :ivar txn_id: the client's id of it.
    :ivar meta: what the storage gets to see; its identity is the storage's handle.
    :ivar tid: the transaction id to be used, if the client copies transactions.
    :ivar status: its status, likewise.
    :ivar uid: by which its client may ask what became of it; None if the client gave none.
    :ivar log: the operations.
    :ivar blobs: uploaded blobs.
    :ivar blob_records: bytes that they take in memory.
    :ivar unflushed, flushing: files of them that are open: those that wait to be brought to disk,
        and those that are on their way to it.
    :ivar flushed: files of them as they were brought to disk.
    :ivar moved: paths of them where no file is any more: the storage has it.
    :ivar kept: those of them that their client could go on with on another connection.
    :ivar objects: by object id: what an object store has of them, and how many blobs had arrived
        when that one had.
    :ivar files: where there is an object store: the files of all blobs that the transaction has
        written, those that an undo has made too; known after the vote.
    :ivar replaced: for objects whose conflict the client resolved: the number of the operation
        that counts; earlier ones are skipped.
    :ivar error: what went wrong in an operation that has no answer; the vote will say it.
    :ivar stage: see :class:`Stage`.
    :ivar changed: the objects changed, known after the vote.
    :ivar began: when its session began it, in seconds of the loop's clock.
    """

    __slots__ = (
        "_resume",
        "_waits",
        "began",
        "blob_records",
        "blobs",
        "changed",
        "error",
        "files",
        "flushed",
        "flushing",
        "kept",
        "log",
        "meta",
        "moved",
        "objects",
        "replaced",
        "rounds",
        "stage",
        "status",
        "tid",
        "txn_id",
        "uid",
        "unflushed",
    )

    def __init__(self, txn_id: int, meta: Any, commit_memory: int) -> None:
        self.txn_id = txn_id
        self.meta = meta
        self.tid: bytes | None = None
        self.status = " "
        self.uid: bytes | None = None
        self.log = CommitLog(commit_memory)
        self.blobs: list[UploadedBlob] = []
        self.unflushed: list[Upload] = []
        self.flushing: list[Upload] = []
        self.flushed: set[Flushed] = set()
        self.kept: list[Upload] = []
        self.moved: set[str] = set()
        self.files: list[str] = []
        self.objects: dict[bytes, tuple[int, StoredObject]] = {}
        self.blob_records = 0
        self._waits = 0
        self._resume: Callable[[], None] | None = None
        self.replaced: dict[bytes, int] = {}
        self.rounds = 0
        self.error: Exception | None = None
        self.stage = Stage.COLLECTING
        self.changed: tuple[bytes, ...] = ()
        self.began = 0.0

    def fail(self, error: Exception) -> None:
        """Remember *error* for the vote; the first one counts."""
        if self.error is None:
            self.error = error

    @property
    def is_over(self) -> bool:
        """Whether it has ended, one way or the other."""
        return self.stage is Stage.OVER

    def wait(self) -> None:
        """Something is on its way that the vote has to wait for; :meth:`go_on` will follow."""
        self._waits += 1

    def go_on(self) -> None:
        """It has arrived, or failed."""
        self._waits -= 1
        if not self._waits and self._resume is not None:
            resume, self._resume = self._resume, None
            resume()

    def when_complete(self, callback: Callable[[], None]) -> None:
        """Call *callback* when nothing has to be waited for; at once if that is so."""
        if self._waits:
            self._resume = callback
        else:
            callback()

    def add_blob(self, blob: UploadedBlob) -> None:
        """Add an uploaded blob."""
        self.blob_records += blob.memory
        self.blobs.append(blob)

    def release_kept(self) -> list[Upload]:
        """Return ``kept``, of which nothing is this transaction's any more: it is about to be
        aborted, before its vote."""
        # Those that failed are not known any more.
        kept = [upload for upload in self.kept if upload.ticket is not None]
        self.kept = []
        if kept:
            paths = {upload.path for upload in kept}
            self.unflushed = [each for each in self.unflushed if each not in kept]
            self.flushing = [each for each in self.flushing if each not in kept]
            self.blobs = [blob for blob in self.blobs if blob.path not in paths]
        return kept

    @property
    def has_files(self) -> bool:
        """Whether :meth:`discard` has files to remove."""
        return bool(self.blobs) or self.log.has_file

    def discard(self) -> None:
        """Remove the temporary files.  May block; on a worker thread."""
        self.log.close()
        for upload in self.unflushed + self.flushing:
            upload.discard()
        for blob in self.blobs:
            # The storage has taken over those of a successful vote.
            if blob.path not in self.moved:
                remove_file(blob.path)
        self.blobs = []


_STATUSES: Final = (" ", "p")
"""What FileStorage keeps: a transaction, and one that was packed.  It cuts the file off where it
finds one that is marked as incomplete, and skips those marked as undone."""

_LATEST: Final = 100 * 365.25 * 86400
"""Seconds that a transaction brought from elsewhere may lie in the future.  A clock that was wrong
by decades must not keep a database from being copied.  But all that comes later gets a later id,
so each step towards the last id is for good, and behind it nothing can be committed, or seen."""


def check_tid(tid: bytes) -> None:
    """Check a transaction id that a client has chosen.

    :raises ValueError: it lies more than a century in the future.
    """
    now = time.time()
    year, month, day, hour, minute = time.gmtime(now + _LATEST)[:5]
    if tid > TimeStamp(year, month, day, hour, minute, 0).raw():
        raise ValueError(
            f"transaction id {tid.hex()} is refused: it means {TimeStamp(tid)}, more than a "
            f"century after {time.strftime('%Y-%m-%d', time.gmtime(now))}, which is today here"
        )


def check_operation(access: StorageAccess, transaction: Transaction, operation: Operation) -> None:
    """Check the ids that a client has chosen.

    :raises ValueError: one would harm the storage.
    """
    if isinstance(operation, Undo):
        return
    access.check_oid(operation.oid)
    if isinstance(operation, Restore) and operation.serial is not None:
        # It becomes the id of the revision, whatever its transaction is.
        check_tid(operation.serial)
        if transaction.tid is not None and operation.serial > transaction.tid:
            raise ValueError(
                f"a revision {operation.serial.hex()} is refused in transaction "
                f"{transaction.tid.hex()}: nobody could see it"
            )


def remove_file(path: str) -> None:
    """Remove a temporary file if it is still there; failure is only logged."""
    try:
        os.remove(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        logger.error("cannot remove temporary file %s: %s", path, error)


def begin_transaction(request: TpcBegin, commit_memory: int, limits: Limits) -> Transaction:
    """Return a new transaction as *request* describes it.

    :raises ValueError: its extension data is not made of plain values, or its id or status would
        harm the storage.
    """
    if request.tid is not None:
        check_tid(request.tid)
    if request.status not in _STATUSES:
        raise ValueError(
            f"transaction status {request.status!r:.20} is refused: a storage may take such a "
            "transaction for one that was never finished"
        )
    extension = request.extension
    if isinstance(extension, bytes) and extension:
        # Storages unpickle these bytes themselves, without restrictions, whenever somebody looks
        # at the undo log.  So they must not hold anything that the network may not send.
        try:
            value = pickles.loads(extension, limits)
        except UndecodableMessage as error:
            raise ValueError(f"the transaction's extension data is refused: {error}") from error
        if type(value) is not dict:
            raise ValueError("the transaction's extension data is not a dictionary")
    elif extension and not is_plain(extension):
        # Storages would pickle the classes by which the decoder stands for foreign ones.
        extension = to_plain(extension)
        if not is_plain(extension):
            raise ValueError("the transaction's extension data is not made of plain values")
    meta = TransactionMetaData(request.user, request.description, extension or {})
    transaction = Transaction(request.txn, meta, commit_memory)
    transaction.tid = request.tid
    transaction.status = request.status
    transaction.uid = request.uid
    return transaction

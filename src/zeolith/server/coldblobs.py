"""What the server of a storage with an object store does about it: uploads before votes, fetches
before a blob is sent.

Nobody waits for the store on the loop, on the commit thread or on the threads that all storages
share: transfers have threads of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from ZODB.POSException import StorageError

from ..tier.failures import StoreFailure
from ..tier.objects import StoredObject
from ..tier.tier import BlobAway, BlobTier
from .inbox import Inbox
from .peerlog import peer_logger
from .workers import Done, Job, WorkerPool

if TYPE_CHECKING:
    from .transactions import Transaction, UploadedBlob

logger = peer_logger(__name__)


class ColdBlobs:
    """The object store of one storage.  Belongs to the loop's thread.

    :param name: of the storage.
    :param tier: its blobs.
    :param inbox: the way back from the threads.
    """

    def __init__(self, name: str, tier: BlobTier, inbox: Inbox) -> None:
        self.tier = tier
        workers = tier.workers
        self._uploads = WorkerPool(f"zeolith-upload-{name}", workers, inbox)
        self._waiting: dict[tuple[bytes, bytes], list[Done]] = {}
        self._fetches = WorkerPool(f"zeolith-fetch-{name}", workers, inbox)

    # -- blobs that come -------------------------------------------------------------------------

    def store(self, transaction: Transaction, blob: UploadedBlob, client: str) -> None:
        """Have a blob uploaded; the vote on *transaction* waits for it, and fails with it.

        :param client: who sends it, for the log.
        """
        transaction.wait()
        self._uploads.submit(
            partial(self._upload, transaction, blob),
            partial(self._stored, transaction, blob, len(transaction.blobs), client),
        )

    def _upload(self, transaction: Transaction, blob: UploadedBlob) -> StoredObject | None:
        """Runs on a worker thread."""
        # Looked at without the loop: what goes wrong is an upload that nobody needs.
        if transaction.is_over or transaction.error is not None:
            return None
        return self.tier.upload(blob.path, blob.oid)

    def _stored(
        self,
        transaction: Transaction,
        blob: UploadedBlob,
        number: int,
        client: str,
        found: StoredObject | None,
        error: Exception | None,
    ) -> None:
        if error is not None:
            if not transaction.is_over:  # else its end has taken the file away
                logger.error("(%s) a blob is not in the object store: %s", client, error)
            transaction.fail(_for_clients(error))
        elif found is not None and transaction.is_over:
            self.tier.drop([found])
        elif found is not None:
            self._note(transaction, blob.oid, number, found)
        transaction.go_on()

    def _note(self, transaction: Transaction, oid: bytes, number: int, found: StoredObject) -> None:
        other = transaction.objects.get(oid)
        if other is not None and other[0] > number:
            # A later one of the same object, which is what is going to be committed.
            self.tier.drop([found])
            return
        transaction.objects[oid] = number, found
        if other is not None:
            self.tier.drop([other[1]])

    def committed(self, tid: bytes, transaction: Transaction) -> None:
        """*transaction* is committed as *tid*."""
        found, transaction.objects = transaction.objects, {}
        if found or transaction.files:
            objects = {oid: each for oid, (_, each) in found.items()}
            self.tier.committed(tid, objects, transaction.files)

    def doubted(self, transaction: Transaction) -> None:
        """Nobody knows whether *transaction* is committed: its objects stay.

        If it is not they are swept one day.
        """
        transaction.objects = {}

    def ended(self, transaction: Transaction) -> None:
        """*transaction* is over; what was uploaded for it goes, unless it is committed."""
        found, transaction.objects = transaction.objects, {}
        if found:
            self.tier.drop(each for _, each in found.values())

    # -- blobs that go ---------------------------------------------------------------------------

    def with_blob(self, submit: Callable[[Job, Done], Any], job: Job, done: Done) -> None:
        """Run a job that loads a blob; if that is in the store only, fetch it and run it again.

        :param submit: runs jobs on the threads of all storages.
        :param done: gets the result, or the error, on the loop.
        """

        def ended(result: Any, error: Exception | None) -> None:
            if isinstance(error, BlobAway):
                self._fetch(error.oid, error.tid, fetched)
            else:
                done(result, error)

        def fetched(result: None, error: Exception | None) -> None:
            if error is not None:
                done(None, _for_clients(error))
            else:
                self.tier.ask_again()
                submit(job, ended)

        submit(job, ended)

    def _fetch(self, oid: bytes, tid: bytes, fetched: Done) -> None:
        waiting = self._waiting.get((oid, tid))
        if waiting is not None:
            # Not on a thread each: others would have none.
            waiting.append(fetched)
            return
        self._waiting[oid, tid] = [fetched]

        def over(result: None, error: Exception | None) -> None:
            for each in self._waiting.pop((oid, tid)):
                each(result, error)

        self._fetches.submit(partial(self.tier.fetch, oid, tid), over)

    # -- the end ---------------------------------------------------------------------------------

    def close(self) -> None:
        """Start nothing more, and write down what was committed."""
        self._uploads.close()
        self._fetches.close()
        self.tier.close()


def _for_clients(error: Exception) -> Exception:
    """Return *error* as an exception that every client knows."""
    if isinstance(error, StoreFailure):
        known: Exception = StorageError(str(error))
        return known
    return error

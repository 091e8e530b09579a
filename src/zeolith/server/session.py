"""One client: which storage, which rights, and the transactions it is making."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ZODB.POSException import POSError, ReadOnlyError, StorageError, StorageTransactionError

from ..errors import AccessDenied, MessageTooLarge, ProtocolViolation
from ..protocol.additions import CacheReport
from ..protocol.codec import Codec
from ..protocol.faults import serialize_fault
from ..protocol.greeting import Coding
from ..protocol.limits import MAX_TRANSACTIONS
from ..protocol.messages import MsgId
from ..rights import NONE, Right
from .blobsender import BlobSender
from .bulk import BulkLoads
from .iterators import Iterators
from .lobby import Lobby
from .parking import MAX_PARKED_EACH
from .peerlog import PeerName, peer_logger
from .service import StorageService
from .statistics import Statistics
from .streams import Streams
from .tally import Limit
from .transactions import Stage, Transaction
from .upload import Upload
from .uploads import Uploads
from .workers import Job, Lane, WorkerPool

if TYPE_CHECKING:
    from .past import Past
    from .publisher import Publisher
    from .transport import Connection

logger = peer_logger(__name__)

NOTICE: Final[Any] = object()
"""Stands for the message id of a request that expects no answer."""

_SHORT_TEXT: Final = 200
"""Characters of an error's text that any client takes."""

_EXPECTED: Final = (POSError, ProtocolViolation, ValueError, KeyError, TypeError, OSError)


class Transfers(NamedTuple):
    """Blobs of one client: on their way in, out, and complete without a transaction."""

    arriving: int
    leaving: int
    unattached: int


class Session:
    """A client that has chosen its coding.

    Handlers call :meth:`reply` or :meth:`fault` once for each call, now or later.  Everything here
    belongs to the loop's thread.

    :param connection: carries what is sent.
    :param codec: writes messages.
    :param lobby: the server.
    :ivar service: the storage that the client has chosen; there once it has.
    :ivar stats: the counters of that storage; likewise.
    :ivar is_registered: whether it has.
    :ivar label: what the client calls itself; may be empty.
    :ivar cache_report: what it said last of its cache; None if it never did.
    :ivar read_only: whether the client may not write.
    :ivar publisher: of the storage the client has chosen; None before.
    :ivar transactions: in progress, by the client's ids for them, in the order in which they began.
    :ivar upload: the blob that is arriving, or None.
    :ivar uploads: jobs that bring to disk what the next vote needs.
    :ivar reads: jobs that must run in the order of the client's calls.
    :ivar past: what the client asks that may take long; None until it does.
    :ivar is_lost: whether the connection is gone.
    :ivar is_left: whether we close the connection because its client is not there any more.
    """

    __slots__ = (
        "_blob_sender",
        "_bulk",
        "_connection",
        "_incoming",
        "_outstanding",
        "_refused",
        "_streams",
        "_voter",
        "_voters",
        "cache_report",
        "codec",
        "is_left",
        "is_lost",
        "is_registered",
        "iterators",
        "label",
        "lobby",
        "past",
        "publisher",
        "read_only",
        "reads",
        "service",
        "stats",
        "transactions",
        "upload",
        "uploads",
    )

    def __init__(self, connection: Connection, codec: Codec, lobby: Lobby) -> None:
        self._connection = connection
        self.is_registered = False
        self.service: StorageService
        self.stats: Statistics
        self._outstanding = 0
        # Rights that were asked for in vain, which has been logged.
        self._refused = NONE
        self._blob_sender: BlobSender | None = None
        self._streams: Streams | None = None
        self._incoming: Uploads | None = None
        self._bulk: BulkLoads | None = None
        self.codec = codec
        self.lobby = lobby
        self.label = ""
        self.cache_report: CacheReport | None = None
        self.read_only = True
        self.publisher: Publisher | None = None
        self.transactions: dict[int, Transaction] = {}
        # Which of them is between its vote and its end, and what waits for that.
        self._voter: Transaction | None = None
        self._voters: list[Callable[[], None]] = []
        self.upload: Upload | None = None
        self.uploads: Lane | None = None
        self.reads: Lane | None = None
        self.iterators: Iterators | None = None
        self.past: Past | None = None
        self.is_lost = self.is_left = False

    @property
    def connection(self) -> Connection:
        """Carries what is sent."""
        return self._connection

    @property
    def name(self) -> str:
        """Label and address, and who it is if that is known; for messages."""
        address = self._connection.address
        user = self._connection.user
        text = address if user is None else f"{address} as {user.name}"
        if self.label:
            text = f"{self.label} {text}"
        # Without its origin it could fill the log.
        return address.replace_text(text) if isinstance(address, PeerName) else text

    def demand(self, right: Right, storage: str) -> None:
        """Return if the client has *right*.

        :raises AccessDenied: it has not, which is logged.
        :raises ReadOnlyError, StorageError: the same, for ZEO's clients, which do not know it.
        """
        if right in self._connection.rights.on(storage):
            return
        door, user = self.lobby.door, self._connection.user
        assert door is not None  # else everybody has all rights
        error = AccessDenied("" if user is None else user.name, (right.name or "").lower(), storage)
        if right not in self._refused:
            self._refused |= right
            door.warn("(%s) refused: %s", self.name, error)
        if self.codec.coding is Coding.OWN:
            raise error
        raise (ReadOnlyError if right is Right.WRITE else StorageError)(str(error))

    def register(self, service: StorageService, read_only: bool) -> bytes:
        """Admit the client to *service*; return the last transaction it will not be told of."""
        self.is_registered = True
        self.service = service
        self.stats = service.stats
        self.publisher = service.publisher
        self.read_only = read_only
        tid = service.publisher.subscribe(self)
        self._connection.registered(service.publisher)
        return tid

    # -- sending ---------------------------------------------------------------------------------

    def send(self, frame: bytes) -> None:
        """Send *frame*, after all invalidations that were published before (R1)."""
        publisher = self.publisher
        if publisher is not None:
            if publisher.is_held:
                self.service.when_settled(partial(self.send, frame))
                return
            publisher.drain()
        self._connection.write(frame)

    def send_file(self, head: bytes, descriptor: int, offset: int, size: int) -> int:
        """As :meth:`send` with *head* and a part of a file behind it; while the publisher is not
        held.  See :meth:`.Connection.send_file`."""
        assert self.publisher is not None
        self.publisher.drain()
        return self._connection.send_file(head, descriptor, offset, size)

    def send_checked(self, frame: bytes) -> None:
        """Send *frame* without draining the publisher.

        Only for what :meth:`StorageService.load` hands out: it has just drained the publisher and
        found the answer still valid; an invalidation published since then must come after it.
        """
        self._connection.write(frame)

    def flush(self) -> None:
        """Have what was sent leave now, not with the answers to the requests that came with this
        one: there is something to be done for which nobody needs to wait."""
        self._connection.flush()

    def send_committed(self, frame: bytes) -> None:
        """Send *frame*, which tells the client of its own transaction, while that is announced or
        is about to be."""
        publisher = self.publisher
        if publisher is not None and publisher.awaits_only(self):
            # The others are told after that, but in the same step of the loop.
            self._connection.write(frame)
        else:
            self.send(frame)

    def push(self, frame: bytes) -> None:
        """Send *frame*, which the client did not ask for; called while the publisher drains."""
        try:
            self.codec.check(frame)
        except MessageTooLarge as error:
            # It must not miss it, so it has to verify.
            self.drop(str(error))
            return
        self._connection.write(frame)
        self._connection.check_output()

    def reply(self, msgid: MsgId, value: Any) -> None:
        """Answer a call; do nothing if it was a notice."""
        if msgid is NOTICE or self.is_lost:
            return
        try:
            frame = self.codec.reply(msgid, value)
        except MessageTooLarge as error:
            self.fault(msgid, error)
            return
        except (TypeError, ValueError) as error:
            logger.error("(%s) an answer cannot be sent: %s", self.name, error)
            frame = self.codec.fault(msgid, *serialize_fault(ValueError("unsendable answer")))
        self.send(frame)

    def fault(self, msgid: MsgId, error: Exception) -> None:
        """Answer a call with *error*; a notice cannot be answered, so the connection ends."""
        if msgid is not NOTICE:
            frame = self.fault_frame(msgid, error)
            if not self.is_lost:
                self.send(frame)
            return
        self._log_fault(error)
        if not self.is_lost:
            if isinstance(error, ProtocolViolation):
                self.close(f"protocol violated: {error}")
                return
            self.close(f"a request failed that has no answer: {type(error).__name__}: {error}")

    def fault_frame(self, msgid: MsgId, error: Exception) -> bytes:
        """Return the frame that answers a call with *error*, which goes to the log if need be."""
        self._log_fault(error)
        name, details = serialize_fault(error)
        try:
            return self.codec.fault(msgid, name, details)
        except (TypeError, ValueError):
            # Or more than the client takes.
            return self.codec.fault(msgid, name, (str(error)[:_SHORT_TEXT],))

    def _log_fault(self, error: Exception) -> None:
        if not isinstance(error, _EXPECTED):
            logger.error("(%s) unexpected error", self.name, exc_info=error)
        elif isinstance(error, OSError):
            # The operator has to know of a full disk, whoever else is told.
            logger.error("(%s) %s: %s", self.name, type(error).__name__, error)

    def answer(self, msgid: MsgId, value: Any, error: Exception | None) -> None:
        """Answer a call with *value*, or with *error* if there is one."""
        if error is not None:
            self.fault(msgid, error)
        else:
            self.reply(msgid, value)

    # -- flow ------------------------------------------------------------------------------------

    @property
    def is_writable(self) -> bool:
        """Whether the client takes what it is sent."""
        return not self._connection.is_paused

    def stall(self, reason: str) -> None:
        """Process no more requests of this client until :meth:`unstall` with the same reason."""
        self._connection.stall(reason)

    def unstall(self, reason: str) -> None:
        """Take back a :meth:`stall`; do nothing if there was none."""
        self._connection.unstall(reason)

    def check_uploads(self) -> None:
        """Stop reading from the client while too much of it waits for the disk (R8)."""
        assert self.uploads is not None
        held = 0 if self._incoming is None else self._incoming.held
        self._connection.count_uploads(self.uploads.cost + held)
        if self.uploads.cost > self.lobby.options.upload_mark:
            self.stall("upload")
        else:
            self.unstall("upload")

    def resumed(self) -> None:
        """The client takes data again."""
        if self._blob_sender is not None:
            self._blob_sender.resume()
        if self._bulk is not None:
            self._bulk.resume()
        # Last: it takes all the room there is.
        if self._streams is not None:
            self._streams.resume()

    # -- work on other threads -------------------------------------------------------------------

    def run(self, msgid: MsgId, pool: WorkerPool, job: Job) -> None:
        """Run *job* on *pool* and answer with its result."""
        self.began()
        pool.submit(job, partial(self._ran, msgid))

    def run_in_order(self, msgid: MsgId, job: Job) -> None:
        """Run *job* after the client's jobs before it, and answer with its result."""
        assert self.reads is not None
        self.began()
        self.reads.submit(job, partial(self._ran, msgid))

    def began(self) -> None:
        """A call is on its way that will be answered later (R8: there may not be many)."""
        self._outstanding += 1
        if self._outstanding >= self.lobby.options.max_outstanding:
            self.lobby.tally.hit(Limit.OUTSTANDING_CALLS)
            self.stall("calls")

    def ended(self) -> None:
        """A call counted by :meth:`began` has been answered."""
        self._outstanding -= 1
        self.unstall("calls")

    def _ran(self, msgid: MsgId, value: Any, error: Exception | None) -> None:
        self.answer(msgid, value, error)
        self.ended()

    @property
    def blob_sender(self) -> BlobSender:
        """Sends blobs to the client, one after the other."""
        if self._blob_sender is None:
            self._blob_sender = BlobSender(self)
        return self._blob_sender

    @property
    def streams(self) -> Streams:
        """Sends blobs and iterations to the client, several at once."""
        if self._streams is None:
            self._streams = Streams(self)
        return self._streams

    @property
    def incoming(self) -> Uploads:
        """Takes blobs from the client, several at once."""
        if self._incoming is None:
            self._incoming = Uploads(self)
        return self._incoming

    @property
    def bulk(self) -> BulkLoads:
        """Answers loads that were asked for many at a time."""
        if self._bulk is None:
            self._bulk = BulkLoads(self)
        return self._bulk

    @property
    def transfers(self) -> Transfers:
        """How many blobs are on their way."""
        unattached = 0 if self._incoming is None else self._incoming.unattached
        arriving = 0 if self._incoming is None else len(self._incoming) - unattached
        leaving = 0 if self._streams is None else self._streams.blobs
        return Transfers(
            arriving + (self.upload is not None),
            leaving + (0 if self._blob_sender is None else len(self._blob_sender)),
            unattached,
        )

    # -- the end ---------------------------------------------------------------------------------

    def close(self, reason: str) -> None:
        """Close the connection after what has been sent so far; *reason* goes to the log."""
        logger.warning("(%s) connection closed: %s", self.name, reason)
        self._connection.close()

    def drop(self, reason: str) -> None:
        """Close the connection at once; *reason* goes to the log."""
        logger.warning("(%s) connection dropped: %s", self.name, reason)
        self._connection.abort()

    def leave(self, reason: str) -> None:
        """As :meth:`drop`: the client is not there any more, so it is as if the line was cut."""
        self.is_left = True
        self.drop(reason)

    def lost(self, *, is_cut: bool) -> None:
        """The connection is gone: give up what the client was doing.

        :param is_cut: it was not closed by us, so the client may go on with its uploads elsewhere.
        """
        self.is_lost = True
        if not self.is_registered:
            return
        self.service.publisher.unsubscribe(self)
        self.service.lead.give(self)
        if self.uploads is not None and not self.uploads.is_idle:
            # Nobody counts any more what waits there for a slow disk (R8).
            self.uploads.forget()
            for transaction in self.transactions.values():
                transaction.log.forget()
        if is_cut or self.is_left:
            self._park()
        self.give_up("disconnected")
        if self.upload is not None and self.uploads is not None:
            self.uploads.submit(self.upload.discard, partial(_discarded, self.name))
            self.upload = None
        if self.iterators is not None and self.reads is not None:
            self.reads.submit(self.iterators.close, partial(_discarded, self.name))
        if self.past is not None:
            self.past.close()
        if self._blob_sender is not None:
            self._blob_sender.close()
        if self._streams is not None:
            self._streams.close()
        if self._incoming is not None:
            self._incoming.close()
        if self._bulk is not None:
            self._bulk.close()

    def _park(self) -> None:
        parking = self.service.parking
        if self._incoming is not None:
            parking.park(self._incoming.release_kept())
        for transaction in self.transactions.values():
            if self.service.coordinator.is_untouched(transaction):
                parking.park(transaction.release_kept())

    @property
    def is_finishing(self) -> bool:
        """Whether a commit of this client is being written: it has to get its answer."""
        return any(found.stage is Stage.FINISHING for found in self.transactions.values())

    def give_up(self, why: str) -> None:
        """Abort what the client has not finished."""
        transactions = list(self.transactions.values())
        if not transactions:
            logger.info("(%s) %s", self.name, why)
            return
        what = "a transaction" if len(transactions) == 1 else f"{len(transactions)} transactions"
        stages = ", ".join(found.stage.value for found in transactions)
        logger.info("(%s) %s during %s (%s)", self.name, why, what, stages)
        self._voters.clear()
        for transaction in transactions:
            self.abort(transaction, lambda: None)

    # -- transactions ----------------------------------------------------------------------------

    @property
    def transaction(self) -> Transaction | None:
        """The first that began of those in progress."""
        return next(iter(self.transactions.values()), None)

    def has(self, transaction: Transaction) -> bool:
        """Whether *transaction* is in progress."""
        return self.transactions.get(transaction.txn_id) is transaction

    @property
    def commit_memory(self) -> int:
        """Bytes that the next transaction may keep in memory.  Of those in progress at once one has
        what is configured, and all others together as much again (R8)."""
        memory = self.lobby.options.commit_memory
        return memory // MAX_TRANSACTIONS if self.transactions else memory

    def check_room(self) -> None:
        """Return if another transaction may begin.

        :raises StorageTransactionError: there are as many as there may be.
        """
        if self.transactions and self.codec.coding is not Coding.OWN:
            raise StorageTransactionError("another transaction of this client is in progress")
        if len(self.transactions) >= MAX_TRANSACTIONS:
            raise StorageTransactionError(
                f"{MAX_TRANSACTIONS} transactions of this client are in progress, and no more may"
            )

    def begin(self, transaction: Transaction) -> None:
        """Start *transaction*."""
        transaction.began = self.lobby.loop.time()
        self.transactions[transaction.txn_id] = transaction
        self.lobby.overdue.watch()
        self.stats.active_txns += 1

    def may_vote(self, transaction: Transaction, again: Callable[[], None]) -> bool:
        """Whether *transaction* may ask for the commit lock now; if not, *again* is called later.

        A client has one place in the queue for the lock, however many threads it commits with, and
        it is the lock that all others wait for, not what a transaction has to bring to disk first.
        One that has conflicts for the client to resolve keeps its place until it votes again: of
        many that change one object, each would else meet a new conflict for every one before it.
        """
        if self._voter in (None, transaction):
            self._voter = transaction
            return True
        self._voters.append(again)
        return False

    def vote_ended(self, transaction: Transaction) -> None:
        """*transaction* is over: another one may ask for the lock."""
        if self._voter is not transaction:
            return
        self._voter = None
        while self._voter is None and self._voters:
            self._voters.pop(0)()

    def keep(self, transaction: Transaction, upload: Upload) -> None:
        """*upload* has become a part of *transaction*; until the storage is asked about that, its
        client may lose the connection, and go on with it on another one."""
        if upload.ticket is not None:
            transaction.kept.append(upload)
            kept = [found.kept for found in self.transactions.values() if found.kept]
            if sum(map(len, kept)) > MAX_PARKED_EACH:
                # No more would be parked, and each takes memory (R8).
                self.service.parking.forget(kept[0].pop(0))

    def abort(self, transaction: Transaction, done: Callable[[], None]) -> None:
        """Give up *transaction* unless it is finishing; then call *done*."""
        if transaction.stage is Stage.FINISHING:
            # Its end, when it comes, cleans up.
            done()
            return
        if transaction.stage is not Stage.OVER:
            self.stats.aborts += 1
        transaction.stage = Stage.OVER

        def ended() -> None:
            self.end(transaction)
            done()

        self.service.coordinator.abort(transaction, ended)

    def end(self, transaction: Transaction) -> None:
        """*transaction* is over, one way or the other, and the storage is done with it."""
        transaction.stage = Stage.OVER
        for upload in transaction.kept:
            self.service.parking.forget(upload)
        transaction.kept = []
        self.service.outcomes.ended(transaction)
        if self.service.cold is not None:
            self.service.cold.ended(transaction)
        if not self.has(transaction):
            return
        del self.transactions[transaction.txn_id]
        self.stats.active_txns -= 1
        if self._incoming is not None and not self.transactions:
            # What has come for another one may be about to be attached.
            self._incoming.forget_complete()
        if transaction.has_files:
            assert self.uploads is not None
            self.uploads.submit(transaction.discard, partial(_discarded, self.name))
        else:
            transaction.log.close()
        self.vote_ended(transaction)


def _discarded(name: str, result: Any, error: Exception | None) -> None:
    if error is not None:
        logger.error("(%s) cleaning up after this client failed: %s", name, error, exc_info=error)

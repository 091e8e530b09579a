"""The strategy of one transaction at a time, from its vote to its end."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial
from itertools import islice
from typing import Any, Final, Protocol

from ZODB.POSException import StorageTransactionError

from .access import StorageAccess
from .commit import Action, CommitQueue, Deed, IllegalStep, Input, Phase
from .coordinator import (
    CommitCoordinator,
    EndDone,
    FinishDone,
    Finished,
    Owner,
    Turn,
    VoteDone,
    is_survived,
)
from .peerlog import peer_logger
from .publisher import Publication, Publisher
from .quickvote import vote_quickly
from .replay import Replay, Vote, abort
from .statistics import Statistics
from .transactions import Transaction
from .workers import WorkerPool

logger = peer_logger(__name__)


class Clock(Protocol):
    """The part of an event loop that knows the time."""

    def time(self) -> float: ...

    def call_at(self, when: float, callback: Callable[[], None]) -> Any: ...


class _Entry:
    """One transaction from vote to end."""

    __slots__ = ("ended", "finish_done", "owner", "publication", "since", "vote_done", "voted_at")

    def __init__(self, owner: Owner, vote_done: VoteDone, since: float) -> None:
        self.owner = owner
        self.since = since  # when it asked for the lock; once it has it, when it got it
        self.vote_done: VoteDone | None = vote_done
        self.finish_done: FinishDone | None = None
        self.ended: list[EndDone] = []
        self.publication: Publication | None = None
        self.voted_at = 0.0


_WARNING_QUEUE: Final = 3
_CRITICAL_QUEUE: Final = 9


class ExclusiveCoordinator(CommitCoordinator):
    """One transaction at a time, first come first served, on a thread of its own.

    :param access: the storage.
    :param publisher: gets to know each commit; is held while the storage finishes.
    :param stats: counts.
    :param pool: has exactly one thread.
    :param clock: the loop.
    :param timeout: seconds from the answer to a vote until the transaction is aborted, or None.
    :param collect_conflicts: whether clients resolve conflicts.
    :param settled: called after each finish, when the publisher is no longer held.
    :param failed: called when the storage can no longer be trusted: the publisher stays held, and
        no transaction gets the lock any more.
    :param record: called on the commit thread with a transaction's unique id, None if it has none,
        and its tid, before it can be on disk or visible.
    :param is_undisturbed: returns whether no other thread uses the storage, so that a small vote
        may be taken on the loop.
    """

    def __init__(
        self,
        access: StorageAccess,
        publisher: Publisher,
        stats: Statistics,
        pool: WorkerPool,
        clock: Clock,
        timeout: float | None,
        collect_conflicts: bool,
        settled: Callable[[], None],
        failed: Callable[[], None],
        record: Callable[[bytes | None, bytes], None],
        is_undisturbed: Callable[[], bool],
    ) -> None:
        self._access = access
        self._publisher = publisher
        self._stats = stats
        self._pool = pool
        self._clock = clock
        self._timeout = timeout
        self._collect_conflicts = collect_conflicts
        self._settled = settled
        self._failed = failed
        self._record = record
        self._is_undisturbed = is_undisturbed
        self._queue: CommitQueue[Transaction] = CommitQueue(timeout)
        self._entries: dict[Transaction, _Entry] = {}
        self._timer: Any = None
        self._timer_at = 0.0

    # -- the interface ---------------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        return self._queue.waiting

    def is_untouched(self, transaction: Transaction) -> bool:
        return self._queue.phase(transaction) in (None, Phase.WAITING)

    def turns(self, most: int) -> list[Turn]:
        # Entries are in order of arrival, which is the order in which they get the lock.
        turns = []
        for transaction, entry in islice(self._entries.items(), most):
            phase = self._queue.phase(transaction)
            if phase is not None:  # else it is just about to end
                turns.append(Turn(entry.owner, phase.value, entry.since))
        return turns

    @property
    def is_idle(self) -> bool:
        return self._queue.holder is None

    def vote(self, owner: Owner, transaction: Transaction, done: VoteDone) -> None:
        try:
            action = self._queue.vote(transaction)
        except IllegalStep as error:
            raise StorageTransactionError(str(error)) from error
        self._entries[transaction] = _Entry(owner, done, self._clock.time())
        if action is None:
            self._log_queue(owner, "waits for the commit lock")
        else:
            self._carry_out(action)

    def finish(self, transaction: Transaction, done: FinishDone) -> None:
        entry = self._entries.get(transaction)
        if entry is not None:
            entry.finish_done = done
        self._step(transaction, Input.FINISH)

    def abort(self, transaction: Transaction, done: EndDone) -> None:
        entry = self._entries.get(transaction)
        if entry is None:
            done()
            return
        entry.ended.append(done)
        was_waiting = self._queue.phase(transaction) is Phase.WAITING
        self._step(transaction, Input.ABORT)
        if was_waiting:
            self._log_queue(entry.owner, "no longer waits for the commit lock")

    def close(self, timeout: float) -> bool:
        if self._timer is not None:
            self._timer.cancel()
        self._pool.close()
        return self._pool.join(timeout)

    # -- carrying out what the queue decides -----------------------------------------------------

    def _step(self, transaction: Transaction, what: Input) -> None:
        try:
            action = self._queue.step(transaction, what, self._clock.time())
        except IllegalStep as error:
            raise StorageTransactionError(str(error)) from error
        if action is not None:
            self._carry_out(action)
        if self._queue.phase(transaction) is None:
            self._end(transaction)

    def _carry_out(self, action: Action[Transaction]) -> None:
        deed, transaction = action
        if deed is Deed.VOTE:
            self._start_vote(transaction)
        elif deed is Deed.FINISH:
            # Until the storage has finished nobody may look: what it shows meanwhile is
            # ambiguous, and what it announces may not be on disk (R1, R4, R5).
            self._publisher.is_held = True
            self._pool.submit(
                partial(self._finish_job, transaction, self._entries[transaction]),
                partial(self._finished, transaction),
            )
        else:
            self._pool.submit(
                partial(abort, self._access, transaction),
                partial(self._aborted, transaction),
            )

    def _end(self, transaction: Transaction) -> None:
        entry = self._entries.pop(transaction)
        if self._queue.holder is None:
            self._stats.lock_time = None
        if entry.vote_done is not None:
            done, entry.vote_done = entry.vote_done, None
            done(None, StorageTransactionError("the transaction was aborted before its vote"))
        for callback in entry.ended:
            callback()

    # -- vote ------------------------------------------------------------------------------------

    def _start_vote(self, transaction: Transaction) -> None:
        self._stats.lock_time = time.time()
        entry = self._entries[transaction]
        entry.since = self._clock.time()
        self._log_queue(entry.owner, "has the commit lock")
        # Only where nobody else waits: each vote that failed here would start the next one here.
        if self._queue.waiting == 0 and self._is_undisturbed():
            vote, error = None, None
            try:
                vote = vote_quickly(self._access, transaction, self._replay(transaction))
            except Exception as caught:  # noqa: BLE001 - becomes the answer
                error = caught
            if vote is not None or error is not None:
                self._voted(transaction, vote, error)
                return
        self._pool.submit(self._replay(transaction).run, partial(self._voted, transaction))

    def _replay(self, transaction: Transaction) -> Replay:
        # The tid is right for as long as the lock is held, except for changes made elsewhere.
        last_tid = self._publisher.log.last_tid
        return Replay(self._access, transaction, last_tid, self._collect_conflicts)

    def _voted(self, transaction: Transaction, vote: Vote | None, error: Exception | None) -> None:
        entry = self._entries[transaction]
        done, entry.vote_done = entry.vote_done, None
        assert done is not None
        if self._queue.phase(transaction) is Phase.DOOMED and error is None:
            vote, error_for_client = None, StorageTransactionError("aborted during its vote")
        else:
            error_for_client = error
        accepted = error is None and not (vote is not None and vote.conflicts)
        entry.voted_at = self._clock.time()
        # The answer first: starting the next vote wakes a thread that competes with this one.
        try:
            done(vote, error_for_client)
        finally:
            self._step(transaction, Input.ACCEPTED if accepted else Input.REFUSED)
            self._watch_deadline()

    def _watch_deadline(self) -> None:
        deadline = self._queue.deadline
        # A timer that fires too early only looks again; so one timer serves many transactions.
        if deadline is None or (self._timer is not None and self._timer_at <= deadline):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = deadline
        self._timer = self._clock.call_at(deadline, self._look_at_clock)

    def _look_at_clock(self) -> None:
        self._timer = None
        now = self._clock.time()
        holder = self._queue.holder
        action = self._queue.expire(now)
        if action is not None:
            assert holder is not None
            entry = self._entries[holder]
            self._stats.timeouts += 1
            logger.critical(
                "(%s) transaction aborted: it held the commit lock of storage %r for %.1f s after "
                "its vote without finishing; closing the connection, %d waiting",
                entry.owner.name,
                self._access.name,
                now - entry.voted_at,
                self._queue.waiting,
            )
            self._carry_out(action)
            entry.owner.drop("transaction timeout")
        else:
            self._watch_deadline()

    # -- finish ----------------------------------------------------------------------------------

    def _finish_job(self, transaction: Transaction, entry: _Entry) -> Finished:
        """Runs on the commit thread."""

        def publish(tid: bytes) -> None:
            self._record(transaction.uid, tid)
            entry.publication = self._publisher.publish(tid, transaction.changed, entry.owner)

        storage = self._access.storage
        try:
            tid = storage.tpc_finish(transaction.meta, publish)
        except Exception as error:
            if is_survived(error):
                # It will learn from its server what changed; here the transaction is forgotten.
                abort(self._access, transaction)
            raise
        for voted in self._access.voted:
            voted.committed()
        if entry.publication is None:
            publish(tid)
            assert entry.publication is not None
        try:
            info = self._access.size_info()
        except Exception:
            # The transaction is committed; its client must not be told otherwise.
            logger.exception("storage %r does not know its size", self._access.name)
            info = None
        return Finished(entry.publication.tid, info)

    def _finished(
        self, transaction: Transaction, finished: Finished | None, error: Exception | None
    ) -> None:
        entry = self._entries[transaction]
        done = entry.finish_done
        assert done is not None
        is_fatal = error is not None and not is_survived(error)
        if error is not None and entry.publication is not None:
            self._publisher.retract(entry.publication)
        self._publisher.is_held = False
        try:
            done(finished, error)
        finally:
            if not is_fatal:
                self._step(transaction, Input.DONE)
                self._settled()
        if is_fatal:
            # Held for good: a storage in this state must not answer anybody.
            self._publisher.is_held = True
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            tid = "without id" if entry.publication is None else entry.publication.tid.hex()
            logger.critical(
                "(%s) storage %r failed while it committed transaction %s (%s: %s).  Whether that "
                "is on disk is unknown; nobody was told of it.  Check disk and file",
                entry.owner.name,
                self._access.name,
                tid,
                type(error).__name__,
                error,
                exc_info=error,
            )
            self._failed()

    # -- abort -----------------------------------------------------------------------------------

    def _aborted(self, transaction: Transaction, result: None, error: Exception | None) -> None:
        if error is not None:  # abort() itself reports what the storage raises
            name = self._entries[transaction].owner.name
            logger.error("(%s) abort failed", name, exc_info=error)
        self._step(transaction, Input.DONE)

    def _log_queue(self, owner: Owner, what: str) -> None:
        waiting = self._queue.waiting
        if waiting > _CRITICAL_QUEUE:
            level = logging.CRITICAL
        elif waiting > _WARNING_QUEUE:
            level = logging.WARNING
        else:
            level = logging.DEBUG
            if not logger.isEnabledFor(level):
                return  # before the owner's name is made up, which nearly every vote would do
        logger.log(
            level, "(%s) %s of storage %r: %d waiting", owner.name, what, self._access.name, waiting
        )

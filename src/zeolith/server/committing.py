"""Requests that make a transaction.

Clients send most of them as notices, which have no answer.  What goes wrong in one is remembered
with the transaction and said by its vote; ZEO closes the connection instead.  Only where there is
no transaction to remember it with, the connection has to end here too.
"""

from __future__ import annotations

from functools import partial
from typing import Final

from ZODB.POSException import (
    ConflictError,
    ReadOnlyError,
    StorageError,
    StorageTransactionError,
    TransactionTooLargeError,
)

from ..protocol import messages as m
from ..protocol.outcome import Outcome, Verdict, serialize_verdict
from ..rights import Right
from .coordinator import Finished, is_survived
from .flushing import flush_rest
from .log import Operation
from .peerlog import peer_logger
from .replay import Vote
from .session import NOTICE, Session
from .tally import Limit
from .transactions import Stage, Transaction, begin_transaction, check_operation

logger = peer_logger(__name__)

_MAX_OIDS: Final = 100


def new_oids(session: Session, msgid: m.MsgId, request: m.NewOids) -> None:
    check_writable(session)
    count = min(max(request.n, 1), _MAX_OIDS)
    service = session.service
    # On a worker, because the storage's lock may be held while a large transaction is written.
    session.run(msgid, service.pools.quick, partial(service.access.new_oids, count))


def check_writable(session: Session) -> None:
    """Return if the client may write.

    :raises ReadOnlyError: it may not.
    """
    if session.read_only:
        raise ReadOnlyError("the connection is read-only")


def tpc_begin(session: Session, msgid: m.MsgId, request: m.TpcBegin) -> None:
    if request.txn in session.transactions:
        logger.warning("(%s) began the same transaction twice", session.name)
        session.reply(msgid, None)
        return
    session.check_room()
    memory = session.commit_memory
    try:
        check_writable(session)
        transaction = begin_transaction(request, memory, session.lobby.options.limits)
        if transaction.uid is not None:
            session.service.outcomes.begin(session, transaction)
    except (ReadOnlyError, ValueError, TypeError) as error:
        if msgid is not NOTICE:
            raise
        transaction = Transaction(request.txn, None, memory)
        transaction.fail(error)
    session.begin(transaction)
    session.reply(msgid, None)


def current_transaction(session: Session, txn_id: int) -> Transaction:
    """Return the transaction in progress that has that id.

    :raises ReadOnlyError: the client may not write.
    :raises StorageTransactionError: there is none, or those in progress have other ids.
    """
    transaction = session.transactions.get(txn_id)
    if transaction is not None:
        return transaction
    other = session.transaction
    if other is None:
        check_writable(session)
        raise StorageTransactionError("no transaction is in progress", None, txn_id)
    raise StorageTransactionError("another transaction is in progress", other.txn_id, txn_id)


def collecting_transaction(session: Session, txn_id: int) -> Transaction:
    """Return the transaction in progress that has that id, if it still takes operations.

    :raises ReadOnlyError: the client may not write.
    :raises StorageTransactionError: there is none, or it has voted.
    """
    transaction = current_transaction(session, txn_id)
    if transaction.stage is not Stage.COLLECTING:
        raise StorageTransactionError(
            f"the transaction is {transaction.stage.value}: it takes nothing more"
        )
    return transaction


def store(session: Session, msgid: m.MsgId, request: m.Store | m.Restore | m.DeleteObject) -> None:
    session.stats.stores += 1
    _append(session, msgid, request)


def check_current(session: Session, msgid: m.MsgId, request: m.CheckCurrentSerial) -> None:
    _append(session, msgid, request)


def undo(session: Session, msgid: m.MsgId, request: m.Undo) -> None:
    transaction = collecting_transaction(session, request.txn)
    try:
        session.demand(Right.UNDO, session.service.name)
    except StorageError as error:
        if msgid is not NOTICE:
            raise
        transaction.fail(error)
    _append(session, msgid, request)


def _append(session: Session, msgid: m.MsgId, operation: Operation) -> None:
    transaction = collecting_transaction(session, operation.txn)
    try:
        check_operation(session.service.access, transaction, operation)
    except ValueError as error:
        if msgid is not NOTICE:
            raise
        transaction.fail(error)
    if transaction.error is None:
        if transaction.rounds and isinstance(operation, m.Store):
            # The client has resolved a conflict: this state takes the place of the earlier one.
            transaction.replaced[operation.oid] = transaction.log.count
        excess = transaction.log.append(operation)
        if transaction.log.size > session.lobby.options.max_transaction_size:
            limit = session.lobby.options.max_transaction_size
            session.lobby.tally.hit(Limit.TRANSACTION_SIZE)
            transaction.fail(TransactionTooLargeError(f"the limit is {limit} bytes"))
        elif excess:
            assert session.uploads is not None
            transaction.wait()
            session.uploads.submit(
                transaction.log.spill, partial(_spilled, session, transaction), excess
            )
            session.check_uploads()
    session.reply(msgid, None)


def _spilled(
    session: Session, transaction: Transaction, result: None, error: Exception | None
) -> None:
    if error is not None:
        logger.error("(%s) cannot keep a large transaction: %s", session.name, error)
        transaction.fail(error)
    session.check_uploads()
    transaction.go_on()


def vote(session: Session, msgid: m.MsgId, request: m.Vote) -> None:
    transaction = collecting_transaction(session, request.txn)
    transaction.stage = Stage.VOTING
    # Everything the vote needs is brought to disk before it asks for the lock (R7); what the
    # client sends for other transactions is not waited for.
    transaction.when_complete(partial(_ask_for_lock, session, msgid, transaction))


def _ask_for_lock(session: Session, msgid: m.MsgId, transaction: Transaction) -> None:
    again = partial(_ask_for_lock, session, msgid, transaction)
    if transaction.stage is not Stage.VOTING:
        # Aborted while the uploads went on.
        session.fault(msgid, StorageTransactionError("the transaction was aborted"))
    elif transaction.error is not None:
        session.end(transaction)
        session.fault(msgid, transaction.error)
    elif flush_rest(session, transaction, again):
        pass  # to come back here
    elif session.may_vote(transaction, again):
        session.service.coordinator.vote(
            session, transaction, partial(_voted, session, msgid, transaction)
        )


def _voted(
    session: Session,
    msgid: m.MsgId,
    transaction: Transaction,
    result: Vote | None,
    error: Exception | None,
) -> None:
    stats = session.stats
    if error is not None:
        if isinstance(error, ConflictError):
            stats.conflicts += 1
            logger.debug("(%s) conflict: %s", session.name, error)
        session.fault(msgid, error)
        if transaction.stage is not Stage.OVER:  # else whoever aborted it cleans up
            session.end(transaction)
        return
    assert result is not None
    if result.conflicts:
        stats.conflicts += len(result.conflicts)
        if transaction.stage is not Stage.OVER:
            transaction.stage = Stage.COLLECTING
            transaction.rounds += 1
        session.reply(msgid, result.conflicts)
        return
    stats.conflicts_resolved += len(result.resolved)
    if transaction.stage is not Stage.OVER:
        transaction.stage = Stage.VOTED
    session.reply(msgid, result.resolved)
    session.flush()


def tpc_finish(session: Session, msgid: m.MsgId, request: m.TpcFinish) -> None:
    transaction = current_transaction(session, request.txn)
    if transaction.stage is not Stage.VOTED:
        raise StorageTransactionError(
            f"tpc_finish needs a successful vote; the transaction is {transaction.stage.value}"
        )
    transaction.stage = Stage.FINISHING
    session.service.coordinator.finish(transaction, partial(_finished, session, msgid, transaction))


def _finished(
    session: Session,
    msgid: m.MsgId,
    transaction: Transaction,
    finished: Finished | None,
    error: Exception | None,
) -> None:
    if finished is None:
        assert error is not None
        session.service.outcomes.failed(transaction, error)
        if session.service.cold is not None and not is_survived(error):
            session.service.cold.doubted(transaction)
        session.end(transaction)
        session.fault(msgid, error)
        return
    session.stats.commits += 1
    if session.service.cold is not None:
        session.service.cold.committed(finished.tid, transaction)
    # The client first: it waits, and what it sends next is looked at after this.
    try:
        if not session.is_lost:
            session.send_committed(session.codec.committed(msgid, finished.tid, finished.info))
    finally:
        session.end(transaction)


def outcome(session: Session, msgid: m.MsgId, request: Outcome) -> None:
    uid, since = request
    session.began()

    def answer(verdict: Verdict) -> None:
        logger.info(
            "(%s) asks for transaction %s, whose end it has not seen: %s",
            session.name, uid.hex(), verdict.state.value,
        )  # fmt: skip
        session.reply(msgid, serialize_verdict(verdict))
        session.ended()

    session.service.outcomes.ask(session, uid, since, answer)


def tpc_abort(session: Session, msgid: m.MsgId, request: m.TpcAbort) -> None:
    transaction = session.transactions.get(request.txn)
    if transaction is None:
        # After a failed vote there is nothing left to abort, and clients do it all the same.
        session.reply(msgid, None)
    elif transaction.stage is Stage.FINISHING:
        if msgid is NOTICE:
            # Its sender was interrupted, and cannot tell whether it had said that it commits.
            session.stall("abort")
            session.service.when_settled(partial(session.unstall, "abort"))
            return
        raise StorageTransactionError("too late to abort: the transaction is being committed")
    elif msgid is NOTICE:
        # Its sender waits for nothing: what comes next may be the next transaction.
        session.stall("abort")
        session.abort(transaction, partial(session.unstall, "abort"))
    else:
        session.abort(transaction, partial(session.reply, msgid, None))

"""What became of the transactions of one storage, for clients that lost their connection.

A client may name its transaction by a unique id.  From its beginning to its end the transaction is
*live* here; after that it is known for a while what became of it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Protocol

from ..errors import NotCommitted
from ..protocol.outcome import NOT_COMMITTED, State, Verdict
from .coordinator import is_survived
from .outcomelog import KEPT, RESERVED, OutcomeLog
from .transactions import Stage, Transaction

Answer = Callable[[Verdict], None]


class Maker(Protocol):
    """What is needed of the session that makes a transaction."""

    def abort(self, transaction: Transaction, done: Callable[[], None]) -> None:
        """Give up *transaction* unless it is finishing."""

    def leave(self, reason: str) -> None:
        """Close the connection at once: its client is not there any more."""


class _Live(NamedTuple):
    maker: Maker
    transaction: Transaction
    waiting: list[Callable[[], None]]


class Outcomes:
    """Belongs to the loop's thread.

    :param log: knows what was committed.
    :param is_alone: whether nobody but this server changes the database, so that what *log* does
        not know has not been committed.
    """

    def __init__(self, log: OutcomeLog, is_alone: bool) -> None:
        self.log = log
        self._is_alone = is_alone
        self._live: dict[bytes, _Live] = {}
        # The newest that ended otherwise; whether that is certain.
        self._others: dict[bytes, bool] = {}

    def begin(self, maker: Maker, transaction: Transaction) -> None:
        """*maker* begins *transaction*, which has a unique id.

        :raises ValueError: that is not unique.
        """
        uid = transaction.uid
        assert uid is not None
        if uid in RESERVED or uid in self._live or self._is_known(uid):
            raise ValueError(f"the unique id {uid.hex()} of the transaction has been used before")
        self._live[uid] = _Live(maker, transaction, [])

    def _is_known(self, uid: bytes) -> bool:
        return uid in self._others or self.log.find(uid) is not None

    def failed(self, transaction: Transaction, error: Exception) -> None:
        """The storage raised *error* when it was to commit *transaction*."""
        uid = transaction.uid
        if uid is None:
            return
        # The record stays: whoever opens the storage again compares it with what is there.
        self._note(uid, isinstance(error, NotCommitted))
        if not is_survived(error):
            # The storage is not served any more.  Whoever waits loses his connection, and asks
            # again when it is back: then it is known.
            self._live.pop(uid, None)

    def ended(self, transaction: Transaction) -> None:
        """*transaction* is over, and the storage is done with it."""
        live = None if transaction.uid is None else self._live.pop(transaction.uid, None)
        if live is None:
            return
        assert transaction.uid is not None
        if not self._is_known(transaction.uid):
            self._note(transaction.uid, True)
        for answer in live.waiting:
            answer()

    def _note(self, uid: bytes, is_certain: bool) -> None:
        self._others[uid] = is_certain
        if len(self._others) > KEPT:
            del self._others[next(iter(self._others))]

    def ask(self, asker: Any, uid: bytes, since: bytes, answer: Answer) -> None:
        """Find out what became of a transaction.

        One that is being committed is waited for.  One that is not goes no further: whoever asks
        has given up the connection on which it was begun, and wants to know for certain.

        :param asker: the session that asks.
        :param since: a transaction that came before this one, if this one was committed.
        :param answer: gets to know, now or later; never if the storage fails meanwhile.
        """
        live = self._live.get(uid)
        if live is None:
            answer(self._find(uid, since))
            return
        maker, transaction, waiting = live
        waiting.append(lambda: answer(self._find(uid, since)))
        if transaction.stage is not Stage.FINISHING:
            maker.abort(transaction, _do_nothing)
            if maker is not asker:
                maker.leave("its client asks on another connection what became of its transaction")

    def _find(self, uid: bytes, since: bytes) -> Verdict:
        tid, is_certain = self.log.find(uid), self._others.get(uid)
        if tid is not None and is_certain is None:
            return Verdict(State.COMMITTED, tid)
        unknown = partial(Verdict, State.UNKNOWN, None)
        if is_certain is False:
            return unknown("the storage failed while the transaction was being committed")
        if is_certain is None and not self._is_alone:
            return unknown("this server has never seen it, and others may change the database")
        if is_certain is None and since < self.log.horizon:
            return unknown("the server's record of transactions does not go back that far")
        if is_certain is None:
            # Should it still be on its way on another connection, it must not come true.
            self._note(uid, True)
        return NOT_COMMITTED


def _do_nothing() -> None:
    pass

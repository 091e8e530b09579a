"""Learning what became of a transaction whose ``tpc_finish`` was not answered with its id.

A lost request and a lost answer look the same; and a storage that fails in the last step of a
commit does not know what is on disk until it has been opened again.  In Zeolith's own protocol a
transaction has a unique id, by which the server can be asked later; in ZEO's nothing can be done.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from ZODB.POSException import StorageError

from ..errors import (
    ClientDisconnected,
    ClientStorageError,
    NotCommitted,
    OutcomeUnknown,
    ServerError,
)
from ..protocol.outcome import Outcome, State, Verdict, parse_verdict
from .channel import Channel, NotSent
from .link import Link

logger = logging.getLogger(__name__)


def leaves_doubt(error: Exception, can_ask: bool) -> bool:
    """Return whether a transaction may be committed whose ``tpc_finish`` raised *error*.

    :param can_ask: whether a server can be asked; else what it said counts.
    """
    if isinstance(error, NotSent | NotCommitted):
        return False
    if isinstance(error, ClientDisconnected):
        return True
    # What a server says whose storage has failed; its other refusals have types of their own.
    return can_ask and (isinstance(error, ServerError) or type(error) is StorageError)


class LostFinish:
    """One transaction whose end was not seen; used by the thread that commits it.

    :param link: finds a server to ask.
    :param channel: the connection that was lost.
    :param uid: the transaction's unique id; None if it has none.
    :param since: the last transaction that was known here when ``tpc_finish`` was sent.
    :param committed: called with the transaction's id if it turns out to have been committed, by
        whoever reads the answer, before any later message.
    :param cause: how the connection was lost, or what the server said.
    """

    def __init__(
        self,
        link: Link,
        channel: Channel,
        uid: bytes | None,
        since: bytes,
        committed: Callable[[bytes], None],
        cause: Exception,
    ) -> None:
        self._link = link
        self._lost = channel
        self._uid = uid
        self._since = since
        self._committed = committed
        self._cause = cause

    def learn(self, timeout: float) -> bytes:
        """Return the transaction's id if it was committed.

        :param timeout: seconds for everything: to find a server, and to have its answer.
        :raises NotCommitted: it was not.
        :raises OutcomeUnknown: nobody can tell, or not in time.
        """
        if self._uid is None:
            raise self._unknown("the server speaks ZEO's protocol, and cannot be asked")
        logger.warning(
            "%s: tpc_finish of transaction %s failed; asking what became of it: %s",
            self._link.name, self._uid.hex(), self._cause,
        )  # fmt: skip
        verdict = self._ask(self._uid, time.monotonic() + timeout)
        logger.warning(
            "%s: transaction %s: %s", self._link.name, self._uid.hex(), verdict.state.value
        )
        if verdict.state is State.UNKNOWN:
            raise self._unknown(verdict.reason)
        if verdict.tid is None:
            raise NotCommitted(self._cause) from self._cause
        return verdict.tid

    def _unknown(self, reason: object) -> OutcomeUnknown:
        error = OutcomeUnknown(self._cause, str(reason), self._uid)
        error.__cause__ = self._cause
        return error

    def _ask(self, uid: bytes, deadline: float) -> Verdict:
        while True:
            channel = self._find_server(deadline)
            question = _Question(self._committed)
            try:
                verdict = question.put(channel, Outcome(uid, self._since), deadline)
            except ClientDisconnected as error:
                if not channel.is_broken or time.monotonic() >= deadline:
                    raise self._unknown(error) from error
                continue
            except Exception as error:
                if question.is_answered:
                    raise  # the database did not take it
                # Whatever the server says instead of an answer.
                raise self._unknown(error) from error
            if verdict is None:
                raise self._unknown(f"{channel.server_name} did not answer in time")
            is_final = verdict.state is not State.UNKNOWN or not self._link.is_read_only
            # Else it only stands in for a server that may know, and may come back.
            if is_final or not self._link.wait_lost(channel, deadline):
                return verdict

    def _find_server(self, deadline: float) -> Channel:
        try:
            channel = self._link.wait_until(deadline)
        except ClientStorageError as error:
            raise self._unknown(error) from error
        if not channel.speaks_own:
            raise self._unknown(f"{channel.server_name} speaks ZEO's protocol, and cannot be asked")
        if channel.database != self._lost.database:
            raise self._unknown(
                f"{channel.server_name} has another database by now, or it was restored from a "
                "backup"
            )
        return channel


class _Question:
    """One question, of which the answer counts only as long as somebody waits for it."""

    def __init__(self, committed: Callable[[bytes], None]) -> None:
        self._committed = committed
        self._lock = threading.Lock()  # guards the two below, and what is done about the answer
        self._verdict: Verdict | None = None
        self._is_over = False

    @property
    def is_answered(self) -> bool:
        """Whether there was an answer while somebody waited for it."""
        return self._verdict is not None

    def put(self, channel: Channel, request: Outcome, deadline: float) -> Verdict | None:
        """Ask, and return the answer; None if there is none before *deadline*.

        :raises ClientDisconnected: the connection ended.
        :raises Exception: the server has raised it, the answer was none or, if it
            :attr:`is_answered`, it could not be passed on.
        """
        try:
            slot = channel.start(request, self._answered)
            channel.wait_answer(slot, deadline - time.monotonic())
            if slot.done and slot.error is not None:
                raise slot.error
        finally:
            with self._lock:
                self._is_over = True
        return self._verdict

    def _answered(self, value: Any) -> None:
        verdict = parse_verdict(value)
        with self._lock:
            if self._is_over:
                return
            self._verdict = verdict
            if verdict.tid is not None:
                self._committed(verdict.tid)

"""One process initialises the database, the others wait for it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, Final

import transaction
from ZODB.POSException import ReadOnlyError, Unsupported

from ..errors import ClientDisconnected, ConfigurationError

logger = logging.getLogger(__name__)

PAUSE: Final = 0.2
"""Seconds between two looks at the database: less than anybody notices at a start, and a few
questions a second are nothing to a server."""

REMINDER: Final = 60.0
"""Seconds after which a process that waits says so again."""


class FirstStart:
    """The start of an application that puts something into an empty database.

    Several processes may start at once, at one Zeolith server::

        with FirstStart(db, lambda root: "app" in root) as is_ours:
            if is_ours:
                with db.transaction() as connection:
                    connection.root()["app"] = make_app()

    One of them initialises the database; the others wait until it is done.  If that one ends or
    loses its connection before, another one goes on with it, so that initialising must be able to
    begin with what is there already.  One thread uses an object, once; threads that share a
    storage are one client of the server, and do not wait for each other.

    :param db: the ``ZODB.DB``, on a :class:`~zeolith.client.storage.ClientStorage`.
    :param is_done: says of a root object whether there is nothing left to do.
    :param is_begun: says of a root object whether a process that does not initialise anything can
        work with it, if nobody is initialising it; *is_done* if None.
    :param refusal: why this process must not initialise anything, and what to do if none does;
        None if it may.
    :raises ConfigurationError: the database is none of a Zeolith client.
    """

    def __init__(
        self,
        db: Any,
        is_done: Callable[[Any], bool],
        is_begun: Callable[[Any], bool] | None = None,
        refusal: str | None = None,
    ) -> None:
        storage = db.storage
        # Wrappers such as zlibstorage hand the call on; a DemoStorage, which keeps what it is told
        # to itself, does not.
        if not hasattr(storage, "take_lead"):
            raise ConfigurationError(
                f"database {db.database_name!r}",
                f"is not opened by Zeolith's client, but by {type(storage).__name__}, so that "
                "processes cannot agree on who initialises it",
                "open it with <zeolith>, or do not ask for that",
            )
        self._db = db
        self._storage = storage
        self._is_done = is_done
        self._is_begun = is_begun or is_done
        self._refusal = refusal
        self._leads = False
        self._next_line = 0.0

    def begin(self) -> bool:
        """Wait until this process may go on; return whether it is the one that initialises.

        Waits as long as it takes, and says in the log what for.  At a ZEO server, which does not
        know who leads, a process that may initialise does not wait: that goes to the log.

        A process that must not initialise anything goes on without a server, if there is enough in
        its cache.

        :raises ClientDisconnected: there is no server, or it was lost for longer than the storage's
            ``wait_timeout``.
        :raises ReadOnlyError: it may initialise, and the storage is read-only.
        """
        try:
            return self._wait()
        except BaseException:
            # Nobody calls end() then.
            self.end()
            raise

    def _wait(self) -> bool:
        while not self._sees(self._is_done):
            if self._refusal is not None:
                if self._sees(self._is_begun) and not self._somebody_leads():
                    return False
                self._remind(logging.WARNING, f"waiting for another process: {self._refusal}")
            elif self._take_lead():
                # Whoever led before may have finished between our look and our question.
                if not self._sees(self._is_done):
                    logger.info("this process initialises the database")
                    return True
                self.end()
            else:
                self._remind(logging.INFO, "waiting: another process initialises the database")
            time.sleep(PAUSE)
        return False

    def end(self) -> None:
        """This process has initialised the database, or has given up; the others may go on."""
        leads, self._leads = self._leads, False
        # Without a connection there is no lead, and no need to wait for a server.
        if leads and self._storage.is_connected():
            try:
                self._storage.give_lead()
            except ClientDisconnected as error:
                # With the connection the lead has gone, too.
                logger.debug("the lead ended with the connection: %s", error)

    def __enter__(self) -> bool:
        return self.begin()

    def __exit__(self, *exc: object) -> None:
        self.end()

    def _sees(self, question: Callable[[Any], bool]) -> bool:
        # With a transaction of its own: the application's may be about something else.
        manager = transaction.TransactionManager()
        connection = self._db.open(transaction_manager=manager)
        try:
            return question(connection.root())
        finally:
            manager.abort()
            connection.close()

    def _take_lead(self) -> bool:
        try:
            return self._ask()
        except Unsupported as error:
            logger.warning(
                "%s; if processes start together on an empty database, one of them may fail: "
                "start one of them first",
                error,
            )
            return True

    def _somebody_leads(self) -> bool:
        try:
            leads = self._ask()
        except (Unsupported, ReadOnlyError) as error:
            # Who may not write cannot ask, and cannot be in anybody's way.
            logger.debug("nobody to wait for: %s", error)
            return False
        except ClientDisconnected as error:
            logger.info("no server tells whether to wait for another process: %s", error)
            return False
        self.end()
        return not leads

    def _ask(self) -> bool:
        # An interrupted question may have been answered.
        self._leads = True
        self._leads = self._storage.take_lead()
        return self._leads

    def _remind(self, level: int, text: str) -> None:
        now = time.monotonic()
        if now >= self._next_line:
            self._next_line = now + REMINDER
            logger.log(level, "%s", text)

"""A read-only connection that is kept up, for those who want to know of transactions and no more.

One thread connects, watches the connection and connects again; calls are made by the caller's own
thread on the present :class:`Channel`, as those of a client storage.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Sequence

from ..errors import (
    ClientDisconnected,
    ClientStorageError,
    DatabaseRestored,
    OtherDatabase,
    ServerBehindCache,
    ServerRefused,
)
from ..protocol.hello import Database
from ..protocol.loadrequests import Record
from ..protocol.messages import InvalidateTransaction, Request, SetClientLabel
from ..types import NO_TID
from .backoff import Backoff
from .channel import Channel
from .connector import Candidate, Connector, Mode
from .link import ATTEMPT_TIMEOUT, CLOSE_PATIENCE, LinkOptions
from .outages import anew, log_failure, not_connected
from .watcher import watch

logger = logging.getLogger(__name__)

BAR = (ServerRefused, ServerBehindCache, OtherDatabase, DatabaseRestored)
"""Failures that waiting does not mend."""


class Notices:
    """Takes what a server says unasked; the channel's ``Receiver``.

    However much that is, one transaction id is kept (rule R8).

    :ivar newest: the last transaction that was announced; ``NO_TID`` if none was.
    """

    __slots__ = ("_follower", "newest")

    def __init__(self, follower: Follower) -> None:
        self._follower = follower
        self.newest: bytes = NO_TID

    def loaded(self, oid: bytes, start: bytes, end: bytes | None, data: bytes) -> None:
        """Never called: nothing is loaded."""

    def loaded_many(self, records: Sequence[Record]) -> None:
        """Never called either."""

    def noticed(self, request: Request) -> None:
        """The server sent a notice."""
        if isinstance(request, InvalidateTransaction):
            self.newest = request.tid
            self._follower.wake()

    def broken(self, channel: Channel, cause: BaseException) -> None:
        """The channel has ended."""
        self._follower.lost(channel, cause)


class Follower:
    """Keeps a connection that is told of every transaction.

    Methods may be called by any thread.

    :param options: how to connect.
    :param since: the transaction up to which everything is known; None: the server's last one, when
        it is reached first.
    :param database: the database that *since* is one of; None: that of the first server reached.
    :param label: names this client in the server's log.
    :ivar database: which database it is; None as long as no server has said so.
    """

    def __init__(
        self,
        options: LinkOptions,
        since: bytes | None,
        database: Database | None,
        label: str | None,
    ) -> None:
        self.database = database
        self.known = since
        """The transaction that a server must have to be the right one; None: any will do."""
        self._options = options
        self._label = label
        self._pid = os.getpid()
        self._changed = threading.Condition()
        self._channel: Channel | None = None
        self._failure: Exception | None = None
        self._is_closed = False
        self._nudge = threading.Event()
        self._connector = Connector(
            options.addresses,
            options.storage,
            Mode.READ_ONLY,
            ATTEMPT_TIMEOUT,
            options.ssl,
            options.ssl_server_hostname,
            lambda: Notices(self),
            options.dead_server_timeout,
            options.compression,
            options.principal,
        )
        self._thread = threading.Thread(target=self._run, name="zeolith changes", daemon=True)
        self._thread.start()

    @property
    def is_closed(self) -> bool:
        """Whether this is over."""
        return self._is_closed

    # -- waiting -----------------------------------------------------------------------------------

    def wait(self, known: bytes | None = None) -> Channel | None:
        """Wait for a server and, given *known*, until it has announced a later transaction.

        :returns: its channel; None if this is closed.
        :raises ClientDisconnected: no server within the options' ``wait_timeout``.
        :raises ServerRefused, ServerBehindCache, OtherDatabase, DatabaseRestored: there is a
            server, but it cannot be used.
        """
        deadline: float | None = None
        with self._changed:
            while not self._is_closed:
                channel = self._channel
                if channel is not None:
                    if known is None or newest(channel) > known:
                        return channel
                    # Nothing to be done, for however long that is so.
                    deadline = None
                    self._changed.wait()
                    continue
                if isinstance(self._failure, BAR):
                    raise anew(self._failure)
                now = time.monotonic()
                if deadline is None:
                    deadline = now + self._options.wait_timeout
                if now >= deadline:
                    raise not_connected(
                        "timed out waiting for connection",
                        self._connector,
                        self._failure,
                        self._connector.awaited(),
                    )
                self._changed.wait(deadline - now)
        return None

    def wake(self) -> None:
        """A transaction was announced."""
        with self._changed:
            self._changed.notify_all()

    def lost(self, channel: Channel, cause: BaseException) -> None:
        """*channel* has ended."""
        with self._changed:
            was_ready = self._channel is channel
            if was_ready:
                self._channel = None
                self._changed.notify_all()
        self._nudge.set()
        if was_ready and not self._is_closed:
            logger.info("changes: disconnected from %s: %s", channel.server_name, cause)

    # -- the end -----------------------------------------------------------------------------------

    def stop(self) -> None:
        """End the connection for good; whoever waits is told.  Does not wait for the thread."""
        if os.getpid() != self._pid:
            # A child made by fork: the socket is its parent's too.
            return
        with self._changed:
            if self._is_closed:
                return
            self._is_closed = True
            channel = self._channel
            self._changed.notify_all()
        self._connector.stop()
        if channel is not None:
            channel.close(ClientDisconnected("closed"))
        self._nudge.set()

    def close(self) -> None:
        """As :meth:`stop`; returns when the thread has ended, or after :data:`CLOSE_PATIENCE`."""
        self.stop()
        if os.getpid() == self._pid and self._thread is not threading.current_thread():
            self._thread.join(CLOSE_PATIENCE)

    # -- the thread --------------------------------------------------------------------------------

    def _run(self) -> None:
        backoff = Backoff(self._options.min_poll, self._options.max_poll)
        while not self._is_closed:
            try:
                if self._connect_and_watch():
                    backoff.reset()
            except Exception:
                # A defect.  Who follows must not be left without anybody who looks for a server.
                logger.exception("changes: looking for a server again after an error")
            # Set by the loss of the connection; who closes has said so before.
            self._nudge.clear()
            if not self._is_closed:
                self._nudge.wait(backoff.next_delay())

    def _connect_and_watch(self) -> bool:
        """Find a server and watch its connection until it ends; return whether it was one."""
        try:
            candidate = self._connector.connect()
        except Exception as error:  # noqa: BLE001 - kept for those who wait, and logged
            self._failed(error)
            return False
        channel = candidate.channel
        try:
            self._check(candidate)
            if self._label is not None:
                channel.post(SetClientLabel(self._label))
            channel.flush()
            channel.wire.set_timeout(None)
            if not self._adopt(candidate):
                return False
            logger.info("changes: connected to %s", channel.server_name)
            watch(channel, self._nudge)
            return True
        except ClientStorageError as error:
            self._failed(error)
            return False
        finally:
            channel.close(ClientDisconnected("closed"))
            channel.release()

    def _check(self, candidate: Candidate) -> None:
        """See to it that what this server says goes on where the last one ended."""
        name = candidate.channel.server_name
        if not candidate.channel.speaks_own:
            raise ServerRefused(
                name,
                "it does not speak Zeolith's own protocol, which is needed to follow changes; a "
                "Zeolith server speaks it by itself",
            )
        known, found = self.database, candidate.database
        if known is not None and found is not None:
            if known.identity != found.identity:
                raise OtherDatabase(found.identity, known.identity)
            if known.epoch != found.epoch:
                raise DatabaseRestored(found.epoch, known.epoch)
        server_tid = candidate.server_tid or NO_TID
        if self.known is not None and server_tid < self.known:
            raise ServerBehindCache(server_tid, self.known)

    def _adopt(self, candidate: Candidate) -> bool:
        """Make it the present connection, unless this is closed or it has ended."""
        channel = candidate.channel
        notices = channel.receiver
        assert isinstance(notices, Notices)  # made by our own factory
        server_tid = candidate.server_tid or NO_TID
        with self._changed:
            if self._is_closed or channel.is_broken:
                return False
            notices.newest = max(notices.newest, server_tid)
            if self.known is None:
                self.known = server_tid
            if candidate.database is not None:
                self.database = candidate.database
            self._failure = None
            self._channel = channel
            self._changed.notify_all()
        return True

    def _failed(self, failure: Exception) -> None:
        with self._changed:
            before, self._failure = self._failure, failure
            self._changed.notify_all()
            if self._is_closed:
                return
        log_failure("changes", self._connector, failure, before)


def newest(channel: Channel) -> bytes:
    """Return the last transaction that the server behind *channel*, a follower's, has announced."""
    notices = channel.receiver
    assert isinstance(notices, Notices)  # made by our own factory
    return notices.newest

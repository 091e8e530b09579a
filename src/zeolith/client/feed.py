"""The public change feed: an iterator over the transactions of a database, as they come."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterator
from types import TracebackType
from typing import Any

from ..errors import (
    ClientDisconnected,
    ClientStorageError,
    ConfigurationError,
    ProtocolViolation,
)
from ..protocol.hello import Database
from ..types import NO_TID
from .changes import Change, ChangePages
from .follower import Follower, newest
from .link import LinkOptions
from .options import make_link_options, refuse_no_text
from .principal import Principal


class ChangeFeed(Iterator[Change]):
    """An iterator over changes; made by :func:`changes`.

    Use it as a context manager, or close it.  One thread at a time iterates; the others wait.
    ``close`` may be called by any thread.

    An error does not end it: whoever asks for the next change again gets what would have come.
    """

    def __init__(
        self,
        options: LinkOptions,
        since: bytes | None,
        wait: bool,
        database: Database | None,
        label: str | None,
    ) -> None:
        self._pid = os.getpid()
        self._turn = threading.Lock()
        self._ready: deque[Change] = deque()
        self._follower = Follower(options, since, database, label)
        # A loop may be left without a word.
        self._finalizer = weakref.finalize(self, self._follower.stop)
        self._finalizer.atexit = False
        try:
            channel = self._follower.wait()
        except BaseException:
            self.close()
            raise
        assert channel is not None  # nobody has had this to close it
        start = self._follower.known if since is None else since
        self._pages = ChangePages(NO_TID if start is None else start)
        # The last one before those that are ready.
        self._handed_out = self._pages.position
        # Of this connection, which may have ended meanwhile.
        self._until = None if wait else newest(channel)
        # When a question is given up that costs each connection its life; None: it has not yet.
        self._gives_up_at: float | None = None
        self._patience = options.wait_timeout

    @property
    def position(self) -> bytes:
        """The transaction up to which all changes have been returned."""
        return self._handed_out if self._ready else self._pages.position

    @property
    def database(self) -> Database | None:
        """Identity and epoch of the database; None if the server cannot tell.

        Transaction ids mean something within one epoch of one database only.
        """
        return self._follower.database

    def __next__(self) -> Change:
        """Return the next change; wait for it.

        :raises StopIteration: closed, or all that was asked for has been returned.
        :raises ClientDisconnected: no server within ``wait_timeout``, or none that answers.
        :raises ServerRefused: a server is there, but will not have us.
        :raises OtherDatabase: the server has another database than before.
        :raises DatabaseRestored: it has the same one, restored from a backup since.
        :raises ServerBehindCache: it ends before what has been returned.
        :raises HistoryLost: the server cannot tell what changed since.
        :raises ProtocolViolation: what it says instead makes no sense.
        """
        if os.getpid() != self._pid:
            raise ClientStorageError(
                "this feed was made in another process: make one of this process's own"
            )
        with self._turn:
            while not self._ready:
                self._ask()
            if self._follower.is_closed:
                self._ready.clear()
                raise StopIteration
            change = self._ready.popleft()
            self._handed_out = change.tid
            return change

    def _ask(self) -> None:
        """Ask for the next page, as soon as there is one.

        :raises StopIteration: there will be none.
        """
        pages = self._pages
        if self._until is not None and pages.position >= self._until:
            self._follower.close()
            raise StopIteration
        channel = self._follower.wait(None if pages.has_more else pages.position)
        if channel is None:
            raise StopIteration
        try:
            answer = channel.call(pages.question())
        except ClientDisconnected:
            # Of this connection, another one goes on; anything else the server said is for
            # the caller.
            if not channel.is_broken or self._has_lost_patience():
                raise
            return
        self._gives_up_at = None
        try:
            found, pages = pages.take(answer)
        except ProtocolViolation as error:
            channel.close(error)
            raise
        ready = deque(found)
        # An interrupt must not come between these two, or what was found would be lost.
        self._ready, self._pages = ready, pages
        self._follower.known = pages.position

    def _has_lost_patience(self) -> bool:
        """A connection has ended over a question; return whether that goes on for too long.

        If so, the next question begins anew.
        """
        now = time.monotonic()
        if self._gives_up_at is None:
            self._gives_up_at = now + self._patience
        elif now >= self._gives_up_at and not self._follower.is_closed:
            self._gives_up_at = None
            return True
        return False

    def close(self) -> None:
        """End the feed; whoever waits in it gets StopIteration.  May be called twice."""
        self._finalizer.detach()
        self._follower.close()

    def __enter__(self) -> ChangeFeed:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def changes(
    addr: Any,
    since: bytes | None = None,
    *,
    storage: str = "1",
    wait: bool = True,
    wait_timeout: float | None = None,
    database: Database | tuple[str, int] | None = None,
    client_label: str | None = None,
    ssl: Any = None,
    ssl_server_hostname: str | None = None,
    min_disconnect_poll: float | None = None,
    max_disconnect_poll: float | None = None,
    dead_server_timeout: float | None = None,
    compression: bool | None = None,
    username: str | None = None,
    password: str | None = None,
    password_file: str | None = None,
    realm: str | None = None,
    credentials: Principal | None = None,
) -> ChangeFeed:
    """Return an iterator over the transactions of a database, and which objects each changed.

    Each transaction of each client comes, in the order of the tids, none twice and none left out;
    when the connection is lost it goes on where it was.  See ``docs/changes.md``.

    :param addr: of the server, as of :class:`.ClientStorage`; it must be one of Zeolith.
    :param since: a transaction id, eight bytes: what came after it; ``bytes(8)``: all there is.
        None: what comes from now on.
    :param storage: name of the storage at the server.
    :param wait: wait for further changes; otherwise the iterator ends behind the transaction that
        is the last one now, or a little later.
    :param wait_timeout: seconds to wait for a server, each time there is none (30).
    :param database: the identity and epoch that *since* is a transaction of; see
        :attr:`ChangeFeed.database`.
    :param client_label: names this client in the server's log.
    :param ssl: what :func:`zeolith.tls` makes, or an SSL context: connect with TLS.
    :param ssl_server_hostname: name to check the server's certificate against, instead of the
        host of the address.
    :param min_disconnect_poll: seconds before the second attempt to connect; doubles from there.
    :param max_disconnect_poll: longest pause between attempts in seconds.
    :param dead_server_timeout: seconds after which a silent server is given up (60); 0: never.
    :param compression: as of :class:`.ClientStorage`.
    :param username: as of :class:`.ClientStorage`, like *password*, *password_file*,
        *realm* and *credentials*.
    :raises ConfigurationError: a keyword cannot be used.
    :raises ClientDisconnected: no server within *wait_timeout*.
    :raises ServerRefused, OtherDatabase, DatabaseRestored, ServerBehindCache: as ``next`` does.
    """
    if since is not None and (type(since) is not bytes or len(since) != 8):
        raise ConfigurationError(
            "since",
            f"{since!r:.60} is no transaction id",
            "give eight bytes, bytes(8) for all there is, or None for what comes from now on",
        )
    refuse_no_text("client_label", client_label)
    options = make_link_options(
        addr=addr,
        storage=storage,
        wait_timeout=wait_timeout,
        read_only=True,
        read_only_fallback=False,
        min_disconnect_poll=min_disconnect_poll,
        max_disconnect_poll=max_disconnect_poll,
        ssl=ssl,
        ssl_server_hostname=ssl_server_hostname,
        drop_cache_rather_verify=False,
        database_behind="refuse",
        dead_server_timeout=dead_server_timeout,
        compression=compression,
        username=username,
        password=password,
        password_file=password_file,
        realm=realm,
        credentials=credentials,
    )
    return ChangeFeed(options, since, bool(wait), _database(database), client_label)


def _database(value: Any) -> Database | None:
    if value is None:
        return None
    if isinstance(value, tuple) and len(value) == 2:
        identity, epoch = value
        if isinstance(identity, str) and isinstance(epoch, int) and not isinstance(epoch, bool):
            return Database(identity, epoch)
    raise ConfigurationError(
        "database", f"{value!r:.60} is no identity and epoch", "give what a feed's database was"
    )

"""A client's connection to whichever server there is: one state machine, one background thread.

The thread connects, verifies the cache, and then watches the idle connection; when it is lost the
thread starts anew.  Calls are made by the callers' own threads on the present :class:`Channel`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

from ..cache.interface import ClientCache
from ..credentials import Credentials
from ..errors import ClientDisconnected, OtherDatabase, ServerBehindCache, ServerRefused
from ..protocol.compression import EXTRA
from ..protocol.messages import GetInfo, InvalidateTransaction, Request
from .backoff import Backoff
from .channel import Channel
from .connector import Candidate, Connector, Mode
from .intake import Intake
from .outages import anew, log_failure, not_connected
from .principal import Principal
from .rechecking import Rechecking
from .sharing import ask_changes, tend
from .states import TRANSITIONS, State
from .syncing import Progress
from .verification import CacheOwner, Databases, WhenBehind, verify
from .watcher import watch
from .wire import Address

logger = logging.getLogger(__name__)

ATTEMPT_TIMEOUT = 30.0
"""Seconds to wait for each answer until the cache is verified: a server that admits clients but
then does not speak is given up after this."""

STEADY = 1.0
"""Seconds after which a connection has proved to be one: when it is lost, the next attempt is made
at once.  Before that there is a short pause: each might be lost as soon as it is made."""

CLOSE_PATIENCE = 10.0
"""Seconds that ``close`` waits for the background thread, which may be asking the DNS or telling a
database that does not return."""

BAR = (ServerRefused, ServerBehindCache, OtherDatabase)
"""Failures that waiting does not mend."""


class Owner(CacheOwner, Protocol):
    """Whom a link reports to: the client storage."""

    def connected(self, channel: Channel, info: dict[str, Any]) -> None:
        """A server has been found and the cache is verified; calls will work in a moment.

        Only notices may be posted from here.
        """

    def disconnected(self) -> None:
        """The server was lost."""

    def noticed(self, request: Request) -> None:
        """The server sent a notice other than an invalidation."""

    def tended(self, channel: Channel) -> None:
        """Another minute of a connection has passed; must not wait for the server."""

    def resized(self, length: int, size: int) -> None:
        """The storage has *length* objects and *size* bytes now."""


@dataclass(frozen=True, kw_only=True)
class LinkOptions:
    """How to connect.

    :ivar wait_timeout: seconds that a call waits for a connection.
    :ivar dead_server_timeout: seconds after which a server is given up that has not been heard of;
        None: never.
    :ivar compression: whether to compress if the server does; None: where that is usual.
    :ivar principal: who the client is; None: it does not say.
    """

    addresses: Sequence[Address]
    storage: str = "1"
    mode: Mode = Mode.WRITABLE
    wait_timeout: float = 30.0
    min_poll: float = 0.05
    max_poll: float = 5.0
    ssl: Credentials | None = None
    ssl_server_hostname: str | None = None
    when_behind: WhenBehind = WhenBehind.DROP_CACHE
    drop_rather_than_verify: bool = False
    dead_server_timeout: float | None = None
    compression: bool | None = False
    principal: Principal | None = None


class Link:
    """Keeps one client connected.

    Methods may be called by any thread, except where stated.

    :param name: of the storage, for logs and the thread.
    """

    def __init__(
        self,
        name: str,
        options: LinkOptions,
        cache: ClientCache,
        owner: Owner,
    ) -> None:
        self.name = name
        self.options = options
        self.owner = owner
        self.cache = cache
        self.is_read_only = options.mode is Mode.READ_ONLY
        """Whether the present or last server admitted us read-only."""
        self.visibility = threading.RLock()
        """Held while a transaction of ours becomes visible: see :meth:`last_tid`."""
        self.progress = Progress()
        """Told whenever there is a new last transaction."""
        # The thread that is in the database's code on our behalf.
        self._teller: int | None = None
        self._changed = threading.Condition()
        self._state = State.CONNECTING
        self._channel: Channel | None = None
        self._upgrade: Candidate | None = None
        self._verifying: Channel | None = None
        self._rechecking: Rechecking | None = None
        self._failure: Exception | None = None
        self._nudge = threading.Event()
        self._connector = Connector(
            options.addresses,
            options.storage,
            options.mode,
            ATTEMPT_TIMEOUT,
            options.ssl,
            options.ssl_server_hostname,
            lambda: Intake(self, cache.store, cache.store_many),
            options.dead_server_timeout,
            options.compression,
            options.principal,
        )
        self._thread = threading.Thread(
            target=self._run, name=f"zeolith client {name}", daemon=True
        )

    def start(self) -> None:
        """Start connecting."""
        self._thread.start()

    # -- calling ---------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """Present state."""
        return self._state

    @property
    def is_closed(self) -> bool:
        """Whether the connection has ended for good."""
        return self._state is State.CLOSED

    @property
    def is_connected(self) -> bool:
        """Whether calls can be made at this moment."""
        return self._channel is not None

    @property
    def transactions(self) -> int:
        """How many transactions may be in progress at once with the present server."""
        channel = self._channel
        return 1 if channel is None else channel.transactions

    def channel(self) -> Channel:
        """Return the present channel, for work that is void without it.

        :raises ClientDisconnected: there is none.
        """
        channel = self._channel
        if channel is None:
            raise not_connected("not connected", self._connector, self._failure)
        return channel

    def wait(self, timeout: float | None = None) -> Channel:
        """Wait for a connection; return its channel.

        :param timeout: seconds; the link's ``wait_timeout`` if None.
        :raises ClientDisconnected: none in time, or closed.
        :raises ServerRefused, ServerBehindCache, OtherDatabase: there is a server, but it cannot be
            used.
        """
        return self.wait_until(self._deadline(timeout))

    def load_before(self, oid: bytes, tid: bytes) -> tuple[bytes, bytes, bytes | None] | None:
        """Ask the server for a revision; after a break ask again.

        :raises ClientDisconnected: no connection within ``wait_timeout``.
        """
        channel = self._channel
        if channel is not None:
            try:
                return channel.load_before(oid, tid)
            except ClientDisconnected:
                if self._state is State.CLOSED:
                    raise
        answer: tuple[bytes, bytes, bytes | None] | None
        answer = self._again(lambda channel: channel.load_before(oid, tid), None)
        return answer

    def call(self, request: Request, timeout: float | None = None) -> Any:
        """Make a call; wait for a connection before it, but not for another one after a break.

        :param timeout: seconds to wait for a connection.
        """
        return self.wait(timeout).call(request)

    def ask(self, request: Request, timeout: float | None = None) -> Any:
        """Make a call that changes nothing; after a break make it again.

        :param timeout: seconds to wait for connections.
        """
        return self._again(lambda channel: channel.call(request), timeout)

    def repeat(self, attempt: Callable[[Channel], Any], progress: Callable[[], int]) -> Any:
        """Make calls that change nothing; after a break make them again.

        :param attempt: makes them on the present channel.
        :param progress: returns a number that changes whenever something has been achieved, so
            that the next break counts as the first one.
        """
        return self._again(attempt, None, progress)

    def _again(
        self,
        attempt: Callable[[Channel], Any],
        timeout: float | None,
        progress: Callable[[], int] | None = None,
    ) -> Any:
        deadline = self._deadline(timeout)
        is_repeated = False
        achieved = 0 if progress is None else progress()
        while True:
            channel = self.wait_until(deadline)
            try:
                return attempt(channel)
            except ClientDisconnected:
                # Of this connection; anything else the server said goes to the caller.
                if not channel.is_broken or self._state is State.CLOSED:
                    raise
                if progress is not None and progress() != achieved:
                    achieved = progress()
                    is_repeated = False
                if not is_repeated:
                    # It was under way, maybe for long: what counts is the time without a server.
                    is_repeated = True
                    deadline = self._deadline(timeout)
                elif time.monotonic() >= deadline:
                    # A call that costs each connection its life is not repeated for ever.
                    raise

    def _deadline(self, timeout: float | None) -> float:
        return time.monotonic() + (self.options.wait_timeout if timeout is None else timeout)

    def wait_until(self, deadline: float) -> Channel:
        """As :meth:`wait`, until the monotonic clock shows *deadline*."""
        channel = self._channel
        if channel is not None:
            return channel
        with self._changed:
            while True:
                if self._channel is not None:
                    return self._channel
                if self._state is State.CLOSED:
                    raise ClientDisconnected("closed")
                if isinstance(self._failure, BAR):
                    raise anew(self._failure)
                left = deadline - time.monotonic()
                if left <= 0 or not self._changed.wait(left):
                    if self._channel is not None:
                        return self._channel
                    raise not_connected(
                        "timed out waiting for connection",
                        self._connector,
                        self._failure,
                        self._connector.awaited(),
                    )

    def wait_lost(self, channel: Channel, deadline: float) -> bool:
        """Wait until *channel* is not the present one, as :meth:`wait_until`; return whether."""
        return self._is_lost(channel, max(0.0, deadline - time.monotonic()))

    # -- what arrives (called by the thread that reads) ------------------------------------------

    def apply(self, invalidation: InvalidateTransaction) -> None:
        """Another client's transaction: first the cache, then the database, then ``last_tid``."""
        tid, oids = invalidation
        cache = self.cache
        last_tid = cache.last_tid()
        if tid <= last_tid:
            # Zeolith's server never sends one late; ZEO 6.2 on uvloop may send it after the
            # answer to our own later commit.  Which revision we hold is not clear then.
            logger.debug("%s: late invalidations of %s", self.name, tid.hex())
            for oid in oids:
                cache.invalidate(oid, None)
            with self._tell():
                self.owner.invalidate(last_tid, list(oids))
            return
        for oid in oids:
            cache.invalidate(oid, tid)
        with self._tell():
            self.owner.invalidate(tid, list(oids))
        cache.set_last_tid(tid)
        self.progress.tell()

    def committed(self, tid: bytes, visible: Callable[[bytes], Any]) -> None:
        """A transaction of ours was committed as *tid*, and the cache knows what it changed.

        :param visible: called with *tid*: tells the database.
        """
        with self.visibility:
            # In this order: should the database not take it, the next verification tells it again.
            self._teller = threading.get_ident()
            try:
                visible(tid)
            finally:
                self._teller = None
            if tid > self.cache.last_tid():
                self.cache.set_last_tid(tid)
        self.progress.tell()

    @contextmanager
    def _tell(self) -> Iterator[None]:
        """The present thread goes into the database's code, and may come back to close us."""
        self._teller = threading.get_ident()
        try:
            yield
        finally:
            self._teller = None

    def last_tid(self) -> bytes:
        """Return the last transaction whose invalidations have reached the database (rule R3).

        While a transaction of this client is becoming visible, waits until it is.
        """
        with self.visibility:
            return self.cache.last_tid()

    def lost(self, channel: Channel, cause: BaseException) -> None:
        """*channel* has ended."""
        with self._changed:
            was_ready = self._channel is channel
            if was_ready:
                self._channel = None
                if self._state is not State.CLOSED and self._upgrade is None:
                    self._enter(State.CONNECTING)
                self._changed.notify_all()
            is_closed = self._state is State.CLOSED
        if was_ready:
            # Not for one that never was: a server that refuses us would be asked again at once.
            self._nudge.set()
            if not is_closed:
                logger.info("%s: disconnected from %s: %s", self.name, channel.server_name, cause)
            self.owner.disconnected()

    # -- changing --------------------------------------------------------------------------------

    def _enter(self, state: State) -> None:
        """Change the state.  ``_changed`` is held."""
        if state is not self._state:
            assert state in TRANSITIONS[self._state], (self._state, state)
            self._state = state

    def set_addresses(self, addresses: Sequence[Address]) -> None:
        """Use *addresses* from the next attempt to connect on, which may be now."""
        self._connector.set_addresses(addresses)
        self._nudge.set()

    def abandon(self) -> None:
        """Forget everything in a child made by ``fork``: the parent goes on using the connection.

        No lock is taken: the thread that held it may not exist here.
        """
        self._state = State.CLOSED
        upgrade = None if self._upgrade is None else self._upgrade.channel
        for channel in (self._channel, self._verifying, upgrade):
            if channel is not None:
                channel.wire.close()
        self._channel = None
        self._connector.abandon()

    def close(self) -> None:
        """End the connection for good; waiting calls fail with ClientDisconnected.

        Returns when the background thread has ended, and so nobody reads any more, or after
        :data:`CLOSE_PATIENCE`; at once if called from the application's code by a thread that the
        background thread waits for: the one that reads, or the one that verifies the cache.
        """
        with self._changed:
            if self._state is State.CLOSED:
                return
            self._enter(State.CLOSED)
            channels = self._channel, self._verifying
            upgrade, self._upgrade = self._upgrade, None
            self._changed.notify_all()
        self.progress.tell()
        self._connector.stop()
        closed = ClientDisconnected("closed")
        for channel in channels:
            if channel is not None:
                channel.close(closed)
        if upgrade is not None:
            upgrade.channel.close(closed)
            upgrade.channel.release()
        self._nudge.set()
        rechecking = self._rechecking
        if (
            self._teller == threading.get_ident()
            or self._thread is threading.current_thread()
            or (rechecking is not None and rechecking.is_current)
        ):
            return
        if self._thread.is_alive():
            self._thread.join(CLOSE_PATIENCE)
            if self._thread.is_alive():
                logger.warning(
                    "%s: closed, but its thread is still busy after %g seconds",
                    self.name,
                    CLOSE_PATIENCE,
                )

    # -- the background thread -------------------------------------------------------------------

    def _run(self) -> None:
        backoff = Backoff(self.options.min_poll, self.options.max_poll)
        while not self.is_closed:
            self._nudge.clear()
            lasted = None
            try:
                lasted = self._connect_and_watch()
            except Exception:
                # A defect.  The client must not be left without anybody who looks for a server.
                logger.exception("%s: looking for a server again after an error", self.name)
            if lasted is not None:
                backoff.reset()
                if lasted >= STEADY:
                    continue
                # Set by the loss; who closes or upgrades has set something else before it.
                self._nudge.clear()
            if not self.is_closed and self._upgrade is None:
                self._nudge.wait(backoff.next_delay())

    def _connect_and_watch(self) -> float | None:
        """Find a server and watch its connection until it ends.

        :returns: for how many seconds it was the present one; None if there was none.
        """
        candidate = self._next_candidate()
        if candidate is None:
            return None
        rechecking = Rechecking(self.name, candidate.channel, self.cache, self.owner)
        self._rechecking = rechecking
        try:
            if not self._adopt(candidate):
                return None
            began = time.monotonic()
            rechecking.start()
            watch(candidate.channel, self._nudge, partial(self._tend, candidate.channel))
            return time.monotonic() - began
        finally:
            candidate.channel.close(ClientDisconnected("closed"))
            candidate.channel.release()
            rechecking.join()

    def _tend(self, channel: Channel) -> None:
        # What the cache knows is brought to disk: a process that is killed leaves it warm.
        tend(self.cache)
        self.owner.tended(channel)

    def _next_candidate(self) -> Candidate | None:
        with self._changed:
            upgrade, self._upgrade = self._upgrade, None
        if upgrade is not None:
            # The connection it replaces has told us more since it was admitted.
            return replace(upgrade, server_tid=None)
        try:
            return self._connector.connect()
        except Exception as error:  # noqa: BLE001 - kept for those who wait, and logged
            self._failed(error)
            return None

    def _failed(self, failure: Exception) -> None:
        with self._changed:
            before, self._failure = self._failure, failure
            if self._state is State.VERIFYING:
                self._enter(State.CONNECTING)
            self._changed.notify_all()
            if self._state is State.CLOSED:
                return
        log_failure(self.name, self._connector, failure, before)

    def _adopt(self, candidate: Candidate) -> bool:
        """Verify the cache against *candidate* and make it the present channel."""
        channel = candidate.channel
        intake = channel.receiver
        assert isinstance(intake, Intake)  # made by our own factory
        try:
            with self._changed:
                if self._state is State.CLOSED:
                    return False
                self._enter(State.VERIFYING)
                self._verifying = channel
            tid = verify(
                channel,
                self.cache,
                self.owner,
                candidate.server_tid,
                Databases(self.cache.database, candidate.database),
                self.options.when_behind,
                self.options.drop_rather_than_verify,
                self.visibility,
            )
            if not self.options.drop_rather_than_verify:
                ask_changes(channel, self.cache, candidate.database, tid)
            info = channel.call(GetInfo())
            # Nobody may read between the last held invalidation and the first one applied
            # directly, or their order could be lost.
            with channel.hold_reading():
                self.cache.set_last_tid(tid)
                self.cache.set_database(candidate.database)
                self.progress.tell()
                for invalidation in intake.held:
                    if invalidation.tid > tid:
                        self.apply(invalidation)
                intake.held.clear()
                intake.is_verified = True
                channel.wire.set_timeout(None)
                self.is_read_only = candidate.is_read_only
                self.owner.connected(channel, info)
                with self._changed:
                    if self.is_closed or channel.is_broken:
                        return False
                    is_fallback = self.options.mode is Mode.FALLBACK and candidate.is_read_only
                    self._enter(State.FALLBACK if is_fallback else State.READY)
                    self._failure = None
                    self._channel = channel
                    self._changed.notify_all()
            channel.flush()
        except Exception as error:  # noqa: BLE001 - kept for those who wait, and logged
            self._failed(error)
            return False
        finally:
            self._verifying = None
        logger.info(
            "%s: connected to %s%s%s",
            self.name,
            channel.server_name,
            f", {channel.server_program}" if channel.server_program else "",
            ", with compression" if channel.compresses else "",
        )
        if self.options.compression and not channel.compresses:
            logger.warning(
                "%s: %s does not compress, although this client wants it: it is no Zeolith "
                "server, lacks the library (%s), or its option 'compression' is off",
                self.name,
                channel.server_name,
                EXTRA,
            )
        if is_fallback:
            threading.Thread(
                target=self._seek_writable,
                args=(channel,),
                name=f"zeolith upgrade {self.name}",
                daemon=True,
            ).start()
        return True

    def _seek_writable(self, fallback: Channel) -> None:
        """Look for a writable server for as long as *fallback* is in use; then change over."""
        backoff = Backoff(self.options.min_poll, self.options.max_poll)
        while not self._is_lost(fallback, backoff.next_delay()):
            try:
                candidate = self._connector.connect(Mode.WRITABLE)
            except Exception as error:  # noqa: BLE001 - none yet
                logger.debug("%s: no writable server yet: %s", self.name, error)
                continue
            with self._changed:
                is_wanted = self._channel is fallback and self._state is State.FALLBACK
                if is_wanted:
                    self._upgrade = candidate
            cause = ClientDisconnected("a writable server is available")
            (fallback if is_wanted else candidate.channel).close(cause)
            if not is_wanted:
                candidate.channel.release()
            return

    def _is_lost(self, channel: Channel, timeout: float) -> bool:
        """Wait up to *timeout* seconds for *channel* to end; return whether it has."""
        with self._changed:
            return self._changed.wait_for(lambda: self._channel is not channel, timeout)

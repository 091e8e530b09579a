"""One storage as it is served: the only place where sessions meet."""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from ZODB.FileStorage import FileStorage

from ..protocol.hello import Database
from ..protocol.messages import Info
from ..types import NO_TID
from .access import StorageAccess
from .coldblobs import ColdBlobs
from .conflicts import take_over
from .coordinator import CommitCoordinator
from .exclusive import ExclusiveCoordinator
from .fileclaim import claim_files
from .identity import DatabaseIdentity, identify
from .inbox import Inbox
from .invalidations import Entry, InvalidationLog
from .lead import Lead
from .missed import Reading
from .options import ServerOptions
from .outcomelog import SUFFIX, OutcomeLog
from .outcomes import Outcomes
from .packing import Packing, is_fatal
from .parking import Parking
from .publisher import Publisher
from .refilling import last_entries, newest_tid
from .resolvers import make_resolver
from .statistics import Statistics
from .warmblobs import find_warm_blobs
from .workers import Done, WorkerPool

logger = logging.getLogger(__name__)

_PACK_GRACE: Final = 2.0
"""Seconds for a pack to end after it was told to."""

NOTE_INTERVAL: Final = 10.0
"""Seconds between two looks at how far the database goes, to be recorded beside it."""

_PACK_PATIENCE: Final = 60.0
"""Seconds to wait for the pack of a storage that failed, before saying so."""


class Pools:
    """The worker threads that all storages of a server share.

    :ivar loads: loads from slow storages.
    :ivar quick: short storage calls and blob files.
    :ivar slow: calls that may read a whole storage.
    :ivar inbox: the way back from them.
    """

    def __init__(self, options: ServerOptions, inbox: Inbox) -> None:
        self.inbox = inbox
        self.loads = WorkerPool("zeolith-load", options.load_workers, inbox)
        self.quick = WorkerPool("zeolith-worker", options.workers, inbox)
        self.slow = WorkerPool("zeolith-slow", options.slow_workers, inbox)

    @property
    def is_idle(self) -> bool:
        """Whether short calls and blob files are done with, and nothing else waits to begin: it may
        be to let go of what was held for a client."""
        return self.quick.is_idle and not self.slow.has_waiting

    def close(self) -> None:
        """Start nothing more."""
        for pool in (self.loads, self.quick, self.slow):
            pool.close()


class StorageService:
    """One storage: loads, commits, invalidations, packing, statistics.

    Everything here belongs to the loop's thread, except :meth:`status` and what says otherwise.

    :param name: the name under which it is served.
    :param storage: the ZODB storage; closed with the service.
    :param options: the server's.
    :param inbox: the way back from other threads.
    :param pools: the server's worker threads.
    :param failed: called when the storage has failed; :meth:`withdraw` is to follow.
    :ivar packing: packs the storage.
    :ivar cold: its object store for blobs; None: all are kept here.
    :ivar warm: sends its short blobs without a worker; None: it is not known where they are.
    :ivar lead: which client leads.
    :ivar verifying: clients that wait to be told what they missed.
    :ivar readings: what is being read from the storage for them, by what they ask: the transaction
        that they know, and the last one.
    :ivar outcomes: what became of transactions; from :meth:`prepare` on.
    :ivar parking: uploads that outlive their connections; from :meth:`open` on.
    :ivar start_tid: the storage's last transaction when it was prepared.
    :ivar outage: why the storage is not served any more; empty while it is.
    """

    def __init__(
        self,
        name: str,
        storage: Any,
        options: ServerOptions,
        inbox: Inbox,
        pools: Pools,
        failed: Callable[[], None],
    ) -> None:
        self.name = name
        self.options = options
        self.pools = pools
        self.stats = Statistics()
        self.outage = ""
        self.verifying = 0
        self.lead = Lead()
        self.readings: Final = weakref.WeakValueDictionary[tuple[bytes, bytes], Reading]()
        self.start_tid: bytes = NO_TID
        self._identity: DatabaseIdentity | None = None
        self.access = StorageAccess(name, storage, options.loads)
        self.warm = find_warm_blobs(storage)
        self.resolver = make_resolver(name, options)
        self.log = InvalidationLog(options.invalidation_queue_size, options.invalidation_memory)
        self.publisher = Publisher(name, self.log, self._wake)
        self._inbox = inbox
        self._failed = failed
        self._entries: list[Entry] = []
        self._held: list[Callable[[], None]] = []
        self._commits = WorkerPool(f"zeolith-commit-{name}", 1, inbox)
        self.packing = Packing(self.access, inbox)
        tier = self.access.tier
        self.cold = None if tier is None else ColdBlobs(name, tier, inbox)
        self._is_open = False
        self._note_timer: asyncio.TimerHandle | None = None
        self.coordinator: CommitCoordinator
        self.parking: Parking
        self.outcomes: Outcomes

    def prepare(self) -> None:
        """Find out what the storage's last transactions changed.  Any thread may do this, once.

        :raises FileInUse: another storage has its file under another name.
        :raises OSError: what its file shows cannot be brought to disk.
        :raises Exception: whatever the storage raises.
        """
        storage = self.access.storage
        claim_files(storage, f"storage {self.name!r}")
        self.access.sync_file()
        for voted in self.access.voted:
            voted.recover()
        # Until the log begins with what is read here, nothing may be added to it.
        self.publisher.is_held = True
        take_over()
        self.access.resolver = self.resolver
        # First, so that nothing is missed that happens meanwhile.
        self.access.register(self.publisher)
        options = self.options
        self._entries = last_entries(
            self.access, options.invalidation_queue_size, options.invalidation_memory
        )
        self.start_tid = self.access.last_transaction()
        if self.access.is_local:
            self.access.size_info()  # others may take long; it is known when a client has asked
            # A FileStorage that has cut off an incomplete transaction takes it for its last all the
            # same.  Clients would have to drop their caches for something that is not there.
            newest = self._entries[-1][0] if self._entries else newest_tid(self.access)
            if newest is not None:
                self.start_tid = min(self.start_tid, newest)
            elif isinstance(storage, FileStorage):
                self.start_tid = NO_TID
        identity = self._identity = identify(storage, self.start_tid)
        # A storage without an identity may be one of many servers'.
        path = None if identity is None else identity.path_of(SUFFIX)
        name = "" if identity is None else identity.database.identity
        self.outcomes = Outcomes(
            OutcomeLog(path, name, self.start_tid),
            is_alone=identity is not None and not self.is_read_only,
        )

    def open(self, loop: asyncio.AbstractEventLoop) -> None:
        """Serve, after :meth:`prepare`."""
        access, options = self.access, self.options
        self.log.reset(self.start_tid, self._entries)
        self._entries = []
        self.publisher.is_held = False
        self.coordinator = ExclusiveCoordinator(
            access,
            self.publisher,
            self.stats,
            self._commits,
            loop,
            options.transaction_timeout,
            options.client_conflict_resolution,
            self._settle,
            self._failed,
            self.outcomes.log.committed,
            self._is_undisturbed,
        )
        self.parking = Parking(loop, self.pools.quick, options.max_blob_size)
        self._is_open = True
        if self.cold is not None:
            self.cold.tier.start(access.last_transaction)
        self._note_later(loop)

    @property
    def database(self) -> Database | None:
        """Which database this is; None if that cannot be told."""
        return None if self._identity is None else self._identity.database

    def _note_later(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._identity is not None and self._identity.is_recorded and not self.outage:
            self._note_timer = loop.call_later(NOTE_INTERVAL, self._note, loop, self._identity)

    def _note(self, loop: asyncio.AbstractEventLoop, identity: DatabaseIdentity) -> None:
        """Have it recorded how far the database goes."""
        last_tid = self.log.last_tid
        if last_tid > identity.tid:
            self.pools.quick.submit(
                partial(self._write_notes, identity, last_tid),
                lambda result, error: self._note_later(loop),
            )
        else:
            self._note_later(loop)

    def _write_notes(self, identity: DatabaseIdentity, last_tid: bytes) -> None:
        """Runs on a worker thread."""
        self.outcomes.log.maintain()
        identity.note(last_tid)

    @property
    def is_read_only(self) -> bool:
        """Whether nobody may write."""
        # One that is out of service is closed, and is asked nothing any more.
        return self.options.read_only or (not self.outage and self.access.is_read_only)

    # -- order -----------------------------------------------------------------------------------

    def when_settled(self, callback: Callable[[], None]) -> None:
        """Call *callback* as soon as no transaction is being finished; at once if none is.

        It is dropped if the storage is out of service: nothing more may be said of it.
        """
        if self.outage:
            return
        if self.publisher.is_held:
            self._held.append(callback)
        else:
            callback()

    def _settle(self) -> None:
        self.publisher.drain()
        log = self.outcomes.log
        if log.is_due:
            log.is_due = False
            self.pools.quick.submit(log.maintain)
        held, self._held = self._held, []
        for number, callback in enumerate(held):
            if self.publisher.is_held:
                # One of them started another finish; the others wait again, in front.
                self._held[:0] = held[number:]
                return
            try:
                callback()
            except Exception:
                # A defect that concerns one client must not leave all others waiting.
                logger.exception("error in %r", callback)

    def _wake(self) -> None:
        self._inbox.post(self.publisher.drain)

    # -- reading ---------------------------------------------------------------------------------

    def load(self, oid: bytes, tid: bytes, done: Done) -> None:
        """Load from a slow storage, on a worker thread.

        When *done* is called the publisher has been drained, and the result is not older than
        any invalidation that was announced: it must be sent without draining again.
        """
        job = partial(self.access.load_before, oid, tid)
        self.pools.loads.submit(job, partial(self._loaded, oid, tid, self.log.last_tid, done))

    def _loaded(
        self,
        oid: bytes,
        tid: bytes,
        position: bytes,
        done: Done,
        result: Any,
        error: Exception | None,
    ) -> None:
        if self.publisher.is_held:
            again = partial(self._loaded, oid, tid, position, done, result, error)
            self.when_settled(again)
            return
        self.publisher.drain()
        if self.log.last_tid != position and self.log.has_changed(oid, position):
            # The object changed while it was read: the answer may be older than an invalidation
            # that has been written, and a client would keep it for the current state.
            self.stats.reloads += 1
            self.load(oid, tid, done)
        else:
            done(result, error)

    # -- packing ---------------------------------------------------------------------------------

    def pack(self, when: float, client: str, done: Done) -> None:
        """Pack in the background.

        :param when: seconds since the epoch.
        :param client: who asks, for the log.
        :raises StorageError: a pack of this storage is running.
        """
        identity = self._identity
        # What the pack removes wholly was there: whoever opens the storage after a kill must not
        # take it for something that never came to disk (R4).
        note = None if identity is None else partial(identity.note, self.log.last_tid)
        self.packing.pack(when, client, partial(self._packed, done), note)

    def _packed(self, done: Done, info: dict[str, Any] | None, error: Exception | None) -> None:
        if info is not None:
            if self.cold is not None:
                self.cold.tier.packed()
            message = Info(info)
            self.when_settled(lambda: self.publisher.send_all(lambda codec: codec.notice(message)))
        done(None, error)
        if is_fatal(error):
            self.when_settled(self._leave)

    def _leave(self) -> None:
        """Have the storage taken out of service: what is committed now could be lost."""
        logger.critical(
            "storage %r may be writing to a file that will not be found at the next start; it "
            "takes no transactions any more.  Check that nobody moves or replaces its files",
            self.name,
        )
        self.publisher.is_held = True
        self._failed()

    def packing_state(self) -> dict[str, Any]:
        """Return what a status says of packing; see :meth:`.Packing.describe`."""
        return self.packing.describe()

    def _is_undisturbed(self) -> bool:
        """Whether no worker thread may be using the storage."""
        return (
            not self.packing.uses_storage and self.pools.quick.is_idle and self.pools.slow.is_idle
        )

    # -- out of service --------------------------------------------------------------------------

    def withdraw(self, outage: str) -> None:
        """Serve no more, because the storage failed; close all connections to it.

        The publisher is held, for good: what the storage shows may not be on disk (R4).

        :param outage: why, for those who ask for the storage from now on.
        """
        assert self.publisher.is_held
        self.outage = outage
        self._stop_noting()
        self.parking.close()
        for subscriber in self.publisher.subscribers:
            subscriber.close(f"storage {self.name!r} is out of service")
        # Whoever waits to be admitted has to be told.  All others find their connection closed.
        held, self._held = self._held, []
        for callback in held:
            callback()

    def _stop_noting(self) -> None:
        if self._note_timer is not None:
            self._note_timer.cancel()
            self._note_timer = None

    def release(self) -> None:
        """Close the withdrawn storage; return when nothing here uses its files any more.

        Runs on a thread of its own: it takes as long as a pack needs to see that it is over.
        """
        if not self.close(_PACK_PATIENCE):
            # A file that cannot write what is buffered raises when it is closed, and what was to
            # be closed after it stays open, the lock too.  The second time it is closed already.
            self.close(0.0)
        while not self.packing.join(_PACK_PATIENCE):
            logger.warning("storage %r waits for the end of its pack", self.name)

    # -- state -----------------------------------------------------------------------------------

    @property
    def is_idle(self) -> bool:
        """Whether no commit has to be waited for."""
        return bool(self.outage) or self.coordinator.is_idle

    def status(self) -> dict[str, Any]:
        """Return the answer to ``server_status``.  Any thread may call this."""
        return self.stats.status(
            connections=len(self.publisher),
            waiting=self.coordinator.waiting,
            has_timeout=self.options.transaction_timeout is not None,
            last_tid=self.log.last_tid,
        )

    def extras(self) -> dict[str, int]:
        """Return the counters that ZEO's status does not have.  Any thread may call this."""
        counters = {} if self.resolver is None else self.resolver.counters()
        return {**self.stats.extras(), **counters}

    def close(self, timeout: float) -> bool:
        """Stop the threads and close the storage.  No client is served any more.

        :param timeout: seconds for a commit in progress.
        :returns: whether everything ended as it should.
        """
        self.packing.close()
        if self.resolver is not None:
            self.resolver.close()
        is_clean = not self._is_open or self.coordinator.close(timeout)
        if not is_clean:
            logger.critical("storage %r: a commit in progress does not end", self.name)
        self._held.clear()
        self._stop_noting()
        if "outcomes" in self.__dict__:
            self.outcomes.log.close()
        if self._is_open and self._identity is not None:
            # What was announced is on disk; while the storage is open nobody else has its file.
            self._identity.note(self.log.last_tid)
        # A pack that is cut off needs a moment to tidy up, for which the storage has to be open.
        is_packing = not self.packing.join(min(timeout, _PACK_GRACE))
        if self.cold is not None:
            self.cold.close()
        try:
            self.access.close(timeout if is_packing else 0.0)
        except Exception:
            logger.exception("storage %r could not be closed", self.name)
            return False
        return is_clean

"""ZODB's storage interfaces on top of a :class:`.Link`: names and exceptions as ZODB wants them.

This is the one place in the client where names are camel case.
"""

from __future__ import annotations

import logging
import os
import time
import weakref
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import ZODB.event
import ZODB.interfaces
import zope.interface
from ZODB.ConflictResolution import ConflictResolvingStorage
from ZODB.POSException import (
    POSKeyError,
    ReadOnlyError,
    Unsupported,
)

from ..cache import ForeignCache
from ..cache.interface import ClientCache
from ..errors import ClientDisconnected
from ..protocol.messages import (
    GetTid,
    History,
    Info,
    LoadSerial,
    Pack,
    Ping,
    ReceiveBlobChunk,
    ReceiveBlobStart,
    ReceiveBlobStop,
    RecordIternext,
    Request,
    ServerStatus,
    SetClientLabel,
    UndoInfo,
    UndoLog,
)
from ..protocol.values import is_plain, to_plain
from ..types import MAX_TID, ROOT_OID
from .arguments import (
    check_bytes,
    check_integer,
    check_metadata,
    check_tid,
    check_tid_or_none,
    check_timeout,
    check_wanted,
)
from .blobs import BlobDirectory
from .cacheplace import make_cache, make_child_cache
from .cachestats import CacheStats, make_report, make_stats
from .channel import Channel
from .committer import Committer
from .events import StaleCache
from .iterations import StreamedTransactions
from .iterators import Iterators, TransactionIterator
from .lead import give_lead, take_lead
from .link import Link
from .oids import Oids
from .options import (
    CACHE_SIZE,
    make_blobs,
    make_link_options,
    parse_addresses,
    refuse_cache,
    refuse_no_text,
    refuse_unusable,
)
from .principal import Principal
from .syncing import sync_to
from .transfers import fetch_blob
from .undo import filtered_undo_log
from .wire import Address

logger = logging.getLogger(__name__)

_OPTIONAL_INTERFACES = (
    ZODB.interfaces.IStorageRestoreable,
    ZODB.interfaces.IStorageIteration,
    ZODB.interfaces.IStorageUndoable,
    ZODB.interfaces.IStorageCurrentRecordIteration,
    ZODB.interfaces.IBlobStorage,
    ZODB.interfaces.IExternalGC,
)

_forkable: weakref.WeakSet[ClientStorage] = weakref.WeakSet()
_is_fork_watched = False


def _after_fork() -> None:
    for storage in list(_forkable):
        storage._reconnect_after_fork()


def _watch_forks(storage: ClientStorage) -> None:
    global _is_fork_watched
    if not _is_fork_watched and hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_after_fork)
        _is_fork_watched = True
    _forkable.add(storage)


class ClientStorage(ConflictResolvingStorage):
    """A storage at a server.

    All methods may be called by any thread.  A child process made by ``fork`` gets a connection
    and a cache of its own.

    :param addr: a port on this host, ``(host, port)``, the path of a Unix socket, or a sequence of
        these, which must serve the same database and are tried at once.
    :param storage: name of the storage at the server.
    :param cache_size: bytes of the cache.
    :param name: of this storage, for logs and ``getName()``; the address if empty.
    :param wait_timeout: seconds that a call waits for a connection (30).
    :param read_only: connect read-only; changing calls raise ReadOnlyError.
    :param read_only_fallback: take a read-only server while no writable one is there.
    :param blob_dir: directory for blobs; without it they cannot be used.
    :param shared_blob_dir: *blob_dir* is the server's own.
    :param blob_cache_size: bytes of blobs to keep in *blob_dir*.
    :param blob_cache_size_check: check the size after that many percent of it were added (10).
    :param client_label: names this client in the server's log.
    :param cache: an object of ZEO's ``IClientCache`` shape to use instead of our own cache.
    :param ssl: what :func:`zeolith.tls` makes, or an SSL context: connect with TLS.
    :param ssl_server_hostname: name to check the server's certificate against, instead of the
        host of the address.
    :param var: directory for the temporary cache file.
    :param min_disconnect_poll: seconds before the second attempt to connect; doubles from there.
    :param max_disconnect_poll: longest pause between attempts in seconds.
    :param wait: wait for the server now (the default), at most *wait_timeout*.
    :param drop_cache_rather_verify: after an absence drop the cache without asking the server
        what was missed.
    :param server_sync: make sure at the beginning of each transaction that it sees everything
        committed before; costs a call to the server.
    :param wait_for_server_on_startup: older name of *wait*, which wins.
    :param database_behind: what to do if the server's database is older than what this client has
        seen, or another one: ``'drop-cache'`` or ``'refuse'``.
    :param dead_server_timeout: seconds after which a server that has not been heard of is given up
        (60; 1 to 86400), and 0 to wait for ever.
    :param compression: compress large messages, if the server does, too; None: only where it
        usually pays, which is not within one host, and not over TLS.
    :param username: the user to log in as; the server must be one that knows its users.
    :param password: that user's password.
    :param password_file: path of a file whose first line is the password, in place of *password*.
    :param credentials: name and password as an object of Zeolith's, in place of these.
    :param realm: what the realm of the server's users must be called; None: anything.
    :param shared_cache: processes of this host that name the same cache each keep a file of it, and
        read each other's.
    :raises ConfigurationError: a keyword cannot be used; it names the keyword and the way out.
    :raises ClientDisconnected: with *wait*: no server within *wait_timeout*.
    :raises AuthenticationFailed: with *wait*: the server does not let this user in.
    """

    def __init__(
        self,
        addr: Any,
        storage: str = "1",
        cache_size: int = CACHE_SIZE,
        name: str = "",
        wait_timeout: float | None = None,
        disconnect_poll: None = None,
        read_only: bool = False,
        read_only_fallback: bool = False,
        blob_dir: str | None = None,
        shared_blob_dir: bool = False,
        blob_cache_size: int | None = None,
        blob_cache_size_check: int | None = None,
        client_label: str | None = None,
        cache: Any = None,
        ssl: Any = None,
        ssl_server_hostname: str | None = None,
        client: str | None = None,
        var: str | None = None,
        min_disconnect_poll: float | None = None,
        max_disconnect_poll: float | None = None,
        wait: bool | None = None,
        drop_cache_rather_verify: bool = False,
        credentials: Principal | None = None,
        server_sync: bool = False,
        username: str | None = None,
        password: str | None = None,
        realm: str | None = None,
        *,
        debug: bool = False,
        wait_for_server_on_startup: bool | None = None,
        database_behind: str = "drop-cache",
        dead_server_timeout: float | None = None,
        compression: bool | None = None,
        password_file: str | None = None,
        shared_cache: bool = False,
    ) -> None:
        refuse_unusable(
            disconnect_poll=disconnect_poll,
            debug=debug,
        )
        # For a label that is none a server would end the connection, again and again.
        refuse_no_text("client_label", client_label)
        self._options = make_link_options(
            addr=addr,
            storage=storage,
            wait_timeout=wait_timeout,
            read_only=read_only,
            read_only_fallback=read_only_fallback,
            min_disconnect_poll=min_disconnect_poll,
            max_disconnect_poll=max_disconnect_poll,
            ssl=ssl,
            ssl_server_hostname=ssl_server_hostname,
            drop_cache_rather_verify=drop_cache_rather_verify,
            database_behind=database_behind,
            dead_server_timeout=dead_server_timeout,
            compression=compression,
            username=username,
            password=password,
            password_file=password_file,
            realm=realm,
            credentials=credentials,
        )
        self.__name__ = name or str(addr)
        self._label = client_label
        self._server_sync = server_sync
        self._db: Any = None
        self._server_address: Address | None = None
        self._info: dict[str, Any] = {
            "length": 0,
            "size": 0,
            "name": "",
            "supportsUndo": False,
            "interfaces": (),
        }
        self._is_closed = False
        refuse_cache(cache, cache_size, client, storage, var, shared_cache)
        self._blobs = make_blobs(blob_dir, shared_blob_dir, blob_cache_size, blob_cache_size_check)
        self.fshelper = None if self._blobs is None else self._blobs.fshelper
        place = cache, cache_size, client, storage, var, shared_cache
        self._make_temporary: Callable[[], ClientCache] = partial(make_child_cache, *place)
        try:
            self._start(make_cache(*place))
            if wait_for_server_on_startup is not None and wait is None:
                wait = wait_for_server_on_startup
            if wait or wait is None:
                self._link.wait()
        except BaseException:
            self.close()
            raise
        _watch_forks(self)

    def _start(self, cache: ClientCache) -> None:
        self._cache = cache
        self._hits = self._misses = 0
        # Bound once: the first thing that every load does.
        self._cached = self._cache.load_before
        self._link = Link(self.__name__, self._options, self._cache, self)
        self._oids = Oids(self._link)
        self._iterators = Iterators(self._link.wait)
        self._committer = Committer(
            self._link,
            self._cache,
            self._blobs,
            self._iterators,
            self._resolve_conflict,
        )
        self._link.start()

    def _reconnect_after_fork(self) -> None:
        """In the child: leave the parent's connection alone, start anew."""
        if self._is_closed:
            return
        old = self._cache
        # The parent goes on using its own, and the file of it.
        cache = self._make_temporary()
        # ZODB's connections in this process hold objects as old as that: the server will be
        # asked what has changed since.
        cache.set_last_tid(old.last_tid())
        cache.set_database(old.database)
        self._link.abandon()
        if not isinstance(old, ForeignCache):  # else it is the application's object
            old.close()
        if self._blobs is not None:
            self._blobs.forked()
        self._start(cache)

    def _resolve_conflict(self, oid: bytes, committed: bytes, read: bytes, data: bytes) -> bytes:
        # Looked up at each call: DemoStorage and tests replace the method on the instance.
        resolved: bytes = self.tryToResolveConflict(oid, committed, read, data)
        return resolved

    # -- about this storage ----------------------------------------------------------------------

    def close(self) -> None:
        """Release everything.  Calls under way fail with ClientDisconnected."""
        self._is_closed = True
        _forkable.discard(self)
        if "_link" in self.__dict__:
            self._link.close()
            self._cache.close()
        if self._blobs is not None:
            self._blobs.close()

    def getName(self) -> str:
        """Return the name, and whether a server is connected."""
        return f"{self.__name__} ({'connected' if self.is_connected() else 'disconnected'})"

    def getSize(self) -> int:
        """Return the size of the database in bytes, as the server told last."""
        size: int = self._info["size"]
        return size

    def __len__(self) -> int:
        """Return the number of objects, as the server told last."""
        length: int = self._info["length"]
        return length

    def __bool__(self) -> bool:
        return True  # an empty database is still a storage

    def sortKey(self) -> str:
        """Return where this storage stands in the order of commits.

        :raises ClientDisconnected: no server has been connected yet.
        """
        if self._server_address is None:
            raise ClientDisconnected("never connected")
        return f"{self._options.storage}:{self._server_address}"

    def isReadOnly(self) -> bool:
        """Return whether changing calls are refused, as far as is known now."""
        return self._link.is_read_only

    is_read_only = isReadOnly

    def is_connected(self, test: bool = False) -> bool:
        """Return whether a server is connected."""
        return self._link.is_connected

    def supportsUndo(self) -> bool:
        """Return whether the server's storage supports undo."""
        return bool(self._info["supportsUndo"])

    def registerDB(self, db: Any) -> None:
        """Register the database to be told of invalidations."""
        super().registerDB(db)
        self._db = db

    def new_addr(self, addr: Any) -> None:
        """Use other addresses from the next connection on.

        :raises ConfigurationError: they are none.
        """
        self._link.set_addresses(parse_addresses(addr))

    def ping(self) -> None:
        """Make a call to the server.

        Whatever was committed before it is known here when it returns.
        """
        self._link.ask(Ping())

    def sync(self, force: bool = True) -> None:
        """Called at the beginning of transactions: with ``server_sync``, :meth:`ping`."""
        if self._server_sync:
            self.ping()

    def sync_to(self, tid: bytes, timeout: float | None = None) -> bytes:
        """Wait until transaction *tid* is known here: what begins then sees it.

        Asks nobody if it is known already.

        :param tid: what ``tpc_finish`` or ``lastTransaction()`` returned to another client of the
            same database.
        :param timeout: seconds; *wait_timeout* if None.
        :returns: :meth:`lastTransaction`.
        :raises NotReached: the server has not come to it in time.
        :raises ClientDisconnected: there was no server in time.
        """
        wait = self._options.wait_timeout if timeout is None else check_timeout(timeout)
        return sync_to(self._link, check_tid(tid), wait)

    def take_lead(self) -> bool:
        """Ask to lead: at most one client of the storage does; return whether this one does now.

        It leads until :meth:`give_lead`, or until its connection ends.  What the last leader has
        committed is known here then.

        :raises Unsupported: the server is none of Zeolith's.
        :raises ReadOnlyError: this storage is read-only.
        :raises ClientDisconnected: no server in time.
        """
        return take_lead(self._link)

    def give_lead(self) -> None:
        """Do not lead any more, if this client does.

        :raises ClientDisconnected: no server in time.
        """
        give_lead(self._link)

    def server_status(self, timeout: float | None = None) -> dict[str, Any]:
        """Return the server's counters for this storage.

        :param timeout: seconds to wait for a connection.
        """
        status: dict[str, Any] = self._link.ask(ServerStatus(), timeout)
        return status

    def cache_stats(self) -> CacheStats:
        """Return what the cache has done and holds; does not ask the server."""
        return make_stats(self._cache, self._hits, self._misses)

    # -- reading ---------------------------------------------------------------------------------

    def lastTransaction(self) -> bytes:
        """Return the last transaction whose changes are known here."""
        return self._link.last_tid()

    def load(self, oid: bytes, version: str = "") -> tuple[bytes, bytes]:
        """Return the current record of *oid* and the transaction that wrote it.

        :raises POSKeyError: there is none.
        """
        result = self.loadBefore(oid, MAX_TID)
        if result is None:
            raise POSKeyError(oid)
        return result[:2]

    def loadBefore(self, oid: bytes, tid: bytes) -> tuple[bytes, bytes, bytes | None] | None:
        """Return ``(data, start, end)`` of the revision before *tid*, None if there was none.

        For the root object there is no None.

        :raises POSKeyError: there is no such object.
        :raises ClientDisconnected: it is not cached, and no server in time.
        """
        found = self._cached(oid, tid)
        if found is not None:
            # Without a lock: one step to the interpreter, and 10 ns to a hit.
            self._hits += 1
            return found
        self._misses += 1
        found = self._link.load_before(oid, tid)
        if found is None and oid == ROOT_OID:
            # Another application has created the database just now.  To ZODB None means that the
            # object was deleted, which ends an application that is starting; told that there is no
            # root it creates its own, and the server knows what to do about that.
            raise POSKeyError(oid)
        return found

    def loadSerial(self, oid: bytes, serial: bytes) -> bytes:
        """Return the record of *oid* that transaction *serial* wrote.

        :raises POSKeyError: there is none.
        """
        data: bytes = self._link.ask(LoadSerial(check_wanted(oid), check_tid(serial)))
        return data

    def getTid(self, oid: bytes) -> bytes:
        """Return the transaction that wrote the current record of *oid*.

        :raises POSKeyError: there is none.
        """
        tid: bytes = self._link.ask(GetTid(check_wanted(oid)))
        return tid

    def history(self, oid: bytes, size: int = 1) -> list[dict[str, Any]]:
        """Return descriptions of the last *size* revisions of *oid*, newest first."""
        return list(self._link.ask(History(oid, size)))

    def prefetch(self, oids: Iterable[bytes], tid: bytes) -> None:
        """Have objects fetched that will be needed soon; return at once."""
        cached = self._cached
        wanted = [oid for oid in oids if cached(oid, tid) is None]
        if wanted:
            try:
                self._link.channel().request_loads(wanted, tid)
            except ClientDisconnected as error:
                # A hint, not a need: loading them will wait for a server.
                logger.debug("%s: not prefetched: %s", self.__name__, error)

    def record_iternext(self, next: Any = None) -> Any:
        """Return ``(oid, tid, data, next)`` of one current record after another."""
        place = None if next is None else check_bytes(next, "the place at which to go on")
        return self._link.ask(RecordIternext(place))

    def iterator(
        self, start: bytes | None = None, stop: bytes | None = None
    ) -> TransactionIterator | StreamedTransactions:
        """Return an iterator over the transactions from *start* to *stop*."""
        return self._iterators.start(check_tid_or_none(start), check_tid_or_none(stop))

    def undoLog(
        self,
        first: int = 0,
        last: int = -20,
        filter: Callable[[Any], bool] | None = None,
    ) -> list[dict[str, Any]]:
        """Return descriptions of transactions that can be undone, newest first."""
        if not self.supportsUndo():
            return []
        first, last = check_integer(first, "first"), check_integer(last, "last")
        if filter is None:
            return list(self._link.ask(UndoLog(first, last)))
        return filtered_undo_log(
            lambda first, last: list(self._link.ask(UndoLog(first, last))), first, last, filter
        )

    def undoInfo(self, first: int = 0, last: int = -20, specification: Any = None) -> list[Any]:
        """Return descriptions of transactions that can be undone and match *specification*."""
        first, last = check_integer(first, "first"), check_integer(last, "last")
        if is_plain(specification):
            return list(self._link.ask(UndoInfo(first, last, specification)))
        # Zope's undo page asks for paths that begin with another one, by an object that compares
        # so.  msgpack cannot carry it, and need not.
        wanted = to_plain(specification)
        return self.undoLog(
            first, last, lambda entry: all(entry.get(key) == wanted[key] for key in wanted)
        )

    # -- blobs -----------------------------------------------------------------------------------

    def _blob_directory(self) -> BlobDirectory:
        if self._blobs is None:
            raise Unsupported("no blob directory is configured: give blob_dir")
        return self._blobs

    def _fetch_blob(self, oid: bytes, serial: bytes) -> None:
        fetch_blob(self._link, self._blob_directory(), oid, serial)

    def loadBlob(self, oid: bytes, serial: bytes) -> str:
        """Return the path of a blob's file, which is fetched if need be.

        :raises POSKeyError: there is no such blob.
        """
        blobs = self._blob_directory()
        return blobs.load(check_wanted(oid), check_tid(serial), self._fetch_blob)

    def openCommittedBlobFile(self, oid: bytes, serial: bytes, blob: Any = None) -> Any:
        """Return a blob's file, open for reading.

        :raises POSKeyError: there is no such blob.
        """
        blobs = self._blob_directory()
        return blobs.open(check_wanted(oid), check_tid(serial), blob, self._fetch_blob)

    def temporaryDirectory(self) -> str:
        """Return the directory in which to make files that will become blobs."""
        return self._blob_directory().temp_dir

    # -- changing --------------------------------------------------------------------------------

    def new_oid(self) -> bytes:
        """Return an object id that nobody uses.

        :raises ReadOnlyError: this storage is read-only.
        """
        if self._link.is_read_only:
            raise ReadOnlyError
        return self._oids.take()

    def tpc_transaction(self) -> Any:
        """Return the transaction being committed, or None; of several the one begun last."""
        return self._committer.txn

    def tpc_begin(self, txn: Any, tid: bytes | None = None, status: str = " ") -> None:
        """Begin to commit *txn*.

        Threads may commit at the same time, each its own transaction.  A Zeolith server takes 32 of
        one storage at once, a ZEO server one: this waits until there is room for another one.

        :param tid: the id it shall have; for copies of other databases.
        :raises ReadOnlyError: this storage is read-only.
        :raises StorageTransactionError: it was begun already.
        :raises ClientDisconnected: no server is connected at this moment.
        :raises TypeError, ValueError: *tid* is no id, or *txn* holds what no transaction can.
        """
        if not self.isReadOnly():
            check_metadata(txn)
        tid = check_tid_or_none(tid)
        if not isinstance(status, str):
            raise TypeError(f"a transaction's status is text, not {type(status).__name__}")
        self._committer.begin(txn, tid, status)

    # Of all these: an argument that is no id or record raises TypeError or ValueError, and nothing
    # is sent; the connection goes on.

    def store(self, oid: bytes, serial: bytes | None, data: bytes, version: str, txn: Any) -> None:
        """Store a record.

        :param serial: the transaction that wrote the one it replaces; None or eight zeros if
            the object is new.
        :raises ObjectTooLarge: the server does not take that much; the transaction has to be
            aborted.
        """
        self._committer.store(oid, serial, data, txn)

    def storeBlob(
        self,
        oid: bytes,
        serial: bytes | None,
        data: bytes,
        blobfilename: str,
        version: str,
        txn: Any,
    ) -> None:
        """Store an object with a blob; takes the file *blobfilename* away.

        Otherwise as :meth:`store`; what the server takes of the file has no limit.
        """
        self._committer.store_blob(oid, serial, data, blobfilename, txn)

    def restore(
        self,
        oid: bytes,
        serial: bytes,
        data: bytes | None,
        version: str,
        prev_txn: bytes | None,
        txn: Any,
    ) -> None:
        """Write a record as it is in another database.

        :param serial: the transaction that writes it there.
        :param data: None if that transaction undid the creation of the object.
        :param prev_txn: the transaction that wrote the same data before, None if not known.
        :raises ObjectTooLarge: as :meth:`store`.
        """
        self._committer.restore(oid, serial, data, prev_txn, txn)

    def deleteObject(self, oid: bytes, serial: bytes, txn: Any) -> None:
        """Delete an object that nothing refers to."""
        self._committer.delete(oid, serial, txn)

    def checkCurrentSerialInTransaction(self, oid: bytes, serial: bytes, txn: Any) -> None:
        """Have the vote fail unless *serial* still is the transaction that wrote *oid* last."""
        self._committer.check_current(oid, serial, txn)

    def undo(self, trans_id: bytes, txn: Any) -> None:
        """Have the transaction *trans_id* undone by *txn*."""
        self._committer.undo(trans_id, txn)

    def tpc_vote(self, txn: Any) -> list[bytes] | None:
        """Have the server accept the transaction; return the objects whose records changed by it.

        :raises ConflictError: another transaction was first.
        :raises ClientDisconnected: the connection was lost.
        """
        return self._committer.vote(txn)

    def tpc_finish(self, txn: Any, f: Callable[[bytes], Any] = lambda tid: None) -> bytes:
        """Commit; return the transaction's id.

        :param f: called with the id when the transaction becomes visible here.
        If the connection is lost meanwhile, or the server's storage fails, waits for a server that
        can say what became of the transaction, at most ``wait_timeout``.  A ZEO server cannot.

        :raises ClientDisconnected: the connection had been lost before; nothing was committed.
        :raises NotCommitted: the connection was lost, and the transaction was not committed.
        :raises OutcomeUnknown: the connection was lost, and nobody can tell whether the
            transaction was committed.
        """
        return self._committer.finish(txn, f)

    def tpc_abort(self, txn: Any, timeout: float | None = None) -> None:
        """Abort; never fails, and never waits for a server that has gone."""
        self._committer.abort(txn)

    def copyTransactionsFrom(self, other: Any, verbose: int = 0) -> None:
        """Copy all transactions of another storage into this one."""
        import ZODB.BaseStorage

        ZODB.BaseStorage.copy(other, self, verbose)

    def pack(
        self, t: float | None = None, referencesf: Any = None, wait: bool = True, days: float = 0
    ) -> None:
        """Have the server remove what is not needed any more.

        :param t: revisions that were replaced before this time (seconds since the epoch, now if
            None) are not needed.
        :param referencesf: not used: the server knows how to find references.
        :param wait: return when it is done.
        :param days: subtracted from *t*.
        """
        limit = float((time.time() if t is None else t) - days * 86400)
        self._link.call(Pack(limit, bool(wait)))

    # -- what the link reports (see link.Owner) --------------------------------------------------

    def connected(self, channel: Channel, info: dict[str, Any]) -> None:
        """A server has been found."""
        self._server_address = channel.wire.peer_name
        self._oids.forget()
        if self._label:
            channel.post(SetClientLabel(self._label))
        self._info.update(info)
        provided = {tuple(interface) for interface in info.get("interfaces", ())}
        for interface in _OPTIONAL_INTERFACES:
            if (interface.__module__, interface.__name__) in provided:
                zope.interface.alsoProvides(self, interface)

    def disconnected(self) -> None:
        """The server was lost."""
        if self._blobs is not None:
            self._blobs.downloads_broken()

    def invalidate(self, tid: bytes, oids: list[bytes]) -> None:
        """Objects have changed: tell the database."""
        if self._db is not None:
            self._db.invalidate(tid, oids)

    def invalidate_all(self, tid: bytes) -> None:
        """Any object may have changed, up to transaction *tid*: tell the database.

        Called with the link's ``visibility`` held.
        """
        db = self._db
        if db is not None:
            db.invalidateCache()
            # A connection that is opened just now may have asked for the last transaction before,
            # and look at what changed after that.  If it has looked already, it must be told again,
            # or it takes what it loads as of that transaction for current; if not, it must know the
            # later one, which alone goes with what it is told.
            db.invalidate(tid, [])
            db.invalidateCache()

    def cache_is_stale(self) -> None:
        """Announce that the cache will be dropped."""
        try:
            ZODB.event.notify(StaleCache(self))
        except Exception:
            # A subscriber's fault must not keep us from connecting.
            logger.exception("%s: a subscriber of StaleCache failed", self.__name__)

    def tended(self, channel: Channel) -> None:
        """Another minute of a connection has passed: tell the server how the cache does."""
        if channel.speaks_own:
            channel.add(make_report(self.cache_stats()))
            channel.streams.ahead.tend()
        if self._blobs is not None:
            self._blobs.tend()

    def resized(self, length: int, size: int) -> None:
        """The storage has *length* objects and *size* bytes now."""
        self._info["length"] = length
        self._info["size"] = size

    def noticed(self, request: Request) -> None:
        """The server sent a notice other than an invalidation."""
        if isinstance(request, Info):
            self._info.update(request.info)
        elif self._blobs is None:
            logger.warning("%s: the server sends a blob that nobody asked for", self.__name__)
        elif isinstance(request, ReceiveBlobChunk):
            self._blobs.download_chunk(*request)
        elif isinstance(request, ReceiveBlobStart):
            self._blobs.download_started(*request)
        elif isinstance(request, ReceiveBlobStop):
            self._blobs.download_ended(*request)


zope.interface.classImplements(ClientStorage, ZODB.interfaces.IMultiCommitStorage)

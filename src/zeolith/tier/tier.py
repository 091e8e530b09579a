"""Blobs of one blob directory: here, or in an object store."""

from __future__ import annotations

import logging
import os
import secrets
import stat
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from itertools import islice
from typing import Any, Final

from ZODB.POSException import POSKeyError, StorageError

from .chore import RETRY, Chore, Rests
from .evicting import GRACE, evict, remove_stub
from .failures import StoreFailure, StoreUnavailable
from .fetching import Fetches
from .localblobs import LocalBlob, Stock, take_stock, walk
from .objects import ObjectStore, StoredObject, describe_file
from .owner import FILE_NAME, Owner
from .pause import Pause
from .settings import WORKERS
from .stubs import read_stub, stub_of, write_stub
from .sweeping import ORPHAN_AGE, find_orphans

logger = logging.getLogger(__name__)

FETCH_PREFIX: Final = "zeolith-fetch-"
"""How the names of the files begin, in the temporary directory, that blobs are fetched into."""

_SWEPT_AT_ONCE: Final = 200

_MOST_WANTED: Final = 1000
"""Blobs that are to be fetched because somebody wanted them who could not wait (R8)."""

_LEAST_REST: Final = 1.0
"""Seconds between two looks at all files, if the first has found too few that can go."""

_REST_FACTOR: Final = 10
"""How much longer than such a look that is at least."""

_CLOSE_PATIENCE: Final = 2.0
"""Seconds for what was committed to get its stubs when a server ends."""


class BlobAway(Exception):
    """A blob is in the store only.

    :ivar oid: the object.
    :ivar tid: the transaction that wrote the revision.
    """

    def __init__(self, oid: bytes, tid: bytes) -> None:
        super().__init__(f"blob 0x{oid.hex()} of transaction 0x{tid.hex()} is not kept here")
        self.oid = oid
        self.tid = tid


class BlobTier:
    """The blobs of one directory.  Any thread may call any method.

    :param helper: ZODB's ``FilesystemHelper`` of the directory.
    :param store: the object store.
    :param cache_size: bytes of blobs that have their files here; what is not in the store, or was
        asked for a moment ago, may exceed it.
    :param workers: transfers at once in each direction, for whoever makes them.
    :param pause: keeps calls from a store that is down.
    :param grace: seconds for which a file stays after it was asked for.
    :param orphan_age: seconds; see :func:`.sweeping.find_orphans`.
    :param retry: seconds after which what has failed in the background is tried again, and files
        are looked at again, at the latest, that had to stay.

    :ivar workers: as given.
    :ivar lock: held for moments, around what makes or removes files and stubs.
    """

    def __init__(
        self,
        helper: Any,
        store: ObjectStore,
        cache_size: int,
        *,
        workers: int = WORKERS,
        pause: Pause | None = None,
        grace: float = GRACE,
        orphan_age: float = ORPHAN_AGE,
        retry: float = RETRY,
    ) -> None:
        self.workers = workers
        self._helper = helper
        self._store = store
        self._limit = cache_size
        self._grace = grace
        self._orphan_age = orphan_age
        self._retry = retry
        self._evict_at = 0.0
        self._pause = Pause() if pause is None else pause
        self._owner = Owner(str(helper.base_dir), store, self._begin_place)
        self.lock = threading.Lock()  # guards the plain attributes below, too
        self._fetches = Fetches()
        self._impatient = threading.local()
        self._last_tid: Callable[[], bytes] | None = None
        self._in_flight: set[str] = set()
        self._committed: deque[tuple[bytes, Mapping[bytes, StoredObject], list[str]]] = deque()
        self._dropped: deque[str] = deque()
        self._made: deque[str] = deque()
        self._wanted: dict[tuple[bytes, bytes], None] = {}
        self._stock: Stock | None = None
        self._is_stock_due = False
        self._is_sweep_due = False
        self._counts = dict.fromkeys(
            ("hits", "misses", "uploads", "uploaded_bytes", "fetched_bytes", "evicted", "swept"), 0
        )
        name = os.path.basename(os.path.abspath(helper.base_dir))
        self._keeper = Chore(f"zeolith-blobs-{name}", self._keep, retry)
        self._mover = Chore(f"zeolith-cold-{name}", self._move, retry)

    # -- with a storage --------------------------------------------------------------------------

    def attach(self, storage: Any) -> None:
        """Have *storage*, a FileStorage whose blob directory this is, load blobs from here."""
        storage.loadBlob = self.load
        storage.blob_tier = self

    def start(self, last_tid: Callable[[], bytes]) -> None:
        """Look after the directory in the background from now on.

        :param last_tid: returns the last transaction that is committed: the file of a later one is
            not for keeps.
        :raises OSError: what a server that was killed has left cannot be removed.
        """
        self._last_tid = last_tid
        directory = str(self._helper.temp_dir)
        for name in os.listdir(directory):
            if name.startswith(FETCH_PREFIX):
                os.remove(os.path.join(directory, name))
        self._is_stock_due = self._is_sweep_due = True
        self._mover.wake()

    def close(self) -> None:
        """Stop what goes on in the background, when what was committed has its stubs."""
        is_done = self._keeper.close(_CLOSE_PATIENCE)
        self._mover.close(0.0)
        if is_done:
            with suppress(OSError):  # they will be uploaded again
                self._write_stubs()

    # -- reading ---------------------------------------------------------------------------------

    def local(self, oid: bytes, tid: bytes) -> str:
        """Return the path of a blob's file, which stays for *grace* seconds at least.

        :raises BlobAway: it is in the store only.
        :raises POSKeyError: there is no such blob.
        """
        path = str(self._helper.getBlobFilename(oid, tid))
        with self.lock:
            try:
                status = os.stat(path)
            except FileNotFoundError:
                pass
            else:
                with suppress(PermissionError):  # another user's: it is looked after all the same
                    os.utime(path, ns=(time.time_ns(), status.st_mtime_ns))
                self._counts["hits"] += 1
                return path
            if not os.path.exists(stub_of(path)):
                raise POSKeyError(f"No blob file at {path}", oid, tid)
            self._counts["misses"] += 1
        raise BlobAway(oid, tid)

    def load(self, oid: bytes, tid: bytes) -> str:
        """Return the path of a blob's file, which is fetched if need be.

        :raises StorageError: it cannot be fetched; or the caller must not wait for it.
        :raises POSKeyError: there is no such blob.
        """
        try:
            return self.local(oid, tid)
        except BlobAway as away:
            if getattr(self._impatient, "is_set", False):
                with self.lock:
                    if len(self._wanted) < _MOST_WANTED:
                        self._wanted[oid, tid] = None
                self._mover.wake()
                raise StorageError(
                    f"{away}: it is being fetched from the object store, try again in a moment"
                ) from None
        self.fetch(oid, tid)
        self.ask_again()
        return self.local(oid, tid)

    @contextmanager
    def not_waiting(self) -> Iterator[None]:
        """Have :meth:`load` fail, in this thread, rather than wait for the store (R7)."""
        self._impatient.is_set = True
        try:
            yield
        finally:
            self._impatient.is_set = False

    def fetch(self, oid: bytes, tid: bytes) -> None:
        """Have the file of a blob here.

        :raises StorageError: it cannot be fetched, or written.
        :raises POSKeyError: there is no such blob.
        """
        self._fetches.run((oid, tid), partial(self._fetch, oid, tid))

    def ask_again(self) -> None:
        """Whoever has waited for a fetch is about to ask once more; that is not another load."""
        with self.lock:
            self._counts["hits"] -= 1

    def _fetch(self, oid: bytes, tid: bytes) -> None:
        path = str(self._helper.getBlobFilename(oid, tid))
        stub = stub_of(path)
        if os.path.exists(path):
            return
        wanted = read_stub(stub)
        if wanted is None:
            if os.path.exists(stub):
                raise StorageError(f"{stub} is damaged: restore it from a backup")
            raise POSKeyError(f"No blob file at {path}", oid, tid)
        name = FETCH_PREFIX + secrets.token_hex(8)
        temporary = os.path.join(self._helper.temp_dir, name)
        try:
            with self._pause.guarding():
                self._store.get(wanted, temporary)
            # As ZODB does: nobody is to change a committed blob by accident.
            os.chmod(temporary, stat.S_IRUSR | os.stat(os.path.dirname(path)).st_mode & 0o444)
            with self.lock:
                if not os.path.exists(stub):  # a pack has removed it meanwhile
                    raise POSKeyError(f"No blob file at {path}", oid, tid)
                os.replace(temporary, path)
                self._counts["fetched_bytes"] += wanted.size
                self._count(1, wanted.size)
        except OSError as error:
            raise StorageError(f"cannot keep a fetched blob in {path}: {error}") from error
        finally:
            with suppress(FileNotFoundError):
                os.remove(temporary)
        self._look_after_size()

    def copy(self, wanted: StoredObject, path: str) -> None:
        """Bring an object into the new file *path*, which is none of the directory's.

        :raises StoreFailure: it cannot be fetched.
        :raises OSError: the file cannot be written.
        """
        with self._pause.guarding():
            self._store.get(wanted, path)

    # -- the place in the store ------------------------------------------------------------------

    def claim(self) -> None:
        """Return if the place in the store is this directory's, which an empty one becomes.

        :raises StoreFailure: it is another's, or the store cannot be asked.
        :raises OSError: the directory cannot be read or written.
        """
        if not self._owner.is_known:
            with self._pause.guarding():
                self._owner.check()

    def _begin_place(self) -> None:
        """Forget what an earlier place had of these blobs: this one has nothing."""
        for found in walk(self._helper, Rests()):
            if isinstance(found, str):
                raise StoreUnavailable(
                    f"{found} says that an object store has a blob that is not here, and neither "
                    "the blob directory nor this place in the store says that it is this one. If "
                    "it is not, use the one that has it, and zeolith blob fetch; if it is, put "
                    f"one and the same word into {FILE_NAME} in the blob directory and into the "
                    "object zeolith-blobs behind the prefix"
                )
        is_changed = False
        for found in walk(self._helper, Rests()):
            if isinstance(found, LocalBlob) and found.has_stub:
                is_changed |= remove_stub(found.path, self.lock)
        if is_changed and self._last_tid is not None:
            self._take_stock_soon()

    # -- writing ---------------------------------------------------------------------------------

    def upload(self, path: str, oid: bytes, tid: bytes | None = None) -> StoredObject:
        """Have a blob in the store; :meth:`committed` or :meth:`drop` must follow.

        :param path: its file.
        :param tid: the transaction that wrote it, if that is known.
        :raises StoreFailure: the store does not take it.
        :raises OSError: the file cannot be read.
        """
        with self._pause.guarding():
            self._owner.check()
            found = describe_file(path, oid, tid)
            with self.lock:
                self._in_flight.add(found.name)
            try:
                labels = {"oid": oid.hex()}
                self._store.put(found, path, labels if tid is None else labels | {"tid": tid.hex()})
            except BaseException:
                with self.lock:
                    self._in_flight.discard(found.name)
                raise
        with self.lock:
            self._counts["uploads"] += 1
            self._counts["uploaded_bytes"] += found.size
        return found

    def committed(
        self, tid: bytes, found: Mapping[bytes, StoredObject], files: Iterable[str] = ()
    ) -> None:
        """Transaction *tid* is committed.

        :param found: by object id: what :meth:`upload` has returned.
        :param files: of the transaction's blobs; those of others, as an undo makes them, are
            uploaded now.
        """
        # There may be thousands: the rest is for another thread than the caller's.
        self._committed.append((tid, found, list(files)))
        self._keeper.wake()

    def drop(self, found: Iterable[StoredObject]) -> None:
        """What was uploaded is not needed: its transaction was aborted."""
        self._dropped.extend(each.name for each in found)
        self._mover.wake()

    def packed(self) -> None:
        """A pack has removed blobs: have those in the store removed that nobody names any more."""
        self._is_stock_due = self._is_sweep_due = True
        self._mover.wake()

    # -- looking at it ---------------------------------------------------------------------------

    def describe(self) -> dict[str, Any]:
        """Return what a status says, as plain values.

        ``files``, ``bytes``: blobs with a file here, None while they are counted; ``limit``;
        ``pending``, ``pending_bytes``: those not in the store; ``cold``: blobs without a file.
        Counters: ``hits`` and ``misses`` of loads, ``uploads``, ``uploaded_bytes``,
        ``fetched_bytes``, ``evicted``, ``swept`` (objects deleted), ``failures`` of the store;
        ``trouble``: why it cannot be used now, or None.
        """
        with self.lock:
            stock = self._stock
            counts = dict(self._counts)
        return {
            "files": None if stock is None else stock.files,
            "bytes": None if stock is None else stock.size,
            "limit": self._limit,
            "pending": None if stock is None else stock.pending,
            "pending_bytes": None if stock is None else stock.pending_size,
            "cold": None if stock is None else stock.cold,
            **counts,
            "failures": self._pause.failures,
            "trouble": self._pause.trouble or None,
        }

    # -- the keeper ------------------------------------------------------------------------------

    def _keep(self) -> float | None:
        self._write_stubs()
        if self._excess() <= 0:
            return None
        begin = time.monotonic()
        if begin < self._evict_at:
            return self._evict_at - begin
        # What stubs say of another place is not enough to remove a file.
        self.claim()
        self._evict(self._limit + self._excess())
        if self._excess() <= 0:
            return None
        # What is here has to stay for now: not each blob that comes is worth a look at all.
        end = time.monotonic()
        rest = min(max((end - begin) * _REST_FACTOR, _LEAST_REST), self._retry)
        self._evict_at = end + rest
        return rest

    def _excess(self) -> int:
        with self.lock:
            return 0 if self._stock is None else self._stock.size - self._limit

    def _write_stubs(self) -> None:
        while self._committed:
            tid, found, files = self._committed.popleft()
            known = set()
            for oid, each in found.items():
                path = str(self._helper.getBlobFilename(oid, tid))
                known.add(path)
                try:
                    self._name(path, each, is_new=True)
                except OSError as error:
                    logger.error("%s cannot be written: %s", stub_of(path), error)
                    self._take_stock_soon()
            made = [path for path in files if path not in known]
            if made:
                self._made.extend(made)
                self._mover.wake()

    def _name(self, path: str, found: StoredObject, *, is_new: bool) -> None:
        """Write the stub of a blob whose object is in the store."""
        try:
            with self.lock:
                stub = stub_of(path)
                if os.path.exists(path) and read_stub(stub) is None:
                    write_stub(stub, found)
                    self._in_flight.discard(found.name)
                    if is_new:
                        self._count(1, found.size)
                    else:
                        self._count(0, 0, pending=-1, pending_size=-found.size)
                    is_named = True
                else:
                    # A pack was quicker, or whoever else has uploaded it.
                    is_named = False
        except OSError:
            self.drop([found])
            raise
        if is_named:
            self._look_after_size()
        else:
            self.drop([found])

    def _evict(self, size: int) -> None:
        result = evict(
            self._helper,
            self.lock,
            self._limit,
            size,
            self._grace,
            lambda: self._keeper.is_closed,
        )
        with self.lock:
            self._counts["evicted"] += result.evicted
            if self._stock is not None:
                cold = self._stock.cold + result.evicted
                self._stock = self._stock._replace(files=result.files, size=result.size, cold=cold)
        if result.unstubbed:
            self._take_stock_soon()

    def _take_stock_soon(self) -> None:
        self._is_stock_due = True
        self._mover.wake()

    def _count(self, files: int, size: int, pending: int = 0, pending_size: int = 0) -> None:
        """The lock is held."""
        stock = self._stock
        if stock is not None:
            self._stock = stock._replace(
                files=stock.files + files,
                size=stock.size + size,
                pending=max(stock.pending + pending, 0),
                pending_size=max(stock.pending_size + pending_size, 0),
            )

    def _look_after_size(self) -> None:
        if self._excess() > 0:
            self._keeper.wake()

    # -- the mover -------------------------------------------------------------------------------

    def _move(self) -> None:
        while self._wanted:
            with self.lock:
                key = next(iter(self._wanted))
                del self._wanted[key]
            with suppress(POSKeyError):
                self.fetch(*key)
        if self._is_stock_due:
            self._is_stock_due = False
            try:
                stock = take_stock(self._helper, Rests())
            except OSError:
                self._is_stock_due = True
                raise
            with self.lock:
                self._stock = stock
            self._look_after_size()
        self._delete_dropped()
        while self._made and not self._mover.is_closed:
            self._upload_made(self._made.popleft())
        with self.lock:
            has_pending = self._stock is not None and self._stock.pending > 0
        if has_pending:
            self._upload_pending()
        if self._is_sweep_due and not self._mover.is_closed:
            self._is_sweep_due = False
            try:
                self._sweep()
            except StoreFailure:
                self._is_sweep_due = True
                raise

    def _upload_made(self, path: str) -> None:
        try:
            with suppress(FileNotFoundError), self.lock:
                self._count(1, os.stat(path).st_size, 1, os.stat(path).st_size)
            self.upload_file(path)
        except (StoreFailure, OSError):
            self._is_stock_due = True  # it is one of many then
            raise

    def _upload_pending(self) -> None:
        for found in walk(self._helper, Rests()):
            if self._mover.is_closed:
                return
            if isinstance(found, str) or found.has_stub:
                continue
            self.upload_file(found.path)

    def upload_file(self, path: str) -> bool:
        """Have a blob in the store that is only here; return whether it was uploaded.

        :param path: the file of a committed blob; it may have gone.
        :raises StoreFailure: the store does not take it.
        :raises OSError: the file cannot be read, or the stub not written.
        """
        oid, tid = self._helper.splitBlobFilename(path)
        last_tid = self._last_tid
        if oid is None or (last_tid is not None and tid > last_tid()):
            return False
        with suppress(FileNotFoundError):
            found = self.upload(path, oid, tid)
            self._name(path, found, is_new=False)
            return True
        return False

    def _delete_dropped(self) -> None:
        names = [self._dropped.popleft() for _ in range(len(self._dropped))]
        if not names:
            return
        try:
            with self._pause.guarding():
                self._owner.check()
                self._store.delete(names)
        finally:
            # If that has failed they are swept one day.
            with self.lock:
                self._in_flight.difference_update(names)

    def _sweep(self) -> None:
        """Delete the objects that nobody names."""
        with self._pause.guarding():
            self._owner.check(anew=True)
            orphans = find_orphans(
                self._store.list(), self._helper, self._is_in_flight, self._orphan_age
            )
            while not self._mover.is_closed and (names := list(islice(orphans, _SWEPT_AT_ONCE))):
                self._store.delete(names)
                with self.lock:
                    self._counts["swept"] += len(names)

    def _is_in_flight(self, name: str) -> bool:
        with self.lock:
            return name in self._in_flight

"""The one place that knows what ZODB's storages are like."""

from __future__ import annotations

import logging
import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any, Final, Literal

import ZODB.blob
import ZODB.interfaces
from ZODB.DemoStorage import DemoStorage
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage
from ZODB.POSException import POSKeyError, StorageError, Unsupported
from ZODB.serialize import referencesf
from zope.interface import providedBy

from ..errors import ConfigurationError
from ..tier.tier import BlobTier
from ..types import NO_TID
from .blobgarbage import remove_garbage
from .blobplaces import BlobPlaces, makes_places, store_blob
from .blobsync import sync_path
from .conflicts import Conflict, conflict_error, handling
from .filereader import FileReader, can_read_directly
from .newfile import make_directory
from .packblobs import remove_blobs
from .publisher import Publisher
from .resolvers import InProcess, Resolver
from .sharedblobs import find_shared_blob
from .voted import VotedBlobs

logger = logging.getLogger(__name__)


def is_fast(storage: Any) -> bool:
    """Return whether loading from *storage* takes microseconds, as a rule.

    Only classes that are known exactly count: a subclass may do anything.
    """
    cls = type(storage)
    if cls is FileStorage or cls is MappingStorage:
        return True
    if cls is DemoStorage:
        return is_fast(storage.base) and is_fast(storage.changes)
    if cls is ZODB.blob.BlobStorage:
        return is_fast(_wrapped(storage))
    return False


def _wrapped(storage: Any) -> Any:
    # BlobStorage offers what it wraps only under its private name.
    return getattr(storage, "__dict__", {}).get("_BlobStorage__storage")


def wrapped_by_blobs(storage: Any) -> Any:
    """Return the storage inside a BlobStorage; any other one as it is."""
    return _wrapped(storage) if type(storage) is ZODB.blob.BlobStorage else storage


def layers_of(storage: Any) -> Iterator[Any]:
    """Yield *storage* and the storages to which it passes on what it is told to write."""
    while storage is not None:
        yield storage
        cls = type(storage)
        if isinstance(storage, DemoStorage):
            storage = storage.changes
        elif cls is ZODB.blob.BlobStorage:
            storage = _wrapped(storage)
        else:
            # Where those that change the records on their way keep what they wrap.
            storage = getattr(storage, "__dict__", {}).get("base")
            if not hasattr(storage, "loadBefore"):
                return


def _pack_blobs(storage: Any, _time: float, _referencesf: Any) -> None:
    remove_garbage(storage)


def keeps_blobs(storage: Any) -> bool:
    """Return whether *storage* has a directory of blobs, and treats it as ZODB's storages do."""
    return isinstance(storage, ZODB.blob.BlobStorageMixin) and not isinstance(
        storage.fshelper, ZODB.blob.NoBlobsFileSystemHelper
    )


def _greatest_oid(storage: Any) -> bytes | None:
    """Return the greatest object id in use or handed out, where *storage* knows it."""
    oid = getattr(storage, "__dict__", {}).get("_oid")
    if type(oid) is int and 0 <= oid < 1 << 64:
        return oid.to_bytes(8, "big")
    return oid if type(oid) is bytes else None


def parts_of(storage: Any) -> Iterator[Any]:
    """Yield *storage* and all storages in it, also those that it only reads."""
    yield storage
    attributes = getattr(storage, "__dict__", {})
    for part in (_wrapped(storage), attributes.get("base"), attributes.get("changes")):
        if hasattr(part, "loadBefore"):
            yield from parts_of(part)


def _find_tier(name: str, storage: Any) -> BlobTier | None:
    """Return what has the blobs of *storage* in an object store, if something does.

    :raises ConfigurationError: it is in a part that is only read.
    """

    def tier_of(part: Any) -> BlobTier | None:
        return getattr(part, "__dict__", {}).get("blob_tier")

    found = next(filter(None, map(tier_of, layers_of(storage))), None)
    if found is None and any(map(tier_of, parts_of(storage))):
        raise ConfigurationError(
            f"storage {name!r}",
            "has a <tieredblobs> that it only reads: nobody would look after its blobs",
            "serve it by itself, or bring its blobs back (zeolith blob fetch) and use the "
            "<filestorage> in it",
        )
    return found


_LEAST_STRANGE_OID: Final = b"\x7f" + bytes(7)
"""Storages hand out ids above the greatest they have seen, and there are 2**63 of them: databases
on SQL, and some indexes, take ids for signed numbers.  A client that came up with one of the last
ids would leave nothing for anybody's new objects.  So the last 2**56 are only for the storage to
hand out; at a million a second that is enough for two thousand years."""

_END_OF_OIDS: Final = b"\x80" + bytes(7)


class ConflictFound(Exception):
    """A conflict would have to be resolved where that may not be done."""


class StorageAccess:
    """A ZODB storage, with its optional abilities made explicit.

    Methods that the storage lacks raise :class:`ZODB.POSException.Unsupported`.

    :param name: the name under which it is served.
    :param storage: the storage; belongs to the server from now on.
    :param loads: see :class:`~zeolith.server.ServerOptions`.
    :ivar load_before: the storage's own method, or one that returns the same sooner; bound once
        because it is called so often.
    :ivar is_fast: whether it may be called on the event loop.
    :ivar is_local: whether the storage itself is known to be fast, whatever was configured.
    :ivar prefetch: tells the storage what will be loaded soon, or None if it does not want to know.
    :ivar known_size: what :meth:`size_info` returned last; empty if nobody has asked yet.
    :ivar may_resolve: while this is false, the storage raises :class:`ConflictFound` where a
        conflict would be resolved.
    :ivar resolver: what resolves conflicts; None: they are raised.
    :ivar tier: the blobs that are in an object store; None if all are here.
    :ivar voted: the blobs that the running transaction is about to get; none where it is not known
        that the blob directory is this storage's alone.
    """

    def __init__(
        self, name: str, storage: Any, loads: Literal["auto", "loop", "workers"] = "auto"
    ) -> None:
        self.name = name
        self.storage = storage
        self.load_before: Callable[[bytes, bytes], tuple[bytes, bytes, bytes | None] | None]
        self.load_before = storage.loadBefore
        self.is_local = is_fast(storage)
        self.is_fast = self.is_local if loads == "auto" else loads == "loop"
        self.known_size: dict[str, Any] = {}
        self.may_resolve = True
        self.resolver: Resolver | None = InProcess()
        self._guard_resolving()
        self._guard_blobs()
        self._reader: FileReader | None = None
        if self.is_fast and can_read_directly(storage):
            self._reader = FileReader(storage)
            self.load_before = self._reader.load_before
        provided = providedBy(storage)
        self.interfaces = tuple((cls.__module__, cls.__name__) for cls in provided.__iro__)
        self.has_blobs: bool = ZODB.interfaces.IBlobStorage.providedBy(storage)
        supports_undo = getattr(storage, "supportsUndo", None)
        self.has_undo = bool(supports_undo()) if supports_undo is not None else False
        # A storage with MVCC of its own has another method of that name.
        self.prefetch: Callable[[Iterable[bytes], bytes], object] | None = (
            None
            if ZODB.interfaces.IMVCCStorage.providedBy(storage)
            else getattr(storage, "prefetch", None)
        )
        self.has_record_iternext = hasattr(storage, "record_iternext")
        # Others may get another layer at the first blob.
        self._own_places = BlobPlaces(storage.fshelper) if makes_places(storage) else None
        self.voted = self._find_voted()
        self.tier = _find_tier(name, storage)

    def _guard_blobs(self) -> None:
        for layer in layers_of(self.storage):
            if type(layer) is ZODB.blob.BlobStorage:
                layer._packUndoing = layer._packNonUndoing = partial(_pack_blobs, layer)
            elif getattr(layer, "__dict__", {}).get("blob_tier") is not None:
                # ZODB's packer, which packs what is in a wrapper, knows nothing of stubs.
                layer._remove_blob_files_tagged_for_removal_during_pack = partial(
                    remove_blobs, layer
                )

    def _find_voted(self) -> list[VotedBlobs]:
        # A FileStorage has a lock; what else has its records elsewhere may be one of several.
        if not any(
            isinstance(part, FileStorage) and not part.isReadOnly()
            for part in layers_of(self.storage)
        ):
            return []
        return [VotedBlobs(layer) for layer in layers_of(self.storage) if keeps_blobs(layer)]

    # -- start -----------------------------------------------------------------------------------

    @property
    def is_read_only(self) -> bool:
        """Whether the storage refuses to write."""
        return bool(self.storage.isReadOnly())

    def register(self, publisher: Publisher) -> None:
        """Have *publisher* told of what changes other than by this server's commits."""
        self.storage.registerDB(DatabaseFacade(self, publisher))

    def sync_file(self) -> None:
        """Bring to disk what the file of a FileStorage shows.  Blocks.

        A server that was killed in a commit may have left a transaction that only the system's
        memory has.  Clients are going to see it, and to be told that it is committed (R4).

        :raises OSError: the disk failed.
        """
        for part in parts_of(self.storage):
            if isinstance(part, FileStorage) and not part.isReadOnly():
                sync_path(part._file_name)

    def _guard_resolving(self) -> None:
        for layer in layers_of(self.storage):
            # Those that pass on all attributes of what they wrap do not resolve themselves.
            if hasattr(type(layer), "tryToResolveConflict"):
                own = layer.tryToResolveConflict
                layer.tryToResolveConflict = partial(self._resolve, layer, own)

    def _resolve(
        self,
        layer: Any,
        own: Callable[..., bytes],
        oid: bytes,
        committed: bytes,
        read: bytes,
        data: bytes,
        committedData: bytes = b"",  # noqa: N803 - ZODB's name
    ) -> bytes:
        if self.resolver is None:
            raise conflict_error(oid, committed, read, data)
        if not self.may_resolve:
            raise ConflictFound
        return self.resolver(Conflict(layer, own, oid, committed, read, data, committedData))

    @contextmanager
    def resolving(self) -> Iterator[None]:
        """Have the conflicts that this thread comes upon, all of one transaction, resolved as
        :attr:`resolver` does."""
        if self.resolver is not None:
            self.resolver.begin()
        with handling(self._resolve):
            yield

    def not_fetching(self) -> AbstractContextManager[None]:
        """Have what this thread does fail rather than wait for blobs in an object store (R7)."""
        return nullcontext() if self.tier is None else self.tier.not_waiting()

    def last_transaction(self) -> bytes:
        """Return the id of the last transaction; all zeros if there is none."""
        return self.storage.lastTransaction() or NO_TID

    def new_oids(self, count: int) -> list[bytes]:
        """Return *count* object ids that nobody has.

        :raises StorageError: there are none left.
        """
        new_oid = self.method("new_oid")
        try:
            return [new_oid() for _ in range(count)]
        except (struct.error, OverflowError) as error:
            raise StorageError(
                f"storage {self.name!r} has no object ids left: "
                "an object in it has one of the greatest there are"
            ) from error

    def check_oid(self, oid: bytes) -> None:
        """Check an object id that a client has chosen.

        :raises ValueError: it is so great that storing it could leave none for new objects.
        """
        if oid < _LEAST_STRANGE_OID:
            return
        greatest = [found for part in parts_of(self.storage) if (found := _greatest_oid(part))]
        # Where that is not known, the storage has a mind of its own.
        if oid > max(greatest) if greatest else oid >= _END_OF_OIDS:
            raise ValueError(
                f"object id {oid.hex()} is refused: the storage has not handed it out, and one so "
                "great would leave none for new objects"
            )

    def last_invalidations(self, count: int) -> list[tuple[bytes, bytes]]:
        """Return up to *count* of the last transactions with the ids of the objects that each
        changed, one after the other; oldest first, empty if not known."""
        method = getattr(self.storage, "lastInvalidations", None)
        if method is None or count <= 0:
            return []
        # ZEO's interface has pairs of object id and version, storages have object ids.
        return [
            (tid, b"".join([oid[0] if isinstance(oid, tuple) else oid for oid in oids]))
            for tid, oids, *_ in method(count)
        ]

    # -- facts -----------------------------------------------------------------------------------

    def size_info(self) -> dict[str, Any]:
        """Return what ``info`` notices carry.  May take time proportional to the storage."""
        # Kept for those who look at the server: they may not ask the storage, on the loop.
        self.known_size = info = {"length": len(self.storage), "size": self.storage.getSize()}
        return info

    def info(self) -> dict[str, Any]:
        """Return the answer to ``get_info``.  May take time proportional to the storage."""
        return {
            **self.size_info(),
            "name": self.storage.getName(),
            "supportsUndo": self.has_undo,
            "supports_record_iternext": self.has_record_iternext,
            "interfaces": self.interfaces,
        }

    def method(self, name: str) -> Callable[..., Any]:
        """Return the storage's method of that name; never called with a name from the network.

        :raises Unsupported: it has none.
        """
        method = getattr(self.storage, name, None)
        if method is None:
            raise Unsupported(f"storage {self.name!r} does not support {name}")
        return method  # type: ignore[no-any-return]

    def iterator(self, start: bytes | None, stop: bytes | None) -> Iterator[Any]:
        """Return an iterator over transactions."""
        return iter(self.method("iterator")(start, stop))

    def pack(self, time: float) -> None:
        """Pack to *time*, in seconds since the epoch."""
        self.method("pack")(time, referencesf)

    # -- blobs -----------------------------------------------------------------------------------

    def check_blobs(self) -> None:
        """:raises Unsupported: the storage has no blobs."""
        if not self.has_blobs:
            raise Unsupported(f"storage {self.name!r} does not support blobs")

    def temporary_directory(self) -> str:
        """Return the directory from which the storage can take over blob files by renaming.

        :raises Unsupported: the storage has no blobs.
        """
        self.check_blobs()
        return str(self.storage.temporaryDirectory())

    def load_blob(self, oid: bytes, serial: bytes) -> str:
        """Return the path of a blob's file.

        :raises POSKeyError: there is none.
        :raises BlobAway: it is in the object store only.
        :raises Unsupported: the storage has no blobs.
        """
        self.check_blobs()
        if self.tier is not None:
            return self.tier.local(oid, serial)
        path = self.storage.loadBlob(oid, serial)
        if not path:
            raise POSKeyError(oid, serial)
        return str(path)

    def shared_blob_path(self, oid: bytes, filename: str) -> str:
        """Return the path of a file that a client has put into the blob directory itself.

        :raises ValueError: see :func:`.find_shared_blob`.
        :raises Unsupported: the storage has no blob directory.
        """
        self.check_blobs()
        helper = next(
            (layer.fshelper for layer in layers_of(self.storage) if hasattr(layer, "fshelper")),
            None,
        )
        if helper is None:
            raise Unsupported(f"storage {self.name!r} has no blob directory")
        return find_shared_blob(helper, oid, filename)

    def _blob_layers(self) -> list[tuple[Any, BlobPlaces]]:
        """Return the storages that have a directory of blobs, and what it is like."""
        if self._own_places is not None:
            return [(self.storage, self._own_places)]
        return [
            (layer, BlobPlaces(layer.fshelper))
            for layer in layers_of(self.storage)
            if keeps_blobs(layer)
        ]

    def make_blob_directories(self, oids: Iterable[bytes]) -> None:
        """Make the directories for the blobs of *oids*.

        ZODB makes them itself, but where it cannot it says only that they are not there.

        :raises OSError: why one cannot be made.
        """
        for _, places in self._blob_layers():
            for oid in oids:
                make_directory(places.directory(oid))

    def store_blob(
        self, oid: bytes, serial: bytes | None, data: bytes, path: str, meta: Any
    ) -> bool:
        """Have the storage take over the file *path* as a blob; return whether it is known that
        it is not there any more.

        :raises Exception: whatever the storage raises.
        """
        try:
            if self._own_places is not None:
                return store_blob(self.storage, self._own_places, oid, serial, data, path, meta)
            self.storage.storeBlob(oid, serial, data, path, "", meta)
            return False
        except (AssertionError, FileNotFoundError):
            # Where ZODB cannot make a directory it says only that it is not there.
            self.make_blob_directories((oid,))
            raise

    def dirty_blobs(self) -> list[tuple[str, str]]:
        """Return (file, blob directory) of the blobs that the running transaction has written.

        Only storages that follow ZODB's BlobStorageMixin say so; others look after their files
        themselves.
        """
        return [
            (places.file(oid, serial), places.top)
            for layer, places in self._blob_layers()
            for oid, serial in list(layer.dirty_oids)
        ]

    def abort(self, meta: Any) -> None:
        """Have the storage forget the transaction *meta*, and its blobs.

        :raises Exception: whatever the storage raises.
        """
        self.storage.tpc_abort(meta)
        for layer in layers_of(self.storage):
            # FileStorage leaves the blobs of a transaction that has not voted where they are.
            if isinstance(layer, ZODB.blob.BlobStorageMixin) and layer.dirty_oids:
                layer._blob_tpc_abort()
        for voted in self.voted:
            voted.aborted()

    # -- end -------------------------------------------------------------------------------------

    def close(self, timeout: float = 0.0) -> None:
        """Close the storage.

        :param timeout: if a pack is running: seconds to wait while it replaces the file.
        """
        if self._reader is not None:
            self._reader.close()
        # A pack holds this lock while it puts the new file in the place of the old one.  It must
        # not be cut off between the two renames; once the storage is closed it gives up.
        lock = getattr(self.storage, "_commit_lock", None) if timeout else None
        with ExitStack() as stack:
            if lock is not None and lock.acquire(timeout=timeout):
                stack.callback(lock.release)
            self.storage.close()


class DatabaseFacade:
    """What a storage sees in place of a database: it is told of changes made elsewhere.

    A storage that is itself a client of another server calls this from a thread of its own.
    """

    def __init__(self, access: StorageAccess, publisher: Publisher) -> None:
        self._access = access
        self._publisher = publisher
        self.references = referencesf

    def invalidate(self, tid: bytes, oids: Iterable[bytes], version: str = "") -> None:
        """*tid* changed *oids*."""
        if version:
            raise Unsupported("versions are not supported")
        self._publisher.publish(tid, oids)

    def invalidateCache(self) -> None:  # noqa: N802 - ZODB's name
        """It is not known what changed: everybody has to verify."""
        self._publisher.reset(self._access.last_transaction)

    def transform_record_data(self, data: bytes) -> bytes:
        """Return *data*: the server stores records as they are."""
        return data

    def untransform_record_data(self, data: bytes) -> bytes:
        """Return *data*: the server stores records as they are."""
        return data

"""Packing a FileStorage while it is served.

As ZODB's own ``FileStorage.pack``, with these differences:

- The work is done by another process (:mod:`.packchild`).  Clients wait only for the last few
  transactions and for the change of files.
- The new file and the change of names are on disk before the next commit can be: a transaction
  that was acknowledged after a pack must not be in a file that a power failure brings to light
  without its name (R4).
- The name of the database is never without a file, where the disk can link files.
- A pack that fails leaves nothing behind.
- It is proven that the storage writes to the file that has the name.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

from persistent.TimeStamp import TimeStamp
from ZODB.blob import remove_committed_dir
from ZODB.FileStorage import FileStorage
from ZODB.FileStorage.FileStorage import FileStorageError, RedundantPackWarning
from ZODB.POSException import ReadOnlyError, StorageError
from ZODB.serialize import referencesf as zodb_referencesf

from .fileclaim import follow_file
from .packblobs import finish_removal, remove_blobs
from .packprocess import CannotStart, PackProcess, Progress, pack_process
from .packwire import OLD_SUFFIX, PACK_SUFFIX, REMOVED

logger = logging.getLogger(__name__)

_SMALL: Final = 64 * 1024
"""Bytes of transactions that may be left to be copied while clients wait."""

_ROUNDS: Final = 20
"""How often to catch up with those who write; then they have to wait longer."""

_PATIENCE: Final = 0.5


class FileMisplaced(StorageError):
    """A storage may be writing to a file that is not found under its name at the next start.

    It takes no transactions any more.

    :param path: the name.
    :param problem: what is wrong.
    """

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(path, problem)
        self.path = path
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.path}: {self.problem}"


class PackCancelled(StorageError):
    """The server ends, or the storage leaves service; the database is as it was."""


def can_pack_aside(storage: Any) -> bool:
    """Return whether a :class:`FilePacker` can pack *storage*: a FileStorage that packs itself."""
    return (
        os.name == "posix"
        and type(storage) is FileStorage
        and storage.packer is FileStorage.packer
        and isinstance(getattr(storage, "_file_name", None), str)
    )


class FilePacker:
    """Packs one FileStorage.

    :meth:`pack` and :meth:`estimate` run on one thread; :meth:`cancel` may be called on another.

    :param storage: a storage for which :func:`can_pack_aside` is true.
    :param progress: told of progress, on the packing thread.
    """

    def __init__(self, storage: Any, progress: Progress) -> None:
        self._storage = storage
        self._progress = progress
        self._lock = threading.Lock()  # guards the two below
        self._is_cancelled = False
        self._process: PackProcess | None = None

    @property
    def path(self) -> str:
        """The storage's file."""
        return str(self._storage._file_name)

    def pack(self, t: float, referencesf: Callable[..., Any], gc: bool | None = None) -> None:
        """Pack to the time *t*, in seconds since the epoch.  Takes FileStorage's arguments.

        :raises ReadOnlyError: the storage is read-only.
        :raises StorageError: a pack is running, or the packing process failed.
        :raises OSError: the disk is full, or failed.
        :raises FileMisplaced: the storage must not be used any more.
        """
        storage = self._storage
        if referencesf is not zodb_referencesf:
            # Records are in a form that only the caller can read.
            FileStorage.pack(storage, t, referencesf, gc)
            return
        if storage.isReadOnly():
            raise ReadOnlyError
        if not storage._index:
            return
        # The process packs what has the storage's name.  Nobody needs to be waited for yet.
        secure_place(storage)
        try:
            with self._exclusively():
                self._remove_former()
                try:
                    self._pack(self._task(t, gc))
                except RedundantPackWarning as warning:
                    logger.info("%s: %s", self.path, warning)
                finally:
                    self._tidy_up()
        except CannotStart as error:
            if self._is_cancelled:
                raise PackCancelled("the pack was cancelled; nothing has changed") from error
            logger.warning(
                "%s is packed in the server, which is slow for its clients: a process that packs "
                "cannot be started: %s",
                self.path,
                error,
            )
            FileStorage.pack(storage, t, referencesf, gc)
        self._secure_place()  # also where nothing was to be packed: it costs nothing to look

    def estimate(self, t: float) -> dict[str, int]:
        """Return what a pack to *t* would bring: bytes ``before`` and ``after``, ``blobs`` that
        would go and their ``blob_bytes``.

        :raises StorageError: the process failed.
        :raises OSError: the file cannot be read.
        """
        size = self._storage.getSize()
        if not self._storage._index:
            return {"before": size, "after": size, "blobs": 0, "blob_bytes": 0}
        try:
            with self._started() as process:
                return process.estimate(self._task(t, None))
        except RedundantPackWarning:
            return {"before": size, "after": size, "blobs": 0, "blob_bytes": 0}

    def cancel(self) -> None:
        """Have :meth:`pack` end soon, now and in future; it raises unless it was just done."""
        with self._lock:
            self._is_cancelled = True
            if self._process is not None:
                self._process.kill()

    # -- the steps of a pack ---------------------------------------------------------------------

    def _task(self, t: float, gc: bool | None) -> dict[str, Any]:
        storage = self._storage
        year, month, day, hour, minute = time.gmtime(t)[:5]
        return {
            "path": self.path,
            "size": storage.getSize(),
            "stop": TimeStamp(year, month, day, hour, minute, t % 60).raw().hex(),
            "gc": bool(storage._pack_gc if gc is None else gc),
            "blob_dir": storage.blob_dir or None,
        }

    @contextmanager
    def _exclusively(self) -> Iterator[None]:
        """Keep other packs away, and undo, which a pack would take the ground from."""
        storage = self._storage
        with storage._lock:
            if storage._pack_is_in_progress:
                raise FileStorageError("a pack is already running")
            storage._pack_is_in_progress = True
        try:
            yield
        finally:
            with storage._lock:
                storage._pack_is_in_progress = False

    @contextmanager
    def _started(self) -> Iterator[PackProcess]:
        with pack_process(self._progress) as process:
            with self._lock:
                if self._is_cancelled:
                    raise PackCancelled("the pack was cancelled")
                self._process = process
            try:
                yield process
            except StorageError as error:
                if self._is_cancelled:
                    raise PackCancelled("the pack was cancelled; nothing has changed") from error
                raise
            finally:
                with self._lock:
                    self._process = None

    def _pack(self, task: dict[str, Any]) -> None:
        storage = self._storage
        with self._started() as process:
            position = process.begin(task)
            if position is None:
                return
            position = self._catch_up(process, position)
            index = process.index()
            self._catch_up(process, position)
            self._acquire()
            try:
                size = process.finish(storage.getSize(), index)
                self._swap(size, index)
            finally:
                storage._commit_lock.release()
        if storage.blob_dir:
            self._progress("blobs", 0, 0)
            remove_blobs(storage)
        with storage._lock:
            storage._save_index()

    def _catch_up(self, process: PackProcess, position: int) -> int:
        for _ in range(_ROUNDS):
            end = self._storage.getSize()
            if end - position <= _SMALL:
                break
            position = process.follow(end)
        return position

    def _acquire(self) -> None:
        """Wait until no transaction has its vote behind it."""
        while not self._storage._commit_lock.acquire(timeout=_PATIENCE):
            if self._is_cancelled:
                raise PackCancelled("the pack was cancelled; nothing has changed")

    def _secure_place(self) -> None:
        self._acquire()
        try:
            secure_place(self._storage)
        finally:
            self._storage._commit_lock.release()

    def _swap(self, size: int, index: Any) -> None:
        """Put the new file in the place of the old one.  The commit lock is held."""
        storage, path = self._storage, self.path
        secure_place(storage)
        descriptor = os.open(path + PACK_SUFFIX, os.O_RDWR | os.O_CLOEXEC)
        # The storage, and those who ask it, take the file's name from the file.
        file = open(path, "r+b", opener=lambda name, flags: descriptor)  # noqa: SIM115 - stays open
        former = storage._file
        try:
            found = os.fstat(descriptor).st_size
            if found != size:
                raise StorageError(f"{path}{PACK_SUFFIX} has {found} bytes, not {size}")
            is_linked = storage.pack_keep_old and _link(path, path + OLD_SUFFIX)
            with storage._files.write_lock(), storage._lock:
                storage._files.empty()
                if storage.pack_keep_old and not is_linked:
                    os.rename(path, path + OLD_SUFFIX)
                os.replace(path + PACK_SUFFIX, path)
                storage._file = file
                storage._initIndex(index, storage._tindex)
                storage._pos = size
        except BaseException:
            if storage._file is not file:
                file.close()
                self._restore()
            raise
        former.close()
        try:
            sync_directory(path)
        except OSError as error:
            storage._is_read_only = True
            raise FileMisplaced(path, f"its new name may not be on disk: {error}") from error
        secure_place(storage)

    def _restore(self) -> None:
        """The change of names has failed: leave no second name of the file behind."""
        old = self.path + OLD_SUFFIX
        with suppress(FileNotFoundError):
            if not os.path.exists(self.path):
                os.rename(old, self.path)
            elif os.path.samefile(old, self.path):
                os.unlink(old)

    # -- files around it -------------------------------------------------------------------------

    def _remove_former(self) -> None:
        """Remove what the pack before has kept, and what one that was cut off has left."""
        self._tidy_up()
        if self._storage.blob_dir:
            finish_removal(self._storage)
        with suppress(FileNotFoundError):
            os.unlink(self.path + OLD_SUFFIX)
        blob_dir = self._storage.blob_dir
        if blob_dir and os.path.exists(blob_dir + OLD_SUFFIX):
            remove_committed_dir(blob_dir + OLD_SUFFIX)

    def _tidy_up(self) -> None:
        paths = [self.path + PACK_SUFFIX]
        blob_dir = self._storage.blob_dir
        # With no new file the list may be one whose removal has failed, and is to go on.
        if blob_dir and os.path.exists(paths[0]):
            paths.append(os.path.join(blob_dir, REMOVED))
        for path in reversed(paths):
            with suppress(FileNotFoundError):
                os.unlink(path)


def _link(path: str, other: str) -> bool:
    """Give the file *path* another name; return False where the disk cannot."""
    try:
        os.link(path, other)
    except OSError as error:
        if error.errno in (errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS):
            return False
        raise
    return True


def sync_directory(path: str) -> None:
    """Bring the names in the directory of *path* to disk."""
    descriptor = os.open(os.path.dirname(path), os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def secure_place(storage: Any) -> None:
    """Make sure that a FileStorage writes to the file that has the storage's name, and is the only
    one to do so.

    Without the commit lock held a transaction may still be in progress.

    :raises FileMisplaced: it does not; it is read-only from now on, because what is committed
        would be lost.
    """
    path = str(storage._file_name)
    try:
        is_same = os.path.samestat(os.stat(path), os.fstat(storage._file.fileno()))
    except FileNotFoundError:
        is_same = False
    if not is_same:
        storage._is_read_only = True
        raise FileMisplaced(path, "the open file is not the one that has this name")
    follow_file(storage)

"""The client's blob directory: what it keeps, fetches, hands out and throws away.

Knows files and locks, but no connection: a *fetch* function is handed in by whoever loads, and
the connection's reader delivers the stream to the ``download_*`` methods.
The files are described in :mod:`.bloblayout`, their eviction in :mod:`.blobsizes`.
"""

from __future__ import annotations

import logging
import os
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeAlias, TypeVar
from weakref import WeakKeyDictionary

from ZODB.blob import rename_or_copy_blob

from ..errors import ClientStorageError, ConfigurationError
from .bloblayout import (
    LOCK_NAME,
    PARTIAL_SUFFIX,
    UPLOAD_SUFFIX,
    make_helper,
    remove,
    try_lock,
)
from .blobsizes import shrink
from .download import Download

CHUNK_SIZE: Final = 59000
"""Bytes of a blob in one message, the size that ZEO's peers use."""

LOCK_TIMEOUT: Final = 600.0
"""Seconds to wait for another process that works in the same bucket, before giving up with an
error: a download of several gigabytes may well take minutes."""

logger = logging.getLogger(__name__)

Key: TypeAlias = tuple[bytes, bytes]
Fetch: TypeAlias = Callable[[bytes, bytes], None]
_T = TypeVar("_T")


class BlobDirectory:
    """A directory of blobs on the client's side.

    All methods may be called by any thread; none but :meth:`load`, :meth:`open` and
    :meth:`committed` waits for another thread or process.

    :param path: the directory; it is made if it does not exist.
    :param shared: it is the server's own directory, reached through a file system both can write.
    :param cache_size: bytes of blobs to keep; None: without limit.  Not a hard limit: it is
        looked after in the background.  Of no effect with *shared*.
    :param check_percent: size is looked after when that part of *cache_size* has been added.
    :raises ConfigurationError: the directory belongs to something else.

    :ivar bytes_read: bytes of blobs that were read in order to be sent, all together.
    :ivar fshelper: ZODB's own view of the directory, ``ZODB.blob.FilesystemHelper``.
    """

    def __init__(
        self, path: str, *, shared: bool, cache_size: int | None, check_percent: int = 10
    ) -> None:
        self.path = path
        self.shared = shared
        self.bytes_read = 0
        self.fshelper = make_helper(path, shared)
        self._limit = None if shared else cache_size
        if cache_size is not None and not 0 <= check_percent < 100:
            raise ConfigurationError(
                "blob_cache_size_check", f"{check_percent} is not a percentage below 100"
            )
        self._step = 0 if cache_size is None else cache_size * check_percent // 100
        self._is_closed = False
        self._reset()
        self._account(self._step)

    def _reset(self) -> None:
        # Guards the plain attributes below; held for no longer than one write to a file.
        self._mutex = threading.Lock()
        self._downloads: dict[Key, Download] = {}
        # Files handed out and not yet collected, with their paths.
        self._readers: WeakKeyDictionary[Any, str] = WeakKeyDictionary()
        # Threads of this process meet here before they contend for the lock file, so that they
        # wait without polling: bucket -> its lock and how many use it.
        self._buckets: dict[str, tuple[threading.Lock, int]] = {}
        self._added = 0
        self._checker: threading.Thread | None = None
        self._is_checking = self._is_check_wanted = False
        self._stop = threading.Event()

    def forked(self) -> None:
        """In the child of a fork: forget the parent's downloads, threads and locks.

        Touches no file: what is on its way is the parent's business.
        """
        for download in self._downloads.values():
            if download.file is not None:
                download.file.close()
        self._reset()

    @property
    def temp_dir(self) -> str:
        """Where the application's uncommitted blobs are made, so that a rename suffices."""
        return str(self.fshelper.temp_dir)

    def filename(self, oid: bytes, serial: bytes) -> str:
        """Return the path where that revision is, or would be."""
        return str(self.fshelper.getBlobFilename(oid, serial))

    # -- reading -------------------------------------------------------------------------------

    def load(self, oid: bytes, serial: bytes, fetch: Fetch) -> str:
        """Return the path of a blob, which has been fetched if necessary.

        The file may be evicted at any time; :meth:`open` is safe from that.

        :param fetch: called with *oid* and *serial*; asks the server and returns when the whole
            stream has been given to ``download_*``.  What it raises is passed on.
        :raises POSKeyError: there is no such blob.
        :raises ClientStorageError: it could not be written.
        """
        return self._use(oid, serial, fetch, _touch)

    def open(self, oid: bytes, serial: bytes, blob: Any, fetch: Fetch) -> Any:
        """Return a blob, open for reading.

        :param blob: the ``ZODB.blob.Blob`` to which the file belongs, or None for a plain file.

        Otherwise as :meth:`load`.
        """

        def open_file(path: str) -> Any:
            file = _open_blob(path, blob)
            if self._limit is not None:
                with self._mutex:
                    self._readers[file] = path
            if not self.shared:
                _note_use(path)
            return file

        return self._use(oid, serial, fetch, open_file)

    def _use(self, oid: bytes, serial: bytes, fetch: Fetch, use: Callable[[str], _T]) -> _T:
        """Return ``use(path)``; it raises FileNotFoundError if the file is not there."""
        path = self.filename(oid, serial)
        if self.shared:
            try:
                return use(path)
            except FileNotFoundError:
                raise _missing(oid, serial) from None
        try:
            return use(path)
        except FileNotFoundError:
            self.fshelper.createPathForOID(oid)
        # Nobody evicts while we hold the bucket's lock: what is there now can be used.
        with self._bucket(os.path.dirname(path)):
            try:
                return use(path)
            except FileNotFoundError:
                self._download((oid, serial), path, fetch)
            try:
                return use(path)
            except FileNotFoundError:
                raise _missing(oid, serial) from None

    def _download(self, key: Key, path: str, fetch: Fetch) -> None:
        download = Download(path + PARTIAL_SUFFIX)
        with self._mutex:
            self._downloads[key] = download
        try:
            fetch(*key)
            with self._mutex:
                # From here on a late or repeated stream finds nobody who wants it.
                del self._downloads[key]
            if download.error is not None:
                raise ClientStorageError(f"cannot keep a blob in {path}") from download.error
            if download.is_complete:
                self._account(_install(download.path, path))
        finally:
            with self._mutex:
                self._downloads.pop(key, None)
                download.drop()

    # -- the connection's reader ---------------------------------------------------------------

    def download_started(self, oid: bytes, serial: bytes) -> None:
        """The server begins to send a blob.

        None of the ``download_*`` methods raises: what goes wrong is told to the thread that
        loads the blob.  A stream that nobody waits for is ignored.
        """
        self._deliver((oid, serial), Download.start)

    def download_chunk(self, oid: bytes, serial: bytes, chunk: bytes) -> None:
        """The server has sent the next part of a blob."""
        self._deliver((oid, serial), lambda download: download.write(chunk))

    def download_ended(self, oid: bytes, serial: bytes) -> None:
        """The server has sent all of a blob."""
        self._deliver((oid, serial), Download.end)

    def downloads_broken(self) -> None:
        """The connection is lost: streams that have not ended never will."""
        with self._mutex:
            for download in self._downloads.values():
                if download.file is not None and not download.is_resumable:
                    download.drop()

    def download(self, oid: bytes, serial: bytes) -> Download:
        """Return the download that :meth:`load` or :meth:`open` waits for, for its *fetch* to fill.

        :raises KeyError: nobody waits for that.
        """
        with self._mutex:
            return self._downloads[oid, serial]

    def _deliver(self, key: Key, act: Callable[[Download], None]) -> None:
        with self._mutex:
            download = self._downloads.get(key)
            if download is not None:
                act(download)

    # -- writing -------------------------------------------------------------------------------

    def prepare_upload(self, oid: bytes, blobfilename: str, serial: bytes | None) -> str:
        """Take the caller's file into this directory and return its new path.

        Done at once, so that a full disk is known before the vote, and the caller is free to
        remove the directory its file was in.

        :raises OSError: it could not be moved or copied; the caller's file is still there.
        """
        directory = self.fshelper.getPathForOID(oid, create=True)
        prefix = "0x" + (serial or bytes(8)).hex()
        # ZEO's server takes a name that ends in `.tmp` and at most one more character.
        handle, path = tempfile.mkstemp(suffix=UPLOAD_SUFFIX, prefix=prefix, dir=directory)
        os.close(handle)
        try:
            # Copies to another file system, and says so in ZODB's own log.
            rename_or_copy_blob(blobfilename, path, chmod=False)
        except OSError:
            remove(path)
            raise
        self._protect(path)
        return path

    def _protect(self, path: str) -> None:
        """Make a blob's file read-only."""
        try:
            os.chmod(path, _protected_mode(path))
        except PermissionError:
            # Another user's file, renamed by us: protection is a courtesy, not a need.
            pass

    def chunks(self, path: str, size: int = CHUNK_SIZE) -> Iterator[bytes]:
        """Return the contents of a file in parts of *size* bytes."""
        with open(path, "rb", buffering=0) as file:
            while chunk := file.read(size):
                self.bytes_read += len(chunk)
                yield chunk

    def committed(self, oid: bytes, tid: bytes, path: str) -> None:
        """Keep an uploaded file as the blob of *oid* that *tid* wrote.

        Never raises for what happens to the file: the transaction is committed, and a blob that
        could not be kept is fetched when it is wanted.

        :param path: as returned by :meth:`prepare_upload`.
        """
        if self.shared:
            return  # The server has moved it to its place.
        target = self.filename(oid, tid)
        try:
            with self._bucket(os.path.dirname(target)):
                self._account(_install(path, target))
        except (OSError, ClientStorageError):
            remove(path)

    def discard(self, path: str) -> None:
        """Remove the file of an upload that was aborted; it need not exist."""
        remove(path)

    # -- size ----------------------------------------------------------------------------------

    def _account(self, size: int) -> None:
        """*size* more bytes are here: look after the size if it is time."""
        if self._limit is None:
            return
        with self._mutex:
            self._added += size
            if self._added < self._step or self._is_closed:
                return
            self._added = 0
            self._is_check_wanted = True
            if self._is_checking:
                return
            self._is_checking = True
            self._checker = threading.Thread(
                target=self._check_size, name=f"size check of {self.path}", daemon=True
            )
            self._checker.start()

    def _check_size(self) -> None:
        assert self._limit is not None
        target = max(self._limit - self._step, 0)
        while True:
            with self._mutex:
                # Decided under the mutex, so that nobody leaves a wish with a thread that has
                # already looked for one.
                if not self._is_check_wanted or self._stop.is_set():
                    self._is_checking = False
                    return
                self._is_check_wanted = False
            try:
                shrink(self.path, target, self._is_open, self._stop.is_set)
            except OSError:
                # The directory's trouble is told to whoever loads a blob; the next check may
                # do better.
                logger.exception("cannot look after the size of the blob cache %s", self.path)

    def _is_open(self, path: str) -> bool:
        """Whether a file handed out by :meth:`open` is still open."""
        with self._mutex:
            return any(name == path and not file.closed for file, name in self._readers.items())

    def close(self) -> None:
        """End the size check, wait for it, and drop partial files.  May be called again."""
        with self._mutex:
            self._is_closed = True
            checker = self._checker
        self._stop.set()
        if checker is not None:
            checker.join()
        self.downloads_broken()

    # -- locks ---------------------------------------------------------------------------------

    @contextmanager
    def _bucket(self, directory: str) -> Iterator[None]:
        """Hold a bucket against other threads and processes.

        :raises ClientStorageError: another process keeps it for :data:`LOCK_TIMEOUT` seconds.
        """
        with self._mutex:
            lock, users = self._buckets.get(directory, (None, 0))
            if lock is None:
                lock = threading.Lock()
            self._buckets[directory] = lock, users + 1
        try:
            with lock:
                deadline = time.monotonic() + LOCK_TIMEOUT
                pause = 0.001
                path = os.path.join(directory, LOCK_NAME)
                while (held := try_lock(path)) is None:
                    if time.monotonic() > deadline:
                        raise ClientStorageError(f"{path} is held by another process")
                    # Lock files cannot be waited for with a time limit.
                    time.sleep(pause)
                    pause = min(pause * 2, 0.05)
                try:
                    yield
                finally:
                    held.close()
        finally:
            with self._mutex:
                lock, users = self._buckets[directory]
                if users == 1:
                    del self._buckets[directory]
                else:
                    self._buckets[directory] = lock, users - 1


def _protected_mode(path: str) -> int:
    """Return the mode of a blob's file: not writable, and readable to whom its directory is."""
    return stat.S_IRUSR | os.stat(os.path.dirname(path)).st_mode & 0o444


def _install(source: str, target: str) -> int:
    """Put a complete file into its place and return its size.  The caller holds the bucket."""
    # Without this a power failure may leave the name with nothing behind it, and a cache that
    # survives would serve an empty blob.
    handle = os.open(source, os.O_RDONLY)
    try:
        os.fsync(handle)
        size = os.fstat(handle).st_size
        os.fchmod(handle, _protected_mode(target))
    finally:
        os.close(handle)
    os.replace(source, target)
    return size


def _open_blob(path: str, blob: Any) -> Any:
    if blob is None:
        return open(path, "rb")
    from ZODB.blob import BlobFile

    return BlobFile(path, "r", blob)


def _touch(path: str) -> str:
    """Return *path*, used now.

    :raises FileNotFoundError: it does not exist.
    """
    os.stat(path)
    _note_use(path)
    return path


def _note_use(path: str) -> None:
    """Note that a file is used now, on file systems too that do not note it themselves."""
    try:
        os.utime(path, (time.time(), os.stat(path).st_mtime))
    except OSError:
        # Evicted while we have it open; or another user's, which can be read but looks old.
        pass


def _missing(oid: bytes, serial: bytes) -> Exception:
    from ZODB.POSException import POSKeyError

    error: Exception = POSKeyError(oid, f"no blob file of revision 0x{serial.hex()}")
    return error

"""The client's blob directory: what it keeps, fetches and hands out.

Knows files and locks, but no connection: a *fetch* function is handed in by whoever loads, and
the connection's reader delivers the stream to the ``download_*`` methods.
The files are described in :mod:`.bloblayout`, their locks in :mod:`.bloblocks`; what is thrown
away is decided in :mod:`.blobkeeper` and :mod:`.blobsizes`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, Final, TypeAlias, TypeVar

from ..errors import ClientStorageError
from .blobbuckets import Buckets
from .blobfiles import Taken, take_in, unusable, usable
from .blobkeeper import SizeKeeper
from .bloblayout import (
    MARKER_NAME,
    PARTIAL_SUFFIX,
    blob_path,
    bucket_name,
    make_helper,
    remove,
)
from .blobleases import Leases
from .blobopening import find_file, missing, open_file, open_held
from .blobpartials import PartialFile
from .download import Download

CHUNK_SIZE: Final = 59000
"""Bytes of a blob in one message, the size that ZEO's peers use."""

Key: TypeAlias = tuple[bytes, bytes]
Fetch: TypeAlias = Callable[[bytes, bytes], None]
_T = TypeVar("_T")


class BlobDirectory:
    """A directory of blobs on the client's side.

    All methods may be called by any thread; none but :meth:`load` and :meth:`open`
    waits for another thread or process.

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
        # Nothing depends on the directory that the process works in later on.
        self.path = path = os.path.abspath(path)
        self.shared = shared
        self.bytes_read = 0
        self.fshelper = make_helper(path, shared)
        self._base = str(self.fshelper.base_dir)
        limit = None if shared else cache_size
        # Half of what may be there: the other half is for what is loaded meanwhile.
        self._leases = Leases(None if limit is None else limit // 2)
        self._keeper = SizeKeeper(path, limit, check_percent, self._leases)
        self._reset()
        self._keeper.start()

    def _reset(self) -> None:
        # Guards the plain attributes below; held for no longer than one write to a file.
        self._mutex = threading.Lock()
        self._downloads: dict[Key, Download] = {}
        self._buckets = Buckets()

    def forked(self) -> None:
        """In the child of a fork: forget the parent's downloads, threads and locks.

        Touches no file: what is on its way is the parent's business.
        """
        for download in self._downloads.values():
            download.abandon()
        self._leases.forked()
        self._keeper.forked()
        self._reset()

    @property
    def temp_dir(self) -> str:
        """Where the application's uncommitted blobs are made, so that a rename suffices."""
        path = str(self.fshelper.temp_dir)
        if not self.shared:
            # Somebody may have emptied the cache by hand.
            os.makedirs(path, exist_ok=True)
        return path

    def filename(self, oid: bytes, serial: bytes) -> str:
        """Return the path where that revision is, or would be."""
        if self.shared:
            return str(self.fshelper.getBlobFilename(oid, serial))
        # The same name, for a third of the time.
        return self._base + blob_path(oid, serial)

    def has(self, oid: bytes, serial: bytes) -> bool:
        """Whether the file of that blob is there."""
        return os.access(self.filename(oid, serial), os.F_OK)

    def _directory(self, oid: bytes) -> str:
        if self.shared:
            return str(self.fshelper.getPathForOID(oid))
        return self._base + bucket_name(oid)

    # -- reading -------------------------------------------------------------------------------

    def load(self, oid: bytes, serial: bytes, fetch: Fetch) -> str:
        """Return the path of a blob, which has been fetched if necessary.

        No Zeolith process evicts it while it is one of those that :class:`.Leases` holds; a
        file that :meth:`open` has given is safe for as long as it is open.

        :param fetch: called with *oid* and *serial*; asks the server and returns when the whole
            stream has been given to ``download_*``.  What it raises is passed on.
        :raises POSKeyError: there is no such blob.
        :raises ClientStorageError: it could not be written or read.
        """
        if self.shared:
            return self._use(oid, serial, fetch, find_file)
        return self._use(oid, serial, fetch, self._leases.take, self._leases.keep)

    def open(self, oid: bytes, serial: bytes, blob: Any, fetch: Fetch) -> Any:
        """Return a blob, open for reading.

        :param blob: the ``ZODB.blob.Blob`` to which the file belongs, or None for a plain file.

        Otherwise as :meth:`load`.
        """

        if self.shared:
            return self._use(oid, serial, fetch, lambda path: open_file(path, blob))
        return self._use(oid, serial, fetch, lambda path: open_held(path, blob))

    def _use(
        self,
        oid: bytes,
        serial: bytes,
        fetch: Fetch,
        use: Callable[[str], _T],
        keep: Callable[[PartialFile], _T] | None = None,
    ) -> _T:
        """Return ``use(path)``; it raises FileNotFoundError if the file is not there.

        :param keep: what to do in place of that with a file that was just made and is open.
        """
        path = self.filename(oid, serial)
        try:
            # Most calls end here, so nothing is set up in advance.
            return use(path)
        except FileNotFoundError:
            if self.shared:
                raise missing(oid, serial, f"in {self.path}, which is shared") from None
        except OSError as error:
            raise unusable(path, error) from error
        # Nobody evicts while we hold the bucket: what is there now can be used.
        with self._buckets.find(path.rpartition(os.sep)[0]) as bucket:
            # Cheaper than an exception, as mostly nobody has come before us.
            if os.access(path, os.F_OK):
                with suppress(FileNotFoundError), usable(path):
                    return use(path)
            file = self._download((oid, serial), path, fetch, bucket.mode)
            if file is None:
                raise missing(oid, serial, "at the server")
            try:
                found = use(path) if keep is None else keep(file)
            except FileNotFoundError:
                raise missing(oid, serial, "at the server") from None
            except OSError as error:
                raise unusable(path, error) from error
            finally:
                file.close()
        # Not before it is in use: it would be the first that goes from a cache that is too small,
        # and what it takes the place of could not.
        self._keeper.added(file.size)
        return found

    def _download(self, key: Key, path: str, fetch: Fetch, mode: int) -> PartialFile | None:
        """Have a blob fetched into its place; return its file, or None if it does not exist."""
        # One step to the interpreter.
        download = self._downloads[key] = Download(path + PARTIAL_SUFFIX)
        try:
            try:
                fetch(*key)
            finally:
                with self._mutex:
                    # From here on a late or repeated stream finds nobody who wants it.
                    self._downloads.pop(key, None)
            if download.error is not None:
                raise _unkept(path, download.error) from download.error
            if not download.is_complete:
                return None
            try:
                return download.install(path, mode)
            except OSError as error:
                raise _unkept(path, error) from error
        finally:
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
            for download in list(self._downloads.values()):
                if download.file is not None and not download.is_resumable:
                    download.drop()

    def download(self, oid: bytes, serial: bytes) -> Download:
        """Return the download that :meth:`load` or :meth:`open` waits for, for its *fetch* to fill.

        :raises KeyError: nobody waits for that.
        """
        return self._downloads[oid, serial]

    def _deliver(self, key: Key, act: Callable[[Download], None]) -> None:
        with self._mutex:
            download = self._downloads.get(key)
            if download is not None:
                act(download)

    # -- writing -------------------------------------------------------------------------------

    def prepare_upload(
        self, oid: bytes, blobfilename: str, serial: bytes | None, most: int = 0
    ) -> Taken:
        """Take the caller's file into this directory.

        Done at once, so that a full disk is known before the vote, and the caller is free to
        remove the directory its file was in.

        :param most: bytes of a file whose contents are wanted.
        :raises ClientStorageError: it could not be moved or copied; the caller's file is still
            there.
        """
        bucket = self._directory(oid)
        if self.shared and not os.path.exists(os.path.join(self.path, MARKER_NAME)):
            # Otherwise it would be made anew where nobody looks for it.
            raise ClientStorageError(
                f"{self.path}, which is shared, has no blobs of a server any more: is its file "
                "system mounted?"
            )
        # Not in a `with` statement, as a rule: it costs as much as the half of this.
        try:
            return take_in(blobfilename, bucket, serial, most)
        except FileNotFoundError:
            pass  # the file, or the directory for it
        except OSError as error:
            raise unusable(bucket, error) from error
        with usable(bucket):
            os.makedirs(bucket, exist_ok=True)
            return take_in(blobfilename, bucket, serial, most)

    def chunks(self, path: str, size: int = CHUNK_SIZE) -> Iterator[bytes]:
        """Return the contents of a file in parts of *size* bytes."""
        with open(path, "rb", buffering=0) as file:
            while chunk := file.read(size):
                self.bytes_read += len(chunk)
                yield chunk

    def committed(self, oid: bytes, tid: bytes, taken: Taken) -> None:
        """Keep an uploaded file as the blob of *oid* that *tid* wrote.

        Never raises for what happens to the file: the transaction is committed, and a blob that
        could not be kept is fetched when it is wanted.

        :param taken: as returned by :meth:`prepare_upload`.
        """
        if self.shared:
            return  # The server has moved it to its place.
        try:
            # Without the bucket: a whole file gets a name that only whole files of the same blob
            # can have, whoever is at it, too.
            self._keeper.added(taken.install(self.filename(oid, tid)))
        except OSError:
            remove(taken.path)

    def discard(self, path: str) -> None:
        """Remove the file of an upload that was aborted; it need not exist."""
        remove(path)

    def tend(self) -> None:
        """Let go of files that were held long enough; called now and then."""
        self._leases.end_old()

    def close(self) -> None:
        """End the size check, wait for it, and drop partial files.  May be called again."""
        self._keeper.close()
        self._leases.close()
        self.downloads_broken()


def _unkept(path: str, error: OSError) -> ClientStorageError:
    return ClientStorageError(f"cannot keep a blob in {path}: {error}")

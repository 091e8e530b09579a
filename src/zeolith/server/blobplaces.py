"""Where a storage's blob directory has its blobs, and how they get there.

ZODB works each path out from its parts, asks the system for each directory whether it is there, and
all that while the commit lock is held.
"""

from __future__ import annotations

import os
import stat
from typing import Any, Final

from ZODB.blob import BlobStorageMixin, BushyLayout, FilesystemHelper
from ZODB.FileStorage import FileStorage

_READABLE: Final = stat.S_IRUSR | stat.S_IRGRP | stat.S_IROTH


class BlobPlaces:
    """The paths in one blob directory.  Any thread.

    :param helper: the storage's ``FilesystemHelper``.
    :ivar top: the directory.
    :ivar arrivals: how the paths begin of what a server has received.
    """

    __slots__ = ("_base", "_helper", "_is_bushy", "_latest", "arrivals", "top")

    def __init__(self, helper: Any) -> None:
        self._helper = helper
        self.top = self._base = str(helper.base_dir)
        self.arrivals = f"{helper.temp_dir}{os.sep}"
        # Its own layout and its own way; whatever else there is works its paths out itself.
        self._is_bushy = type(helper) is FilesystemHelper and type(helper.layout) is BushyLayout
        # The name of a blob's file is the same for all that one transaction writes.
        self._latest: tuple[bytes, str] = b"", ""

    def directory(self, oid: bytes) -> str:
        """Return the directory of the blobs of *oid*."""
        if self._is_bushy:
            return f"{self._base}0x{oid.hex('/').replace('/', f'{os.sep}0x')}"
        return str(self._helper.getPathForOID(oid))

    def file(self, oid: bytes, tid: bytes) -> str:
        """Return the file of the blob that *tid* wrote."""
        if not self._is_bushy:
            return str(self._helper.getBlobFilename(oid, tid))
        latest = self._latest
        if latest[0] != tid:
            name = os.path.basename(self._helper.getBlobFilename(oid, tid))
            latest = self._latest = tid, name
        return f"{self.directory(oid)}{os.sep}{latest[1]}"


def makes_places(storage: Any) -> bool:
    """Return whether :func:`store_blob` does for *storage* what its ``storeBlob`` does."""
    return type(storage) is FileStorage and type(storage.fshelper) is FilesystemHelper


_PLAIN: Final = BlobStorageMixin.storeBlob


def store_blob(
    storage: Any,
    places: BlobPlaces,
    oid: bytes,
    serial: bytes | None,
    data: bytes,
    path: str,
    meta: Any,
) -> bool:
    """Do what ``storeBlob`` of *storage* does, a FileStorage, but ask only for what is not known.

    The directory is there as a rule: it was made before the lock was asked for.

    :returns: whether it is known that the file *path* is not there any more.
    :raises OSError: the file can neither be renamed nor copied.
    :raises Exception: what the storage raises.
    """
    is_plain = getattr(storage.storeBlob, "__func__", None) is _PLAIN
    if not (is_plain and path.startswith(places.arrivals)):
        # Somebody has his own for it, or a client has made the file, with what rights it likes.
        storage.storeBlob(oid, serial, data, path, "", meta)
        return False
    storage.store(oid, serial, data, "", meta)
    tid = storage._tid
    target = places.file(oid, tid)
    try:
        os.rename(path, target)
    except OSError:
        # Another disk, or no directory: ZODB knows how to help itself.
        storage._blob_storeblob(oid, tid, path)
        return False
    storage.dirty_oids.append((oid, tid))
    # Protected from being written to, and readable to whom its directory is.
    mode = os.stat(places.directory(oid)).st_mode & _READABLE
    os.chmod(target, mode | stat.S_IRUSR)
    return True

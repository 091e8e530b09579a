"""Where a storage's blob directory has its blobs, and how they get there.

ZODB works each path out from its parts, asks the system for each directory whether it is there, and
all that while the commit lock is held.
"""

from __future__ import annotations

import os
import stat
from binascii import hexlify
from collections.abc import Callable
from typing import Any, Final

from ZODB.blob import BLOB_SUFFIX, BlobStorageMixin, BushyLayout, FilesystemHelper, LawnLayout
from ZODB.FileStorage import FileStorage

_READABLE: Final = stat.S_IRUSR | stat.S_IRGRP | stat.S_IROTH


_BYTE_NAMES: Final = tuple(f"0x{byte:02x}{os.sep}".encode("ascii") for byte in range(256))

_SEPARATOR: Final = os.sep.encode("ascii")
_SUFFIX: Final = str(BLOB_SUFFIX).encode("ascii")


def _name(value: bytes) -> bytes:
    """Return an id as ZODB has it in names: whole bytes, without zeros in front."""
    digits = hexlify(value).lstrip(b"0") or b"00"
    return b"0x0" + digits if len(digits) & 1 else b"0x" + digits


def _bushy_directory(oid: bytes) -> bytes:
    """Return the relative path of the directory of a blob in ZODB's layout *bushy*."""
    return b"".join([_BYTE_NAMES[byte] for byte in oid])


def bushy_path(oid: bytes, tid: bytes) -> bytes:
    """Return the relative path of a blob in ZODB's layout *bushy*."""
    return _bushy_directory(oid) + _name(tid) + _SUFFIX


def lawn_path(oid: bytes, tid: bytes) -> bytes:
    """Return the relative path of a blob in ZODB's layout *lawn*."""
    return _name(oid) + _SEPARATOR + _name(tid) + _SUFFIX


PATHS: Final[dict[type[Any], Callable[[bytes, bytes], bytes]]] = {
    BushyLayout: bushy_path,
    LawnLayout: lawn_path,
}
"""By ZODB's layouts: what returns the relative path of a blob, as the system takes it."""


class BlobPlaces:
    """The paths in one blob directory.  Any thread.

    :param helper: the storage's ``FilesystemHelper``.
    :ivar top: the directory.
    :ivar arrivals: how the paths begin of what a server has received.
    """

    __slots__ = ("_base", "_helper", "_is_bushy", "arrivals", "top")

    def __init__(self, helper: Any) -> None:
        self._helper = helper
        self.top = self._base = str(helper.base_dir)
        self.arrivals = f"{helper.temp_dir}{os.sep}"
        # Its own layout and its own way; whatever else there is works its paths out itself.
        self._is_bushy = type(helper) is FilesystemHelper and type(helper.layout) is BushyLayout

    def directory(self, oid: bytes) -> str:
        """Return the directory of the blobs of *oid*."""
        if self._is_bushy:
            return self._base + os.fsdecode(_bushy_directory(oid))[:-1]
        return str(self._helper.getPathForOID(oid))

    def file(self, oid: bytes, tid: bytes) -> str:
        """Return the file of the blob that *tid* wrote."""
        if not self._is_bushy:
            return str(self._helper.getBlobFilename(oid, tid))
        return self._base + os.fsdecode(bushy_path(oid, tid))


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

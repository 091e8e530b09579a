"""The blob files that a packed database no longer refers to.

The packer lists them in ``.removed`` in the blob directory.  Once the packed file is in place, they
are put aside or deleted as the storage is configured, and the list with them.  A server that dies
in between leaves the list: the next one goes on with it.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any, Final

from ZODB.blob import link_or_copy, remove_committed, remove_committed_dir
from ZODB.POSException import POSKeyError

from ..tier.stubs import BLOB_SUFFIX, SUFFIX, stub_of
from .packwire import OLD_SUFFIX, REMOVED

_KEPT: Final = (BLOB_SUFFIX, SUFFIX)

logger = logging.getLogger(__name__)


def remove_blobs(storage: Any) -> None:
    """Remove what the list of *storage*, a FileStorage with blobs, names; then the list.

    May be repeated after it was cut off.  Any thread; other threads may use the storage.

    :raises OSError: a file cannot be moved or deleted; the list is still there.
    """
    keep = storage.pack_keep_old
    for entry in _read_list(storage):
        path = _path_of(storage, entry)
        with _held(storage):
            if len(entry) == 8:
                _remove(storage, path, keep, remove_committed_dir)
            else:
                _remove(storage, path, keep, remove_committed)
                _remove(storage, stub_of(path), keep, remove_committed)
        _prune(storage, path)
    if keep:
        _keep_others(storage)
    os.unlink(_list_path(storage))


def _held(storage: Any) -> AbstractContextManager[Any]:
    """Keep whoever fetches and evicts blobs of the storage away for a moment."""
    tier = getattr(storage, "blob_tier", None)
    return nullcontext() if tier is None else tier.lock


def _remove(storage: Any, path: str, keep: bool, remove: Callable[[str], None]) -> None:
    if os.path.lexists(path):
        if keep:
            _put_aside(storage, path)
        else:
            remove(path)


def finish_removal(storage: Any) -> None:
    """Go on with a list that was left behind, if there is one, in a storage just opened.

    Whatever the database still has stays, however the list came about.

    :raises OSError: see :func:`remove_blobs`.
    """
    list_path = _list_path(storage)
    if not os.path.exists(list_path):
        return
    entries = [entry for entry in _read_list(storage) if not _is_used(storage, entry)]
    logger.warning("going on with the removal of %d blobs that a pack has left", len(entries))
    with open(list_path, "wb") as file:
        file.writelines(entry.hex().encode("ascii") + b"\n" for entry in entries)
    remove_blobs(storage)


def _list_path(storage: Any) -> str:
    return os.path.join(storage.blob_dir, REMOVED)


def _read_list(storage: Any) -> list[bytes]:
    """Return object ids and, for single revisions, object ids with tids."""
    entries = []
    with open(_list_path(storage), "rb") as file:
        for line in file:
            with suppress(ValueError):  # the last line may have been cut off
                entry = bytes.fromhex(line.decode("ascii").strip())
                if len(entry) in (8, 16):
                    entries.append(entry)
    return entries


def _is_used(storage: Any, entry: bytes) -> bool:
    oid, tid = entry[:8], entry[8:]
    if not tid:
        return oid in storage._index
    try:
        storage.loadSerial(oid, tid)
    except POSKeyError:
        return False
    return True


def _path_of(storage: Any, entry: bytes) -> str:
    helper = storage.fshelper
    oid, tid = entry[:8], entry[8:]
    return str(helper.getBlobFilename(oid, tid) if tid else helper.getPathForOID(oid))


def _old_path(storage: Any, path: str) -> str:
    """Return where *path* is to be kept."""
    top = str(storage.blob_dir)
    return os.path.join(top + OLD_SUFFIX, os.path.relpath(path, top))


def _put_aside(storage: Any, path: str) -> None:
    target = _old_path(storage, path)
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if os.path.isdir(target) and os.path.isdir(path):
        # An earlier attempt got as far as linking what was left.
        shutil.rmtree(target)
    os.rename(path, target)


def _keep_others(storage: Any) -> None:
    """Let the old blob directory have all blobs that the old file refers to."""
    top = str(storage.blob_dir)
    os.makedirs(top + OLD_SUFFIX, exist_ok=True)
    for directory, _, names in os.walk(top):
        for name in names:
            path = os.path.join(directory, name)
            if not name.endswith(_KEPT) and path != os.path.join(top, ".layout"):
                continue
            if name.endswith(BLOB_SUFFIX) and os.path.basename(stub_of(path)) in names:
                continue  # or its room would not be free when it is evicted
            target = _old_path(storage, path)
            if not os.path.exists(target):
                os.makedirs(os.path.dirname(target), exist_ok=True)
                with suppress(FileNotFoundError):  # of a transaction that was aborted just now
                    link_or_copy(path, target)


def _prune(storage: Any, path: str) -> None:
    """Remove the directories that lost their last file with *path*."""
    top = str(storage.blob_dir)
    directory = os.path.dirname(path)
    while len(directory) > len(top):
        # A commit that makes the directory anew, for its blob, does so with this lock held; so it
        # either finds the directory or makes it.
        with storage._lock:
            try:
                os.rmdir(directory)
            except FileNotFoundError:
                pass
            except OSError:
                return  # not empty
        directory = os.path.dirname(directory)

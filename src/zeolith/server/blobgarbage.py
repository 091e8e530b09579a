"""Blobs that a packed storage in a ``<blobstorage>`` does not have any more.

ZODB's own way takes a blob for garbage whose transaction has voted and is not over, or the one that
this is to replace; and it cannot go on where it meets a file that is no blob, such as one that a
client with a shared directory is about to hand over.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any

from ZODB.blob import BLOB_SUFFIX, remove_committed
from ZODB.POSException import POSKeyError


def remove_garbage(storage: Any) -> None:
    """Remove the blobs whose revision *storage* does not have, and directories that become empty.

    Any thread; other threads may use the storage.

    :param storage: a ``BlobStorage``.
    :raises OSError: a file cannot be removed.
    """
    helper = storage.fshelper
    for _, directory in helper.listOIDs():
        for name in os.listdir(directory):
            path = os.path.join(directory, name)
            if name.endswith(BLOB_SUFFIX) and not _is_used(storage, path):
                remove_committed(path)
        # Whoever makes it anew, for a blob, does so with the lock held, and puts the blob into it.
        with storage._lock, suppress(OSError):
            os.rmdir(directory)  # unless something is in it


def _is_used(storage: Any, path: str) -> bool:
    oid, tid = storage.fshelper.splitBlobFilename(path)
    # A blob gets its name, and is written down as a part of its transaction, with the lock held:
    # one that was listed is by now either that or committed, if it is of use.
    with storage._lock:
        if (oid, tid) in storage.dirty_oids:
            return True
        try:
            storage.loadSerial(oid, tid)
        except POSKeyError:
            return False
    return True

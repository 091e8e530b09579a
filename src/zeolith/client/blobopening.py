"""Opening the files of a client's blob directory for those who read them."""

from __future__ import annotations

import os
from typing import Any

from .bloblocks import share
from .blobuse import note_use


def open_file(path: str, blob: Any) -> Any:
    """Return a file, open for reading: of the ``ZODB.blob.Blob`` *blob*, or a plain one if None.

    :raises OSError: it cannot be opened.
    """
    if blob is None:
        return open(path, "rb")
    from ZODB.blob import BlobFile

    return BlobFile(path, "r", blob)


def open_held(path: str, blob: Any) -> Any:
    """As :func:`open_file` with a file of a cache, which stays there until it is closed.

    :raises FileNotFoundError: it is not there, or is being evicted.
    """
    file = open_file(path, blob)
    try:
        descriptor = file.fileno()
        note_use(descriptor, share(descriptor))
    except OSError:
        file.close()
        raise
    return file


def find_file(path: str) -> str:
    """Return *path*.

    :raises FileNotFoundError: nothing is there.
    """
    os.stat(path)
    return path


def missing(oid: bytes, serial: bytes, where: str) -> Exception:
    """Return the POSKeyError that says where a blob is not."""
    from ZODB.POSException import POSKeyError

    text = f"no blob file of revision 0x{serial.hex()} {where}"
    error: Exception = POSKeyError(oid, text)
    error.add_note(text)  # in tracebacks; as a text this error is but the object's id
    return error

"""Blob files on their way to their places in a client's blob directory."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from ZODB.blob import rename_or_copy_blob

from ..errors import ClientStorageError
from .bloblayout import UPLOAD_SUFFIX, remove


@contextmanager
def usable(path: str) -> Iterator[None]:
    """Tell the operating system's errors about a file as a storage's.

    :raises ClientStorageError: in place of any OSError but the next.
    :raises FileNotFoundError: as it is: somebody may have removed the file on purpose.
    """
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise unusable(path, error) from error


def unusable(path: str, error: OSError) -> ClientStorageError:
    """Return what to raise when the operating system refuses a file."""
    return ClientStorageError(f"blob file {path} cannot be used: {error}")


def take_in(source: str, directory: str, serial: bytes | None) -> str:
    """Move the file *source* into *directory* and return its new path.

    :param serial: the revision that the blob replaces, for the name; None: there is none.
    :raises OSError: *source* could be neither moved nor copied; it is still there.
    """
    prefix = "0x" + (serial or bytes(8)).hex()
    # ZEO's server takes a name that ends in `.tmp` and at most one more character.
    handle, path = tempfile.mkstemp(suffix=UPLOAD_SUFFIX, prefix=prefix, dir=directory)
    os.close(handle)
    try:
        if os.stat(source).st_nlink > 1:
            # Whoever has the other name could change the blob after it was committed.
            shutil.copyfile(source, path)
            os.remove(source)
        else:
            # Copies to another file system, and says so in ZODB's own log.
            rename_or_copy_blob(source, path, chmod=False)
    except OSError:
        remove(path)
        raise
    try:
        os.chmod(path, _protected_mode(path))
    except PermissionError:
        # Another user's file, renamed by us: protection is a courtesy, not a need.
        pass
    return path


def install(source: str, target: str) -> int:
    """Put a complete file into its place and return its size.  The caller holds the bucket.

    :raises OSError: it could not be done; *source* is still there.
    """
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


def _protected_mode(path: str) -> int:
    """Return the mode of a blob's file: not writable, and readable to whom its directory is."""
    return stat.S_IRUSR | os.stat(os.path.dirname(path)).st_mode & 0o444

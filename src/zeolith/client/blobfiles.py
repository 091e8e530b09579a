"""Blob files on their way to their places in a client's blob directory."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from ZODB.blob import rename_or_copy_blob

from ..errors import ClientStorageError
from .bloblayout import UPLOAD_SUFFIX, remove
from .bloblengths import note_length
from .blobuse import note_use


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
    :raises OSError: *source* could be neither moved nor copied, and is still there; or the disk
        failed.
    """
    # ZEO's server takes a name that ends in `.tmp` and at most one more character.  Nobody else has
    # this one, so no file is made to reserve it: file systems find room for a new file the more
    # slowly, the more have just been removed.
    name = f"0x{(serial or bytes(8)).hex()}{os.urandom(8).hex()}{UPLOAD_SUFFIX}"
    path = os.path.join(directory, name)
    try:
        if os.stat(source).st_nlink > 1:
            # Whoever has the other name could change the blob after it was committed.
            shutil.copyfile(source, path)
            os.remove(source)
        else:
            # Copies to another file system, and says so in ZODB's own log.
            rename_or_copy_blob(source, path, chmod=False)
        seal(path)
    except OSError:
        remove(path)
        raise
    return path


def seal(path: str) -> None:
    """Note the length of a complete file, and protect it from being written to.

    :raises OSError: the disk failed.
    """
    note_length(path)  # while it can still be written to
    try:
        os.chmod(path, protected_mode(os.path.dirname(path)))
    except PermissionError:
        # Another user's file, renamed by us: protection is a courtesy, not a need.
        pass


def install(source: str, target: str) -> int:
    """Put a file that is sealed into its place; return its size.

    :raises OSError: it could not be done; *source* is still there.
    """
    status = os.stat(source)
    # An application's file may have been read last long ago; as a blob it is new.
    note_use(source, status)
    os.replace(source, target)
    return status.st_size


def protected_mode(directory: str) -> int:
    """Return the mode of a blob's file: not writable, and readable to whom its directory is.

    :raises OSError: the directory is not there.
    """
    return stat.S_IRUSR | os.stat(directory).st_mode & 0o444

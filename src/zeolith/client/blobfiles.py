"""Blob files on their way to their places in a client's blob directory."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from ZODB.blob import rename_or_copy_blob

from ..errors import ClientStorageError
from .bloblayout import UPLOAD_SUFFIX, remove
from .bloblengths import note_length
from .blobuse import renew_use


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


class Taken:
    """A file that was taken in.  Not thread-safe: whoever commits has it.

    :ivar path: where it is.
    :ivar size: bytes that it has.
    :ivar data: all of it, if it is short and that was asked for: to be sent at once, and not to be
        kept.
    """

    __slots__ = ("_modified", "_used", "data", "path", "size")

    def __init__(self, path: str, status: os.stat_result, data: bytes | None) -> None:
        self.path = path
        self.size = status.st_size
        self.data = data
        self._used, self._modified = status.st_atime, status.st_mtime_ns

    def install(self, target: str) -> int:
        """Put the file into its place; return its size.

        :raises OSError: it could not be done; the file is still where it was.
        """
        # An application's file may have been read last long ago; as a blob it is new.
        renew_use(self.path, self._used, self._modified)
        os.replace(self.path, target)
        return self.size


def take_in(source: str, directory: str, serial: bytes | None, most: int = 0) -> Taken:
    """Move the file *source* into *directory*, note its length, and protect it from being written
    to.

    :param serial: the revision that the blob replaces, for the name; None: there is none.
    :param most: bytes of a file whose contents are wanted.
    :raises OSError: *source* could be neither moved nor copied, and is still there; or the disk
        failed.
    """
    # ZEO's server takes a name that ends in `.tmp` and at most one more character.  Nobody else has
    # this one, so no file is made to reserve it: file systems find room for a new file the more
    # slowly, the more have just been removed.
    name = f"0x{(serial or bytes(8)).hex()}{os.urandom(8).hex()}{UPLOAD_SUFFIX}"
    path = f"{directory}{os.sep}{name}"
    # Opened once: all that follows is quicker with a descriptor than with a path.
    file = os.open(source, _FLAGS)
    try:
        status = os.fstat(file)
        is_copied = True
        if status.st_nlink > 1:
            # Whoever has the other name could change the blob after it was committed.
            shutil.copyfile(source, path)
            os.remove(source)
        elif not _move(source, path):
            # Copies to another file system, and says so in ZODB's own log.
            rename_or_copy_blob(source, path, chmod=False)
        else:
            is_copied = False
        if is_copied:
            copy = os.open(path, _FLAGS)
            os.close(file)
            file = copy
            status = os.fstat(file)
        note_length(file, status.st_size)  # while it can still be written to
        with suppress(PermissionError):
            # Another user's file, renamed by us: protection is a courtesy, not a need.
            os.fchmod(file, protected_mode(directory))
        data = None
        if status.st_size <= most:
            data = os.read(file, status.st_size + 1)
            if len(data) != status.st_size:
                data = None  # somebody writes to it
    except OSError:
        remove(path)
        raise
    finally:
        os.close(file)
    return Taken(path, status, data)


_FLAGS: Final = os.O_RDONLY | os.O_CLOEXEC


def _move(source: str, path: str) -> bool:
    """Rename a file; return whether that could be done.

    :raises FileNotFoundError: it, or the directory for it, is not there.
    """
    try:
        os.rename(source, path)
    except FileNotFoundError:
        raise
    except OSError:
        return False
    return True


def protected_mode(directory: str) -> int:
    """Return the mode of a blob's file: not writable, and readable to whom its directory is.

    :raises OSError: the directory is not there.
    """
    return stat.S_IRUSR | os.stat(directory).st_mode & 0o444

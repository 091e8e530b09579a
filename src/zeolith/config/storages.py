"""Opening the storages a server is to serve, with errors an administrator can act on."""

from __future__ import annotations

import errno
import logging
import os
import re
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ..errors import ClientDisconnected, ConfigurationError, ServerRefused
from .blobdirs import refuse_caches
from .claiming import claimed
from .indexing import Report, told_of_indexing
from .leftovers import repair_before_opening, tidy_up_after_opening

logger = logging.getLogger(__name__)

DEFAULT_NAME = "1"
"""What a single storage without a name is called, on the wire and in logs."""


class StorageOpener(Protocol):
    """What opens one storage: ZODB's configuration objects are such, and so is :class:`File`."""

    name: str | None

    def open(self) -> Any:
        """Open and return the storage."""


@dataclass
class File:
    """Opens a FileStorage.

    :param name: name of the storage on the server.
    :param path: the ``Data.fs``; created if it does not exist.
    :param blob_dir: directory for blobs, created if it does not exist, or None.
    """

    name: str | None
    path: str
    blob_dir: str | None = None

    def open(self) -> Any:
        from ZODB.FileStorage import FileStorage

        return FileStorage(self.path, blob_dir=self.blob_dir)


def name_storages(openers: Sequence[StorageOpener], option: str) -> tuple[StorageOpener, ...]:
    """Return *openers* with the unnamed one called ``1``.

    :param option: how the user calls the list of storages, for the error.
    :raises ConfigurationError: there is no storage, more than one without a name, or two with
        the same name.
    """
    if not openers:
        raise ConfigurationError(option, "there is no storage to serve", "name at least one")
    unnamed = [opener for opener in openers if not opener.name]
    if len(unnamed) > 1:
        raise ConfigurationError(
            option,
            f"{len(unnamed)} storages have no name, only one may",
            "write a name in the section's header, as in <filestorage main>",
        )
    for opener in unnamed:
        opener.name = DEFAULT_NAME
    names = [opener.name for opener in openers]
    for name in names:
        if names.count(name) > 1:
            note = " (a storage without a name is called 1)" if name == DEFAULT_NAME else ""
            raise ConfigurationError(
                option, f"two storages are called {name!r}{note}", "give each its own name"
            )
    return tuple(openers)


def open_storages(openers: Sequence[StorageOpener], report: Report | None = None) -> dict[str, Any]:
    """Open every storage; return them by name.

    If one cannot be opened, those already open are closed again.

    :param report: told of what takes long.
    :raises ConfigurationError: a file is missing, unreadable, locked or no database; the text
        names it and the way out.
    :raises Exception: whatever else a storage raises, with a note that names the storage.
    """
    storages: dict[str, Any] = {}
    with ExitStack() as opened:
        for opener in openers:
            name = opener.name or DEFAULT_NAME
            logger.info("opening storage %r", name)
            storage = _open(name, opener, report)
            opened.callback(storage.close)
            storages[name] = storage
        opened.pop_all()
    return storages


def reopen_storage(opener: StorageOpener) -> Any:
    """Open a storage again that has failed and was closed.

    Unlike at the start, a file that is missing is not created: its disk may have gone.

    :raises ConfigurationError: it cannot be opened; see :func:`open_storages`.
    :raises Exception: whatever else the storage raises.
    """
    name = opener.name or DEFAULT_NAME
    path = _path_of(opener)
    if path is not None:
        try:
            _forget_unwritten(path)
        except OSError as error:
            raise _translate_os_error(f"storage {name!r} ({path})", error) from error
    return _open(name, opener)


def _forget_unwritten(path: str) -> None:
    """Have the system show of a file only what its disk has.

    After a failed fsync Linux keeps the data in memory as if it were written: whoever opened the
    file now would find a transaction that is gone after a power failure, and hand it to clients.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def describe_storage(opener: StorageOpener) -> str:
    """Return in a few words what *opener* opens: its path if it has one, else its kind."""
    description = getattr(opener, "description", None) or _path_of(opener)
    return description if isinstance(description, str) else type(opener).__name__


def _path_of(opener: StorageOpener) -> str | None:
    path = getattr(opener, "path", None) or getattr(getattr(opener, "config", None), "path", None)
    return path if isinstance(path, str) else None


def _open(name: str, opener: StorageOpener, report: Report | None = None) -> Any:
    from zc.lockfile import LockError
    from ZODB.FileStorage.FileStorage import FileStorageError
    from ZODB.POSException import StorageSystemError

    path = _path_of(opener)
    option = f"storage {name!r}" + (f" ({path})" if path else "")
    try:
        with claimed(opener, option) as claims:
            refuse_caches(opener, option)
            repair_before_opening(opener, option)
            with told_of_indexing(name, _path_of(opener), report):
                storage = opener.open()
            try:
                claims.hand_over(storage)
            except BaseException:
                storage.close()
                raise
        tidy_up_after_opening(storage)
        return storage
    except ConfigurationError:
        raise
    except ServerRefused as error:
        raise ConfigurationError(
            option, str(error), "check the server's address and the name of the storage there"
        ) from error
    except ClientDisconnected as error:
        # This may pass: a supervisor starts the server again.
        raise ClientDisconnected(f"{option}, {describe_storage(opener)}: {error}") from error
    except LockError as error:
        raise ConfigurationError(
            option,
            f"is already open in {_holder(str(error))}",
            "stop that process, or connect to it as a client",
        ) from error
    except OSError as error:
        raise _translate_os_error(option, error) from error
    except (FileStorageError, StorageSystemError) as error:
        text = " ".join(str(error).split()) or type(error).__name__
        raise ConfigurationError(
            option,
            f"is not a FileStorage, or is damaged: {text}",
            "check the path; ZODB's fstest examines and fsrecover repairs a damaged file",
        ) from error
    except ImportError as error:
        raise ConfigurationError(
            option, f"needs a module that is not installed: {error}", "install it"
        ) from error
    except Exception as error:
        # Anything else comes from a storage we do not know: its own words and traceback serve
        # the reader best, but they seldom say which storage it was.
        error.add_note(f"while opening {option}")
        raise


def _holder(message: str) -> str:
    """Return who holds the lock that zc.lockfile's *message* is about."""
    found = re.search(r" lock '(.+)'", message)
    if found is None:
        return "another process"
    path = Path(found[1])
    try:
        text = path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        text = ""
    if text == str(os.getpid()):
        return f"this process: another storage has the same path (see {path})"
    return f"process {text} (see {path})" if text.isdecimal() else f"another process (see {path})"


def _translate_os_error(option: str, error: OSError) -> ConfigurationError:
    path = Path(error.filename) if isinstance(error.filename, str) else None
    where = f"{path}: " if path else ""
    problem = f"cannot be opened: {where}{error.strerror or error}"
    match error.errno:
        case errno.ENOENT if path is not None:
            remedy = f"create the directory {path.absolute().parent}, or correct the path"
        case errno.EACCES | errno.EPERM | errno.EROFS:
            remedy = "let the user that runs the server read and write it and its directory"
        case errno.EISDIR | errno.ENOTDIR:
            remedy = "name a file, not a directory"
        case errno.ENOSPC | errno.EDQUOT:
            remedy = "make room on the disk"
        case _:
            remedy = ""
    return ConfigurationError(option, problem, remedy)

"""Which database a storage holds, and which epoch of it.

A FileStorage has a small file beside its own, ``Data.fs.zeolith``: one JSON object with the
``identity`` (a UUID, made when the file is), the ``epoch``, and the ``tid`` up to which the
database is known to have gone.  A database that ends before that tid has lost transactions, which
clients may have seen and which others may replace: its epoch is changed.

The tid is recorded now and then and at the end, not with each commit.  It may therefore be older
than the database's end, never younger: what is recorded was on disk before.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import uuid
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Final

from ZODB.DemoStorage import DemoStorage
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage

from ..protocol.hello import Database
from .access import layers_of

logger = logging.getLogger(__name__)

SUFFIX: Final = ".zeolith"
"""Of the file's name, after that of the FileStorage's."""

_FORMAT: Final = 1
_MAX_SIZE: Final = 4096
_MAX_WRAPPERS: Final = 8


class DatabaseIdentity:
    """The identity of one open storage.  Any thread.

    :param path: of the file it is kept in; None: it lasts as long as this object.
    :ivar database: what clients are told.
    :ivar tid: how far the database is recorded to go.
    """

    def __init__(self, path: str | None, database: Database, tid: bytes) -> None:
        self._path = path
        self._lock = threading.Lock()
        self.database = database
        self.tid = tid

    @property
    def is_recorded(self) -> bool:
        """Whether :meth:`note` writes something."""
        return self._path is not None

    def path_of(self, suffix: str) -> str | None:
        """Return the path of another file beside the storage's; None if nothing is kept there.

        :param suffix: of the file's name, after that of the FileStorage's.
        """
        return None if self._path is None else self._path.removesuffix(SUFFIX) + suffix

    def note(self, tid: bytes) -> None:
        """Record that the database goes as far as *tid*, which is on disk.

        Failure is only logged: what is recorded stays true.
        """
        with self._lock:
            if self._path is None or tid <= self.tid:
                return
            try:
                _write(self._path, self.database, tid)
            except OSError as error:
                logger.warning("cannot record how far the database goes: %s", error)
                return
            self.tid = tid


def identify(storage: Any, last_tid: bytes) -> DatabaseIdentity | None:
    """Return the identity of *storage*; None if it cannot be told from another database.

    Writes the file of a FileStorage that is open for writing if there is none yet, or if the
    database ends before what it says.

    :param last_tid: the storage's last transaction.
    """
    for layer in _innermost(storage):
        if isinstance(layer, FileStorage):
            path = str(layer._file_name) + SUFFIX
            return _identify_file(path, last_tid, bool(layer.isReadOnly()))
        if isinstance(layer, MappingStorage):
            # It ends with this process, and the next one has another.
            return DatabaseIdentity(None, _new(), last_tid)
    # A database elsewhere, such as RelStorage's.  One made up at each start would tell the clients
    # of a server that was merely restarted to forget everything.
    return None


def _innermost(storage: Any) -> Iterator[Any]:
    """Yield *storage* and what it wraps, as far as that is known."""
    for _ in range(_MAX_WRAPPERS):
        layer = None
        for layer in layers_of(storage):
            yield layer
        # Wrappers that change records, such as zlibstorage's, keep the other storage as that.
        storage = None if isinstance(layer, DemoStorage) else getattr(layer, "base", None)
        if storage is None:
            return


def _new() -> Database:
    return Database(str(uuid.uuid4()), 1)


def _identify_file(path: str, last_tid: bytes, is_read_only: bool) -> DatabaseIdentity:
    found = _read(path)
    if is_read_only:
        # Nothing is written; and who serves a file that another process may write cannot tell
        # whether it is behind.
        return DatabaseIdentity(None, _new() if found is None else found[0], last_tid)
    if found is None:
        database, tid = _new(), b""
    else:
        database, tid = found
        if last_tid < tid:
            database = database._replace(epoch=database.epoch + 1)
            logger.warning(
                "%s: the database ends at transaction %s, and had gone as far as %s: it must have "
                "been restored from a backup; its epoch is now %d, clients drop their caches",
                path, last_tid.hex(), tid.hex(), database.epoch,
            )  # fmt: skip
    if last_tid != tid:
        try:
            _write(path, database, last_tid)
        except OSError as error:
            logger.warning("the identity of the database cannot be kept: %s", error)
    return DatabaseIdentity(path, database, last_tid)


def _read(path: str) -> tuple[Database, bytes] | None:
    """Return what the file says; None if there is none, or none that can be understood."""
    try:
        with open(path, "rb") as file:
            said = json.loads(file.read(_MAX_SIZE))
        if said["format"] != _FORMAT:
            raise ValueError(f"format {said['format']!r} is unknown")
        tid = bytes.fromhex(said["tid"])
        epoch = said["epoch"]
        if len(tid) != 8 or type(epoch) is not int or epoch < 1:
            raise ValueError("no transaction, or no epoch")
        return Database(str(uuid.UUID(said["identity"])), epoch), tid
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        logger.warning(
            "%s cannot be read, the database gets a new identity: %s: %s",
            path, type(error).__name__, error,
        )  # fmt: skip
        return None


def _write(path: str, database: Database, tid: bytes) -> None:
    """Replace the file, so that whatever happens the old or the new one is there.

    :raises OSError: it cannot be written.
    """
    said = {"format": _FORMAT, **database._asdict(), "tid": tid.hex()}
    directory = os.path.dirname(path) or os.curdir
    # Who has the database open for writing is alone.
    temporary = path + ".new"
    try:
        with open(temporary, "w", encoding="ascii") as file:
            file.write(json.dumps(said) + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

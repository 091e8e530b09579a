"""Current records straight from a FileStorage's file.

``FileStorage.loadBefore`` takes a file from a pool, under two locks, for each load, and reads
header and record separately through a buffer.  For the current revision of an object none of this
is needed on the event loop, where no transaction can be finishing meanwhile: the position is in the
index, and one ``pread`` brings the record.  Everything else is left to the storage: earlier
revisions, records that only point to others, unknown objects, damage.

**Packing** replaces file and index, one after the other.  So a reader keeps a *pair* that belongs
together, with a descriptor of its own, and uses it only while the storage still has both.  Between
two looks a pack may replace them: then the old index leads into the old file, which says what the
new one says.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from os import pread
from struct import Struct
from typing import Any, Final, NamedTuple

from ZODB.FileStorage import FileStorage

logger = logging.getLogger(__name__)

# FileStorage's data header: oid, tid, position of the earlier record, position of the
# transaction, length of the version name, length of the record.
_HEADER: Final = Struct(">8s8sQQHQ")
_HEADER_SIZE: Final = _HEADER.size

_READ_SIZE: Final = 1024
"""Bytes read at once: most records with their header; what is longer takes a second read."""

Revision = tuple[bytes, bytes, bytes | None]


def can_read_directly(storage: Any) -> bool:
    """Return whether a :class:`FileReader` can read the file of *storage*.

    Only FileStorage itself counts, with the attributes a reader looks at: a subclass may do
    anything.  An open descriptor keeps a file from being renamed on Windows, so not there.
    """
    return (
        os.name == "posix"
        and type(storage) is FileStorage
        and hasattr(getattr(storage, "_index", None), "get")
        and hasattr(getattr(storage, "_file", None), "fileno")
        and hasattr(getattr(storage, "_files", None), "get")
        and isinstance(getattr(storage, "_file_name", None), str)
    )


class OpenFile(NamedTuple):
    """A FileStorage's file with the index that belongs to it.

    :ivar fd: a descriptor of our own for it.
    :ivar index: object id → position of the current record.
    :ivar file: the storage's own file object.
    :ivar end: where the last transaction ends.
    """

    fd: int
    index: Any
    file: Any
    end: int


def open_file(storage: Any) -> OpenFile | None:
    """Open the file of *storage* and take the index that belongs to it; None if that fails.

    A pack or a commit from then on changes nothing about what these two say of the past: together
    they stay a state of the database.  Any thread.

    :param storage: a storage for which :func:`can_read_directly` is true.
    """
    # Taking part in the pool keeps a pack from replacing anything for the moment.
    with storage._files.get():
        index, file, end = storage._index, storage._file, storage._pos
        try:
            fd = os.open(storage._file_name, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            # Out of descriptors, most likely: the storage has one open already.
            logger.warning("cannot open %s for reading: %s", storage._file_name, error)
            return None
        if not os.path.samestat(os.fstat(fd), os.fstat(file.fileno())):
            # Somebody moved the file away under the running server.
            os.close(fd)
            return None
    return OpenFile(fd, index, file, end)


class FileReader:
    """Reads current records of a FileStorage.

    To be used by one thread at a time, and never while the storage finishes a transaction.

    :param storage: a storage for which :func:`can_read_directly` is true.
    """

    def __init__(self, storage: Any) -> None:
        self._storage = storage
        self._load: Callable[[bytes, bytes], Revision | None] = storage.loadBefore
        self._index: Any = None
        self._file: Any = None
        self._position: Callable[[bytes], int | None]
        self._fd = -1

    def load_before(self, oid: bytes, tid: bytes) -> Revision | None:
        """Return what ``FileStorage.loadBefore`` returns, or raise what it raises."""
        storage = self._storage
        if (
            storage._file is not self._file or storage._index is not self._index
        ) and not self._bind():
            return self._load(oid, tid)
        position = self._position(oid)
        if position is None:
            return self._load(oid, tid)
        block = pread(self._fd, _READ_SIZE, position)
        if len(block) < _HEADER_SIZE:
            return self._load(oid, tid)
        found, start, _, _, version, size = _HEADER.unpack_from(block)
        if found != oid or start >= tid or version or not size:
            return self._load(oid, tid)
        end = _HEADER_SIZE + size
        missing = end - len(block)
        if missing > 0:
            rest = pread(self._fd, missing, position + len(block))
            if len(rest) != missing:
                return self._load(oid, tid)
            return block[_HEADER_SIZE:] + rest, start, None
        return block[_HEADER_SIZE:end], start, None

    def _bind(self) -> bool:
        """Take the storage's present pair; return whether that succeeded."""
        self.close()
        found = open_file(self._storage)
        if found is None:
            return False
        self._fd, self._index, self._file, _ = found
        self._position = found.index.get
        return True

    def close(self) -> None:
        """Release the descriptor; may be called any number of times."""
        self._index = self._file = None
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class FileTids:
    """Which transaction wrote the current record of an object, from a FileStorage's file.

    To be used by one thread at a time; as of some moment after it was made.

    :param storage: a storage for which :func:`can_read_directly` is true.
    """

    def __init__(self, storage: Any) -> None:
        self._get_tid: Callable[[bytes], bytes] = storage.getTid
        self._file = open_file(storage)

    def get_tid(self, oid: bytes) -> bytes:
        """Return the tid of the current record of *oid*.

        :raises POSKeyError: there is none.
        """
        if self._file is None:
            return self._get_tid(oid)
        position = self._file.index.get(oid)
        if position is not None:
            block = pread(self._file.fd, _HEADER_SIZE, position)
            if len(block) == _HEADER_SIZE:
                found, tid, _, _, _, size = _HEADER.unpack(block)
                if found == oid and size:
                    return bytes(tid)
        # No such object, one whose record points to another one, or damage.
        return self._get_tid(oid)

    def close(self) -> None:
        """Release the descriptor; may be called any number of times."""
        if self._file is not None:
            os.close(self._file.fd)
            self._file = None

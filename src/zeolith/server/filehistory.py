"""The transactions of a FileStorage, straight from its file: which objects each changed.

ZODB's iterator reads every record's data, and while somebody commits it may find no way to begin
in the middle of a file.  To know which objects changed only the headers are needed, and where the
last transaction ends the storage knows.

**Packing** puts another file in the place of this one.  While it is read the old one is as good,
because all that is asked for had been announced before; later the place is looked for in the new.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from os import pread
from struct import Struct
from typing import Any, Final

from ZODB.POSException import StorageError

from .filereader import open_file

_START: Final = 4
"""Position of the first transaction, behind the file's magic."""

# A transaction's header: id, length without the copy of it at its end, status, lengths of user,
# description and extension data.
_TRANSACTION: Final = Struct(">8sQcHHH")
_unpack_transaction = _TRANSACTION.unpack
_TRANSACTION_SIZE: Final = _TRANSACTION.size

# A record's header: object id, transaction id, position of the earlier record, position of the
# transaction, length of the version name, length of the data.
_RECORD: Final = Struct(">8s8sQQHQ")
_unpack_record = _RECORD.unpack
_RECORD_SIZE: Final = _RECORD.size

_POINTER_SIZE: Final = 8
"""What a record without data has instead: where the data are."""

_IN_PROGRESS: Final = b"c"


class FileTransaction:
    """One transaction in a file.

    :ivar tid: its id.
    """

    __slots__ = ("_begin", "_end", "_fd", "tid")

    def __init__(self, tid: bytes, fd: int, begin: int, end: int) -> None:
        self.tid = tid
        self._fd = fd
        self._begin = begin
        self._end = end

    def oids(self) -> Iterator[bytes]:
        """Yield the objects that it changed; an object may come more than once.

        :raises StorageError: the file is damaged.
        """
        position = self._begin
        while position < self._end:
            block = pread(self._fd, _RECORD_SIZE, position)
            if len(block) < _RECORD_SIZE:
                raise _damaged(position)
            oid, tid, _, _, _, size = _unpack_record(block)
            if tid != self.tid:
                raise _damaged(position)
            yield oid
            position += _RECORD_SIZE + (size or _POINTER_SIZE)
        if position != self._end:
            raise _damaged(position)


class FileHistory:
    """An iterator over the transactions of a FileStorage.

    To be used by one thread at a time.

    :param storage: a storage for which :func:`.filereader.can_read_directly` is true.
    :param after: the first transaction is the next one after this tid.
    """

    def __init__(self, storage: Any, after: bytes) -> None:
        self._storage = storage
        self._after = after
        self._fd = -1
        # The storage's file object in which the two positions mean something.
        self._file: Any = None
        self._position = self._previous = 0

    def __iter__(self) -> Iterator[FileTransaction]:
        return self

    def __next__(self) -> FileTransaction:
        """Return the next transaction; also one that was written since this was made.

        :raises StopIteration: there is none that is complete.
        :raises StorageError: the file is damaged.
        :raises OSError: the file cannot be opened, or was moved away.
        """
        if self._fd < 0:
            self._open()
        position = self._position
        block = pread(self._fd, _TRANSACTION_SIZE, position)
        if len(block) < _TRANSACTION_SIZE:
            raise StopIteration
        tid, size, status, *texts = _unpack_transaction(block)
        if status == _IN_PROGRESS:
            raise StopIteration
        begin = position + _TRANSACTION_SIZE + sum(texts)
        end = position + size
        # What is no transaction would look like the end of all, and nobody would ask again.
        if begin > end or pread(self._fd, 8, end) != block[8:16]:
            raise _damaged(position)
        self._previous, self._position = position, end + 8
        return FileTransaction(tid, self._fd, begin, end)

    def rest(self, after: bytes, is_ahead: bool) -> None:
        """Release the file until the next transaction is asked for.

        A client may take its time, and as long as a packed file is open its room is not free.

        :param after: the next transaction is the one after this tid.
        :param is_ahead: whether that is the one that was returned last.
        """
        self.close()
        self._after = after
        if is_ahead:
            self._position = self._previous

    def close(self) -> None:
        """Release the file; may be called any number of times."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _open(self) -> None:
        found = open_file(self._storage)
        if found is None:
            raise OSError(f"cannot open {self._storage._file_name} for reading")
        self._fd = found.fd
        if self._file is not found.file:
            self._position = self._find(self._after, found.end)
            self._file = found.file

    def _find(self, after: bytes, end: int) -> int:
        """Return the position of the first transaction after *after*."""
        if end <= _START:
            return _START
        first = pread(self._fd, 8, _START)
        _, last = self._before(end)
        if after < first:
            return _START
        if after >= last:
            return end
        # There is no index of transactions; but tids are times, which tells from which end it is
        # not so far.
        wanted, low, high = (int.from_bytes(tid, "big") for tid in (after, first, last))
        return self._forward(after, end) if wanted - low < high - wanted else self._back(after, end)

    def _forward(self, after: bytes, end: int) -> int:
        position = _START
        while position < end:
            block = pread(self._fd, 16, position)
            if block[:8] > after:
                break
            size = int.from_bytes(block[8:], "big")
            following = position + size + 8
            if following > end or pread(self._fd, 8, following - 8) != block[8:]:
                raise _damaged(position)
            position = following
        return position

    def _back(self, after: bytes, end: int) -> int:
        position = end
        while position > _START:
            before, tid = self._before(position)
            if tid <= after:
                break
            position = before
        return position

    def _before(self, end: int) -> tuple[int, bytes]:
        """Return position and tid of the transaction that ends at *end*."""
        size = pread(self._fd, 8, end - 8)
        position = end - 8 - int.from_bytes(size, "big")
        block = pread(self._fd, 16, position) if position >= _START else b""
        if block[8:] != size:
            raise _damaged(end - 8)
        return position, block[:8]


def read_backwards(storage: Any) -> Generator[FileTransaction, None, None]:
    """Yield the transactions of a FileStorage, from the last one on; close it to release the file.

    :param storage: a storage for which :func:`.filereader.can_read_directly` is true.
    :raises StorageError: the file is damaged.
    :raises OSError: it cannot be opened, or was moved away.
    """
    found = open_file(storage)
    if found is None:
        raise OSError(f"cannot open {storage._file_name} for reading")
    fd, end = found.fd, found.end
    try:
        while end > _START:
            position = end - 8 - int.from_bytes(pread(fd, 8, end - 8), "big")
            block = pread(fd, _TRANSACTION_SIZE, position) if position >= _START else b""
            if len(block) < _TRANSACTION_SIZE:
                raise _damaged(end - 8)
            tid, size, _, *texts = _unpack_transaction(block)
            begin = position + _TRANSACTION_SIZE + sum(texts)
            if position + size + 8 != end or begin > position + size:
                raise _damaged(position)
            yield FileTransaction(tid, fd, begin, position + size)
            end = position
    finally:
        os.close(fd)


def _damaged(position: int) -> StorageError:
    return StorageError(f"the database file is damaged at position {position}")

"""Where the bytes of a stream to a client come from.

A source is made and read on worker threads, by one job at a time, and closed on the loop when no
job has it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from io import FileIO
from typing import IO, Any, Final, Protocol

from ZODB.POSException import StorageError

from ..protocol.entries import CLOSE, Header, Record, serialize_entry
from .access import StorageAccess
from .blobsums import compute, recall
from .iterators import extension_bytes
from .warming import warm

SPILL_SIZE: Final = 256 * 1024
"""Bytes of an iteration that are kept in memory beyond those asked for, until the client takes
more; the rest of a longer record waits in a temporary file (R8: each iteration of each client may
have come to such a record)."""


WARM_SIZE: Final = 8 * 1024 * 1024
"""Bytes of a file that are brought to memory before they are sent."""


FIRST_SIZE: Final = 256 * 1024
"""The same before the first: whoever asks for a blob waits for that."""


AT_ONCE: Final = 64 * 1024
"""Bytes of a short blob, which is read when it is opened and leaves with the answer: to send it
past the server's memory would take more calls of the system than it saves."""


class Source(Protocol):
    """Bytes for one stream."""

    @property
    def is_exhausted(self) -> bool:
        """Whether all bytes have been read."""

    def read(self, size: int) -> bytes:
        """Return up to *size* bytes; none only when it is exhausted.

        :raises Exception: whatever goes wrong; the stream ends with it.
        """

    def close(self) -> None:
        """Release files."""


class BlobSource:
    """The file of a blob, from an offset on.

    :param path: the file.
    :param offset: bytes to leave out.
    :param algorithm: by which its checksum is wanted at the end; None if it is not.
    :raises OSError: it cannot be opened.
    :raises ValueError: it is shorter than *offset*.

    :ivar size: bytes of the whole file.
    :ivar position: bytes that have been read, or sent from the file directly.
    :ivar warm: bytes up to which the file is in memory, as far as it was looked at.
    :ivar first: all of a short one, if :meth:`begin` has read it.
    :ivar checksum: of the whole file; None if it is not known, or not wanted.
    """

    __slots__ = ("_algorithm", "_file", "checksum", "first", "position", "size", "warm")

    def __init__(self, path: str, offset: int, algorithm: str | None = None) -> None:
        self._file = FileIO(path)
        try:
            self.size = os.fstat(self._file.fileno()).st_size
            if offset > self.size:
                raise ValueError(f"the blob has {self.size} bytes, not {offset} and more")
        except BaseException:
            self._file.close()
            raise
        self.position = self.warm = offset
        self.first = b""
        self._algorithm = algorithm
        self.checksum = None if algorithm is None else recall(self._file.fileno(), algorithm)

    @property
    def is_exhausted(self) -> bool:
        return self.position == self.size

    @property
    def descriptor(self) -> int:
        """Of the open file."""
        return self._file.fileno()

    @property
    def has_shrunk(self) -> bool:
        """Whether the file is shorter now than it was."""
        return os.fstat(self.descriptor).st_size < self.size

    def read(self, size: int) -> bytes:
        data = os.pread(self.descriptor, min(size, self.size - self.position), self.position)
        if not data:
            raise _shrunk(self.size - self.position)
        self.position += len(data)
        return data

    def prepare(self, size: int = WARM_SIZE) -> None:
        """Have the next part of the file in memory, so that to send it waits for no disk.

        :param size: bytes of it.
        :raises OSError: the disk failed.
        """
        end = min(self.position + size, self.size)
        warm(self.descriptor, self.position, end)
        self.warm = end

    def begin(self) -> None:
        """Read a short blob, or have the beginning of a longer one in memory.

        :raises OSError: the disk failed.
        """
        if 0 < self.size <= AT_ONCE and not self.position:
            self.first = self.read(self.size)
        else:
            self.prepare(FIRST_SIZE)

    def take_first(self) -> bytes:
        """Return ``first`` and forget it."""
        first, self.first = self.first, b""
        return first

    @property
    def is_summed(self) -> bool:
        return self._algorithm is None or self.checksum is not None

    def sum_up(self) -> None:
        """Compute the checksum.

        :raises OSError: the disk failed.
        """
        assert self._algorithm is not None
        self.checksum = compute(self.descriptor, self._algorithm)

    def close(self) -> None:
        self._file.close()


def _shrunk(lost: int) -> Exception:
    error: Exception = StorageError(f"the file of a blob has lost {lost} bytes while it was read")
    return error


class IterationSource:
    """The entries of the transactions from *start* to *stop*.

    :param spill_size: see :data:`SPILL_SIZE`.
    :raises Unsupported: the storage cannot iterate.
    """

    def __init__(
        self,
        access: StorageAccess,
        start: bytes | None,
        stop: bytes | None,
        spill_size: int = SPILL_SIZE,
    ) -> None:
        self._transactions = access.iterator(start, stop)
        self._entries = _entries_of(self._transactions)
        self._spill_size = spill_size
        self._rest = b""
        self._spilled: IO[bytes] | None = None
        self._error: Exception | None = None
        self.is_exhausted = False

    def read(self, size: int) -> bytes:
        if self._spilled is not None:
            data = self._spilled.read(size)
            if data:
                return data
            self._spilled.close()
            self._spilled = None
        if self._error is not None:
            raise self._error
        parts = [self._rest]
        have = len(self._rest)
        self._rest = b""
        while have < size:
            try:
                entry = next(self._entries, None)
            except Exception as error:
                # What was read before it can still be told.
                if not have:
                    raise
                self._error = error
                break
            if entry is None:
                self.is_exhausted = True
                break
            parts.append(entry)
            have += len(entry)
        data = b"".join(parts)
        if have > size:
            data, self._rest = data[:size], data[size:]
            self.is_exhausted = False
            if len(self._rest) > self._spill_size:
                self._spill()
        return data

    def _spill(self) -> None:
        # Closed when it has been read, or with this.
        spilled = self._spilled = tempfile.TemporaryFile(prefix="zeolith-stream-")  # noqa: SIM115
        spilled.write(self._rest)
        spilled.seek(0)
        self._rest = b""

    def close(self) -> None:
        if self._spilled is not None:
            self._spilled.close()
        self._entries.close()
        close = getattr(self._transactions, "close", None)
        if close is not None:
            close()


def _entries_of(transactions: Iterator[Any]) -> Any:
    """Generate the bytes of the entries of *transactions*, one by one."""
    for transaction in transactions:
        yield serialize_entry(
            Header(
                transaction.tid,
                transaction.status,
                transaction.user,
                transaction.description,
                extension_bytes(transaction),
            )
        )
        for record in transaction:
            entry = [serialize_entry(Record(record.oid, record.tid, record.data, record.data_txn))]
            # Nothing long is held while this waits for the client (R8).
            del record
            yield entry.pop()
        yield serialize_entry(CLOSE)

"""A blob on its way from a client to the disk."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from ZODB.POSException import StorageError, TransactionTooLargeError

from ..aside import Aside, is_worthwhile
from ..errors import BlobDamaged
from ..protocol.checksums import Hasher, make_hasher
from .blobsums import remember
from .blobsync import Flushed, flush
from .held import Held
from .newfile import make_file
from .tally import Limit, Tally
from .transactions import remove_file
from .voted import UPLOAD_PREFIX
from .writeback import PIECE, begin_writeback

if TYPE_CHECKING:
    from .parking import Ticket


def blob_too_large(limit: int) -> Exception:
    """Return the error of a blob that has more than *limit* bytes."""
    error: Exception = TransactionTooLargeError(
        f"the server takes blobs of {limit} bytes at most (max-blob-size)"
    )
    return error


class Upload:
    """A temporary file that takes up one blob.

    :meth:`start`, :meth:`write`, :meth:`finish` and :meth:`flush` run on worker threads, one
    after the other in that order, :meth:`rest` and :meth:`reopen` between two of them.
    :meth:`place` does what the first three do.
    :meth:`discard` may be called by any thread at any time: the transaction may be over while a
    thread still writes.  What is left belongs to the loop.

    :param algorithm: by which its client says a checksum; None if it says none.

    :ivar error: what went wrong on a worker, or the blob is too large; the vote will say it.
    :ivar flushed: the file as it was brought to disk, once that is so.
    :ivar held: what has come, for as long as no job has begun to write it; None from then on.
    :ivar path: the file, once started.
    :ivar size: bytes that have arrived.
    :ivar ticket: by which it can be gone on with on another connection; None if it cannot.
    :ivar written: bytes that are in the file and in the checksum; the loop may look at it while no
        thread writes.
    """

    __slots__ = (
        "_aside",
        "_begun",
        "_file",
        "_hasher",
        "_is_discarded",
        "_lock",
        "_status",
        "algorithm",
        "error",
        "flushed",
        "held",
        "path",
        "size",
        "ticket",
        "written",
    )

    def __init__(self, algorithm: str | None = None) -> None:
        # Who uses the descriptor has the lock: the number of one that is closed meanwhile may be
        # that of another file.
        self._lock = threading.Lock()
        self._is_discarded = False
        self._file: int | None = None
        self._status: os.stat_result | None = None  # once it is complete
        self.algorithm = algorithm
        self._hasher: Hasher | None = None  # from the first byte on
        self._aside: Aside | None = None
        self.written = 0
        self._begun = 0  # bytes that the system was told to bring to disk
        self.error: Exception | None = None
        self.flushed: Flushed | None = None
        self.held: Held | None = None
        self.path = ""
        self.size = 0
        self.ticket: Ticket | None = None

    def takes(self, size: int, limit: int, tally: Tally) -> bool:
        """Count *size* bytes that have arrived; return whether they are to be written.

        :param limit: bytes that the blob may have.
        """
        fitted = self.size <= limit
        self.size += size
        if self.size <= limit:
            return True
        if fitted:
            tally.hit(Limit.BLOB_SIZE)
            self.error = self.error or blob_too_large(limit)
        return False

    def start(self, directory: str) -> None:
        """Make the file in *directory*.

        :raises OSError: it cannot be made.
        """
        with self._hold():
            self._start(directory)

    def _start(self, directory: str) -> None:
        if not self._is_discarded:
            self._file, self.path = make_file(directory, UPLOAD_PREFIX)

    def write(self, chunk: bytes | memoryview) -> None:
        """Append *chunk*, which has to stay as it is until the next call of any method returns.

        :raises OSError: the disk is full, or the like.
        """
        with self._hold() as file:
            if file is not None:  # else it could not be started, and that was reported
                self._write(file, chunk)

    def _write(self, file: int, chunk: bytes | memoryview) -> None:
        if self.algorithm is not None:
            self._sum_up(self.algorithm, chunk)
        written = os.write(file, chunk)
        while written < len(chunk):
            written += os.write(file, memoryview(chunk)[written:])
        self.written += written
        if self.written - self._begun >= PIECE:
            begin_writeback(file, self._begun, self.written - self._begun)
            self._begun = self.written

    def _sum_up(self, algorithm: str, chunk: bytes | memoryview) -> None:
        if self._hasher is None:
            self._hasher = make_hasher(algorithm)
        if self._aside is None and is_worthwhile(algorithm, self.written):
            self._aside = Aside()
        if self._aside is None:
            self._hasher.update(chunk)
        else:
            self._aside.do(partial(self._hasher.update, chunk))

    def _end_summing(self) -> None:
        """Whatever has been written is in the checksum."""
        aside, self._aside = self._aside, None
        if aside is not None:
            aside.close()

    def finish(self, oid: bytes, checksum: bytes | None) -> str:
        """All of it has arrived: check it, begin to bring it to disk, and return its path.

        :param oid: the object whose blob it is.
        :param checksum: what its client says; None without an algorithm.
        :raises BlobDamaged: what arrived has another checksum.
        :raises OSError: the disk is full, or the like.
        """
        with self._hold() as file:
            if file is not None:
                self._finish(file, oid, checksum)
        return self.path

    def _finish(self, file: int, oid: bytes, checksum: bytes | None) -> None:
        if self.algorithm is not None and checksum is not None:
            self._end_summing()
            digest = (self._hasher or make_hasher(self.algorithm)).digest()
            if digest != checksum:
                raise BlobDamaged(oid, "what the server has received is not what was sent")
            self._status = os.fstat(file)
            remember(file, self.algorithm, digest, self._status)
        begin_writeback(file, self._begun, self.written - self._begun)

    def place(
        self,
        directory: str,
        parts: Iterable[bytes | memoryview],
        oid: bytes,
        checksum: bytes | None,
    ) -> str:
        """Make the file in *directory* and write all of the blob to it; return its path.

        :param parts: of the blob.
        :param oid, checksum: as for :meth:`finish`.
        :raises BlobDamaged, OSError: as the other methods.
        """
        with self._hold():
            self._start(directory)
            file = self._file
            if file is not None:
                for part in parts:
                    self._write(file, part)
                self._finish(file, oid, checksum)
        return self.path

    def flush(self) -> None:
        """Bring the file to disk (R4) and close it; do nothing if it is closed.

        :raises OSError: the disk is full, or the like.
        """
        with self._hold() as file:
            if file is not None:
                self.flushed = flush(file, self._status)
                self._close()

    # -- between two connections -------------------------------------------------------------------

    def rest(self) -> None:
        """Close the file, which keeps what has been written: for as long as nobody writes, it takes
        no descriptor.

        :raises OSError: the disk is full, or the like.
        """
        with self._hold():
            self._end_summing()
            self._close()

    def go_on(self) -> None:
        """What has been written is what has arrived; :meth:`reopen` follows."""
        self.size = self.written
        self.flushed = self._status = None

    def reopen(self) -> None:
        """Open the file behind what has been written.

        :raises OSError: it cannot be opened.
        :raises StorageError: somebody has changed it.
        """
        with self._hold():
            if self._is_discarded:
                return
            self._file = os.open(self.path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            if os.lseek(self._file, 0, os.SEEK_END) != self.written:
                raise StorageError(f"{self.path}, a part of a blob, has been changed")

    @property
    def is_open(self) -> bool:
        """Whether the file is open."""
        return self._file is not None

    def discard(self) -> None:
        """Close and remove the file, now or when who uses it has ended; do nothing if there is
        none."""
        self._is_discarded = True
        self._clean_up()

    @contextmanager
    def _hold(self) -> Iterator[int | None]:
        """Have the file to oneself."""
        try:
            with self._lock:
                yield self._file
        finally:
            if self._is_discarded:
                self._clean_up()

    def _clean_up(self) -> None:
        if self._lock.acquire(blocking=False):
            try:
                self._end_summing()
                self._close()
                if self.path:
                    remove_file(self.path)
            finally:
                self._lock.release()
        # Else who has the lock sees that it is discarded.

    def _close(self) -> None:
        if self._file is not None:
            descriptor, self._file = self._file, None
            os.close(descriptor)

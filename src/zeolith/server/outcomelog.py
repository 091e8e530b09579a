"""Which unique id became which transaction: the newest ones, in memory and in a file.

A FileStorage has the file ``Data.fs.outcomes`` beside its own::

    header   magic 8, identity of the database 16, checksum 4
    record   unique id 16, tid 8, checksum 4

Records are in the order of their tids.  A checksum continues the one before it, so none can be
missing in between.  Two ids mean something else: :data:`NO_UID` is a
transaction of a client that gave none, and :data:`_HORIZON` says that of the transactions up to
that tid some are not in the file.

A record is written, not flushed, before its transaction becomes visible or is on disk.  So when the
*process* is killed the file knows every transaction that may be there, and one that is not there
is known from the end of the database.  When the *machine* stops the file may have lost its end;
then the database goes further than the file, and what cannot be told is known not to be known.
"""

from __future__ import annotations

import logging
import os
import threading
import uuid
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import takewhile
from struct import Struct
from typing import Final
from zlib import crc32

from ..protocol.messages import UID_SIZE
from ..types import NO_TID

logger = logging.getLogger(__name__)

SUFFIX: Final = ".outcomes"
"""Of the file's name, after that of the FileStorage's."""

KEPT: Final = 10_000
"""Transactions kept.  A client asks within its ``wait_timeout``, half a minute as a rule: at the
thousand commits a second that a disk can flush that is three times as many as are needed.  They
take 2 MB of memory."""

MOST_RECORDS: Final = 2 * KEPT
"""Records in the file that make it due to be written anew, without those no longer kept."""

NO_UID: Final = bytes(UID_SIZE)
"""Stands for the unique id of a transaction that has none."""

_HORIZON: Final = b"\xff" * UID_SIZE

RESERVED: Final = frozenset((NO_UID, _HORIZON))
"""Ids that no transaction may have.  No generator of unique ids comes up with them."""

_MAGIC: Final = b"ZOUTCOM1"
_RECORD: Final = Struct(">16s8sI")
RECORD_SIZE: Final = _RECORD.size
_BODY_SIZE: Final = 24
_HEADER_SIZE: Final = 28
_MAX_SIZE: Final = _HEADER_SIZE + 100 * MOST_RECORDS * RECORD_SIZE
"""Bytes of a file that is read.  None of ours is a hundredth of that."""


class OutcomeLog:
    """What has been committed in one open storage.

    :meth:`committed` is called by the thread that commits, :meth:`find` by any; the others may
    block and are called by any but the event loop's.

    :param path: of the file; None: what is known lasts as long as this object.
    :param identity: UUID of the database; a file of another one counts for nothing.
    :param last_tid: the storage's last transaction.
    :ivar horizon: of the transactions up to this tid some may not be known.
    :ivar is_due: whether the file has grown and :meth:`maintain` is to be called; whoever sees to
        that sets it back.
    """

    def __init__(self, path: str | None, identity: str, last_tid: bytes) -> None:
        self._path = path
        self._tids: dict[bytes, bytes] = {}  # in the order of the tids
        self.horizon: bytes = last_tid
        self._last_tid: bytes = last_tid
        self.is_due = False
        self._records = 0
        self._due_at = MOST_RECORDS
        self._is_synced = True
        self._failure = ""  # why the file is not right, if it is not
        self._descriptor: int | None = None
        # Guards what is above.  Held for one write, or for replacing the file's name.
        self._lock = threading.Lock()
        # Held by whoever flushes, rewrites or closes the file; taken before the other.
        self._maintenance = threading.Lock()
        self._is_closed = False
        if path is not None:
            self._header = _header(identity)
            self._checksum = crc32(self._header)  # of the file up to its last record
            self._open(path)

    # -- opening ---------------------------------------------------------------------------------

    def _open(self, path: str) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        try:
            self._descriptor = os.open(path, flags, 0o666)
            data = os.pread(self._descriptor, _MAX_SIZE, 0)
            size, end = self._take(path, data)
            if size < os.fstat(self._descriptor).st_size:
                os.ftruncate(self._descriptor, size)
                self._is_synced = False
            if not size:
                _write(self._descriptor, self._header)
                self._is_synced = False
            if end < self._last_tid:
                # Whoever opens the file next has to know, too.
                self._append(_HORIZON, self._last_tid)
        except OSError as error:
            self._give_up(error)

    def _take(self, path: str, data: bytes) -> tuple[int, bytes]:
        """Take in what the file holds; return how many bytes of it count, and their last tid."""
        size, end, horizon = 0, bytes(NO_TID), bytes(NO_TID)
        if data[:_HEADER_SIZE] == self._header:
            size = _HEADER_SIZE
            for uid, tid, checksum in self._parse(data):
                # One beyond the database's end was to be committed when the server was killed,
                # and is not there.
                if not end <= tid <= self._last_tid:
                    break
                end = tid
                size += RECORD_SIZE
                self._records += 1
                self._checksum = checksum
                if uid == _HORIZON:
                    horizon = tid
                elif uid != NO_UID:
                    self._tids[uid] = tid
        while len(self._tids) > KEPT:
            horizon = max(horizon, self._drop_oldest())
        # If the database goes further nobody knows the unique ids of what it has there.
        self.horizon = horizon if end == self._last_tid else self._last_tid
        if len(data) - size > RECORD_SIZE:
            logger.warning(
                "%s: what comes after its first %d bytes is damaged or of another history of the "
                "database, and is removed",
                path, size,
            )  # fmt: skip
        return size, end

    def _parse(self, data: bytes) -> Iterator[tuple[bytes, bytes, int]]:
        """Yield the records up to the first that is damaged."""
        expected = self._checksum
        for at in range(_HEADER_SIZE, len(data) - RECORD_SIZE + 1, RECORD_SIZE):
            uid, tid, checksum = _RECORD.unpack_from(data, at)
            expected = crc32(data[at : at + _BODY_SIZE], expected)
            if checksum != expected:
                return
            yield uid, tid, checksum

    # -- what is known ---------------------------------------------------------------------------

    def find(self, uid: bytes) -> bytes | None:
        """Return the tid of the transaction with that unique id; None if none is known."""
        return self._tids.get(uid)

    def committed(self, uid: bytes | None, tid: bytes) -> None:
        """The storage is about to commit a transaction: from here on it may be on disk.

        Never fails: if it cannot be recorded, that is logged, once.

        :param uid: its unique id; None if it has none.
        """
        with self._lock:
            self._last_tid = tid
            if uid is not None:
                self._tids[uid] = tid
                if len(self._tids) > KEPT:
                    self.horizon = max(self.horizon, self._drop_oldest())
            if self._descriptor is not None and not self._failure:
                try:
                    self._append(uid or NO_UID, tid)
                except OSError as error:
                    self._give_up(error)

    def _drop_oldest(self) -> bytes:
        return self._tids.pop(next(iter(self._tids)))

    def _append(self, uid: bytes, tid: bytes) -> None:
        """Add a record to the file.

        :raises OSError: it could not be written, or only a part of it.
        """
        assert self._descriptor is not None
        record, self._checksum = _serialize([(uid, tid)], self._checksum)
        _write(self._descriptor, record)
        self._is_synced = False
        self._records += 1
        if self._records >= self._due_at:
            self.is_due = True
            self._due_at += MOST_RECORDS

    def _give_up(self, error: OSError) -> None:
        # Behind a record that is missing, or there in part, no other may come.  This process goes
        # on knowing; whoever opens the file finds that the database goes further.
        is_news = not self._failure
        self._failure = str(error)
        if is_news:
            logger.error(
                "%s cannot be written: %s.  Until it can be, clients that lose their connection in "
                "a commit because the server is killed do not learn what became of it",
                self._path, error,
            )  # fmt: skip

    # -- now and then ----------------------------------------------------------------------------

    def maintain(self) -> None:
        """Bring the file to disk; write it anew if it has grown, or was not right."""
        with self._maintenance:
            if self._path is None or self._is_closed:
                return
            try:
                if self._failure or self._records >= MOST_RECORDS:
                    self._rewrite(self._path)
                elif self._descriptor is not None and not self._is_synced:
                    self._is_synced = True
                    os.fsync(self._descriptor)
            except OSError as error:
                self._is_synced = False
                with self._lock:
                    self._give_up(error)

    def _rewrite(self, path: str) -> None:
        """Replace the file by one of what is kept.  ``_maintenance`` is held.

        :raises OSError: that failed; the old one is still there.
        """
        with self._lock:
            kept = list(self._tids.items())
            horizon, last_tid = self.horizon, self._last_tid
        temporary = path + ".new"
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC
        descriptor = os.open(temporary, flags, 0o666)
        try:
            records = _arrange(kept, horizon, last_tid)
            data, checksum = _serialize(records, crc32(self._header))
            _write(descriptor, self._header + data)
            os.fsync(descriptor)
            with self._lock:
                late = self._arrange_since(last_tid)
                data, checksum = _serialize(late, checksum)
                _write(descriptor, data)
                os.replace(temporary, path)
                descriptor, old = -1, self._replace(descriptor)
                self._checksum = checksum
                self._records = len(records) + len(late)
                self._due_at = MOST_RECORDS
                self._is_synced = not late
                self._failure = ""
        except BaseException:
            if descriptor >= 0:
                os.close(descriptor)
                with suppress(OSError):
                    os.unlink(temporary)
            raise
        if old is not None:
            os.close(old)
        _sync_directory(path)

    def _replace(self, descriptor: int) -> int | None:
        old, self._descriptor = self._descriptor, descriptor
        return old

    def _arrange_since(self, tid: bytes) -> list[tuple[bytes, bytes]]:
        """Return the records of what was committed after *tid*.  ``_lock`` is held."""
        if self._last_tid == tid:
            return []
        newest = takewhile(lambda item: item[1] > tid, reversed(self._tids.items()))
        return _arrange(list(newest)[::-1], NO_TID, self._last_tid)

    def close(self) -> None:
        """Bring the file to disk and close it; what comes after that is not recorded."""
        self.maintain()
        with self._maintenance, self._lock:
            self._is_closed = True
            descriptor, self._descriptor = self._descriptor, None
            if descriptor is not None:
                os.close(descriptor)


def _header(identity: str) -> bytes:
    body = _MAGIC + uuid.UUID(identity).bytes
    return body + crc32(body).to_bytes(4, "big")


def _arrange(
    kept: list[tuple[bytes, bytes]], horizon: bytes, last_tid: bytes
) -> list[tuple[bytes, bytes]]:
    """Return the records of a file that goes as far as *last_tid*: pairs of unique id and tid."""
    found = [(tid, uid) for uid, tid in kept]
    if horizon != NO_TID:
        found.append((horizon, _HORIZON))
        found.sort()
    if not found or found[-1][0] < last_tid:
        found.append((last_tid, NO_UID))
    return [(uid, tid) for tid, uid in found]


def _serialize(records: Iterable[tuple[bytes, bytes]], checksum: int) -> tuple[bytes, int]:
    """Return *records* as they are written behind what has *checksum*, and their last checksum."""
    parts = []
    for uid, tid in records:
        body = uid + tid
        checksum = crc32(body, checksum)
        parts.append(body + checksum.to_bytes(4, "big"))
    return b"".join(parts), checksum


def _write(descriptor: int, data: bytes) -> None:
    if os.write(descriptor, data) != len(data):
        raise OSError("only a part of it could be written")


def _sync_directory(path: str) -> None:
    descriptor = os.open(os.path.dirname(path) or os.curdir, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""Reading the transactions of a FileStorage's file, or of a stretch of it.

The file starts with four bytes that name the format.  A transaction is a header (tid, length,
status, three lengths of texts), the texts, data records, and its length once more.  A data record
is a header (oid, tid, two positions, a length that is always 0, length of the data) and the data;
without data, the position of the record with the data, or 0 if there are none.  ZODB's
``FileStorage/format.py`` is the authority.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from io import FileIO
from struct import Struct
from typing import Any, BinaryIO, Final, NamedTuple

from ...types import Oid, Tid
from .failures import Damage

MAGIC: Final = b"FS30"
START: Final = len(MAGIC)
"""Where the first transaction is."""

_TRANSACTION: Final = Struct(">8sQcHHH")
_RECORD: Final = Struct(">8s8sQQHQ")
_NUMBER: Final = Struct(">Q")


class BlobKey(NamedTuple):
    """A revision of a blob."""

    oid: Oid
    tid: Tid

    def __str__(self) -> str:
        return f"blob 0x{self.oid.hex()} of transaction 0x{self.tid.hex()}"


@dataclass
class Summary:
    """What was found in a stretch of a file.

    :ivar first_tid: tid of the first transaction, None if there is none.
    :ivar last_tid: tid of the last transaction that counts.
    :ivar cut: position after that transaction.
    :ivar packed_tid: tid of the last transaction that has been packed, if any: the states of the
        database before it cannot be had from this file.
    :ivar transactions: how many count.
    :ivar blobs: revisions of blobs that the transactions that count refer to.
    :ivar perhaps: revisions that may be blobs: they are encrypted.
    :ivar md5: of all bytes, as repozo has it.
    :ivar sha256: of all bytes.
    """

    first_tid: Tid | None = None
    last_tid: Tid | None = None
    cut: int = START
    packed_tid: Tid | None = None
    transactions: int = 0
    blobs: list[BlobKey] = field(default_factory=list)
    perhaps: list[BlobKey] = field(default_factory=list)
    md5: str = ""
    sha256: str = ""


class _Reader:
    """Reads forward, and knows where it is and what it has read."""

    def __init__(self, file: BinaryIO, start: int, end: int, advance: Callable[[int], None]):
        file.seek(start)
        self._file = file
        self._advance = advance
        self.name = str(file.name)
        self.position = start
        self.end = end
        self.md5: Any = hashlib.md5(usedforsecurity=False)
        self.sha256: Any = hashlib.sha256()

    def read(self, size: int, what: str) -> bytes:
        if self.position + size > self.end:
            raise Damage(
                self.name, f"{what} at {self.position} reaches beyond the end at {self.end}"
            )
        data = self._file.read(size)
        if len(data) != size:
            raise Damage(self.name, f"ends at {self.position + len(data)}, in the middle of {what}")
        self.position += size
        self.md5.update(data)
        self.sha256.update(data)
        self._advance(size)
        return data


def scan(
    file: BinaryIO,
    start: int,
    end: int,
    *,
    until: Tid | None = None,
    advance: Callable[[int], None] = lambda count: None,
) -> Summary:
    """Read the transactions from *start* to *end*.

    :param file: the file, uncompressed; its position changes.
    :param start: 0, or the position of a transaction.
    :param end: the position after a transaction.
    :param until: transactions with a greater tid do not count.
    :raises Damage: there is something else between the two than whole transactions.
    """
    reader = _Reader(file, start, end, advance)
    if start == 0:
        check_magic(reader.name, reader.read(START, "the name of the format"))
    summary = Summary(cut=reader.position)
    while reader.position < end:
        _scan_transaction(file, reader, until, summary)
    summary.md5 = reader.md5.hexdigest()
    summary.sha256 = reader.sha256.hexdigest()
    return summary


def check_magic(name: str, magic: bytes) -> None:
    """Check the first four bytes of a file.

    :raises Damage: they are not those of a FileStorage.
    """
    if magic != MAGIC:
        raise Damage(name, f"is not a FileStorage: it begins with {magic!r}, not with {MAGIC!r}")


def _scan_transaction(file: BinaryIO, reader: _Reader, until: Tid | None, summary: Summary) -> None:
    start = reader.position
    tid, length, status, *texts = _TRANSACTION.unpack(
        reader.read(_TRANSACTION.size, "a transaction's header")
    )
    what = f"transaction 0x{tid.hex()} at {start}"
    end = start + length
    if end + _NUMBER.size > reader.end or length < _TRANSACTION.size + sum(texts):
        raise Damage(reader.name, f"{what} has the impossible length {length}")
    if status == b"c":
        raise Damage(reader.name, f"{what} is not complete")
    reader.read(sum(texts), what)
    counts = until is None or tid <= until
    while reader.position < end:
        blob, certain = _scan_record(file, reader, what)
        if counts and blob is not None:
            (summary.blobs if certain else summary.perhaps).append(blob)
    if reader.position != end:
        raise Damage(reader.name, f"the records of {what} end at {reader.position}, not at {end}")
    if _NUMBER.unpack(reader.read(_NUMBER.size, what))[0] != length:
        raise Damage(reader.name, f"the two lengths of {what} differ")
    if summary.first_tid is None:
        summary.first_tid = tid
    if status == b"p":
        summary.packed_tid = tid
    if counts:
        summary.last_tid = tid
        summary.cut = reader.position
        summary.transactions += 1


def _scan_record(file: BinaryIO, reader: _Reader, what: str) -> tuple[BlobKey | None, bool]:
    """Read a data record; return its revision if it may be a blob, and whether it surely is."""
    start = reader.position
    oid, tid, _, _, version, length = _RECORD.unpack(
        reader.read(_RECORD.size, f"a record of {what}")
    )
    record = f"the record of object 0x{oid.hex()} at {start}, in {what}"
    if version:
        raise Damage(reader.name, f"{record}, has a version, which is no longer supported")
    if length:
        data = reader.read(length, record)
    else:
        (back,) = _NUMBER.unpack(reader.read(_NUMBER.size, record))
        data = _read_back(file, reader.name, back, start, record)
    certain = is_blob(data)
    if certain is False:
        return None, False
    return BlobKey(Oid(oid), Tid(tid)), bool(certain)


def _read_back(file: BinaryIO, name: str, back: int, before: int, record: str) -> bytes:
    """Return the data of an earlier record that a record without data points at."""
    while back:
        header = os.pread(file.fileno(), _RECORD.size, back) if START <= back < before else b""
        if len(header) != _RECORD.size:
            raise Damage(name, f"{record}, points at {back}, where no record can be")
        *_, length = _RECORD.unpack(header)
        data = os.pread(file.fileno(), length or _NUMBER.size, back + _RECORD.size)
        if len(data) != (length or _NUMBER.size):
            raise Damage(name, f"{record}, points at {back}, where no whole record is")
        if length:
            return data
        before, back = back, _NUMBER.unpack(data)[0]
    return b""


def is_blob(data: bytes) -> bool | None:
    """Return whether a record is that of a blob; None if it cannot be told.

    Wrappers of storages mark what they have changed by a dot, with which no pickle begins:
    zlibstorage compresses (``.z``), others encrypt.
    """
    from ZODB.blob import is_blob_record

    if data[:1] == b".":
        if data[:2] != b".z":
            return None
        try:
            data = zlib.decompress(data[2:])
        except zlib.error:
            return None
    return bool(is_blob_record(data))


def read_tids(file: Any, at_start: bool) -> Iterator[Tid]:
    """Yield the tid of each transaction, without looking at the records.

    :param file: a binary file, which may be compressed, at its beginning.
    :param at_start: whether it begins as a database does, and not in the middle of one.
    """
    if at_start:
        check_magic(str(file.name), file.read(START))
    while len(header := file.read(_TRANSACTION.size)) == _TRANSACTION.size:
        tid, length, status, *_ = _TRANSACTION.unpack(header)
        if status == b"c" or length < _TRANSACTION.size:
            return
        yield Tid(tid)
        file.seek(length - _TRANSACTION.size + _NUMBER.size, os.SEEK_CUR)


@dataclass(frozen=True)
class Beginning:
    """What the first transaction of a file says; a pack may remove it.

    :ivar tid: its tid.
    :ivar digest: SHA-256 of its tid, user, description and extension.
    """

    tid: Tid
    digest: str

    def __str__(self) -> str:
        return f"first transaction 0x{self.tid.hex()}"


def read_beginning(file: BinaryIO | FileIO) -> Beginning | None:
    """Return the beginning of a database; None if it has no transaction yet.

    :raises Damage: the file is not a FileStorage.
    """
    file.seek(0)
    magic = file.read(START)
    if not magic:
        return None
    check_magic(str(file.name), magic)
    header = file.read(_TRANSACTION.size)
    if len(header) != _TRANSACTION.size:
        return None
    tid, _, status, *texts = _TRANSACTION.unpack(header)
    if status == b"c":
        return None
    return Beginning(Tid(tid), hashlib.sha256(tid + file.read(sum(texts))).hexdigest())

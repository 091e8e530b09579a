"""What the stream of an iteration consists of: entries, each a length of four bytes and msgpack.

A transaction is an array of five (tid, status, user, description, extension data), then its
records, each an array of four (oid, tid, data or nothing, the transaction it was copied from or
nothing), then an empty array.  Extension data is the bytes that storages keep.
"""

from __future__ import annotations

from struct import Struct
from typing import Any, Final, NamedTuple, TypeAlias

from ..errors import UndecodableMessage
from . import msgpacks
from .limits import Limits

_LENGTH: Final = Struct(">I")


class Header(NamedTuple):
    """A transaction begins."""

    tid: bytes
    status: str
    user: bytes
    description: bytes
    extension: bytes


class Record(NamedTuple):
    """A record of the transaction that has begun.

    :ivar data: None if the object was deleted, or its creation undone.
    :ivar data_txn: the transaction from which an undo took the data, None if none did.
    """

    oid: bytes
    tid: bytes
    data: bytes | None
    data_txn: bytes | None


class Close(NamedTuple):
    """The transaction is complete."""


Entry: TypeAlias = Header | Record | Close

CLOSE: Final = Close()


def serialize_entry(entry: Entry) -> bytes:
    """Return the bytes of *entry*.

    :raises TypeError, ValueError: something in it cannot be sent.
    """
    body = msgpacks.dumps(tuple(entry))
    return _LENGTH.pack(len(body)) + body


def _is_id(value: Any) -> bool:
    return type(value) is bytes and len(value) == 8


def _parse(body: bytes, limits: Limits) -> Entry:
    value = msgpacks.loads(body, limits)
    if type(value) is tuple:
        if len(value) == 4:
            oid, tid, data, data_txn = value
            if (
                _is_id(oid)
                and _is_id(tid)
                and (data is None or type(data) is bytes)
                and (data_txn is None or _is_id(data_txn))
            ):
                return Record(oid, tid, data, data_txn)
        elif len(value) == 5:
            tid, status, *texts = value
            if (
                _is_id(tid)
                and type(status) is str
                and all(type(text) in (bytes, str) for text in texts[:2])
                and type(texts[2]) is bytes
            ):
                return Header(tid, status, *texts)
        elif not value:
            return CLOSE
    raise UndecodableMessage("an iteration's entry is no transaction, record or end of one")


class EntryReader:
    """Bytes in, entries out; not thread-safe.

    Holds no more than one entry that is not complete and what came with its last bytes.

    :param limits: an entry may be as long as a message.
    """

    __slots__ = ("_at", "_buffer", "_is_inside", "_limits")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._buffer = bytearray()
        self._at = 0
        self._is_inside = False

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""
        if self._at:
            del self._buffer[: self._at]
            self._at = 0
        self._buffer += data

    def next(self) -> Entry | None:
        """Return the next entry, None if it is not complete.

        :raises UndecodableMessage: it is too long, none at all, or not where it may be.
        """
        have = len(self._buffer) - self._at
        if have < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack_from(self._buffer, self._at)
        if length > self._limits.max_message_size:
            raise UndecodableMessage(
                f"an iteration's entry of {length} bytes; the limit is "
                f"{self._limits.max_message_size}"
            )
        start = self._at + _LENGTH.size
        if have < _LENGTH.size + length:
            return None
        self._at = start + length
        entry = _parse(bytes(self._buffer[start : self._at]), self._limits)
        if isinstance(entry, Header) is self._is_inside:
            raise UndecodableMessage("an iteration's entry is not where it may be")
        self._is_inside = not isinstance(entry, Close)
        return entry

    def check_end(self) -> None:
        """Check that the stream may end here.

        :raises UndecodableMessage: it ends within an entry or a transaction.
        """
        if self._is_inside or self._at < len(self._buffer):
            raise UndecodableMessage("an iteration ends within a transaction")

"""The fixed layouts of the messages of streams; ``docs/protocol.md`` has them as a table.

What a fault says is msgpack, read by :mod:`.own`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from struct import Struct
from typing import Any, Final

from ..errors import MessageTooLarge, StreamViolation
from . import msgpacks
from .checksums import DIGEST_SIZE
from .limits import BULK_FRAME, MAX_STREAM_NUMBER, STREAM_FRAME
from .messages import Message, Notice, Request, make_tuple
from .streamrequests import StreamCancel, StreamCredit, StreamData, StreamEnd, StreamFault

STREAM_DATA: Final = 0x40
STREAM_END: Final = 0x41
STREAM_FAULT: Final = 0x42
STREAM_CREDIT: Final = 0x43
STREAM_CANCEL: Final = 0x44

STREAM_HEAD: Final = 5
"""Bytes of a payload in front of the data: the kind and the stream's number."""

# With the length of the frame, for writing.
_STREAM_FRAME: Final = Struct(">IBI")
_pack_stream = _STREAM_FRAME.pack
_pack_credit = Struct(">IBII").pack

# Without it, for reading.
STREAM: Final = Struct(">xI")
_CREDIT: Final = Struct(">xII")


def _number_of(request: Request) -> int:
    number: int = request[0]
    if number.__class__ is not int or not 0 <= number <= MAX_STREAM_NUMBER:
        raise ValueError(f"{number!r:.60} is no number of a stream")
    return number


def data_head(number: int, size: int) -> bytes:
    """Return what comes in front of *size* bytes of data of a stream."""
    head: bytes = _pack_stream(STREAM_HEAD + size, STREAM_DATA, number)
    return head


def _fit(size: int, limit: int) -> int:
    if size > limit:
        raise MessageTooLarge(size, limit)
    return size


def _write_data(request: Request, limit: int) -> bytes:
    data = request[1]
    size = _fit(STREAM_HEAD + len(data), min(limit, STREAM_HEAD + BULK_FRAME))
    return b"".join((_pack_stream(size, STREAM_DATA, _number_of(request)), data))


def _write_fault(request: Request, limit: int) -> bytes:
    body = msgpacks.dumps(tuple(request[1:]))
    size = _fit(STREAM_HEAD + len(body), limit)
    return _pack_stream(size, STREAM_FAULT, _number_of(request)) + body


def _write_end(request: Request, _limit: int) -> bytes:
    checksum = request[1] or b""
    size = STREAM_HEAD + len(checksum)
    return _pack_stream(size, STREAM_END, _number_of(request)) + checksum


def _write_cancel(request: Request, _limit: int) -> bytes:
    return _pack_stream(STREAM_HEAD, STREAM_CANCEL, _number_of(request))


def _write_credit(request: Request, _limit: int) -> bytes:
    return _pack_credit(9, STREAM_CREDIT, _number_of(request), request[1])


STREAM_WRITERS: Final[Mapping[type[Any], Callable[[Request, int], bytes | None]]] = {
    StreamData: _write_data,
    StreamEnd: _write_end,
    StreamFault: _write_fault,
    StreamCredit: _write_credit,
    StreamCancel: _write_cancel,
}


DATA_HEAD_SIZE: Final = _STREAM_FRAME.size
"""Bytes in front of the data, the length of the frame included."""


def parse_data_head(data: bytes | memoryview) -> tuple[int, int] | None:
    """Return the stream's number and how many bytes of data follow, if *data* begins with the head
    of a message of data; else None."""
    size, kind, number = _STREAM_FRAME.unpack_from(data)
    return (number, size - STREAM_HEAD) if kind == STREAM_DATA else None


def _notice(cls: type[Any], *fields: Any) -> Message:
    return make_tuple(Notice, (make_tuple(cls, fields),))


def _read_data(payload: bytes) -> Message:
    (number,) = STREAM.unpack_from(payload)
    size = len(payload) - STREAM_HEAD
    if not 0 < size <= STREAM_FRAME:
        raise StreamViolation(number, f"{size} bytes of data in one message")
    return _notice(StreamData, number, payload[STREAM_HEAD:])


def _read_end(payload: bytes) -> Message:
    if len(payload) == STREAM_HEAD + DIGEST_SIZE:
        return _notice(StreamEnd, *STREAM.unpack_from(payload), payload[STREAM_HEAD:])
    return _notice(StreamEnd, *STREAM.unpack(payload), None)


def _read_cancel(payload: bytes) -> Message:
    return _notice(StreamCancel, *STREAM.unpack(payload))


def _read_credit(payload: bytes) -> Message:
    return _notice(StreamCredit, *_CREDIT.unpack(payload))


STREAM_READERS: Final[Mapping[int, Callable[[bytes], Message]]] = {
    STREAM_DATA: _read_data,
    STREAM_END: _read_end,
    STREAM_CREDIT: _read_credit,
    STREAM_CANCEL: _read_cancel,
}
"""Kind → what reads it.  They raise struct.error if the length does not fit."""

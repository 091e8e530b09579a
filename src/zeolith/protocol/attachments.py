"""The notice that ties a verified upload to a transaction, read in one step.

A client may send thousands in a row.  What is a little different is left to :mod:`.own`.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

import msgpack

from .checksums import DIGEST_SIZE
from .limits import FIRST_UPLOAD
from .messages import make_tuple
from .streamrequests import AttachBlob

_HEAD: Final = Struct(">BBIH8s")
"""How many arguments, the number of the stream, and the object id: each with what it is."""

_HAS_ALL: Final = 0x90 + len(AttachBlob._fields)
_IS_LONG: Final = 0xCE  # a number of four bytes
_IS_NONE: Final = 0xC0
_IS_SHORT_BYTES: Final = 0xC4
_IS_BYTES: Final = 0xC5
_IS_ID: Final = _IS_SHORT_BYTES << 8 | 8
_DIGEST: Final = bytes([_IS_SHORT_BYTES, DIGEST_SIZE])
_TWO: Final = b"\x92"
_TAIL: Final = len(_DIGEST) + DIGEST_SIZE
_LONGEST: Final = 18
"""Bytes of two numbers."""

_LEAST: Final = _HEAD.size + 1 + 2 + 2 + _TAIL
_MOST: Final = 1 << 63


def parse_attachment(body: bytes) -> AttachBlob | None:
    """Return the request that has *body* for its arguments; None if they are not as they should be,
    or not as mostly: the decoder of all requests says what they are.
    """
    size = len(body)
    if size < _LEAST:
        return None
    count, kind, stream, oid_kind, oid = _HEAD.unpack_from(body)
    if count != _HAS_ALL or kind != _IS_LONG or stream < FIRST_UPLOAD or oid_kind != _IS_ID:
        return None
    serial, at = None, _HEAD.size + 1
    if body[at - 1] != _IS_NONE:
        at += 9
        serial = body[at - 8 : at]
        if body[at - 10 : at - 8] != b"\xc4\x08":
            return None
    kind = body[at]
    if kind == _IS_SHORT_BYTES:
        at += 2
        end = at + body[at - 1]
    elif kind == _IS_BYTES:
        at += 3
        end = at + (body[at - 2] << 8 | body[at - 1])
    else:
        return None
    tail = size - _TAIL
    if not end < tail <= end + _LONGEST or body[tail : tail + 2] != _DIGEST:
        return None
    try:
        # So few bytes make the decoder of msgpack take no memory worth mentioning.
        txn, length = msgpack.unpackb(_TWO + body[end:tail], use_list=False, strict_map_key=False)
    except (ValueError, TypeError):
        return None
    if txn.__class__ is not int or length.__class__ is not int or not 0 <= length < _MOST:
        return None
    fields = (stream, oid, serial, body[at:end], txn, length, body[tail + 2 :])
    return make_tuple(AttachBlob, fields)

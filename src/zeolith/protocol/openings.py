"""The call that opens a blob, read in one step: a client may ask for many short ones in a row."""

from __future__ import annotations

from typing import Final

import msgpack

from .limits import FIRST_UPLOAD, MAX_STREAM_CREDIT
from .messages import make_tuple
from .streamrequests import OpenBlob

_LONGEST: Final = 48
"""Bytes of its arguments.  The decoder of msgpack makes room for what is announced, which is no
more than there are bytes, for each container in another: nothing worth mentioning for so few."""

_FIRST: Final = bytes([0x90 + len(OpenBlob._fields)])
_ID_SIZE: Final = 8
_MOST: Final = 1 << 63


def parse_opening(body: bytes) -> OpenBlob | None:
    """Return the request if *body* has its arguments, as they should be; else None: what is wrong
    with it says the decoder of all requests.
    """
    if len(body) > _LONGEST or body[:1] != _FIRST:
        return None
    try:
        args = msgpack.unpackb(body, raw=False, use_list=False, strict_map_key=False)
    except (ValueError, TypeError):
        return None
    number, oid, serial, offset, credit = args
    if (
        oid.__class__ is bytes
        and serial.__class__ is bytes
        and number.__class__ is int
        and offset.__class__ is int
        and credit.__class__ is int
        and len(oid) == _ID_SIZE
        and len(serial) == _ID_SIZE
        and 0 <= number < FIRST_UPLOAD
        and 0 <= offset < _MOST
        and 0 <= credit <= MAX_STREAM_CREDIT
    ):
        return make_tuple(OpenBlob, args)
    return None

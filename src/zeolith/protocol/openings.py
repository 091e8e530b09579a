"""Short blobs on the way from the server: the call that opens one, read in one step, and all that
answers it, written in one.

A client may ask for many in a row.  What is a little different is left to :mod:`.own`; what the
client gets it may take as a :class:`~.wholes.Whole`.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

import msgpack

from . import msgpacks
from .checksums import DIGEST_SIZE
from .layouts import REPLY
from .limits import FIRST_UPLOAD, MAX_STREAM_CREDIT
from .messages import make_tuple
from .streamlayouts import STREAM_DATA, STREAM_END, STREAM_HEAD
from .streamrequests import OpenBlob

_LONGEST: Final = 48
"""Bytes of its arguments.  The decoder of msgpack makes room for what is announced, which is no
more than there are bytes, for each container in another: nothing worth mentioning for so few."""

_FIRST: Final = bytes([0x90 + len(OpenBlob._fields)])
_ID_SIZE: Final = 8
_MOST: Final = 1 << 63


def parse_opening(body: bytes) -> OpenBlob | None:
    """Return the request that has *body* for its arguments; None if they are not as they should be:
    the decoder of all requests says what is wrong with them.
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


_SIZE_IS: Final = msgpacks.dumps({"size": 1 << 31})[:-4]
"""How the answer begins; what follows is a number of four bytes."""

_FRONT: Final = Struct(f">IBQ{len(_SIZE_IS)}sIIBI")
_BACK: Final = Struct(f">IBI{DIGEST_SIZE}s")
_pack_front = _FRONT.pack
_pack_back = _BACK.pack

_REPLY_LENGTH: Final = 1 + 8 + len(_SIZE_IS) + 4
_END_LENGTH: Final = STREAM_HEAD + DIGEST_SIZE

OVERHEAD: Final = max(_REPLY_LENGTH, STREAM_HEAD, _END_LENGTH)
"""Bytes beside the data that a message to a client may have here."""


def serialize_whole(msgid: int, number: int, data: memoryview, checksum: bytes) -> bytes:
    """Return the three messages that answer the call and send all of the blob: the answer, the
    data, and the end.

    :param msgid: of the call.
    :param number: of the stream.
    :param data: all of the blob, at least one byte.
    :param checksum: of it.
    """
    size = len(data)
    front = _pack_front(
        _REPLY_LENGTH, REPLY, msgid, _SIZE_IS, size, STREAM_HEAD + size, STREAM_DATA, number
    )
    return b"".join((front, data, _pack_back(_END_LENGTH, STREAM_END, number, checksum)))

"""A short blob that has come at once: the answer to the call that opened its stream, all its data
in one message, and its end.

That is what a client mostly gets that asks for one small blob after the other; taken as one, it is
no event among others for each message.  Whatever is not exactly that is left to :mod:`.own`.
"""

from __future__ import annotations

from struct import Struct
from typing import Final, NamedTuple

from . import msgpacks
from .checksums import DIGEST_SIZE
from .layouts import REPLY
from .streamlayouts import DATA_HEAD_SIZE, STREAM_DATA, STREAM_END, STREAM_HEAD

_REPLY: Final = Struct(">IBQ")
_DATA: Final = Struct(">IBI")
_END: Final = Struct(f">IBI{DIGEST_SIZE}s")
assert _DATA.size == DATA_HEAD_SIZE

_unpack_reply = _REPLY.unpack_from
_unpack_data = _DATA.unpack_from
_unpack_end = _END.unpack_from

_FRONT: Final = Struct(">IBQ6sBIIBI")
_pack_front = _FRONT.pack
_pack_end = _END.pack

_LENGTH: Final = 4
_BODY: Final = _REPLY.size
_END_SIZE: Final = _END.size
_END_LENGTH: Final = STREAM_HEAD + DIGEST_SIZE

_SIZE_IS: Final = msgpacks.dumps({"size": 0})[:-1]
"""How the answer begins; what follows is one number in msgpack."""

_AT: Final = _BODY + len(_SIZE_IS)
_NUMBERS: Final = {0xCC: 1, 0xCD: 2, 0xCE: 4}
"""First byte of a number → bytes that follow; a smaller byte is the number itself."""

_WIDE: Final = 0xCE
_REPLY_LENGTH: Final = _REPLY.size - _LENGTH + len(_SIZE_IS) + 1 + _NUMBERS[_WIDE]
assert _FRONT.size == _LENGTH + _REPLY_LENGTH + _DATA.size

OVERHEAD: Final = max(_REPLY_LENGTH, STREAM_HEAD, _END_LENGTH)
"""Bytes that a peer must take in one message beside the data, to get a short blob."""

_LEAST: Final = _AT + 1 + _DATA.size + _END.size
_SMALL: Final = 0x80


class Whole(NamedTuple):
    """What has come.

    :ivar msgid: of the call.
    :ivar size: of the blob, as the answer says.
    :ivar number: of the stream.
    :ivar data: at least one byte.
    :ivar checksum: as the end says.
    """

    msgid: int
    size: int
    number: int
    data: memoryview
    checksum: bytes

    @property
    def answer(self) -> dict[str, int]:
        """The answer to the call."""
        return {"size": self.size}


def serialize_whole(msgid: int, number: int, data: memoryview, checksum: bytes) -> bytes:
    """Return the three messages that send a short blob.

    :param msgid: of the call.
    :param number: of the stream.
    :param data: all of the blob, at least one byte.
    :param checksum: of it.
    """
    size = len(data)
    front = _pack_front(
        _REPLY_LENGTH, REPLY, msgid, _SIZE_IS, _WIDE, size, STREAM_HEAD + size, STREAM_DATA, number
    )
    return b"".join((front, data, _pack_end(_END_LENGTH, STREAM_END, number, checksum)))


def parse_whole(received: bytes, limit: int) -> Whole | None:
    """Return what *received* has, if that is exactly one short blob; else None.

    :param limit: bytes of data that one message may have.
    """
    whole = len(received)
    if whole <= _LEAST:
        return None
    length, kind, msgid = _unpack_reply(received)
    head = received[_AT]
    more = 0 if head < _SMALL else _NUMBERS.get(head, whole)
    at = _AT + 1 + more
    if kind != REPLY or length + _LENGTH != at or received[_BODY:_AT] != _SIZE_IS:
        return None
    begin, end = at + DATA_HEAD_SIZE, whole - _END_SIZE
    if not 0 < end - begin <= limit:
        return None
    length, kind, number = _unpack_data(received, at)
    if kind != STREAM_DATA or length != STREAM_HEAD + end - begin:
        return None
    length, kind, ended, checksum = _unpack_end(received, end)
    if kind != STREAM_END or length != _END_LENGTH or ended != number:
        return None
    size = int.from_bytes(received[_AT + 1 : at], "big") if more else head
    return Whole(msgid, size, number, memoryview(received)[begin:end], checksum)

"""Short blobs that have come at once: each the answer to the call that opened its stream, all its
data in one message, and its end.

That is what a client mostly gets that reads one small blob after the other; taken as one, it is no
event among others for each message.  Whatever is not exactly that is left to :mod:`.own`.
"""

from __future__ import annotations

from struct import Struct
from typing import Final, NamedTuple

from . import msgpacks
from .checksums import DIGEST_SIZE
from .layouts import REPLY
from .streamlayouts import DATA_HEAD_SIZE, STREAM_DATA, STREAM_END, STREAM_HEAD

MAX_WHOLE: Final = 64 * 1024
"""Bytes of one: longer ones had better be passed on as they come, than be kept until they are whole
(R8)."""

_SIZE_IS: Final = msgpacks.dumps({"size": 0})[:-1]
"""How the answer begins; what follows is one number in msgpack."""

_NUMBERS: Final = {0xCC: 1, 0xCD: 2, 0xCE: 4}
"""First byte of such a number -> bytes that follow; a smaller one is the number itself."""

_SMALL: Final = 0x80

# All with the length of the frame.
_REPLY: Final = Struct(f">IBQ{len(_SIZE_IS)}sB")
_DATA: Final = Struct(">IBI")
_END: Final = Struct(f">IBI{DIGEST_SIZE}s")
_unpack_reply = _REPLY.unpack_from
_unpack_data = _DATA.unpack_from
_unpack_end = _END.unpack_from
_pack_end_head = _DATA.pack  # but for its kind it begins in the same way

_LENGTH_SIZE: Final = 4
_REPLY_SIZE: Final = _REPLY.size
_END_SIZE: Final = _END.size
_END_LENGTH: Final = STREAM_HEAD + DIGEST_SIZE
_HEADS: Final = _REPLY_SIZE + max(_NUMBERS.values()) + DATA_HEAD_SIZE

MOST_RECEIVED: Final = _HEADS + MAX_WHOLE + _END_SIZE
"""Bytes of one with all that is around it."""


class Whole(NamedTuple):
    """A short blob.

    :ivar msgid: of the call.
    :ivar size: of the blob, as the answer says.
    :ivar number: of the stream.
    :ivar data: at least one byte.
    :ivar checksum: as the end says.
    """

    msgid: int
    size: int
    number: int
    data: bytes
    checksum: bytes

    @property
    def answer(self) -> dict[str, int]:
        """The answer to the call."""
        return {"size": self.size}


def cut_wholes(received: bytes | memoryview, limit: int) -> tuple[list[Whole], int, bool]:
    """Return the short blobs with which *received* begins, how many bytes they take, and whether
    what is behind them is the beginning of another one.

    :param limit: bytes of data that one message may have.
    """
    found: list[Whole] = []
    limit = min(limit, MAX_WHOLE)
    start, available = 0, len(received)
    while available - start >= _HEADS:
        length, kind, msgid, text, size = _unpack_reply(received, start)
        begin = start + _REPLY_SIZE
        if size >= _SMALL:
            more = _NUMBERS.get(size, 0)
            if not more:
                break
            size = int.from_bytes(received[begin : begin + more], "big")
            begin += more
        if kind != REPLY or text != _SIZE_IS or start + _LENGTH_SIZE + length != begin:
            break
        length, kind, number = _unpack_data(received, begin)
        begin += DATA_HEAD_SIZE
        length -= STREAM_HEAD
        if kind != STREAM_DATA or not 0 < length <= limit:
            break
        end = begin + length
        if end + _END_SIZE > available:
            # Behind all the data there are comes the end; but what the server has to say meanwhile,
            # or in its place, must not wait here for something else to come.
            head = _pack_end_head(_END_LENGTH, STREAM_END, number)
            behind = bytes(received[end : end + len(head)])
            return found, start, length == size and head.startswith(behind)
        length, kind, ended, checksum = _unpack_end(received, end)
        if kind != STREAM_END or length != _END_LENGTH or ended != number:
            break
        found.append(Whole(msgid, size, number, bytes(received[begin:end]), checksum))
        start = end + _END_SIZE
    return found, start, False

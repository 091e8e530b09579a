"""Long messages of data of streams, taken out of what arrives before frames are made of it.

Between peers with the capability ``blobs`` a message may have half a megabyte of data.  To keep it
until it is complete would cost memory and two more copies; so each part that arrives is passed on
as if it were a message of its own.  It is no difference to a stream where its messages begin.
"""

from __future__ import annotations

from ..errors import StreamViolation
from .framing import FrameReader
from .limits import STREAM_FRAME
from .messages import Message, Notice
from .streamlayouts import DATA_HEAD_SIZE, STREAM_HEAD, parse_data_head
from .streamrequests import StreamData


class Bodies:
    """What is left to come of a long message of one connection.

    Not thread-safe: whoever feeds the connection's frames uses it.

    :ivar limit: bytes of data that one message may have; 0: long ones are not legal.
    :ivar left: bytes of the present message that have not come.
    :ivar number: of the stream whose message that is, or was last.
    """

    __slots__ = ("left", "limit", "number")

    def __init__(self) -> None:
        self.limit = 0
        self.left = 0
        self.number = 0

    def begins(self, data: bytes | memoryview) -> bool:
        """Note the head of a long message if *data* begins with one; return whether it does.

        :raises StreamViolation: the message is too long.
        """
        found = parse_data_head(data) if len(data) >= DATA_HEAD_SIZE else None
        if found is None:
            return False
        number, size = found
        if size <= STREAM_FRAME:
            return False  # one that is decoded as all messages are
        if size > self.limit:
            raise StreamViolation(number, f"{size} bytes of data in one message")
        self.number, self.left = number, size
        return True

    def cut(self, data: memoryview) -> tuple[Message, memoryview]:
        """Return what *data*, of which there are some, have of the present message, and the rest
        behind it."""
        size = min(self.left, len(data))
        self.left -= size
        return Notice(StreamData(self.number, data[:size])), data[size:]

    def whole(self, payload: bytes) -> Message | None:
        """Return the message if *payload* is a long one; it has come at once.

        :raises StreamViolation: it is too long.
        """
        size = len(payload) - STREAM_HEAD
        if size <= STREAM_FRAME:
            return None
        found = parse_data_head(len(payload).to_bytes(4, "big") + payload[:STREAM_HEAD])
        if found is None:
            return None
        if size > self.limit:
            raise StreamViolation(found[0], f"{size} bytes of data in one message")
        return Notice(StreamData(found[0], memoryview(payload)[STREAM_HEAD:]))

    def open(self, frames: FrameReader) -> bytes:
        """Take the message that *frames* waits for if it is a long one; return what has come of its
        data, which may be nothing.

        :raises StreamViolation: it is too long.
        """
        if frames.pending >= DATA_HEAD_SIZE and self.begins(frames.peek(DATA_HEAD_SIZE)):
            return frames.take()[DATA_HEAD_SIZE:]
        return b""

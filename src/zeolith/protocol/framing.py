"""Sized frames: a four-byte big-endian length, then that many bytes.

Source: ``zeo-reference`` C.5, *frame*.
"""

from __future__ import annotations

from struct import Struct

from ..errors import FrameTooLarge, MessageTooLarge

_LENGTH = Struct(">I")
HEADER_SIZE = _LENGTH.size
assert HEADER_SIZE == 4

MAX_PAYLOAD = (1 << 8 * HEADER_SIZE) - 1
"""Bytes of the longest payload that the length in front of it can tell."""

_SMALL = 4096
"""Bytes; what arrives in smaller pieces is copied once more."""

pack_length = _LENGTH.pack
unpack_length = _LENGTH.unpack_from


def frame(payload: bytes, max_size: int = MAX_PAYLOAD) -> bytes:
    """Return *payload* with its length in front.

    :param max_size: bytes of the longest payload that the peer takes.
    :raises MessageTooLarge: *payload* is longer.
    """
    size = len(payload)
    if size > max_size:
        raise MessageTooLarge(size, max_size)
    return _LENGTH.pack(size) + payload


class FrameReader:
    """Cuts a stream of bytes into frames.

    Not thread-safe: whoever holds the reading role of a connection feeds it.

    :ivar pending: bytes received that do not yet make a frame; read-only.
    :ivar max_size: longest payload accepted, in bytes; may be changed between frames (a greeting
        is allowed less than a message).
    """

    __slots__ = ("_chunks", "_need", "max_size", "pending")

    def __init__(self, max_size: int) -> None:
        self.max_size = max_size
        # Bytes of an incomplete frame are kept as the chunks they arrived in and joined once,
        # when the frame is complete: appending to one buffer would copy a large frame many times.
        # Small pieces are gathered first, else a frame sent two bytes at a time would take thirty
        # times its length.
        self._chunks: list[bytes | bytearray] = []
        self.pending = 0
        self._need = HEADER_SIZE

    def feed(self, data: bytes) -> list[bytes]:
        """Add received bytes; return the payloads of all frames now complete, in order.

        ``feed(b"")`` looks again at what is pending, which matters after ``max_size`` changed.

        :raises FrameTooLarge: the next frame announces too many bytes.  Frames before it have
            been returned by an earlier call: it is never raised together with frames.
        """
        if self.pending:
            if len(data) >= _SMALL:
                self._chunks.append(data)
            elif type(self._chunks[-1]) is bytearray:
                self._chunks[-1] += data
            else:
                self._chunks.append(bytearray(data))
            self.pending += len(data)
            if self.pending < self._need:
                return []
            data = b"".join(self._chunks)
            self._chunks.clear()
            self.pending = 0
        size = len(data)
        self._need = HEADER_SIZE
        if size >= HEADER_SIZE:
            # One whole frame is what a peer that waits for each answer sends.
            length = _LENGTH.unpack_from(data)[0]
            if length + HEADER_SIZE == size and length <= self.max_size:
                return [data[HEADER_SIZE:]]
        frames: list[bytes] = []
        start = 0
        while size - start >= 4:
            length = _LENGTH.unpack_from(data, start)[0]
            end = start + 4 + length
            if length > self.max_size:
                if not frames:
                    raise FrameTooLarge(length, self.max_size)
                self._need = 0  # the next call raises
                break
            if end > size:
                self._need = end - start
                break
            frames.append(data[start + 4 : end])
            start = end
        if start < size:
            self._chunks.append(data[start:] if start else data)
            self.pending = size - start
        return frames

    def cut(self, data: memoryview) -> tuple[bytes, memoryview] | None:
        """Return the payload that *data* begins with, and what is behind it; None, and nothing is
        taken, if that is not one whole short frame, or something is pending."""
        if self.pending or len(data) < HEADER_SIZE:
            return None
        length = _LENGTH.unpack_from(data)[0]
        end = HEADER_SIZE + length
        if length > _SMALL or length > self.max_size or end > len(data):
            return None
        return bytes(data[HEADER_SIZE:end]), data[end:]

    def peek(self, size: int) -> bytes:
        """Return the first *size* bytes, or fewer, of what is pending; the length comes first."""
        first = self._chunks[0]
        if len(first) < size and len(self._chunks) > 1:
            first = self._chunks[0] = b"".join(self._chunks)
            del self._chunks[1:]
        return bytes(first[:size])

    def take(self) -> bytes:
        """Return what is pending, and forget it: somebody else sees to the rest of that frame."""
        data = b"".join(self._chunks)
        self._chunks.clear()
        self.pending = 0
        self._need = HEADER_SIZE
        return data

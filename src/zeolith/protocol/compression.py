"""Compressing payloads: the kind COMPRESSED of Zeolith's own protocol.

Each message is compressed by itself, with zstd, and holds any other message, whatever its kind.
The library (the extra ``zeolith[zstd]``) is imported when the first connection wants it.

Any number of threads may compress and decompress at the same time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from functools import cache
from importlib.util import find_spec
from struct import Struct
from typing import TYPE_CHECKING, Final, TypeVar

from ..errors import UndecodableMessage
from .framing import HEADER_SIZE, unpack_length

if TYPE_CHECKING:
    import zstandard

CAPABILITY: Final = "zstd"
"""Name in a hello: its sender takes compressed messages, and sends them to whom says so, too."""

COMPRESSED: Final = 0x50
"""The kind: behind it the size of the payload, u32, then a zstd frame with the payload in it."""

EXTRA: Final = "zeolith[zstd]"
"""What to install."""

MIN_SIZE: Final = 512
"""Bytes of the shortest payload that is compressed.  Of a record of 500 bytes a quarter is saved:
13 µs on a link of 100 Mbit/s, and 9 µs is what it takes to compress and decompress it."""

MAX_SIZE: Final = 4 * 1024 * 1024
"""Bytes of the longest one.  To compress it takes a server's loop 15 ms, in which it does nothing
for others; records of that size are rare, and blobs travel in pieces."""

MAX_RATIO: Final = 100
"""How many times as long as its compressed form a payload may be.  Records shrink to a half or a
tenth; 8 KB can stand for 256 MB of zeros, and whoever sends many of these would take our memory
(R8).  What shrinks by more than that is sent as it is."""

_WORTH: Final = 8
"""What does not get shorter by this part of it is not worth the other side's time."""

_LEVEL: Final = 1
"""Of zstd's 22.  Level 3 saves 1 to 9 percent more and takes up to twice the time; the server's
loop does this."""

_MAX_SPARE: Final = 4
"""Contexts kept of each sort, of up to 1 MB each: rarely are as many threads at it at once."""

_HEAD: Final = Struct(">IBI")
_SIZE: Final = Struct(">xI")
HEAD_SIZE: Final = _SIZE.size
"""Bytes of a payload before the zstd frame."""

_NO_SIZE: Final = 0xFFFFFFFFFFFFFFFF
"""What zstd reports for a frame that does not tell its size."""

_MIN_WINDOW: Final = 1024
"""Bytes of the smallest window that a zstd frame can name."""

_T = TypeVar("_T")

_compressors: deque[zstandard.ZstdCompressor] = deque(maxlen=_MAX_SPARE)
_decompressors: deque[zstandard.ZstdDecompressor] = deque(maxlen=_MAX_SPARE)


@cache
def is_available() -> bool:
    """Return whether the library is there; it is not imported."""
    return find_spec("zstandard") is not None


def _take(spare: deque[_T], make: Callable[[], _T]) -> _T:
    # A context is for one thread at a time; to pop one is a single step.
    try:
        return spare.pop()
    except IndexError:
        return make()


def compress(frame: bytes) -> bytes:
    """Return *frame*, a whole message, with its payload compressed; or as it is, if that is too
    short, too long, compressed already or not worth it.  Of several messages in one piece each is
    compressed by itself."""
    size = len(frame) - HEADER_SIZE
    if size < MIN_SIZE:
        return frame
    if unpack_length(frame)[0] != size:
        return b"".join(map(compress, _split(frame)))
    if size > MAX_SIZE or frame[HEADER_SIZE] == COMPRESSED:
        return frame
    import zstandard

    context = _take(_compressors, lambda: zstandard.ZstdCompressor(level=_LEVEL))
    packed = context.compress(memoryview(frame)[HEADER_SIZE:])
    _compressors.append(context)
    length = len(packed)
    if length + HEAD_SIZE > size - size // _WORTH or size > MAX_RATIO * length:
        return frame
    return _HEAD.pack(HEAD_SIZE + length, COMPRESSED, size) + packed


def _split(frames: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(frames):
        end = at + HEADER_SIZE + unpack_length(frames, at)[0]
        yield frames[at:end]
        at = end


def original_size(payload: bytes) -> int:
    """Return the size that a payload of the kind COMPRESSED announces, for which nothing is done.

    :raises struct.error: it is too short.
    """
    size: int = _SIZE.unpack_from(payload)[0]
    return size


def decompress(payload: bytes, limit: int) -> bytes:
    """Return the payload inside *payload*, which is of the kind COMPRESSED.

    No memory is taken for more than has been announced and is allowed.

    :param limit: bytes of the longest payload that is accepted.
    :raises UndecodableMessage: it is not what it announces, or that is too much.
    :raises struct.error: it is too short.
    """
    import zstandard

    size = original_size(payload)
    if size > limit:
        raise UndecodableMessage(f"a compressed message of {size} bytes, the limit is {limit}")
    packed = memoryview(payload)[HEAD_SIZE:]
    if size > MAX_RATIO * len(packed):
        raise UndecodableMessage(
            f"a message of {size} bytes compressed to {len(packed)}: more than {MAX_RATIO} to one"
        )
    context = _take(_decompressors, zstandard.ZstdDecompressor)
    try:
        # The library takes as much memory as this says.
        said = zstandard.get_frame_parameters(packed)
        if said.content_size != size or said.window_size > max(2 * size, _MIN_WINDOW):
            told = "no size" if said.content_size == _NO_SIZE else f"{said.content_size} bytes"
            raise UndecodableMessage(
                f"a compressed message of {size} bytes says within that it takes {told}, and "
                f"{said.window_size} to decompress"
            )
        content = context.decompress(packed, read_across_frames=False, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise UndecodableMessage(f"a compressed message is damaged: {error}") from None
    _decompressors.append(context)
    if not content or content[0] == COMPRESSED:
        raise UndecodableMessage("a compressed message that is empty or compressed twice")
    return content

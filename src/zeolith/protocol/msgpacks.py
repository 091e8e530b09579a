"""The msgpack coding: plain values to bytes as ZEO peers write them, and a checked decoder.

The C decoder of :mod:`msgpack` makes room for as many items as the header of an array announces,
and does so for every array inside an array: a message of 2 KB can take 16 MB, one of 1 MB takes
gigabytes.  So the headers are walked first, and the C decoder runs only on a message of which it
is proven that all items announced are there.

Everything here may be called from any thread.
"""

from __future__ import annotations

from typing import Any, Final

import msgpack

from ..errors import UndecodableMessage
from .limits import Limits
from .values import is_plain, to_plain

# -- writing -----------------------------------------------------------------------------------


def dumps(value: Any) -> bytes:
    """Return *value* in msgpack.

    :param value: plain, or what :func:`.values.to_plain` makes plain.
    :raises TypeError: something in *value* cannot be sent; the text names its class.
    :raises ValueError: *value* is nested too deeply, an integer has more than 64 bits, or text is
        not valid Unicode.
    """
    if not is_plain(value):
        value = to_plain(value)
        if not is_plain(value):
            raise TypeError("a Prefix cannot be sent in msgpack")
    try:
        payload: bytes = msgpack.packb(value, use_bin_type=True)
    except OverflowError:
        raise ValueError("msgpack has no integers of more than 64 bits") from None
    return payload


# -- reading -----------------------------------------------------------------------------------


def loads(payload: bytes, limits: Limits) -> Any:
    """Return the value that *payload* describes; arrays become tuples.

    :param limits: ``max_depth`` bounds the nesting, ``max_items`` the values (a map entry is two),
        ``max_containers`` those that hold others.
    :raises UndecodableMessage: it is cut short, damaged, too deep or too long, or it holds
        something that is not admitted: extension types, map keys that are neither text, bytes nor
        integers.
    """
    try:
        end = _Walker(payload, limits).walk(1, 0, 0, 0)
    except IndexError:
        raise UndecodableMessage("the message is cut short") from None
    if end != len(payload):
        raise UndecodableMessage(
            "the message is cut short" if end > len(payload) else "bytes after the message"
        )
    try:
        return msgpack.unpackb(payload, raw=False, use_list=False, strict_map_key=False)
    except UnicodeDecodeError as error:
        raise UndecodableMessage(f"text is not UTF-8: {error.reason}") from None


_NOT_FIXED: Final = 0


def _size_of_fixed(head: int) -> int:
    """Return how many bytes a value takes whose first byte is *head*, if that byte tells it."""
    if head < 0x80 or head >= 0xE0 or head in (0xC0, 0xC2, 0xC3):  # small int, nil, bool
        return 1
    if 0xA0 <= head < 0xC0:  # short text
        return 1 + (head & 0x1F)
    return {
        0xCA: 5, 0xCB: 9,  # float
        0xCC: 2, 0xCD: 3, 0xCE: 5, 0xCF: 9,  # unsigned
        0xD0: 2, 0xD1: 3, 0xD2: 5, 0xD3: 9,  # signed
    }.get(head, _NOT_FIXED)  # fmt: skip


_FIXED: Final = tuple(map(_size_of_fixed, range(256)))

# First byte of bytes and text of any length → bytes in the length.
_SIZED: Final = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}

# First byte of arrays and maps with a length → bytes in the length, items per count.
_COUNTED: Final = {0xDC: (2, 1), 0xDD: (4, 1), 0xDE: (2, 2), 0xDF: (4, 2)}

_KEYS: Final = frozenset(
    head
    for head in range(256)
    if head in _SIZED or 0xCC <= head <= 0xD3 or head < 0x80 or 0xA0 <= head < 0xC0 or head >= 0xE0
)
"""First bytes of the values that may be keys of a map: text, bytes and integers."""


class _Walker:
    """Walks over the headers of one message."""

    __slots__ = ("_containers", "_items", "_limits", "_payload")

    def __init__(self, payload: bytes, limits: Limits) -> None:
        self._payload = payload
        self._limits = limits
        self._containers = 0
        self._items = 1

    def walk(self, count: int, position: int, depth: int, waiting: int, stride: int = 1) -> int:
        """Walk over *count* values; return the position after them, maybe beyond the end.

        :param depth: number of containers around them.
        :param waiting: number of values that the containers around them still announce.
        :param stride: 2 if every other value, from the first on, is a key.
        :raises IndexError: the payload ends before them.
        :raises UndecodableMessage: one is not admitted.
        """
        payload = self._payload
        for left in range(count - 1, -1, -1):
            head = payload[position]
            if stride == 2 and left & 1 and head not in _KEYS:
                raise UndecodableMessage("a map key is neither text, bytes nor an integer")
            size = _FIXED[head]
            if size:
                position += size
            elif head == 0xC4:
                position += 2 + payload[position + 1]
            elif head in _SIZED:
                start = position + 1
                end = start + _SIZED[head]
                position = end + int.from_bytes(payload[start:end], "big")
            else:
                position = self._enter(head, position + 1, depth, waiting + left)
        return position

    def _enter(self, head: int, position: int, depth: int, waiting: int) -> int:
        """Walk over the items of an array or map; return the position after them."""
        stride = 1
        if 0x80 <= head < 0xA0:
            count = head & 0x0F
            if head < 0x90:
                stride = 2
        elif head in _COUNTED:
            width, stride = _COUNTED[head]
            end = position + width
            count = int.from_bytes(self._payload[position:end], "big")
            position = end
        else:
            raise UndecodableMessage(f"msgpack type {head:#04x} is not admitted")
        count *= stride
        limits = self._limits
        if depth >= limits.max_depth:
            raise UndecodableMessage(f"values are nested more than {limits.max_depth} deep")
        # Every value takes a byte at least; those announced by the containers around are not
        # there yet either.
        if count + waiting > len(self._payload) - position:
            raise UndecodableMessage("more values are announced than bytes are left")
        self._items += count
        if self._items > limits.max_items:
            raise UndecodableMessage(f"more than {limits.max_items} items in one message")
        self._containers += 1
        if self._containers > limits.max_containers:
            raise UndecodableMessage(f"more than {limits.max_containers} containers in one message")
        return self.walk(count, position, depth + 1, waiting, stride)

"""Which objects were dropped not long ago, in two bytes each.

A table of fingerprints: an object's place in it and what stands there come from its id, and
whoever comes later writes over what was there before.  So what is long ago is forgotten by itself;
an answer may be wrong, which costs a little room in the cache and nothing else.
"""

from __future__ import annotations

from array import array
from typing import Final

_FACTOR: Final = 0x9E3779B97F4A7C15
"""Spreads ids that lie close together; odd, so no two ids become one."""

_MASK: Final = (1 << 64) - 1


class Ghosts:
    """A set of object ids that forgets.  One thread at a time.

    :param most: about how many it is to remember.
    """

    def __init__(self, most: int) -> None:
        self._bits = max(4, most.bit_length())
        self._table = array("H", bytes(2 << self._bits))

    def _place(self, oid: bytes) -> tuple[int, int]:
        mixed = int.from_bytes(oid, "big") * _FACTOR & _MASK
        # Not zero, which stands for nobody.
        return mixed >> (64 - self._bits), mixed & 0xFFFF | 1

    def add(self, oid: bytes) -> None:
        """Remember *oid*."""
        place, print_ = self._place(oid)
        self._table[place] = print_

    def take(self, oid: bytes) -> bool:
        """Return whether *oid* is remembered, and forget it."""
        place, print_ = self._place(oid)
        if self._table[place] != print_:
            return False
        self._table[place] = 0
        return True

    def clear(self) -> None:
        """Forget everybody."""
        self._table = array("H", bytes(2 << self._bits))

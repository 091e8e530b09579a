"""Which objects were dropped not long ago, in two bytes each.

A table of fingerprints: an object's place in it and what stands there come from its id, and
whoever comes later writes over what was there before.  So what is long ago is forgotten by itself;
an answer may be wrong, which costs a little room in the cache and nothing else.
"""

from __future__ import annotations

from array import array


class Ghosts:
    """A set of object ids that forgets.  One thread at a time.

    :param most: about how many it is to remember.
    """

    def __init__(self, most: int) -> None:
        self._mask = (1 << max(4, most.bit_length())) - 1
        self._table = array("H", bytes(2 * self._mask + 2))

    def add(self, oid: bytes) -> None:
        """Remember *oid*."""
        mixed = hash(oid)
        # Not zero, which stands for nobody.
        self._table[mixed & self._mask] = mixed >> 40 & 0xFFFF | 1

    def take(self, oid: bytes) -> bool:
        """Return whether *oid* is remembered, and forget it."""
        mixed = hash(oid)
        place = mixed & self._mask
        if self._table[place] != mixed >> 40 & 0xFFFF | 1:
            return False
        self._table[place] = 0
        return True

    def clear(self) -> None:
        """Forget everybody."""
        self._table = array("H", bytes(2 * self._mask + 2))

"""With which seed the records of each part of a cache file are sealed.

The index says where a record lies, and not which one.  What is found there passes for it if its
checksum is right; so no other record that ever lay at the same place may pass: not the last
round's, which a loss of power or a copy of the file may bring back, nor what a process wrote there
whose end came before it had saved its index.  So whenever a ring begins a new round, and whenever a
cache is opened or cleared, it goes on with another seed, drawn by chance.

The file is divided into *segments*.  A record has the seed of the segment that it begins in, and a
segment has one seed at a time: the head of a ring enters a segment only once nothing of the last
round is left in it, and a cache that is opened goes on at the next segment.
"""

from __future__ import annotations

import os
from array import array
from typing import Final

MOST_SEGMENTS: Final = 1 << 17
"""Segments of one file at most, so that they take a megabyte.  A new cache has a thousand or two;
one that grows to a hundred times its size has to begin anew."""

SEGMENT_SHARE: Final = 256
"""A segment is at most one part in this many of the small ring: some of that much lies idle before
the tail, and each opening leaves some of it unused."""


def new_seed() -> int:
    """Return a seed that nothing has been sealed with: 32 bits, by chance."""
    return int.from_bytes(os.urandom(4), "big")


class Seals:
    """The seed of each segment of one file.

    Any thread may read ``seeds`` while one thread changes them.

    :param bits: granules of a segment, as a power of two.
    :param seeds: of each segment, from the beginning of the file on.
    """

    def __init__(self, bits: int, seeds: list[int]) -> None:
        self.bits: Final = bits
        self.seeds: Final = seeds
        """By number of the segment; never replaced."""

    @classmethod
    def divide(cls, small: int, end: int) -> Seals:
        """Return those of a new file.

        :param small: granules of its small ring.
        :param end: granules of the file.
        """
        bits = max(1, small // SEGMENT_SHARE).bit_length() - 1
        seals = cls(bits, [])
        seals.resize(end)
        return seals

    @property
    def mask(self) -> int:
        """What of a position says where in its segment it is."""
        return (1 << self.bits) - 1

    def segments(self, end: int) -> int:
        """Return into how many segments a file of *end* granules is divided."""
        return (end >> self.bits) + 1

    def resize(self, end: int) -> None:
        """Go on with a file of *end* granules."""
        count = self.segments(end)
        self.seeds.extend([0] * (count - len(self.seeds)))
        del self.seeds[count:]

    def seed_at(self, position: int) -> int:
        """Return the seed of what begins at *position*."""
        return self.seeds[position >> self.bits]

    def set(self, position: int, granules: int, seed: int) -> None:
        """What is written from *position* on, so many *granules*, is sealed with *seed*."""
        first, last = position >> self.bits, (position + granules - 1) >> self.bits
        if self.seeds[first] != seed or self.seeds[last] != seed:
            self.seeds[first : last + 1] = [seed] * (last + 1 - first)

    def dump(self) -> bytes:
        """Return the seeds as bytes."""
        seeds = array("I", self.seeds)
        assert seeds.itemsize == 4
        return seeds.tobytes()

"""What the trace of a client's cache says, counted."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from ..cache.traces import HITS, INVALIDATE, LOAD, OPERATION, STORE, Code, Event


@dataclass(slots=True)
class Interval:
    """What happened in a stretch of time.

    :ivar first: seconds since the epoch of the first event.
    :ivar last: the same of the last one.
    :ivar codes: how many events there were of each :class:`.Code`.
    """

    first: int
    last: int
    codes: dict[int, int] = field(default_factory=dict)

    def add(self, event: Event) -> None:
        """Count *event*."""
        self.last = event.time
        code, codes = event.code, self.codes
        codes[code] = codes.get(code, 0) + 1

    def _sum(self, operation: int) -> int:
        return sum(n for code, n in self.codes.items() if code & OPERATION == operation)

    @property
    def loads(self) -> int:
        """Loads, whether answered by the cache or not."""
        return self._sum(LOAD)

    @property
    def hits(self) -> int:
        """Loads answered by the cache."""
        return sum(self.codes.get(code, 0) for code in HITS)

    @property
    def invalidations(self) -> int:
        """Changes of objects of which the current revision was held."""
        return self._sum(INVALIDATE) - self.codes.get(Code.INVALIDATE_MISS, 0)

    @property
    def writes(self) -> int:
        """Revisions that were stored."""
        return self._sum(STORE)


class Intervals:
    """Divides events into stretches of time that begin at multiples of their length.

    :param seconds: their length.
    """

    def __init__(self, seconds: int) -> None:
        self._seconds = seconds
        self._present: Interval | None = None

    def add(self, event: Event) -> Interval | None:
        """Count *event*; return the stretch that it has ended, if so.  A start ends one too."""
        ended, present = None, self._present
        if (
            present is None
            or event.time // self._seconds != present.first // self._seconds
            or event.code == Code.START
        ):
            ended = present
            present = self._present = Interval(event.time, event.time)
        present.add(event)
        return ended

    def finish(self) -> Interval | None:
        """Return the last stretch; None if there was no event."""
        return self._present


@dataclass(slots=True)
class Summary:
    """A whole trace.

    :ivar total: all of it as one stretch; None without events.
    :ivar versions: events that have the flag of versions.
    :ivar sized: events with the length of a record.
    :ivar total_size: the sum of these lengths.
    :ivar loads: loads by object; counted only if *wants_loads*.
    :ivar sizes_loaded: by length how often each object was loaded; only if *wants_sizes*.
    :ivar sizes_written: the same of stores.
    """

    wants_loads: bool = False
    wants_sizes: bool = False
    total: Interval | None = None
    versions: int = 0
    sized: int = 0
    total_size: int = 0
    loads: Counter[bytes] = field(default_factory=Counter)
    sizes_loaded: dict[int, Counter[bytes]] = field(default_factory=dict)
    sizes_written: dict[int, Counter[bytes]] = field(default_factory=dict)

    def add(self, event: Event) -> None:
        """Count *event*."""
        if self.total is None:
            self.total = Interval(event.time, event.time)
        self.total.add(event)
        self.versions += event.is_version
        length, operation = event.length, event.code & OPERATION
        if length:
            self.sized += 1
            self.total_size += length
            if self.wants_sizes and operation in (LOAD, STORE):
                sizes = self.sizes_loaded if operation == LOAD else self.sizes_written
                sizes.setdefault(length, Counter())[event.oid] += 1
        if self.wants_loads and operation == LOAD:
            self.loads[event.oid] += 1

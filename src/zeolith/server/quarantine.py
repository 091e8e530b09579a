"""Which classes have ended workers that resolve conflicts, and are left alone for a while.

Pure: time is an argument.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Final

PERIOD: Final = 300.0
"""Seconds for which the end of a worker counts.  Each may have kept the commit lock for as long as
a resolution may take; so this bounds what all of them cost."""

MOST_OF_CLASS: Final = 3
"""Ends in a period after which a class is not tried.  One may be bad luck, and an application that
repeats its transaction tries three times."""

MOST: Final = 12
"""Ends in a period after which nothing is tried: somebody makes up new classes."""

_MOST_CLASSES: Final = 100


class Quarantine:
    """Counts the ends of workers.  Not thread-safe."""

    def __init__(self) -> None:
        self._all: deque[float] = deque(maxlen=MOST)
        self._classes: OrderedDict[str, deque[float]] = OrderedDict()

    def add(self, name: str, now: float) -> None:
        """A worker has ended while it resolved a conflict of the class *name*, empty if unknown.

        :param now: seconds on a clock that does not jump.
        """
        self._all.append(now)
        if not name:
            return
        ends = self._classes.pop(name, None)
        if ends is None:
            ends = deque(maxlen=MOST_OF_CLASS)
        ends.append(now)
        self._classes[name] = ends
        if len(self._classes) > _MOST_CLASSES:
            self._classes.popitem(last=False)

    def remaining(self, name: str, now: float) -> float:
        """Return the seconds for which the class *name* is not tried; 0 if it may be."""
        ends = self._classes.get(name)
        left = _remaining(self._all, now)
        return left if ends is None else max(left, _remaining(ends, now))


def _remaining(ends: deque[float], now: float) -> float:
    return max(ends[0] + PERIOD - now, 0.0) if len(ends) == ends.maxlen else 0.0

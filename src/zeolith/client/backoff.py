"""How long to wait before the next attempt to connect.  Pure: the waiting is the caller's."""

from __future__ import annotations

import random
from dataclasses import dataclass, field


@dataclass(slots=True)
class Backoff:
    """Delays that double from *shortest* to *longest*, each shortened at random by up to half.

    The randomness keeps the clients of a restarted server from coming back all at once.

    :param shortest: first delay in seconds.
    :param longest: no delay is longer, in seconds.
    :param draw: returns a float in [0, 1).
    """

    shortest: float
    longest: float
    draw: random.Random = field(default_factory=random.Random)
    _next: float = field(init=False, default=0.0)

    def reset(self) -> None:
        """The last attempt succeeded."""
        self._next = 0.0

    def next_delay(self) -> float:
        """Return the delay in seconds before the next attempt."""
        delay = min(max(self._next, self.shortest), self.longest)
        self._next = delay * 2
        return delay * (1 - self.draw.random() / 2)

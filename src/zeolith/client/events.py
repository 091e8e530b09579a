"""Events announced through ``ZODB.event.notify``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class StaleCache:
    """A client's cache is about to be dropped, because what it missed is not known.

    :ivar storage: the client storage.
    """

    storage: Any

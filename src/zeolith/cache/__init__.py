"""What a client keeps of the objects it loaded.  The contract is :class:`ClientCache`."""

from .foreign import ForeignCache
from .interface import ClientCache, Revision
from .log import MINIMUM_SIZE
from .ring import CacheStatistics, RingCache

__all__ = [
    "MINIMUM_SIZE",
    "CacheStatistics",
    "ClientCache",
    "ForeignCache",
    "Revision",
    "RingCache",
]

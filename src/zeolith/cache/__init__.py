"""What a client keeps of the objects it loaded.  The contract is :class:`ClientCache`."""

from .foreign import ForeignCache
from .home import CacheHome, CacheInUse
from .interface import CacheStatistics, ClientCache, Revision
from .log import MINIMUM_SIZE
from .ring import RingCache
from .shared import SharedCache
from .siblings import Siblings

__all__ = [
    "MINIMUM_SIZE",
    "CacheHome",
    "CacheInUse",
    "CacheStatistics",
    "ClientCache",
    "ForeignCache",
    "Revision",
    "RingCache",
    "SharedCache",
    "Siblings",
]

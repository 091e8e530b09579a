"""Whether the use of a client's cache is traced, and where to."""

from __future__ import annotations

import logging
import os

from ..cache import CacheHome, RingCache, SharedCache, Siblings
from ..cache.traced import TracedCache, TracedSharedCache
from ..cache.tracefile import TraceFile

logger = logging.getLogger(__name__)

TRACE_VARIABLE = "ZEO_CACHE_TRACE"
"""Environment variable that has caches traced.  ZEO 2 takes it for the name of the file; to ZEO 6
it is a switch, and the file is called as the cache's with :data:`EXTENSION` behind it."""

EXTENSION = ".trace"


def find_trace(path: str | None) -> str | None:
    """Return the file that the environment has a cache traced to; None if it is not to be.

    What looks like a path of a file, by a slash or by its end, is one.

    :param path: of the cache's file; None if it is temporary.
    """
    value = os.environ.get(TRACE_VARIABLE)
    if not value:
        return None
    if os.sep in value or value.endswith(EXTENSION):
        return value
    if path is None:
        logger.warning(
            "environment variable %s: a temporary cache is traced only to a file that the variable "
            "names; give a path with a slash, or one that ends in %s",
            TRACE_VARIABLE,
            EXTENSION,
        )
        return None
    return path + EXTENSION


def make_ring(
    path: str | None, size: int, *, directory: str | None = None, home: CacheHome | None = None
) -> RingCache:
    """Return a cache of ours, traced if the environment says so.

    A trace that cannot be written is left out; the log says why.

    :param path: of the cache's file; None if it is temporary.

    The other arguments, and the errors, are those of :class:`.RingCache`.
    """
    wanted = find_trace(path)
    if wanted is None:
        return RingCache(size, directory=directory, home=home)
    try:
        trace = TraceFile(wanted)
    except OSError as error:
        logger.warning("the cache is not traced: %s", error)
        return RingCache(size, directory=directory, home=home)
    try:
        cache = TracedCache(size, trace, directory=directory, home=home)
    except BaseException:
        trace.close()
        raise
    logger.info("the cache %s is traced to %s", path or "in a temporary file", trace.path)
    return cache


def make_shared(own: RingCache, siblings: Siblings) -> SharedCache:
    """Return a cache that reads from *siblings* too; traced if *own* is."""
    if isinstance(own, TracedCache):
        return TracedSharedCache(own, siblings)
    return SharedCache(own, siblings)

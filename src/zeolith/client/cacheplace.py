"""Which file a client's cache lives in.

Processes that share a cache have a file each: the one of the name itself, or that name with a
number behind it.  Whoever starts takes the first that nobody else has locked, and so goes on with
what a process that has ended left there.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from ..cache import (
    MINIMUM_SIZE,
    CacheHome,
    CacheInUse,
    ForeignCache,
    RingCache,
    SharedCache,
    Siblings,
)
from ..cache.home import ForeignFile
from ..cache.interface import ClientCache
from ..errors import ConfigurationError
from .cachetracing import make_ring, make_shared

logger = logging.getLogger(__name__)

NAME_VARIABLE = "ZEO_CLIENT"
"""Environment variable that names the cache where the keyword ``client`` does not."""


MAX_SHARERS: Final = 16
"""Processes that have a file of their own each.  A miss is looked up in all of them, which must
stay cheap beside asking the server; and each file may become as large as a cache.  Further
processes read from these and have a temporary cache."""

INDEX_SHARE: Final = 2
"""What is known of others' files may take one part in this many of the size of a cache: some five
times what the indexes of all of them take where records are small."""

LEAST_INDEXES: Final = 1 << 20
"""Bytes that it may take in any case."""


def find_path(cache: Any, client: str | None, storage: str, var: str | None) -> str | None:
    """Return the file of a persistent cache; None if it is to be temporary.

    :param cache: a path, or anything else.
    :param client: name of the cache, for a file ``CLIENT-STORAGE.zec`` in *var*; by default the
        environment variable ``ZEO_CLIENT`` says it.
    :param storage: name of the storage.
    :param var: directory; the current one by default.
    :raises ConfigurationError: they contradict each other, or a name is none of a file.
    """
    if isinstance(cache, str):
        for option, value in (("client", client), ("var", var)):
            if value:
                raise ConfigurationError(
                    option,
                    "has no effect with cache, which names the file",
                    "leave one of them out",
                )
        if not cache:
            raise ConfigurationError("cache", "is no path of a file")
        return cache
    if cache is not None:
        return None
    option = "client"
    if not client:
        option, client = f"environment variable {NAME_VARIABLE}", os.environ.get(NAME_VARIABLE)
    if not client:
        return None
    name = f"{client}-{storage}.zec"
    if os.path.basename(name) != name or "\0" in name:
        raise ConfigurationError(
            option,
            f"the cache would be called {name!r}, which is no name of a file",
            "give a name without slashes; var is for the directory",
        )
    return os.path.join(var or os.curdir, name)


def open_cache(
    path: str | None, size: int, var: str | None, storage: str | None = None
) -> ClientCache:
    """Return the cache in the file *path*, or a temporary one.

    Where the file cannot be used an application is better off with a temporary cache than not at
    all; the log says so.  That somebody else uses the file is a mistake that has to be mended.

    :param path: None for a temporary one.
    :param size: bytes.
    :param var: directory for a temporary one.
    :param storage: name of the storage.
    :raises CacheInUse: another process, or another storage of this one, has the cache open.
    :raises ConfigurationError: no temporary file can be made in *var*.
    """
    if path is not None:
        try:
            return _open_home(path, size, storage)
        except CacheInUse:
            raise
        except (ForeignFile, OSError) as error:
            logger.warning("%s: the cache is not kept, a temporary one is used: %s", path, error)
            # The directory may be what is wrong.
            var = None
    with _naming_var(var):
        return make_ring(None, size, directory=var)


@contextmanager
def _naming_var(var: str | None) -> Iterator[None]:
    """Have an error about a temporary file name the option that says where it is."""
    try:
        yield
    except ConfigurationError as error:
        if var is None:
            raise
        raise ConfigurationError("var", error.problem, error.remedy) from error


def _open_home(path: str, size: int, storage: str | None) -> RingCache:
    """Return the cache in the file *path*.

    :raises CacheInUse: somebody else has it open.
    :raises ForeignFile, OSError: it cannot be used.
    """
    home = CacheHome(path, storage)
    try:
        return make_ring(path, size, home=home)
    except BaseException:
        home.close()
        raise


def open_shared(
    path: str,
    size: int,
    var: str | None,
    storage: str | None = None,
    *,
    is_reader: bool = False,
) -> SharedCache:
    """Return a cache that reads those of other processes with the same *path*.

    Where its own file cannot be used it is a temporary one, and the log says so.

    :param size: bytes of its own file.
    :param var: directory for a temporary one.
    :param storage: name of the storage.
    :param is_reader: whether to take a temporary one in any case.
    :raises ConfigurationError: no temporary file can be made in *var*.
    """
    path = os.path.abspath(path)
    paths = [path, *(f"{path}.{number}" for number in range(2, MAX_SHARERS + 1))]
    own = taken = None
    if not is_reader:
        taken, own = _open_first(paths, size, storage)
        # The directory may be what is wrong.
        var = var if own is not None or taken is None else None
    if own is None:
        with _naming_var(var):
            own = make_ring(None, size, directory=var)
    try:
        others = [other for other in paths if other != taken]
        siblings = Siblings(others, max(size // INDEX_SHARE, LEAST_INDEXES), storage)
        return make_shared(own, siblings)
    except BaseException:
        own.close()
        raise


def _open_first(
    paths: list[str], size: int, storage: str | None
) -> tuple[str | None, RingCache | None]:
    """Return the first of *paths* that nobody uses, and the cache in it if it can be used."""
    for path in paths:
        try:
            return path, _open_home(path, size, storage)
        except CacheInUse:
            continue
        except (ForeignFile, OSError) as error:
            logger.warning("%s: the cache is not kept, a temporary one is used: %s", path, error)
            return path, None
    logger.warning(
        "%s: %d processes share it already, a temporary cache is used beside theirs",
        paths[0],
        len(paths),
    )
    return None, None


def make_cache(
    cache: Any,
    size: int,
    client: str | None,
    storage: str,
    var: str | None,
    is_shared: bool = False,
) -> ClientCache:
    """Return the cache that the keywords of a client storage describe.

    :param is_shared: whether it reads the caches of other processes with the same name.
    :raises ConfigurationError: see :func:`find_path` and :func:`open_cache`.
    """
    path = find_path(cache, client, storage, var)
    if path is None and cache is not None:
        return ForeignCache(cache)
    if 0 <= size < MINIMUM_SIZE:
        logger.warning(
            "cache_size: %d bytes are too few for a cache, it gets %d", size, MINIMUM_SIZE
        )
    if path is not None and is_shared:
        shared = open_shared(path, size, var, storage)
        shared.begin_as_sibling()
        return shared
    return open_cache(path, size, var, storage)


def make_child_cache(
    cache: Any, size: int, client: str | None, storage: str, var: str | None, is_shared: bool
) -> ClientCache:
    """Return a temporary cache for a child made by ``fork``, whose parent keeps its own.

    With *is_shared* it reads from its parent's, and from its siblings'.

    :raises ConfigurationError: no temporary file can be made in *var*.
    """
    path = find_path(cache, client, storage, var) if is_shared else None
    if path is not None:
        return open_shared(path, size, var, storage, is_reader=True)
    return open_cache(None, size, None if isinstance(cache, str) else var)

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

from ..cache import CacheHome, CacheInUse, ForeignCache, SharedCache, Siblings
from ..cache.interface import ClientCache
from ..errors import ConfigurationError
from .cachetracing import make_ring

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


def open_cache(path: str | None, size: int, var: str | None) -> ClientCache:
    """Return the cache in the file *path*, or a temporary one.

    Where the file cannot be used an application is better off with a temporary cache than not at
    all; the log says so.  That somebody else uses the file is a mistake that has to be mended.

    :param path: None for a temporary one.
    :param size: bytes.
    :param var: directory for a temporary one.
    :raises CacheInUse: another process, or another storage of this one, has the cache open.
    :raises ConfigurationError: no temporary file can be made in *var*.
    """
    if path is not None:
        try:
            home = CacheHome(path)
        except CacheInUse:
            raise
        except (ConfigurationError, OSError) as error:
            logger.warning("%s: the cache is not kept, a temporary one is used: %s", path, error)
        else:
            try:
                return make_ring(path, size, home=home)
            except BaseException:
                home.close()
                raise
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


def open_shared(path: str, size: int, var: str | None, *, is_reader: bool = False) -> SharedCache:
    """Return a cache that reads those of other processes with the same *path*.

    Where its own file cannot be used it is a temporary one, and the log says so.

    :param size: bytes of its own file.
    :param var: directory for a temporary one.
    :param is_reader: whether to take a temporary one in any case.
    :raises ConfigurationError: no temporary file can be made in *var*.
    """
    path = os.path.abspath(path)
    paths = [path, *(f"{path}.{number}" for number in range(2, MAX_SHARERS + 1))]
    home = None if is_reader else _take_home(paths)
    others = [other for other in paths if home is None or other != home.path]
    siblings = Siblings(others, max(size // INDEX_SHARE, LEAST_INDEXES))
    try:
        with _naming_var(None if home is not None else var):
            own = make_ring(None if home is None else home.path, size, directory=var, home=home)
    except BaseException:
        if home is not None:
            home.close()
        raise
    try:
        return SharedCache(own, siblings)
    except BaseException:
        own.close()
        raise


def _take_home(paths: list[str]) -> CacheHome | None:
    """Return the first of *paths* that nobody uses; None if there is none that can be used."""
    for path in paths:
        try:
            return CacheHome(path)
        except CacheInUse:
            continue
        except (ConfigurationError, OSError) as error:
            logger.warning("%s: the cache is not kept, a temporary one is used: %s", path, error)
            return None
    logger.warning(
        "%s: %d processes share it already, a temporary cache is used beside theirs",
        paths[0],
        len(paths),
    )
    return None


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
    if path is not None and is_shared:
        shared = open_shared(path, size, var)
        shared.begin_as_sibling()
        return shared
    return open_cache(path, size, var)


def make_child_cache(
    cache: Any, size: int, client: str | None, storage: str, var: str | None, is_shared: bool
) -> ClientCache:
    """Return a temporary cache for a child made by ``fork``, whose parent keeps its own.

    With *is_shared* it reads from its parent's, and from its siblings'.

    :raises ConfigurationError: no temporary file can be made in *var*.
    """
    path = find_path(cache, client, storage, var) if is_shared else None
    if path is not None:
        return open_shared(path, size, var, is_reader=True)
    return open_cache(None, size, None if isinstance(cache, str) else var)

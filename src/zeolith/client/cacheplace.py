"""Which file a client's cache lives in."""

from __future__ import annotations

import logging
import os
from typing import Any

from ..cache import CacheHome, CacheInUse, ForeignCache
from ..cache.home import ForeignFile
from ..cache.interface import ClientCache
from ..errors import ConfigurationError
from .cachetracing import make_ring

logger = logging.getLogger(__name__)

NAME_VARIABLE = "ZEO_CLIENT"
"""Environment variable that names the cache where the keyword ``client`` does not."""


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
    try:
        return make_ring(None, size, directory=var)
    except ConfigurationError as error:
        if var is None:
            raise
        raise ConfigurationError("var", error.problem, error.remedy) from error


def _open_home(path: str, size: int, storage: str | None) -> ClientCache:
    home = CacheHome(path, storage)
    try:
        return make_ring(path, size, home=home)
    except BaseException:
        home.close()
        raise


def make_cache(
    cache: Any, size: int, client: str | None, storage: str, var: str | None
) -> ClientCache:
    """Return the cache that the keywords of a client storage describe.

    :raises ConfigurationError: see :func:`find_path` and :func:`open_cache`.
    """
    path = find_path(cache, client, storage, var)
    if path is None and cache is not None:
        return ForeignCache(cache)
    return open_cache(path, size, var, storage)

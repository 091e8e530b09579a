"""Blob directories of the storages to serve: that they are no client's."""

from __future__ import annotations

from typing import Any, Final

from .leftovers import openers_in

REMEDY: Final = "name the directory with the server's blobs, or a new one"


def refuse_caches(opener: Any, option: str) -> None:
    """Refuse to store blobs where clients remove them.

    :param opener: what is going to open a storage, with the storages inside it.
    :param option: how the user calls it, for errors.
    :raises ConfigurationError: a blob directory is the cache of clients.
    :raises OSError: it cannot be read.
    """
    for _, config in openers_in(opener):
        blob_dir = getattr(config, "blob_dir", None)
        # A storage that is a client of another server has a cache, of course.
        if isinstance(blob_dir, str) and not hasattr(config, "shared_blob_dir"):
            from ..client.bloblayout import refuse_cache

            refuse_cache(blob_dir, option, REMEDY)

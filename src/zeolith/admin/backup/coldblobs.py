"""Blobs whose files are not in the blob directory, because an object store has them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from ...errors import ConfigurationError
from ...tier.failures import StoreFailure
from ...tier.stubs import read_stub, stub_of
from ...tier.tier import BlobTier
from .blobstore import BlobStore
from .failures import BackupError
from .manifest import BlobEntry
from .scan import BlobKey


def cold_size(path: Path, tier: BlobTier | None) -> int | None:
    """Return the size of a blob without a file; None if it is not in the store either.

    :param path: where its file would be.
    :param tier: the object store, if that is known.
    :raises ConfigurationError: the blob is in a store, and nobody has said in which.
    """
    stub = read_stub(stub_of(str(path)))
    if stub is None:
        return None
    if tier is None:
        raise ConfigurationError(
            f"blob directory {path}",
            "does not have all blobs: some are in an object store",
            "name the zeo.conf that says where, with -C, instead of the paths",
        )
    return stub.size


def add_cold(
    store: BlobStore,
    blob: BlobKey,
    path: Path,
    known: BlobEntry | None,
    tier: BlobTier | None,
    advance: Callable[[int], None],
) -> BlobEntry | None:
    """Have a copy of a blob without a file; None if it is not in the object store either.

    :param store: the blobs of the repository.
    :param path: where its file would be.
    :param known: what an earlier backup says of it.
    :param advance: told the numbers of bytes that need no more attention.
    :raises ConfigurationError: see :func:`cold_size`.
    :raises BackupError: the object store does not give it.
    """
    if cold_size(path, tier) is None or tier is None:
        return None
    stub = read_stub(stub_of(str(path)))
    if stub is None:  # packed away meanwhile
        return None
    if known is not None and known.size == stub.size and store.path_of(blob).exists():
        advance(stub.size)
        return known
    temporary = store.temporary_path(blob)
    try:
        tier.copy(stub, str(temporary))
        return store.add(blob, temporary, advance=advance)
    except StoreFailure as error:
        raise BackupError(f"{error}; nothing has changed, try again") from error
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)

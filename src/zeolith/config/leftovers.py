"""What a pack that was cut off has left, seen to around the opening of a storage."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any, NamedTuple

logger = logging.getLogger(__name__)


class Files(NamedTuple):
    """The files of one FileStorage that is opened for writing.

    :ivar path: of the database.
    :ivar blob_dir: the storage's own blob directory, or None.
    """

    path: str
    blob_dir: str | None


def repair_before_opening(opener: Any, option: str) -> None:
    """Bring the files that *opener* is going to open into the state before a pack that was cut off.

    :param option: how the user calls the storage, for errors.
    :raises ConfigurationError, LockError, OSError: see :func:`.repair_after_pack`.
    """
    for files in _files_of(opener):
        from ..server.packrepair import repair_after_pack

        repair_after_pack(*files, option)


def tidy_up_after_opening(storage: Any) -> None:
    """Remove the blobs that a pack had no time to remove, from a storage just opened.

    What cannot be removed stays, for the next start, and is named in the log.
    """
    from ZODB.FileStorage import FileStorage

    from ..server.access import layers_of
    from ..server.packblobs import finish_removal

    for layer in layers_of(storage):
        if type(layer) is FileStorage and layer.blob_dir and not layer.isReadOnly():
            try:
                finish_removal(layer)
            except OSError as error:
                logger.error("blobs that a pack has left cannot be removed: %s", error)


def _files_of(opener: Any) -> Iterator[Files]:
    """Yield what *opener* opens for writing: an opener of ours, or one of ZODB's configuration."""
    config = getattr(opener, "config", opener)
    path = getattr(config, "path", None)
    if isinstance(path, str) and not getattr(config, "read_only", False):
        yield Files(path, getattr(config, "blob_dir", None))
    # A section around others, such as <blobstorage> or <demostorage>.
    for inner in (getattr(config, "base", None), *(getattr(config, "factories", None) or ())):
        if hasattr(inner, "config"):
            yield from _files_of(inner)

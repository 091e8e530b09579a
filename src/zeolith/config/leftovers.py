"""What a pack that was cut off has left, seen to around the opening of a storage."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from ..errors import ConfigurationError

logger = logging.getLogger(__name__)


_EMPTY: Final = {".layout", "tmp", "lost+found"}
"""What may be in a blob directory without blobs."""


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
    :raises ConfigurationError, LockError, OSError: see :func:`.repair_after_pack`; or there are
        blobs, but the database they belong to is missing.
    """
    for files in _files_of(opener):
        from ..server.packrepair import repair_after_pack

        repair_after_pack(*files, option)
        if files.blob_dir and not os.path.exists(files.path):
            _check_blobs(files.path, files.blob_dir, option)


def _check_blobs(path: str, blob_dir: str, option: str) -> None:
    """Keep a FileStorage that begins anew from removing the blobs of one whose disk is missing."""
    try:
        names = set(os.listdir(blob_dir)) - _EMPTY
    except FileNotFoundError:
        return
    if names:
        raise ConfigurationError(
            option,
            f"{path} is missing, but there are blobs in {blob_dir}, which a new database would "
            "remove",
            "bring the file back, or put the blobs elsewhere to begin anew",
        )


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
    """Yield what *opener* opens for writing."""
    for _, config in openers_in(opener):
        path = getattr(config, "path", None)
        if isinstance(path, str) and not getattr(config, "read_only", False):
            yield Files(path, getattr(config, "blob_dir", None))


def openers_in(opener: Any) -> Iterator[tuple[Any, Any]]:
    """Yield *opener* and those that it calls, each with what says how to open its storage.

    Openers of ours say it themselves, ZODB's have it in their configuration.
    """
    config = getattr(opener, "config", opener)
    yield opener, config
    # A section around others, such as <blobstorage> or <demostorage>.
    for inner in (getattr(config, "base", None), *(getattr(config, "factories", None) or ())):
        if hasattr(inner, "config"):
            yield from openers_in(inner)

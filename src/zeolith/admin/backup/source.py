"""The database that is backed up: where its file and its blobs are."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...config.server import load_server_config
from ...config.storages import DEFAULT_NAME, StorageOpener
from ...config.tiered import TieredBlobs
from ...errors import ConfigurationError
from ...tier.tier import BlobTier
from .scan import BlobKey

_LAYOUTS = ("bushy", "lawn")
_MARKER = ".layout"


class BlobDirectory:
    """A server's directory of blobs.

    :ivar path: where it is.
    :ivar layout: name of its layout, as ZODB calls it.

    :raises ConfigurationError: there is no such directory, or it is none of a server.
    """

    def __init__(self, path: Path) -> None:
        from ZODB.blob import LAYOUTS

        option = f"blob directory {path}"
        try:
            names = os.listdir(path)
            marker = path / _MARKER
            layout = marker.read_text(encoding="ascii").strip() if _MARKER in names else None
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(
                option, f"cannot be read: {error}", "correct the path or its access rights"
            ) from error
        if layout is None:
            # Before ZODB had a marker, every directory was a lawn.
            layout = "lawn" if any(name.startswith("0x") for name in names) else "bushy"
        if layout not in _LAYOUTS:
            raise ConfigurationError(
                option,
                f"has the layout {layout!r}: it is the blob cache of a client"
                if layout == "zeocache"
                else f"has the unknown layout {layout!r}",
                "name the blob directory of the server",
            )
        self.path = path
        self.layout = layout
        self._layout: Any = LAYOUTS[layout]

    def path_of(self, blob: BlobKey) -> Path:
        """Return where a blob is, or would be."""
        return self.path / str(self._layout.getBlobFilePath(blob.oid, blob.tid))


@dataclass(frozen=True)
class Source:
    """A database to back up.

    :ivar path: its file.
    :ivar blobs: its blob directory, or None.
    :ivar tier: the object store that has those blobs whose files are not there; None if there is
        none, or it is not known.
    """

    path: Path
    blobs: BlobDirectory | None
    tier: BlobTier | None = None


def find_source(path: str, blob_dir: str | None) -> Source:
    """Return the database that is named by its paths.

    :raises ConfigurationError: something is not there or cannot be read.
    """
    file = Path(path).resolve()
    option = f"database {path}"
    try:
        with file.open("rb"):
            pass
    except OSError as error:
        raise ConfigurationError(
            option,
            f"cannot be read: {error.strerror or error}",
            "correct the path or its access rights",
        ) from error
    if not file.is_file():
        raise ConfigurationError(option, "is not a file", "name the FileStorage's file")
    return Source(file, None if blob_dir is None else BlobDirectory(Path(blob_dir).resolve()))


def find_configured_source(config: str, name: str | None) -> Source:
    """Return a database that a ``zeo.conf`` names.

    :param config: path of the file.
    :param name: name of the storage in it; None if there is only one.
    :raises ConfigurationError: the file cannot be used, there is no such storage, or it is not a
        FileStorage.
    """
    storages = {
        opener.name or DEFAULT_NAME: opener for opener in load_server_config(config).storages
    }
    names = ", ".join(storages)
    if name is None:
        if len(storages) > 1:
            raise ConfigurationError(
                config, f"has several storages: {names}", "name one with --storage"
            )
        (name,) = storages
    if name not in storages:
        raise ConfigurationError(
            config, f"has no storage {name!r}", f"its storages are called {names}"
        )
    path, blob_dir = _locate(storages[name])
    if path is None:
        raise ConfigurationError(
            f"{config}: storage {name!r}",
            "is not kept in the file of a FileStorage",
            "back it up with the means of its own kind",
        )
    source = find_source(path, blob_dir)
    tier = _tier_of(storages[name], source.blobs)
    return source if tier is None else replace(source, tier=tier)


def _tier_of(opener: StorageOpener, blobs: BlobDirectory | None) -> BlobTier | None:
    if not isinstance(opener, TieredBlobs) or blobs is None:
        return None
    from ZODB.blob import FilesystemHelper

    return opener.make_tier(FilesystemHelper(str(blobs.path), blobs.layout))


def _locate(opener: StorageOpener | None) -> tuple[str | None, str | None]:
    """Return the file and the blob directory of a storage, looking through wrappers."""
    path = blob_dir = None
    current: Any = opener
    while current is not None and path is None:
        config = getattr(current, "config", current)
        if type(current).__name__ in ("File", "FileStorage"):
            path = config.path
        blob_dir = blob_dir or getattr(config, "blob_dir", None)
        current = getattr(config, "base", None) or getattr(config, "storage", None)
    return path, blob_dir

"""The files of a client's blob directory: their names, and whose directory it is.

A directory is either the server's own (*shared*) or a cache in ZEO's ``zeocache`` layout, which
several processes, ZEO's clients among them, may use at the same time:

- ``<oid % 997>/<oid // 997>.<tid>.blob``: a committed blob, read-only;
- the same with ``.dl`` added: one that is being received;
- ``<oid % 997>/*.tmp-``: one that is being uploaded;
- ``<oid % 997>/.lock``: held by whoever adds to or evicts from that bucket;
- ``check_size.lock``, ``check_size.attempt``: see :mod:`.blobsizes`;
- ``tmp``: the temporary directory of the application's uncommitted blobs.
"""

from __future__ import annotations

import os
import tempfile
from typing import Any, Final

from ..errors import ConfigurationError

LAYOUT: Final = "zeocache"
MARKER_NAME: Final = ".layout"
LOCK_NAME: Final = ".lock"
BLOB_SUFFIX: Final = ".blob"
PARTIAL_SUFFIX: Final = ".dl"
UPLOAD_SUFFIX: Final = ".tmp-"
TEMPORARY_NAME: Final = "tmp"


_BUCKETS: Final = 997


def blob_path(oid: bytes, tid: bytes) -> str:
    """Return the path of a committed blob in a cache, relative to the cache."""
    base, bucket = divmod(int.from_bytes(oid, "big"), _BUCKETS)
    return f"{bucket}{os.sep}{base}.{tid.hex()}{BLOB_SUFFIX}"


class CacheLayout:
    """ZEO's layout of a blob cache, as ``ZODB.blob.LAYOUTS`` wants it."""

    size = _BUCKETS

    def oid_to_path(self, oid: bytes) -> str:
        """Return the bucket of *oid*: a relative path."""
        return str(int.from_bytes(oid, "big") % self.size)

    def getBlobFilePath(self, oid: bytes, tid: bytes) -> str:  # noqa: N802 - ZODB's name
        """Return the relative path of a committed blob."""
        return blob_path(oid, tid)


def make_helper(path: str, shared: bool) -> Any:
    """Return ZODB's ``FilesystemHelper`` for the directory *path*, which is made if necessary.

    :param shared: it is the server's own directory, not a cache.
    :raises ConfigurationError: it is something else, or cannot be used.
    """
    # Importing this costs as much as the rest of a client, and most clients have no blobs.
    from ZODB.blob import LAYOUTS, FilesystemHelper

    option = f"blob_dir {path}"
    try:
        marker = read_marker(path)
    except OSError as error:
        raise ConfigurationError(option, f"cannot be used: {error}") from error
    if shared:
        if marker == LAYOUT:
            raise ConfigurationError(
                option,
                "this is the blob cache of a client, not the blob directory of a server",
                "set shared_blob_dir to false, or name the server's directory",
            )
        if marker is not None and marker not in LAYOUTS:
            raise ConfigurationError(option, f"has the unknown layout {marker!r}")
        helper = FilesystemHelper(path)
    else:
        LAYOUTS.setdefault(LAYOUT, CacheLayout())
        if not marker and _looks_like_a_servers(path):
            marker = "lawn"
        if marker and marker != LAYOUT:
            raise ConfigurationError(
                option,
                f"has the layout {marker!r} of a server's blob directory, not that of a cache",
                "name a directory of its own, or set shared_blob_dir to true if the server"
                " stores its blobs there",
            )
        helper = FilesystemHelper(path, layout_name=LAYOUT)
    try:
        # Many clients may start at once: ZODB's own `create` trips over a directory that
        # appears meanwhile, and over a marker that is not yet written.
        os.makedirs(helper.temp_dir, exist_ok=True)
        if not marker and not shared:
            _write_marker(path)
        helper.create()
    except OSError as error:
        raise ConfigurationError(option, f"cannot be used: {error}") from error
    return helper


def read_marker(directory: str) -> str | None:
    """Return the name of a blob directory's layout, or None if it does not say.

    :raises OSError: it cannot be read.
    """
    try:
        with open(os.path.join(directory, MARKER_NAME), encoding="ascii", errors="replace") as file:
            return file.read(100).strip()
    except FileNotFoundError:
        return None


def _write_marker(directory: str) -> None:
    handle, path = tempfile.mkstemp(prefix=MARKER_NAME, dir=directory)
    with open(handle, "w") as file:
        file.write(LAYOUT)
        os.fchmod(handle, 0o644)
    os.replace(path, os.path.join(directory, MARKER_NAME))


def _looks_like_a_servers(path: str) -> bool:
    """Whether a directory without a marker has entries as ZODB made before it had markers."""
    try:
        names = os.listdir(path)
    except OSError:
        return False
    return any(name.startswith("0x") for name in names)


def remove(path: str) -> None:
    """Remove a file; it need not exist."""
    try:
        os.remove(path)
    except FileNotFoundError:
        pass

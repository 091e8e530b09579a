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

import logging
import os
import tempfile
from typing import Any, Final

from ..errors import ConfigurationError

logger = logging.getLogger(__name__)

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


def bucket_name(oid: bytes) -> str:
    """Return the directory of the blobs of *oid* in a cache, relative to the cache."""
    return str(int.from_bytes(oid, "big") % _BUCKETS)


class CacheLayout:
    """ZEO's layout of a blob cache, as ``ZODB.blob.LAYOUTS`` wants it."""

    size = _BUCKETS

    def oid_to_path(self, oid: bytes) -> str:
        """Return the bucket of *oid*: a relative path."""
        return bucket_name(oid)

    def getBlobFilePath(self, oid: bytes, tid: bytes) -> str:  # noqa: N802 - ZODB's name
        """Return the relative path of a committed blob."""
        return blob_path(oid, tid)


def make_helper(path: str, shared: bool) -> Any:
    """Return ZODB's ``FilesystemHelper`` for the directory *path*, which is made if necessary.

    :param shared: it is the server's own directory, not a cache.
    :raises ConfigurationError: it is something else, or cannot be used.
    """
    option = f"blob_dir {path}"
    try:
        # Empty for a moment while somebody else makes the directory.
        marker = read_marker(path) or None
        return _open_shared(path, marker, option) if shared else _open_cache(path, marker, option)
    except OSError as error:
        raise ConfigurationError(option, f"cannot be used: {error}") from error


def _open_shared(path: str, marker: str | None, option: str) -> Any:
    # Importing this costs as much as the rest of a client, and most clients have no blobs.
    from ZODB.blob import LAYOUTS, FilesystemHelper

    refuse_cache(path, option, "set shared_blob_dir to false, or name the server's directory")
    if marker is not None and marker not in LAYOUTS:
        raise ConfigurationError(option, f"has the unknown layout {marker!r}")
    helper = FilesystemHelper(path)
    if marker is None:
        # As ZEO does: client and server may be started together for the first time.
        logger.warning(
            "%s: no server has stored blobs there yet, though it is to be shared with one; if "
            "one has, its file system is not mounted, or the path is another one here",
            option,
        )
        os.makedirs(path, exist_ok=True)
        # Before anything else is there: ZODB would take it for an old directory.
        noted = _write_marker(path, helper.layout_name)
        if noted != helper.layout_name:
            return _open_shared(path, noted, option)
    os.makedirs(helper.temp_dir, exist_ok=True)
    return helper


def _open_cache(path: str, marker: str | None, option: str) -> Any:
    from ZODB.blob import LAYOUTS, FilesystemHelper

    if _looks_like_a_servers(path):
        # An older client of ZEO may have marked a directory as its own that had no marker.
        marker = "lawn" if marker in (None, LAYOUT) else marker
    if marker is not None and marker != LAYOUT:
        raise ConfigurationError(
            option,
            f"has the layout {marker!r} of a server's blob directory, not that of a cache",
            "name a directory of its own, or set shared_blob_dir to true if the server"
            " stores its blobs there",
        )
    LAYOUTS.setdefault(LAYOUT, CacheLayout())
    helper = FilesystemHelper(path, layout_name=LAYOUT)
    os.makedirs(path, exist_ok=True)
    if marker is None:
        noted = _write_marker(path, LAYOUT)
        if noted != LAYOUT:
            return _open_cache(path, noted, option)
    os.makedirs(helper.temp_dir, exist_ok=True)
    return helper


def refuse_cache(path: str, option: str, remedy: str) -> None:
    """Refuse the blob cache of clients as the blob directory of a server.

    :param path: the directory; it need not exist.
    :param option: how the user calls it.
    :param remedy: what to do, for the error.
    :raises ConfigurationError: it is one; the blobs in it would be evicted some day.
    :raises OSError: it cannot be read.
    """
    marker = read_marker(path) or None
    if marker == LAYOUT or (marker is None and _looks_like_a_cache(path)):
        raise ConfigurationError(
            option,
            f"{path} is the blob cache of a client, not the blob directory of a server: when it "
            "is full, what is in it is removed",
            remedy,
        )


def read_marker(directory: str) -> str | None:
    """Return the name of a blob directory's layout, or None if it does not say.

    :raises OSError: it cannot be read.
    """
    try:
        with open(os.path.join(directory, MARKER_NAME), encoding="ascii", errors="replace") as file:
            return file.read(100).strip()
    except FileNotFoundError:
        return None


def _write_marker(directory: str, layout: str) -> str:
    """Note the layout of a directory that has none; return it, or that which somebody else has
    noted meanwhile."""
    # At once and whole: many clients may start together, and ZODB's own way leaves the file
    # empty for a moment.
    handle, path = tempfile.mkstemp(prefix=MARKER_NAME, dir=directory)
    marker = os.path.join(directory, MARKER_NAME)
    try:
        with open(handle, "w") as file:
            file.write(layout)
            os.fchmod(handle, 0o644)
        try:
            # What was taken for an old directory may be one that somebody is just making.
            os.link(path, marker)
        except OSError:
            # There is one, or the file system has no second names.  One that is empty for good was
            # left by who died while it was written.
            found = read_marker(directory)
            if found:
                return found
            os.replace(path, marker)
    finally:
        remove(path)
    return layout


def _names_in(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except FileNotFoundError:
        return []


def _looks_like_a_servers(path: str) -> bool:
    """Whether a directory has entries as servers make them, in either layout."""
    return any(name.startswith("0x") for name in _names_in(path))


def _looks_like_a_cache(path: str) -> bool:
    """Whether a directory that has lost its marker has blobs where a cache has them."""
    return any(
        other.endswith(BLOB_SUFFIX)
        for name in _names_in(path)
        if name.isdigit() and os.path.isdir(os.path.join(path, name))
        for other in os.listdir(os.path.join(path, name))
    )


def remove(path: str) -> None:
    """Remove a file; it need not exist."""
    try:
        os.remove(path)
    except FileNotFoundError:
        pass

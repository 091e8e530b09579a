"""The files of blobs and their stubs in a blob directory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

from .stubs import BLOB_SUFFIX, SUFFIX

OLD_SUFFIX: Final = ".old"
"""Of the directory that a pack puts aside."""


class LocalBlob(NamedTuple):
    """A blob that has its file here.

    :ivar size: bytes.
    :ivar used: when it was last asked for, in seconds since the epoch.
    :ivar has_stub: whether there is a stub beside it.
    """

    path: str
    size: int
    used: float
    has_stub: bool


class Stock(NamedTuple):
    """What there is in a blob directory.

    :ivar files: blobs with a file.
    :ivar size: their bytes.
    :ivar pending: those among them without a stub.
    :ivar pending_size: their bytes.
    :ivar cold: stubs without a file.
    """

    files: int = 0
    size: int = 0
    pending: int = 0
    pending_size: int = 0
    cold: int = 0


def no_rest() -> None:
    """Go on at once."""


def walk(helper: Any, rest: Callable[[], None] = no_rest) -> Iterator[LocalBlob | str]:
    """Yield each blob with a file, and the path of each stub without one.

    Files that come or go meanwhile may be left out.

    :param helper: ZODB's ``FilesystemHelper`` of the directory.
    :param rest: called for each directory, of which there may be millions.
    :raises OSError: a directory cannot be read.
    """
    waiting = [os.path.abspath(helper.base_dir)]
    temporary = os.path.abspath(helper.temp_dir)
    while waiting:
        rest()
        try:
            with os.scandir(waiting.pop()) as found:
                entries = {entry.name: entry for entry in found}
        except FileNotFoundError:
            continue  # a pack was quicker
        for name, entry in entries.items():
            if name.endswith(BLOB_SUFFIX):
                try:
                    status = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                has_stub = name.removesuffix(BLOB_SUFFIX) + SUFFIX in entries
                yield LocalBlob(entry.path, status.st_size, status.st_atime, has_stub)
            elif name.endswith(SUFFIX):
                if name.removesuffix(SUFFIX) + BLOB_SUFFIX not in entries:
                    yield entry.path
            elif entry.is_dir(follow_symlinks=False) and entry.path != temporary:
                waiting.append(entry.path)


def take_stock(helper: Any, rest: Callable[[], None] = no_rest) -> Stock:
    """Count what there is.

    :param rest: as of :func:`walk`.
    :raises OSError: see :func:`walk`.
    """
    files = size = pending = pending_size = cold = 0
    for found in walk(helper, rest):
        if isinstance(found, str):
            cold += 1
            continue
        files += 1
        size += found.size
        if not found.has_stub:
            pending += 1
            pending_size += found.size
    return Stock(files, size, pending, pending_size, cold)


def stubs_of(helper: Any, oid: bytes) -> Iterator[str]:
    """Yield the paths of the stubs of an object, those too that a pack has put aside.

    :raises OSError: a directory cannot be read.
    """
    directory = str(helper.getPathForOID(oid))
    top = os.path.abspath(helper.base_dir)
    aside = os.path.join(top + OLD_SUFFIX, os.path.relpath(directory, top))
    for place in (directory, aside):
        try:
            names = os.listdir(place)
        except FileNotFoundError:
            continue
        # With the layout "lawn" this directory is the object's own, too.
        yield from (os.path.join(place, name) for name in names if name.endswith(SUFFIX))

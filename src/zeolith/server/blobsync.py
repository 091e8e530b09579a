"""Blob files and their directories, on their way to the disk (R4)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Set
from typing import NamedTuple

from .flushing import do_all


class Flushed(NamedTuple):
    """A file as it was when it was brought to disk: it is there for as long as this is the same.

    A new name, or another mode, changes nothing of it.
    """

    device: int
    inode: int
    size: int
    modified: int


def flush(descriptor: int, status: os.stat_result | None = None) -> Flushed:
    """Bring an open file to disk.

    :param status: of the file, if it is known; who has changed the file since has another one.
    :raises OSError: the disk is full, or has failed.
    """
    os.fsync(descriptor)
    if status is None:
        status = os.fstat(descriptor)
    return Flushed(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def sync_blobs(files: Iterable[tuple[str, str]], flushed: Set[Flushed] = frozenset()) -> None:
    """Bring blob files and the directories that lead to them to disk.

    :param files: (file, directory that is known to be there for good) pairs.
    :param flushed: files that are on disk already, under whatever name.
    :raises OSError: a file is missing, or the disk failed.
    """
    directories: dict[str, str] = {}
    paths = []
    for path, top in files:
        status = os.stat(path)
        # As a plain tuple: there may be many thousands.
        state = status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
        if state not in flushed:
            paths.append(path)
        top = os.path.abspath(top)
        directory = os.path.abspath(path).rpartition(os.sep)[0]
        # Any of them may have been made for this blob.
        while directories.get(directory) != top and directory.startswith(top):
            directories[directory] = top
            if directory == top:
                break
            directory = directory.rpartition(os.sep)[0]
    do_all(sync_path, paths)
    do_all(sync_path, list(directories), are_short=True)


def sync_path(path: str) -> None:
    """Bring a file or directory to disk.

    :raises OSError: it is missing, or the disk failed.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

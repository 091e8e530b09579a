"""Files that are complete or not there at all, even after a crash."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

from .failures import BackupError

CHUNK: Final = 1 << 20
PARTIAL: Final = ".partial"
"""Ending of the name of a file that is being written."""


def sync_directory(path: Path) -> None:
    """Bring to disk what the directory lists."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(path: Path) -> None:
    """Bring the content of a file to disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_durably(path: Path, content: bytes) -> None:
    """Write a file, or replace it, in one step."""
    partial = path.with_name(path.name + PARTIAL)
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    sync_directory(path.parent)


def copy_durably(
    source: Path, partial: Path, target: Path, advance: Callable[[int], None]
) -> tuple[int, str]:
    """Copy a file; its directory is left to the caller to sync.

    :param partial: where to write it until it is complete.
    :param advance: told the number of bytes copied since it was last told.
    :return: size in bytes and SHA-256.
    """
    digest = hashlib.sha256()
    size = 0
    with source.open("rb") as origin, partial.open("wb") as file:
        while chunk := origin.read(CHUNK):
            digest.update(chunk)
            file.write(chunk)
            size += len(chunk)
            advance(len(chunk))
        file.flush()
        # As ZODB does: nobody is to change a committed blob by accident.
        os.fchmod(file.fileno(), os.fstat(file.fileno()).st_mode & ~0o222)
        os.fsync(file.fileno())
    partial.rename(target)
    return size, digest.hexdigest()


def hash_file(path: Path, advance: Callable[[int], None]) -> tuple[int, str]:
    """Return size in bytes and SHA-256 of a file."""
    digest = hashlib.sha256()
    size = 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            size += len(chunk)
            advance(len(chunk))
    return size, digest.hexdigest()


def remove_tree(path: Path) -> None:
    """Remove a directory and all that is in it; it need not exist."""
    if path.exists():
        shutil.rmtree(path)


def check_room(directory: Path, needed: int) -> None:
    """Refuse to begin what cannot end.

    :param needed: bytes that are to be written below *directory*.
    :raises BackupError: there is less room.
    """
    found = os.statvfs(directory)
    free = found.f_bavail * found.f_frsize
    if free < needed:
        raise BackupError(
            f"{directory}: {needed} bytes are needed here, {free} are free; make room"
        )

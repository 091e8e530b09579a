"""Blob directories of clients, and servers that are functions."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from tests.support.raw import oid_of

from zeolith.client.blobs import CHUNK_SIZE, BlobDirectory

SERIAL = b"\x03\xff" + bytes(5) + b"\x01"


def sender(directory: BlobDirectory, data: bytes) -> Callable[[bytes, bytes], None]:
    """Return a fetch function whose server sends *data*."""

    def fetch(oid: bytes, serial: bytes) -> None:
        directory.download_started(oid, serial)
        for start in range(0, len(data), CHUNK_SIZE):
            directory.download_chunk(oid, serial, data[start : start + CHUNK_SIZE])
        directory.download_ended(oid, serial)

    return fetch


def no_fetch(oid: bytes, serial: bytes) -> None:
    raise AssertionError("nothing was to be fetched")


def readable_as_folder(path: str) -> int:
    """The mode that ZODB gives blobs: read-only, and readable to whom the directory is."""
    return 0o400 | os.stat(os.path.dirname(path)).st_mode & 0o444


def read(path: str) -> bytes:
    return Path(path).read_bytes()


def leftovers(directory: BlobDirectory) -> list[str]:
    """Partial and uploaded files."""
    return [
        name
        for _base, _dirs, names in os.walk(directory.path)
        for name in names
        if name.endswith((".dl", ".tmp-"))
    ]


def fill(directory: BlobDirectory, numbers: range, size: int) -> list[str]:
    """Fetch blobs of *size* bytes each, used in the order of *numbers*; return their paths."""
    paths = []
    for age, number in enumerate(numbers):
        # Opened, not loaded: nobody holds them afterwards.
        directory.open(oid_of(number), SERIAL, None, sender(directory, b"x" * size)).close()
        paths.append(directory.filename(oid_of(number), SERIAL))
        os.utime(paths[-1], (1000 + age, 1000))
    return paths


def which(paths: list[str]) -> list[int]:
    """Return the places in *paths* of those that exist."""
    return [number for number, path in enumerate(paths) if os.path.exists(path)]

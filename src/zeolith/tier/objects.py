"""What this package asks of an object store."""

from __future__ import annotations

import hashlib
import os
import secrets
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from persistent.TimeStamp import TimeStamp

_BLOCK: Final = 1024 * 1024


class StoredObject(NamedTuple):
    """One blob in the store.

    :ivar name: its key without the prefix: object id, time and a number drawn by lot.
    :ivar size: bytes.
    :ivar sha256: of its content, in hexadecimal digits.
    """

    name: str
    size: int
    sha256: str


class Listed(NamedTuple):
    """An object as a list of the store has it.

    :ivar name: as that of :class:`StoredObject`.
    :ivar age: seconds since it was stored, by the store's clock.
    """

    name: str
    age: float


class ObjectStore(Protocol):
    """A store.  Any thread may call this; all calls block, for a bounded time without progress.

    Each raises :class:`.failures.StoreUnavailable` if the store does not do what is asked.
    """

    def put(self, found: StoredObject, path: str, labels: dict[str, str]) -> None:
        """Store the file *path*.

        :param labels: what the object is to say of itself, beside size and checksum.
        :raises OSError: the file cannot be read.
        """

    def get(self, wanted: StoredObject, path: str) -> None:
        """Bring an object into the new file *path*, and to disk.

        :raises ObjectMissing: there is none.
        :raises ObjectDamaged: it is not what was stored.
        :raises OSError: the file cannot be written.
        """

    def list(self) -> Iterator[Listed]:
        """Yield all objects."""

    def delete(self, names: Iterable[str]) -> None:
        """Delete objects; it does not matter whether they exist."""

    def read_marker(self) -> str | None:
        """Return what :meth:`write_marker` has written; None if nothing."""

    def write_marker(self, text: str) -> None:
        """Keep a short text, which is none of the objects; nothing happens if there is one."""


def make_name(oid: bytes, tid: bytes | None = None) -> str:
    """Return a new name for a blob of *oid*.

    :param tid: the transaction that wrote it.  Before the commit lock there is none: the time now,
        in the same form, stands for it, and the transaction's id will be a little greater.
    """
    stamp = _now() if tid is None else tid
    return f"{oid.hex()}/{stamp.hex()}-{secrets.token_hex(6)}"


def _now() -> bytes:
    now = time.time()
    stamp: bytes = TimeStamp(*time.gmtime(now)[:5], now % 60).raw()
    return stamp


def describe_file(path: str, oid: bytes, tid: bytes | None = None) -> StoredObject:
    """Return what the file *path* will be in the store.

    :raises OSError: it cannot be read.
    """
    with open(path, "rb", buffering=0) as file:
        digest = hashlib.file_digest(file, "sha256")
        size = os.fstat(file.fileno()).st_size
    return StoredObject(make_name(oid, tid), size, digest.hexdigest())


class CheckedFile:
    """A new file that takes up an object; what is wrong with it is found before it is used.

    :param path: must not exist.
    :raises OSError: it cannot be made.
    """

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._file = open(path, "xb", buffering=0)  # noqa: SIM115 - closed by the caller
        self._digest = hashlib.sha256()
        self._size = 0

    def write(self, data: bytes) -> None:
        """Append *data*.

        :raises OSError: the disk is full, or the like.
        """
        self._digest.update(data)
        self._size += len(data)
        rest = memoryview(data)
        while rest:
            rest = rest[self._file.write(rest) :]

    def finish(self, wanted: StoredObject) -> str | None:
        """Bring the file to disk; return what is wrong with it, None if nothing."""
        if self._size != wanted.size:
            return f"it has {self._size} bytes instead of {wanted.size}"
        if self._digest.hexdigest() != wanted.sha256:
            return "its checksum differs"
        os.fsync(self._file.fileno())
        return None

    def close(self) -> None:
        """Close the file."""
        self._file.close()

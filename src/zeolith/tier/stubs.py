"""Stubs: small files beside those of blobs that say under which name the store has them.

The stub of ``0x….blob`` is ``0x….cold``: a line of JSON with ``name``, ``size`` and ``sha256``.
One that is cut off is as good as none while its blob is here, which is then uploaded again; a blob
is removed only after its stub has been brought to disk.
"""

from __future__ import annotations

import json
import os
import re
from typing import Final

from .objects import StoredObject

SUFFIX: Final = ".cold"
BLOB_SUFFIX: Final = ".blob"

_MAX_SIZE: Final = 4096
_NAME: Final = re.compile(r"[0-9a-f]{16}/[0-9a-f]{16}-[0-9a-f]{12}")
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


def stub_of(path: str) -> str:
    """Return the path of the stub of the blob *path*."""
    return path.removesuffix(BLOB_SUFFIX) + SUFFIX


def read_stub(path: str) -> StoredObject | None:
    """Return what a stub says; None if there is none, or it is damaged.

    :param path: of the stub.
    :raises OSError: it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            text = file.read(_MAX_SIZE)
    except FileNotFoundError:
        return None
    try:
        content = json.loads(text)
        name, size, sha256 = content["name"], content["size"], content["sha256"]
    except (ValueError, KeyError, TypeError):
        return None
    # What is read here becomes part of requests.
    if not (isinstance(name, str) and _NAME.fullmatch(name)):
        return None
    if not (isinstance(sha256, str) and _DIGEST.fullmatch(sha256)):
        return None
    return StoredObject(name, size, sha256) if type(size) is int and size >= 0 else None


def write_stub(path: str, found: StoredObject) -> None:
    """Write a stub, or replace one; it appears whole or not at all.

    :raises OSError: it cannot be written.
    """
    temporary = f"{path}.tmp"
    with open(temporary, "w", encoding="ascii") as file:
        json.dump(found._asdict(), file)
    os.replace(temporary, path)


def sync_file(path: str) -> None:
    """Bring a file, such as a stub, and its name to disk.

    :raises OSError: that fails.
    """
    for name in (path, os.path.dirname(path)):
        descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

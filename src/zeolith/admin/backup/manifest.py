"""What belongs to one backup.

A backup ``NAME`` is the files ``NAME.fs`` or ``NAME.deltafs`` (``fsz``: compressed), ``NAME.index``
and, for each full one, ``NAME.dat``, which are repozo's; ``NAME.blobs``, a line for each blob that
came with it; and ``NAME.json``, the manifest, written last.  A backup without manifest does not
exist.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final, NamedTuple

from ...types import Oid, Tid
from .failures import Damage
from .files import write_durably
from .scan import BlobKey

FORMAT: Final = 1
ENDING: Final = ".json"
BLOBS_ENDING: Final = ".blobs"


class BlobEntry(NamedTuple):
    """A blob as it was backed up: size in bytes, and SHA-256."""

    size: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """One backup.

    :ivar name: time it was made (UTC), as repozo writes it: ``2026-03-04-05-06-07``.
    :ivar previous: name of the backup it continues; None if it is a full one.
    :ivar database: path of the file that was backed up.
    :ivar blob_dir: path of its blob directory, or None.
    :ivar layout: name of that directory's layout, or None.
    :ivar part: name of repozo's file.
    :ivar stored: size of that file.
    :ivar start: position in the database where the part begins.
    :ivar end: position where it ends, between two transactions.
    :ivar md5: checksum of the part, uncompressed; repozo's.
    :ivar sha256: the same with a better function.
    :ivar transactions: number of them in the part.
    :ivar first_tid: tid of the first of them, in hexadecimal.
    :ivar last_tid: tid of the last of them: the transaction that this backup ends with.
    :ivar packed_tid: tid of the last packed one, or None.
    :ivar has_blobs: whether blobs were backed up; False if they were left out.
    :ivar blob_count: number of blobs that came with this backup.
    :ivar blob_bytes: their size.
    :ivar blobs_sha256: checksum of their list.
    :ivar missing: ``[oid, tid]`` of blobs that the database itself had lost.
    """

    name: str
    previous: str | None
    database: str
    blob_dir: str | None
    layout: str | None
    part: str
    stored: int
    start: int
    end: int
    md5: str
    sha256: str
    transactions: int
    first_tid: str
    last_tid: str
    packed_tid: str | None
    has_blobs: bool
    blob_count: int
    blob_bytes: int
    blobs_sha256: str
    missing: list[list[str]]

    @property
    def is_full(self) -> bool:
        return self.previous is None

    @property
    def kind(self) -> str:
        return "full" if self.is_full else "incremental"

    @property
    def last(self) -> Tid:
        """The transaction that this backup ends with."""
        return Tid(bytes.fromhex(self.last_tid))

    @property
    def packed(self) -> Tid | None:
        """The last transaction of the part that has been packed."""
        return None if self.packed_tid is None else Tid(bytes.fromhex(self.packed_tid))

    @property
    def lost(self) -> set[BlobKey]:
        """The blobs that the database itself had lost."""
        return {
            BlobKey(Oid(bytes.fromhex(oid)), Tid(bytes.fromhex(tid))) for oid, tid in self.missing
        }


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Make the backup exist."""
    values = {"format": FORMAT, **asdict(manifest)}
    write_durably(
        directory / (manifest.name + ENDING), (json.dumps(values, indent=1) + "\n").encode()
    )


def read_manifest(path: Path) -> Manifest:
    """Read what :func:`write_manifest` wrote.

    :raises Damage: it was something else.
    """
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if values.pop("format") != FORMAT:
            raise Damage(str(path), "was written by a newer version of Zeolith; use that one")
        unknown = values.keys() - {field.name for field in fields(Manifest)}
        if unknown:
            raise Damage(str(path), f"has the unknown entries {', '.join(sorted(unknown))}")
        manifest = Manifest(**values)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise Damage(str(path), f"is no manifest of a backup: {error}") from error
    if manifest.name + ENDING != path.name:
        raise Damage(str(path), f"is the manifest of {manifest.name}")
    return manifest


def format_blobs(blobs: dict[BlobKey, BlobEntry]) -> bytes:
    """Return the content of a list of blobs."""
    return "".join(
        f"{key.oid.hex()} {key.tid.hex()} {entry.size} {entry.sha256}\n"
        for key, entry in blobs.items()
    ).encode()


def digest_of(content: bytes) -> str:
    """Return the checksum of a list of blobs."""
    return hashlib.sha256(content).hexdigest()


def read_blobs(directory: Path, manifest: Manifest) -> Iterator[tuple[BlobKey, BlobEntry]]:
    """Yield the blobs that came with a backup.

    :raises Damage: the list is not there, or not as it was written.
    """
    if not manifest.has_blobs:
        return
    path = directory / (manifest.name + BLOBS_ENDING)
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise Damage(str(path), "is missing") from error
    if digest_of(content) != manifest.blobs_sha256:
        raise Damage(str(path), "is not what was written: its checksum differs")
    for line in content.decode().splitlines():
        oid, tid, size, sha256 = line.split()
        key = BlobKey(Oid(bytes.fromhex(oid)), Tid(bytes.fromhex(tid)))
        yield key, BlobEntry(int(size), sha256)

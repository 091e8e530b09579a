"""Putting the file of a backup together, and finding out what is in it."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ...types import Tid
from .choosing import Choice
from .failures import Damage
from .filepart import INDEX, UNREADABLE, recover
from .files import CHUNK
from .manifest import BlobEntry
from .report import Report
from .repository import Repository
from .scan import BlobKey, scan


@dataclass
class Recovered:
    """A file that was put together.

    :ivar path: where it is; its index is beside it.
    :ivar last_tid: its last transaction.
    :ivar transactions: how many it has.
    :ivar blobs: the blobs it refers to.
    :ivar lost: blobs it refers to that the database itself had lost.
    :ivar unlisted: blobs it refers to that are not backed up.
    """

    path: Path
    last_tid: Tid
    transactions: int
    blobs: dict[BlobKey, BlobEntry]
    lost: list[BlobKey]
    unlisted: list[BlobKey]


def index_of(path: Path) -> Path:
    """Return the path of the index of a FileStorage's file."""
    return path.with_name(path.name + INDEX)


def recover_file(
    repository: Repository, choice: Choice, path: Path, report: Report, *, verbose: bool = False
) -> Recovered:
    """Put the file of a backup together, check it, and cut it off where wished.

    :param path: where to write it; an index is written beside it.
    :raises Damage: it is not what was backed up, or cannot be opened.
    :raises BackupError: repozo could not do it.
    """
    check_parts(repository, choice)
    report.detail(f"repozo puts {path} together")
    try:
        recover(repository.path, choice.last.name, path, verbose)
    except UNREADABLE:
        _check_compressed(repository, choice)
        raise
    blobs: list[BlobKey] = []
    perhaps: list[BlobKey] = []
    last_tid: Tid | None = None
    cut = transactions = 0
    size = path.stat().st_size
    if size != choice.last.end:
        raise Damage(str(path), f"has {size} bytes after recovery instead of {choice.last.end}")
    with path.open("r+b") as file, report.progress("checking the file", size) as advance:
        for manifest in choice.chain:
            part = str(repository.path / manifest.part)
            try:
                found = scan(
                    file, manifest.start, manifest.end, until=choice.until, advance=advance
                )
            except Damage as error:
                raise Damage(part, error.problem) from error
            if found.sha256 != manifest.sha256:
                raise Damage(part, "is not what was backed up: its checksum differs")
            blobs += found.blobs
            perhaps += found.perhaps
            transactions += found.transactions
            if found.last_tid is not None:
                last_tid, cut = found.last_tid, found.cut
        assert last_tid is not None  # a backup has at least one transaction
        if cut < size:
            file.truncate(cut)
            index_of(path).unlink(missing_ok=True)
    _open(path)
    known = repository.blobs_of(choice.chain)
    lost = {blob for manifest in choice.chain for blob in manifest.lost}
    has_blobs = choice.last.has_blobs
    return Recovered(
        path,
        last_tid,
        transactions,
        {blob: known[blob] for blob in blobs + perhaps if blob in known},
        [blob for blob in blobs if blob in lost and blob not in known],
        [blob for blob in blobs if has_blobs and blob not in known and blob not in lost],
    )


def check_parts(
    repository: Repository, choice: Choice, found: Callable[[Damage], None] | None = None
) -> None:
    """Check that the parts of the file are there and as long as they were.

    :param found: is told of damage instead of it being raised.
    :raises Damage: they are not.
    """
    for manifest in choice.chain:
        path = repository.path / manifest.part
        try:
            size = path.stat().st_size
            if size == manifest.stored:
                continue
            damage = Damage(str(path), f"has {size} bytes instead of {manifest.stored}")
        except FileNotFoundError:
            damage = Damage(str(path), "is missing")
        if found is None:
            raise damage
        found(damage)


def _check_compressed(repository: Repository, choice: Choice) -> None:
    """Find the part that cannot be decompressed: repozo does not tell.

    :raises Damage: this is it.
    """
    for manifest in choice.chain:
        path = repository.path / manifest.part
        if path.name.endswith("z"):
            try:
                with gzip.open(path) as file:
                    while file.read(CHUNK):
                        pass
            except UNREADABLE as error:
                raise Damage(str(path), f"cannot be decompressed: {error}") from error


def _open(path: Path) -> None:
    """Open the file as its users will, with its index, and bring the index up to date."""
    from ZODB.FileStorage import FileStorage
    from ZODB.FileStorage.FileStorage import FileStorageError
    from ZODB.FileStorage.format import CorruptedError
    from ZODB.POSException import POSKeyError
    from ZODB.utils import load_current, z64

    try:
        storage = FileStorage(str(path), read_only=True)
        try:
            end = storage.getSize()
            if end != path.stat().st_size:
                raise Damage(str(path), f"can be opened only up to {end}")
            load_current(storage, z64)
            storage._index.save(end, str(index_of(path)))
        finally:
            storage.close()
    except POSKeyError as error:
        raise Damage(str(path), "has no root object") from error
    except (FileStorageError, CorruptedError) as error:
        raise Damage(str(path), f"cannot be opened: {error}") from error

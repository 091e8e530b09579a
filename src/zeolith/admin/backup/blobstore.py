"""The blobs of a repository: each revision once, however many backups it belongs to.

They lie as in a blob directory of ZODB, layout *bushy*, so that they can be had without Zeolith
too.  A file is written below ``tmp`` and moved to its place when it is on disk; in its place it
is never changed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Container
from pathlib import Path
from typing import Any, Final

from .failures import Damage
from .files import copy_durably, hash_file, remove_tree, sync_directory
from .manifest import BlobEntry
from .scan import BlobKey

DIRECTORY: Final = "blobs"
_TEMPORARY: Final = "tmp"
_ENDING: Final = ".blob"


class BlobStore:
    """Blobs below one directory.

    :param root: the directory; made when the first blob comes.
    :param layout: ZODB's name of the layout.
    """

    def __init__(self, root: Path, layout: str = "bushy") -> None:
        from ZODB.blob import FilesystemHelper

        self._root = root
        self._temporary = root / _TEMPORARY
        self._helper: Any = FilesystemHelper(str(root), layout_name=layout)
        self._unsynced: set[Path] = set()

    def create(self) -> None:
        """Make the directory, with the marker of its layout."""
        if not self._temporary.is_dir() or not (self._root / ".layout").is_file():
            self._helper.create()
            self._unsynced |= {self._root, self._root.parent}

    def path_of(self, blob: BlobKey) -> Path:
        """Return where a blob is, or would be."""
        return Path(self._helper.getBlobFilename(blob.oid, blob.tid))

    def temporary_path(self, blob: BlobKey) -> Path:
        """Return a path in the repository, free for whoever fetches a blob that is to be added."""
        path = self._temporary / f"{blob.oid.hex()}.{blob.tid.hex()}.fetched"
        path.unlink(missing_ok=True)
        return path

    def add(
        self,
        blob: BlobKey,
        source: Path,
        *,
        known: BlobEntry | None = None,
        link: bool = False,
        advance: Callable[[int], None] = lambda count: None,
    ) -> BlobEntry:
        """Have a copy of a blob, unless it is there.

        :param source: the blob's file.
        :param known: what an earlier backup says of it.
        :param link: make a hard link instead of a copy.
        :param advance: told the numbers of bytes that need no more attention.
        :raises FileNotFoundError: *source* does not exist.
        """
        target = self.path_of(blob)
        size = source.stat().st_size
        if target.exists() and target.stat().st_size == size:
            if known is not None and known.size == size:
                advance(size)
                return known
            # Left by a backup that did not come to its end.
            return BlobEntry(*hash_file(target, advance))
        self._make_directory(target.parent)
        partial = self._temporary / f"{blob.oid.hex()}.{blob.tid.hex()}"
        if link:
            partial.unlink(missing_ok=True)
            os.link(source, partial)
            entry = BlobEntry(*hash_file(partial, advance))
            partial.rename(target)
        else:
            entry = BlobEntry(*copy_durably(source, partial, target, advance))
        self._unsynced.add(target.parent)
        return entry

    def _make_directory(self, path: Path) -> None:
        missing = []
        while not path.is_dir():
            missing.append(path)
            path = path.parent
        for directory in reversed(missing):
            directory.mkdir(exist_ok=True)
            self._unsynced.add(directory.parent)

    def sync(self) -> None:
        """Bring to disk which blobs there are."""
        for directory in self._unsynced:
            sync_directory(directory)
        self._unsynced.clear()

    def check(
        self,
        blob: BlobKey,
        entry: BlobEntry,
        *,
        quick: bool,
        advance: Callable[[int], None] = lambda count: None,
    ) -> None:
        """Check that a blob is there, and is what was backed up.

        :param quick: look at its size only.
        :raises Damage: it is not.
        """
        path = self.path_of(blob)
        try:
            size = path.stat().st_size
            found = BlobEntry(size, entry.sha256) if quick else BlobEntry(*hash_file(path, advance))
        except OSError as error:
            raise Damage(str(path), f"{blob} cannot be read: {error.strerror or error}") from error
        if quick:
            advance(size)
        if found.size != entry.size:
            raise Damage(str(path), f"{blob} has {found.size} bytes instead of {entry.size}")
        if found != entry:
            raise Damage(str(path), f"{blob} is not what was backed up: its checksum differs")

    def forget_unfinished(self) -> None:
        """Remove what was being written when somebody pulled the plug."""
        remove_tree(self._temporary)

    def sweep(self, wanted: Container[BlobKey]) -> tuple[int, int]:
        """Remove all blobs but the *wanted*.

        :return: number and bytes of those removed.
        """
        count = size = 0
        for directory, _, files in os.walk(self._root, topdown=False):
            for name in files:
                path = Path(directory, name)
                if name.endswith(_ENDING):
                    blob = BlobKey(*self._helper.splitBlobFilename(str(path)))
                    if blob not in wanted:
                        size += path.stat().st_size
                        count += 1
                        path.unlink()
            if Path(directory).name.startswith("0x") and not os.listdir(directory):
                os.rmdir(directory)
        return count, size

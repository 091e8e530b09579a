"""A directory of backups of one database.

Beside repozo's files and the manifests (see :mod:`.manifest`) it has ``blobs`` (see
:mod:`.blobstore`), ``zeolith-backup.json``, which says of which database they are, and
``zeolith-backup.lock``, held by whoever changes it.

Whoever only reads takes no lock: what a manifest names is never changed, only removed.
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from ...errors import ConfigurationError
from ...types import Tid
from .blobstore import DIRECTORY, BlobStore
from .failures import BackupError, Damage
from .filepart import DAT, INDEX, PART_ENDINGS, UNFINISHED, is_part, split_name
from .files import PARTIAL, sync_directory, write_durably
from .manifest import (
    BLOBS_ENDING,
    ENDING,
    FORMAT,
    BlobEntry,
    Manifest,
    read_blobs,
    read_manifest,
)
from .report import Report
from .scan import Beginning, BlobKey, read_tids

IDENTITY: Final = "zeolith-backup.json"
LOCK: Final = "zeolith-backup.lock"

Chain = list[Manifest]
"""A full backup and the incremental ones that continue it, in order."""


class Repository:
    """A directory of backups.

    :param path: the directory.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.blobs = BlobStore(path / DIRECTORY)

    # What is there

    def read_chains(self) -> list[Chain]:
        """Return all backups, oldest first.

        :raises Damage: a manifest is damaged, or that of a backup in between is missing.
        """
        chains: list[Chain] = []
        for name in sorted(os.listdir(self.path)):
            found = split_name(name)
            if found is None or found[1] != ENDING:
                continue
            manifest = read_manifest(self.path / name)
            if manifest.previous is None:
                chains.append([manifest])
            elif chains and chains[-1][-1].name == manifest.previous:
                chains[-1].append(manifest)
            else:
                raise Damage(
                    str(self.path / name),
                    f"continues the backup {manifest.previous}, which is missing",
                )
        return chains

    def read_identity(self) -> tuple[str, Beginning] | None:
        """Return path and beginning of the database that is backed up here."""
        path = self.path / IDENTITY
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            beginning = Beginning(Tid(bytes.fromhex(values["first_tid"])), values["first_digest"])
            return values["database"], beginning
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise Damage(str(path), f"does not say which database this is: {error}") from error

    def write_identity(self, database: str, beginning: Beginning) -> None:
        """Say which database is backed up here."""
        values = {
            "format": FORMAT,
            "database": database,
            "first_tid": beginning.tid.hex(),
            "first_digest": beginning.digest,
        }
        write_durably(self.path / IDENTITY, (json.dumps(values, indent=1) + "\n").encode())

    def blobs_of(self, manifests: Chain) -> dict[BlobKey, BlobEntry]:
        """Return the blobs that came with these backups."""
        return {
            key: entry for manifest in manifests for key, entry in read_blobs(self.path, manifest)
        }

    def tids_of(self, chain: Chain) -> Iterator[Tid]:
        """Yield the tids of all transactions in a chain."""
        for manifest in chain:
            path = self.path / manifest.part
            with gzip.open(path) if path.name.endswith("z") else path.open("rb") as file:
                yield from read_tids(file, manifest.is_full)

    # Keeping it in order; the lock must be held

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep others from changing the repository.

        :raises BackupError: somebody is at it.
        """
        from zc.lockfile import LockError, LockFile

        path = self.path / LOCK
        try:
            lock = LockFile(str(path))
        except LockError as error:
            holder = path.read_text(encoding="ascii", errors="replace").strip()
            raise BackupError(
                f"{self.path}: process {holder} is making a backup here; try again when it is done"
            ) from error
        try:
            yield
        finally:
            lock.close()

    def clean(self, report: Report) -> bool:
        """Remove what a backup that did not come to its end has left.

        :return: whether there was anything.
        """
        if self.read_identity() is None:
            return False  # No backup of ours was ever begun here.
        chains = self.read_chains()
        names = {manifest.name for chain in chains for manifest in chain}
        parts = {manifest.part for chain in chains for manifest in chain}
        debris = [name for name in os.listdir(self.path) if _is_debris(name, names, parts)]
        for name in debris:
            report.detail(f"removing {name}, left by a backup that did not come to its end")
            (self.path / name).unlink()
        for chain in chains:
            self._write_dat(chain)
        if debris:
            self.blobs.forget_unfinished()
            sync_directory(self.path)
        return bool(debris)

    def _write_dat(self, chain: Chain) -> None:
        """Have repozo's own list of parts say what our manifests say.

        With bare names: repozo can take neither spaces in a path nor a repository that was moved.
        """
        path = self.path / (chain[0].name + DAT)
        content = "".join(f"{each.part} {each.start} {each.end} {each.md5}\n" for each in chain)
        try:
            if path.read_text() == content:
                return
        except FileNotFoundError:
            pass
        write_durably(path, content.encode())

    def remove(self, chain: Chain) -> None:
        """Remove backups; their blobs stay until they are swept."""
        for manifest in reversed(chain):
            # Once the manifest is gone, so is the backup, and the rest is debris.
            (self.path / (manifest.name + ENDING)).unlink()
            sync_directory(self.path)
            for name in (
                manifest.part,
                *(manifest.name + ending for ending in (INDEX, DAT, BLOBS_ENDING)),
            ):
                (self.path / name).unlink(missing_ok=True)

    def sweep_blobs(self) -> tuple[int, int]:
        """Remove blobs that belong to no backup; return number and bytes."""
        wanted = self.blobs_of([manifest for chain in self.read_chains() for manifest in chain])
        return self.blobs.sweep(wanted)


def _is_debris(name: str, names: set[str], parts: set[str]) -> bool:
    if name in (UNFINISHED, IDENTITY + PARTIAL):
        return True
    found = split_name(name)
    if found is None:
        return False
    root, ending = found
    if ending in PART_ENDINGS:
        return name not in parts
    return root not in names or ending.endswith(PARTIAL)


def open_repository(path: str) -> Repository:
    """Return a repository that has backups.

    :raises ConfigurationError: it has none, or cannot be read.
    """
    directory = Path(path).resolve()
    repository = Repository(directory)
    try:
        chains = repository.read_chains()
        names = os.listdir(directory)
    except OSError as error:
        raise ConfigurationError(
            f"repository {path}", f"cannot be read: {error.strerror or error}", "correct the path"
        ) from error
    if not chains:
        remedy = "make one with `zeolith backup`"
        if any(map(is_part, names)):
            remedy = "what repozo alone has made, `python -m ZODB.scripts.repozo -R` restores"
        raise ConfigurationError(f"repository {path}", "has no backup", remedy)
    return repository


def create_repository(path: str) -> Repository:
    """Return a repository to make a backup in; its directory is made if need be.

    :raises ConfigurationError: it cannot be, or is something else.
    """
    directory = Path(path).resolve()
    option = f"repository {path}"
    try:
        directory.mkdir(exist_ok=True)
        names = os.listdir(directory)
    except OSError as error:
        raise ConfigurationError(
            option,
            f"cannot be used: {error.strerror or error}",
            "name a directory that is there, or whose parent is",
        ) from error
    if not os.access(directory, os.W_OK | os.X_OK):
        raise ConfigurationError(
            option, "cannot be written", f"let user {os.geteuid()} write there"
        )
    if IDENTITY not in names and any(map(is_part, names)):
        raise ConfigurationError(
            option,
            "has backups that repozo alone has made, without blobs",
            "keep them as long as you need them, and name another directory",
        )
    return Repository(directory)

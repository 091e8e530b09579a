"""A database from a backup.

Everything is written under other names beside its place, checked and brought to disk; then the
blobs are moved to their place, and the file last.  A restore that is interrupted leaves nothing
that could be taken for a database.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ...errors import ConfigurationError
from .blobstore import BlobStore
from .choosing import Choice
from .failures import BackupError, Damage, translated
from .files import check_room, remove_tree, sync_directory, sync_file
from .manifest import BlobEntry
from .recovery import Recovered, index_of, recover_file
from .report import Report
from .repository import Repository
from .scan import BlobKey

_ENDING = ".restoring"
_NEW = ".restoring"
_OLD = ".replaced"
_UNIMPORTANT = {".layout", "tmp", "lost+found", _NEW, _OLD}
"""What an unused blob directory may have."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where to restore to.

    :ivar path: the file.
    :ivar blob_dir: the blob directory, or None.
    :ivar leave_blobs_out: restore the file only.
    :ivar overwrite: replace what is there.
    :ivar keep_going: restore what can be, in spite of damaged blobs.
    """

    path: Path
    blob_dir: Path | None = None
    leave_blobs_out: bool = False
    overwrite: bool = False
    keep_going: bool = False


@dataclass(frozen=True)
class Restored:
    """What was restored, and what could not be.

    :ivar file: the file.
    :ivar blob_count: number of blobs.
    :ivar damage: blobs that are not there, or not as they were.
    """

    file: Recovered
    blob_count: int
    damage: list[Damage]


def restore(
    repository: Repository,
    choice: Choice,
    target: Target,
    report: Report,
    *,
    verbose: bool = False,
) -> Restored:
    """Restore a backup.

    :raises ConfigurationError: the target is in use, or something is there.
    :raises BackupError: the backup is damaged, or the disk does not take it; what was at the
        target is as before.
    """
    _check_target(choice, target)
    with (
        translated("restoring", "nothing was put to its place"),
        _locked(target.path),
        _temporary(target) as (path, blobs),
    ):
        check_room(path.parent, choice.last.end)
        recovered = recover_file(repository, choice, path, report, verbose=verbose)
        damage = [
            Damage(str(repository.path), f"{blob} is not backed up") for blob in recovered.unlisted
        ]
        for blob in recovered.lost:
            report.line(f"{blob} was missing from the database already when it was backed up")
        count = 0
        if blobs is not None:
            wanted = recovered.blobs
            check_room(blobs.parent, sum(entry.size for entry in wanted.values()))
            layout = next((each.layout for each in reversed(choice.chain) if each.layout), None)
            damage += _copy_blobs(
                repository, wanted, BlobStore(blobs, layout or "bushy"), target.keep_going, report
            )
            count = len(wanted) - len(damage) + len(recovered.unlisted)
        elif not target.leave_blobs_out and recovered.blobs:
            raise ConfigurationError(
                f"backup {choice.last.name}",
                f"has {len(recovered.blobs)} blobs",
                "name the directory for them with -b, or leave them out with --no-blobs",
            )
        if damage and not target.keep_going:
            raise BackupError(f"{damage[0]}; --keep-going restores what can be restored")
        _put_in_place(path, blobs, target)
    return Restored(recovered, count, damage)


def _check_target(choice: Choice, target: Target) -> None:
    option = f"output {target.path}"
    if target.path.is_dir():
        raise ConfigurationError(option, "is a directory", "name a file")
    if not target.path.parent.is_dir():
        raise ConfigurationError(
            option, "its directory does not exist", f"create {target.path.parent}"
        )
    if target.path.exists() and not target.overwrite:
        raise ConfigurationError(
            option, "exists", "name another file, or give --overwrite to replace it"
        )
    if target.leave_blobs_out or not choice.last.has_blobs:
        if target.blob_dir is not None:
            reason = (
                "--no-blobs" if target.leave_blobs_out else "this backup was made without blobs"
            )
            raise ConfigurationError(
                f"blob directory {target.blob_dir}", f"is not needed: {reason}", "leave it out"
            )
    elif target.blob_dir is None:
        if any(manifest.blob_count for manifest in choice.chain) and choice.until is None:
            raise ConfigurationError(
                f"backup {choice.last.name}",
                f"has {sum(manifest.blob_count for manifest in choice.chain)} blobs",
                "name the directory for them with -b, or leave them out with --no-blobs",
            )
    elif target.blob_dir.exists():
        _check_blob_directory(target.blob_dir, target.overwrite)
        _check_pair(choice, target.path, target.blob_dir)
    elif not target.blob_dir.parent.is_dir():
        raise ConfigurationError(
            f"blob directory {target.blob_dir}",
            "its parent does not exist",
            f"create {target.blob_dir.parent}",
        )


def _check_blob_directory(path: Path, overwrite: bool) -> None:
    option = f"blob directory {path}"
    try:
        names = set(os.listdir(path)) - _UNIMPORTANT
    except OSError as error:
        raise ConfigurationError(option, f"cannot be used: {error.strerror}") from error
    if names and not overwrite:
        raise ConfigurationError(
            option,
            f"is not empty: there is {min(names)}",
            "name another directory, or give --overwrite to replace what is there",
        )


def _check_pair(choice: Choice, path: Path, blob_dir: Path) -> None:
    """Refuse to replace the blobs of a database whose file stays: no lock would tell of it."""
    for manifest in choice.chain:
        owner = manifest.database
        if (
            str(blob_dir) == manifest.blob_dir
            and str(path) != owner
            and os.path.exists(owner)
            and set(os.listdir(blob_dir)) - _UNIMPORTANT
        ):
            raise ConfigurationError(
                f"blob directory {blob_dir}",
                f"belongs to {owner}, but {path} is to be restored",
                "name another directory",
            )


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keep servers from opening the file.

    :raises ConfigurationError: one has opened it.
    """
    from zc.lockfile import LockError, LockFile

    lock_path = path.with_name(path.name + ".lock")
    try:
        lock = LockFile(str(lock_path))
    except LockError as error:
        holder = lock_path.read_text(encoding="ascii", errors="replace").strip()
        raise ConfigurationError(
            f"output {path}",
            f"is open in process {holder} (see {lock_path})",
            "name another file, or stop that process first",
        ) from error
    try:
        yield
    finally:
        lock.close()


@contextmanager
def _temporary(target: Target) -> Iterator[tuple[Path, Path | None]]:
    """Yield where to write file and blobs; nothing is left there at the end."""
    path = target.path.with_name(target.path.name + _ENDING)
    blobs = None if target.blob_dir is None else target.blob_dir / _NEW

    def remove() -> None:
        for file in (path, index_of(path), path.with_name(path.name + ".part")):
            file.unlink(missing_ok=True)
        if blobs is not None:
            remove_tree(blobs)

    remove()
    made = target.blob_dir is not None and not target.blob_dir.exists()
    if blobs is not None:
        blobs.parent.mkdir(exist_ok=True)
        blobs.mkdir()
    try:
        yield path, blobs
    except BaseException:
        remove()
        if made and target.blob_dir is not None:
            target.blob_dir.rmdir()
        raise


def _copy_blobs(
    repository: Repository,
    wanted: dict[BlobKey, BlobEntry],
    store: BlobStore,
    keep_going: bool,
    report: Report,
) -> list[Damage]:
    """Copy blobs to where they will be used; return what is damaged.

    :raises Damage: one is, and *keep_going* is not set.
    """
    damaged: list[Damage] = []
    store.create()
    total = sum(entry.size for entry in wanted.values())
    with report.progress(f"copying {len(wanted)} blobs", total) as advance:
        for blob, entry in wanted.items():
            path = repository.blobs.path_of(blob)
            try:
                found = store.add(blob, path, advance=advance)
            except FileNotFoundError:
                damaged.append(Damage(str(path), f"{blob} is missing"))
                continue
            if found != entry:
                damaged.append(Damage(str(path), f"{blob} is not what was backed up"))
                store.path_of(blob).unlink()
    if damaged and not keep_going:
        return damaged
    store.sync()
    return damaged


def _put_in_place(path: Path, blobs: Path | None, target: Target) -> None:
    """Move what was restored to its place, the file last."""
    sync_file(path)
    sync_file(index_of(path))
    if blobs is not None:
        directory = blobs.parent
        # The directory itself stays: it may be a mounted disk, and has its owner and rights.
        old = directory / _OLD
        remove_tree(old)
        old.mkdir()
        for name in set(os.listdir(directory)) - {_NEW, _OLD, "lost+found"}:
            (directory / name).rename(old / name)
        for name in os.listdir(blobs):
            (blobs / name).rename(directory / name)
        blobs.rmdir()
        sync_directory(directory)
        sync_directory(directory.parent)
    index = index_of(target.path)
    # An index of another file must not be beside it at any moment.
    index.unlink(missing_ok=True)
    path.replace(target.path)
    index_of(path).rename(index)
    sync_directory(target.path.parent)
    if blobs is not None:
        remove_tree(blobs.parent / _OLD)

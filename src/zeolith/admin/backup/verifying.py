"""Whether a backup is all there, shown by restoring it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .choosing import Choice
from .failures import BackupError, Damage, translated
from .files import check_room, remove_tree
from .recovery import check_parts, recover_file
from .report import Report
from .repository import Repository

_SCRATCH = ".verify-"
_LOCK = "lock"


def verify(
    repository: Repository,
    choice: Choice,
    report: Report,
    *,
    quick: bool = False,
    scratch: Path | None = None,
    verbose: bool = False,
) -> list[Damage]:
    """Return what is wrong with a backup.

    Its file is put together in a temporary place, read from end to end and opened; each blob that
    it refers to is looked for and read.

    :param quick: look at the sizes of files only.
    :param scratch: directory for the temporary place; None: the repository.
    :raises BackupError: it could not be found out.
    """
    found: list[Damage] = []
    report.detail(f"verifying the backup {choice.last.name}")
    with translated("verifying", "the backups are as they were"):
        try:
            if quick:
                check_parts(repository, choice, found.append)
            else:
                found += _check_file(repository, choice, scratch, report, verbose)
        except Damage as damage:
            found.append(damage)
        try:
            known = repository.blobs_of(choice.chain)
        except Damage as damage:
            return [*found, damage]
        total = sum(entry.size for entry in known.values())
        with report.progress(f"checking {len(known)} blobs", total) as advance:
            for blob, entry in known.items():
                try:
                    repository.blobs.check(blob, entry, quick=quick, advance=advance)
                except Damage as damage:
                    found.append(damage)
    return found


def _check_file(
    repository: Repository, choice: Choice, scratch: Path | None, report: Report, verbose: bool
) -> list[Damage]:
    with _scratch_directory(scratch or repository.path) as directory:
        check_room(directory, choice.last.end)
        recovered = recover_file(repository, choice, directory / "Data.fs", report, verbose=verbose)
    name = str(repository.path / choice.last.part)
    return [
        *(Damage(name, f"refers to {blob}, which is not backed up") for blob in recovered.unlisted),
        *(
            Damage(name, f"refers to {blob}, which the database itself had lost")
            for blob in recovered.lost
        ),
    ]


@contextmanager
def _scratch_directory(parent: Path) -> Iterator[Path]:
    """Yield a directory that is removed at the end, and by the next one after a crash."""
    for old in parent.glob(_SCRATCH + "*"):
        with suppress(OSError):  # what cannot be locked or removed stays for the next one
            lock = _lock(old)
            if lock is not None:  # else somebody works there, or somebody else removes it
                _remove(old, lock)
    while True:
        try:
            directory = Path(tempfile.mkdtemp(prefix=_SCRATCH, dir=parent))
        except OSError as error:
            raise BackupError(
                f"{parent}: a temporary directory is needed here: {error.strerror}; name another "
                "place with --scratch"
            ) from error
        lock = _lock(directory)
        if lock is not None:
            break
        # Somebody has begun to remove it: it was not locked for a moment.
    try:
        yield directory
    finally:
        _remove(directory, lock)


def _lock(directory: Path) -> Any:
    """Return the lock of a scratch directory; None if it is somebody else's, or going.

    :raises OSError: there can be no locks here.
    """
    from zc.lockfile import LockError, LockFile

    path = directory / _LOCK
    try:
        lock = LockFile(str(path))
    except (LockError, FileNotFoundError):
        return None
    if not path.exists():  # it was removed between being opened and being locked
        lock.close()
        return None
    return lock


def _remove(directory: Path, lock: Any) -> None:
    """Remove a scratch directory, whose *lock* is held until it is gone."""
    try:
        remove_tree(directory)
    finally:
        lock.close()

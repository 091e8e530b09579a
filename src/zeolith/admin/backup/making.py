"""Making a backup: full, or of what is new since the last one.

repozo copies the file up to the end of its last complete transaction.  The blobs that this stretch
of the file refers to are in their places by then, because a storage puts them there before it
completes the transaction; so copying them afterwards gives the state of exactly that transaction,
whatever is committed meanwhile.  Only a pack can take something away: then the file under the
database's path is another one, and the backup starts again.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from io import BufferedReader, FileIO
from pathlib import Path
from typing import Final

from ...errors import ConfigurationError
from .coldblobs import add_cold, cold_size
from .failures import BackupError, Damage, SourceChanged, translated
from .filepart import INDEX, Part, choose_moment, write_part
from .files import CHUNK, sync_directory, sync_file, write_durably
from .manifest import (
    BLOBS_ENDING,
    BlobEntry,
    Manifest,
    digest_of,
    format_blobs,
    write_manifest,
)
from .report import Report
from .repository import Chain, Repository
from .scan import Beginning, BlobKey, Summary, read_beginning, read_tids, scan
from .source import Source

ATTEMPTS: Final = 5
"""How often a backup starts again: packs that follow each other this closely do not happen."""


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """How to make a backup.

    :ivar full: make a full one in any case.
    :ivar quick: have repozo compare only the last part with the file, not everything.
    :ivar compress: compress the part of the file.
    :ivar leave_blobs_out: back up the file only.
    :ivar link: make hard links to the blobs instead of copies.
    :ivar same_database: believe that it is the same database as before.
    :ivar verbose: let repozo tell what it does, on standard error.
    """

    full: bool = False
    quick: bool = False
    compress: bool = False
    leave_blobs_out: bool = False
    link: bool = False
    same_database: bool = False
    verbose: bool = False


def make_backup(
    repository: Repository, source: Source, wishes: Wishes, report: Report
) -> Manifest | None:
    """Make a backup; the repository must be locked.

    :return: the backup; None if there is nothing that is not backed up yet.
    :raises ConfigurationError: the repository is another database's, or the wishes cannot be
        fulfilled.
    :raises BackupError: it failed; the repository is as before.
    """
    with translated("the backup", "earlier backups are as they were"):
        had_debris = repository.clean(report)
        for _ in range(ATTEMPTS):
            try:
                with _undone(repository, report):
                    manifest = _Attempt(repository, source, wishes, report).make()
            except SourceChanged:
                report.line(f"{source.path} was replaced meanwhile, perhaps packed: starting again")
                continue
            if had_debris:
                repository.sweep_blobs()
            return manifest
    raise BackupError(
        f"{source.path} was replaced {ATTEMPTS} times while it was copied; try again when it "
        "is left in peace"
    )


@contextmanager
def _undone(repository: Repository, report: Report) -> Iterator[None]:
    """Undo what the block has done to the repository if it does not come to its end."""
    try:
        yield
    except BaseException:
        # Clean up also for Ctrl-C; what cannot be removed now, the next backup removes.
        try:
            repository.clean(report)
        except OSError as error:
            report.line(f"{repository.path}: not cleaned up, the next backup will: {error}")
        raise


class _Attempt:
    """One attempt to make a backup."""

    def __init__(
        self, repository: Repository, source: Source, wishes: Wishes, report: Report
    ) -> None:
        self._repository = repository
        self._source = source
        self._wishes = wishes
        self._report = report
        self._chains = repository.read_chains()
        self._last = self._chains[-1][-1] if self._chains else None

    def make(self) -> Manifest | None:
        path = self._source.path
        with ExitStack() as stack:
            try:
                # Held to the end: no other file can get its number meanwhile.  Without a buffer:
                # that would go on showing as incomplete what is complete by the time it counts.
                file = stack.enter_context(path.open("rb", buffering=0))
            except FileNotFoundError as error:
                raise SourceChanged from error
            beginning = read_beginning(file)
            if beginning is None:
                self._report.line(f"{path} has no transaction yet")
                return None
            self._check_identity(file, beginning)
            if self._last is None:
                # From now on what is found here and has no manifest is ours to remove.
                self._repository.write_identity(str(path), beginning)
            part = self._write_part()
            if part is None:
                return None
            if part.start == part.end:
                # Behind what is backed up there is only a transaction that is not complete yet.
                self._repository.clean(self._report)
                return None
            summary = self._read(file, part)
            blobs, missing = self._copy_blobs(file, part, summary)
            manifest = self._complete(part, summary, blobs, missing)
            if (str(path), beginning) != self._repository.read_identity():
                self._repository.write_identity(str(path), beginning)
            return manifest

    # Is it the right database?

    def _check_identity(self, file: FileIO, beginning: Beginning) -> None:
        known = self._repository.read_identity()
        if known is None or self._last is None or self._wishes.same_database:
            return
        path, old_beginning = known
        moved = path != str(self._source.path)
        if beginning == old_beginning and not moved:
            return
        if moved:
            is_same = self._continues(file, self._last)
        else:
            is_same = self._shares_transaction(self._chains[-1])
        if not is_same:
            raise ConfigurationError(
                f"repository {self._repository.path}",
                f"has backups of another database: of {path} ({old_beginning}), not of "
                f"{self._source.path} ({beginning})",
                "name another directory, or, if you are sure that it is the same database, "
                "give --same-database",
            )
        if moved:
            self._report.line(f"{path} has moved to {self._source.path}")

    def _continues(self, file: FileIO, last: Manifest) -> bool:
        """Whether what was backed up last is still in the file, in its place."""
        digest = hashlib.sha256()
        file.seek(last.start)
        left = last.end - last.start
        while left and (chunk := file.read(min(left, CHUNK))):
            digest.update(chunk)
            left -= len(chunk)
        return not left and digest.hexdigest() == last.sha256

    def _shares_transaction(self, chain: Chain) -> bool:
        """Whether a transaction of the file is in the last backup too.

        A pack leaves transactions out, the first one among them, but keeps those that have made
        something that is still current; and tids are times in microseconds, or finer.
        """
        with self._source.path.open("rb") as file:
            ours, theirs = read_tids(file, True), self._repository.tids_of(chain)
            left, right = next(ours, None), next(theirs, None)
            while left is not None and right is not None and left != right:
                if left < right:
                    left = next(ours, None)
                else:
                    right = next(theirs, None)
        return left is not None and right is not None

    # The file

    def _write_part(self) -> Part | None:
        """Have repozo do its work; return None if there is nothing new."""
        full = self._wishes.full
        if self._last is not None and self._last.has_blobs is self._wishes.leave_blobs_out:
            self._report.line("a full backup: the last one was made with another choice of blobs")
            full = True
        part = self._run_repozo(full)
        if part is None or part.name == part.full:
            return part
        last = self._last
        if last is None or (part.full, part.start) != (self._chains[-1][0].name, last.end):
            self._report.line("a full backup: parts of the last one are missing")
            self._repository.clean(self._report)
            part = self._run_repozo(True)
        return part

    def _run_repozo(self, full: bool) -> Part | None:
        self._report.detail(f"repozo reads {self._source.path}")
        return write_part(
            self._repository.path,
            self._source.path,
            choose_moment(self._last.name if self._last else None),
            full=full,
            quick=self._wishes.quick,
            compress=self._wishes.compress,
            verbose=self._wishes.verbose,
        )

    def _read(self, file: FileIO, part: Part) -> Summary:
        """Find out what repozo has copied.

        :raises SourceChanged: it has copied from another file than we have open.
        """
        label = f"reading what is new in {self._source.path.name}"
        buffered = BufferedReader(file, CHUNK)
        try:
            with self._report.progress(label, part.end - part.start) as advance:
                summary = scan(buffered, part.start, part.end, advance=advance)
        except Damage as error:
            if self._is_current(file):
                raise
            raise SourceChanged from error
        finally:
            buffered.detach()
        if summary.md5 != part.md5:
            raise SourceChanged
        return summary

    # The blobs

    def _copy_blobs(
        self, file: FileIO, part: Part, summary: Summary
    ) -> tuple[dict[BlobKey, BlobEntry], list[BlobKey]]:
        """Copy the blobs that the part refers to; return them, and those that are not there.

        :raises SourceChanged: blobs are not there because a pack has taken them away.
        """
        directory = self._source.blobs
        if self._wishes.leave_blobs_out:
            return {}, []
        if directory is None:
            if summary.blobs:
                raise ConfigurationError(
                    f"database {self._source.path}",
                    f"refers to blobs, {summary.blobs[0]} for one",
                    "name their directory with -b, or leave them out with --no-blobs",
                )
            return {}, []
        present: dict[BlobKey, tuple[Path, int]] = {}
        missing: list[BlobKey] = []
        for blob in summary.blobs + summary.perhaps:
            path = directory.path_of(blob)
            try:
                present[blob] = path, path.stat().st_size
            except FileNotFoundError:
                size = cold_size(path, self._source.tier)
                if size is None:
                    missing.append(blob)
                else:
                    present[blob] = path, size
        known = {}
        if part.start == 0 and present:
            # What is new since the last backup cannot be in an earlier one.
            known = self._repository.blobs_of([each for chain in self._chains for each in chain])
        entries: dict[BlobKey, BlobEntry] = {}
        store = self._repository.blobs
        store.create()
        total = sum(size for _, size in present.values())
        with self._report.progress(f"copying {len(present)} blobs", total) as advance:
            for blob, (path, _) in present.items():
                try:
                    entries[blob] = store.add(
                        blob, path, known=known.get(blob), link=self._wishes.link, advance=advance
                    )
                except FileNotFoundError:
                    if path.exists():
                        raise
                    cold = add_cold(store, blob, path, known.get(blob), self._source.tier, advance)
                    if cold is None:
                        missing.append(blob)
                    else:
                        entries[blob] = cold
        if missing and not self._is_current(file):
            raise SourceChanged
        store.sync()
        perhaps = set(summary.perhaps)
        return entries, [blob for blob in missing if blob not in perhaps]

    def _is_current(self, file: FileIO) -> bool:
        """Whether the file that we have open is still the one under its path."""
        try:
            found = self._source.path.stat()
        except FileNotFoundError:
            return False
        return os.path.samestat(found, os.fstat(file.fileno()))

    # The end

    def _complete(
        self, part: Part, summary: Summary, blobs: dict[BlobKey, BlobEntry], missing: list[BlobKey]
    ) -> Manifest:
        """Make the backup exist."""
        assert summary.first_tid is not None
        assert summary.last_tid is not None
        directory = self._repository.path
        is_full = part.name == part.full
        blob_dir = self._source.blobs
        listed = format_blobs(blobs)
        manifest = Manifest(
            name=part.name,
            previous=None if is_full or self._last is None else self._last.name,
            database=str(self._source.path),
            blob_dir=None if blob_dir is None else str(blob_dir.path),
            layout=None if blob_dir is None else blob_dir.layout,
            part=part.file,
            stored=(directory / part.file).stat().st_size,
            start=part.start,
            end=part.end,
            md5=part.md5,
            sha256=summary.sha256,
            transactions=summary.transactions,
            first_tid=summary.first_tid.hex(),
            last_tid=summary.last_tid.hex(),
            packed_tid=None if summary.packed_tid is None else summary.packed_tid.hex(),
            has_blobs=not self._wishes.leave_blobs_out,
            blob_count=len(blobs),
            blob_bytes=sum(entry.size for entry in blobs.values()),
            blobs_sha256=digest_of(listed),
            missing=[[blob.oid.hex(), blob.tid.hex()] for blob in missing],
        )
        write_durably(directory / (part.name + BLOBS_ENDING), listed)
        # repozo syncs a compressed part before its last bytes are written, and the index never.
        sync_file(directory / part.file)
        sync_file(directory / (part.name + INDEX))
        sync_directory(directory)
        write_manifest(directory, manifest)
        # repozo has written paths into its list, which we want without.
        self._repository.clean(self._report)
        return manifest

"""``zeolith backup``."""

from __future__ import annotations

import click

from ...errors import ConfigurationError
from ..console import Console, interruptible
from ..main import FAILURE, OK
from ..numbers import NumberRange


@click.command()
@click.option(
    "-r",
    "--repository",
    required=True,
    metavar="DIR",
    help="Directory for the backups of one database; made if its parent is there.",
)
@click.option("-f", "--file", metavar="FILE", help="The FileStorage's file to back up.")
@click.option("-b", "--blob-dir", metavar="DIR", help="Blob directory of -f.")
@click.option(
    "-C",
    "--configure",
    metavar="FILE",
    help="zeo.conf that says where file and blobs are, instead of -f and -b.",
)
@click.option("--storage", metavar="NAME", help="Storage in that zeo.conf, if it has several.")
@click.option(
    "-F", "--full", is_flag=True, help="Make a full backup even if an incremental one would do."
)
@click.option(
    "-Q",
    "--quick",
    is_flag=True,
    help="Compare only the last part with the file to see whether an incremental backup will do, "
    "not all that is backed up.",
)
@click.option("-z", "--gzip", "compress", is_flag=True, help="Compress the part of the file.")
@click.option(
    "-k",
    "--kill-old-on-full",
    is_flag=True,
    help="When a full backup has been made, remove all earlier ones; the same as --keep 1.",
)
@click.option(
    "--keep",
    type=click.IntRange(min=1),
    metavar="N",
    help="Afterwards remove all but the newest N full backups and what continues them.",
)
@click.option(
    "--keep-days",
    type=NumberRange(min=0),
    metavar="DAYS",
    help="Afterwards remove full backups all of whose incremental ones are older than this.  "
    "With --keep, what either of the two keeps stays.",
)
@click.option(
    "--dry-run", is_flag=True, help="Only say what --keep, --keep-days or -k would remove now."
)
@click.option(
    "--hard-link",
    is_flag=True,
    help="Make hard links to the blobs instead of copies: no protection from a damaged disk.",
)
@click.option("--no-blobs", is_flag=True, help="Leave the blobs out.")
@click.option(
    "--same-database",
    is_flag=True,
    help="Believe that it is the database whose backups are here, though it does not look so.",
)
@click.option("-v", "--verbose", is_flag=True, help="Tell more.")
@click.pass_context
def backup(
    context: click.Context,
    repository: str,
    file: str | None,
    blob_dir: str | None,
    configure: str | None,
    storage: str | None,
    full: bool,
    quick: bool,
    compress: bool,
    kill_old_on_full: bool,
    keep: int | None,
    keep_days: float | None,
    dry_run: bool,
    hard_link: bool,
    no_blobs: bool,
    same_database: bool,
    verbose: bool,
) -> int:
    """Back up a database with its blobs, also while it is served.

    The first backup in a directory is a full one; later ones have what is new since the last,
    unless the database was packed meanwhile.  Each is the state of one transaction.
    """
    from ...admin.backup.failures import BackupError
    from ...admin.backup.making import Wishes, make_backup
    from ...admin.backup.repository import create_repository, open_repository
    from ...admin.backup.retention import Retention, apply_retention
    from ...admin.backup.source import find_configured_source, find_source

    if kill_old_on_full:
        if keep is not None or keep_days is not None:
            raise ConfigurationError("-k", "is --keep 1", "give one or the other")
        keep = 1
    retention = Retention(keep, keep_days)
    report = Console(verbose)
    if dry_run:
        if retention == Retention():
            raise ConfigurationError("--dry-run", "is about removing backups", "add --keep")
        apply_retention(open_repository(repository), retention, report, dry_run=True)
        return OK
    if configure is not None:
        if file is not None or blob_dir is not None:
            raise ConfigurationError(
                "-C", "says where file and blobs are", "leave out either -C or -f and -b"
            )
        source = find_configured_source(configure, storage)
    elif file is None:
        raise ConfigurationError("-f", "is missing", "name the file, or a zeo.conf with -C")
    elif storage is not None:
        raise ConfigurationError("--storage", "needs -C", "leave it out")
    else:
        source = find_source(file, blob_dir)
    if no_blobs and blob_dir is not None:
        raise ConfigurationError("--no-blobs", "contradicts -b", "leave one of them out")
    wishes = Wishes(
        full=full,
        quick=quick,
        compress=compress,
        leave_blobs_out=no_blobs,
        link=hard_link,
        same_database=same_database,
        verbose=verbose,
    )
    status = OK
    place = create_repository(repository)
    try:
        with interruptible(context), place.locked():
            made = make_backup(place, source, wishes, report)
            if made is None:
                click.echo(f"{source.path}: nothing new since the last backup")
            else:
                click.echo(
                    f"{source.path}: {made.kind} backup {made.name} in {place.path}: "
                    f"{made.transactions} transactions up to 0x{made.last_tid}, "
                    f"{made.end - made.start} bytes, {made.blob_count} blobs with "
                    f"{made.blob_bytes} bytes"
                )
                for blob in made.lost:
                    report.line(f"zeolith: {blob} is missing from {made.blob_dir}")
                    status = FAILURE
            apply_retention(place, retention, report)
    except BackupError as error:
        click.echo(f"zeolith: {error}", err=True)
        return FAILURE
    return status

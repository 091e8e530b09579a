"""``zeolith verify``."""

from __future__ import annotations

from pathlib import Path

import click

from ...errors import ConfigurationError
from ..console import Console, interruptible
from ..main import FAILURE, OK


@click.command()
@click.option(
    "-r", "--repository", required=True, metavar="DIR", help="Directory with the backups."
)
@click.option(
    "-Q", "--quick", is_flag=True, help="Look at the sizes of files only; restore nothing."
)
@click.option("-D", "--date", metavar="DATE", help="Verify what -D of `zeolith restore` restores.")
@click.option(
    "--all",
    "wants_all",
    is_flag=True,
    help="Verify each full backup with the last that continues it, not only the newest.",
)
@click.option(
    "--scratch",
    metavar="DIR",
    help="Where there is room for the restored file, for a while.  [default: the repository]",
)
@click.option("-v", "--verbose", is_flag=True, help="Tell more.")
@click.pass_context
def verify(
    context: click.Context,
    repository: str,
    quick: bool,
    date: str | None,
    wants_all: bool,
    scratch: str | None,
    verbose: bool,
) -> int:
    """Prove that a backup can be restored.

    The file is restored to a temporary place, read from end to end and opened; each blob that it
    refers to is looked for and read.  Exit status 1 if anything is damaged.
    """
    from ...admin.backup import choosing
    from ...admin.backup.failures import BackupError
    from ...admin.backup.repository import open_repository
    from ...admin.backup.verifying import verify as verify_backup

    if date is not None and wants_all:
        raise ConfigurationError("-D", "contradicts --all", "leave one of them out")
    if quick and scratch is not None:
        raise ConfigurationError("--scratch", "has no effect with -Q", "leave one of them out")
    if scratch is not None and not Path(scratch).is_dir():
        raise ConfigurationError(f"--scratch {scratch}", "is not a directory", "create it")
    try:
        place = open_repository(repository)
        chains = place.read_chains()
        if wants_all:
            choices = [choosing.Choice(chain) for chain in chains]
        elif date is not None:
            choices = [choosing.choose_by_date(chains, choosing.parse_date(date, "-D"))]
        else:
            choices = [choosing.choose_newest(chains)]
        status = OK
        with interruptible(context):
            for choice in choices:
                found = verify_backup(
                    place,
                    choice,
                    Console(verbose),
                    quick=quick,
                    scratch=None if scratch is None else Path(scratch).resolve(),
                    verbose=verbose,
                )
                for damage in found:
                    click.echo(f"zeolith: {damage}", err=True)
                blobs = sum(manifest.blob_count for manifest in choice.chain)
                parts = "1 part" if len(choice.chain) == 1 else f"{len(choice.chain)} parts"
                click.echo(
                    f"{place.path}: backup {choice.last.name}: {parts} up to "
                    f"0x{choice.last.last_tid}, {blobs} blobs: "
                    + ("damaged" if found else "sizes are right" if quick else "good")
                )
                status = FAILURE if found else status
    except BackupError as error:
        click.echo(f"zeolith: {error}", err=True)
        return FAILURE
    return status

"""``zeolith restore``."""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path

import click
from click.core import ParameterSource

from ...errors import ConfigurationError
from ..console import Console, interruptible
from ..main import FAILURE, OK


@click.command()
@click.option(
    "-r", "--repository", required=True, metavar="DIR", help="Directory with the backups."
)
@click.option("-o", "--output", metavar="FILE", help="Where to write the FileStorage's file.")
@click.option("-b", "--blob-dir", metavar="DIR", help="Where to write the blobs.")
@click.option(
    "-D",
    "--date",
    metavar="DATE",
    help="Restore the newest backup that had been made by then: yyyy-mm-dd[-hh[-mm[-ss]]], UTC.  "
    "[default: the newest]",
)
@click.option(
    "--tid",
    metavar="TID",
    help="Restore the state just after this transaction (16 hexadecimal digits).",
)
@click.option(
    "--at", metavar="DATE", help="Restore the state of this moment, written as for -D, in UTC."
)
@click.option("--no-blobs", is_flag=True, help="Restore the file only.")
@click.option("--overwrite", is_flag=True, help="Replace file and blobs that are there.")
@click.option(
    "--keep-going",
    is_flag=True,
    help="Restore what can be restored although blobs are damaged or missing.",
)
@click.option(
    "-w",
    "--with-verify",
    is_flag=True,
    help="For repozo's users: what is restored is always checked.",
)
@click.option("--list", "wants_list", is_flag=True, help="Show which backups there are.")
@click.option("-v", "--verbose", is_flag=True, help="Tell more.")
@click.pass_context
def restore(
    context: click.Context,
    repository: str,
    output: str | None,
    blob_dir: str | None,
    date: str | None,
    tid: str | None,
    at: str | None,
    no_blobs: bool,
    overwrite: bool,
    keep_going: bool,
    with_verify: bool,
    wants_list: bool,
    verbose: bool,
) -> int:
    """Restore a database from a backup.

    It may be done beside a running server, but not to the file that the server has open.
    """
    from ...admin.backup import choosing
    from ...admin.backup.failures import BackupError
    from ...admin.backup.repository import open_repository
    from ...admin.backup.restoring import Target
    from ...admin.backup.restoring import restore as restore_backup

    if wants_list:
        _refuse_others(context, "--list", {"repository", "wants_list", "with_verify", "verbose"})
    try:
        place = open_repository(repository)
        chains = place.read_chains()
        if wants_list:
            for manifest in (each for chain in chains for each in chain):
                click.echo(
                    f"{manifest.name}  {manifest.kind:11}  up to 0x{manifest.last_tid}  "
                    f"{manifest.end - manifest.start} bytes, {manifest.blob_count} blobs with "
                    f"{manifest.blob_bytes} bytes"
                )
            return OK
        if sum(option is not None for option in (date, tid, at)) > 1:
            raise ConfigurationError("-D, --tid, --at", "contradict each other", "give one of them")
        if output is None:
            raise ConfigurationError("-o", "is missing", "name the file to write")
        if date is not None:
            choice = choosing.choose_by_date(chains, choosing.parse_date(date, "-D"))
        elif tid is not None:
            choice = choosing.choose_by_tid(chains, choosing.parse_tid(tid, "--tid"))
        elif at is not None:
            moment = choosing.tid_of_date(choosing.parse_date(at, "--at"))
            choice = choosing.choose_by_tid(chains, moment)
        else:
            choice = choosing.choose_newest(chains)
        target = Target(
            path=Path(output).resolve(),
            blob_dir=None if blob_dir is None else Path(blob_dir).resolve(),
            leave_blobs_out=no_blobs,
            overwrite=overwrite,
            keep_going=keep_going,
        )
        with interruptible(context):
            restored = restore_backup(place, choice, target, Console(verbose), verbose=verbose)
    except BackupError as error:
        click.echo(f"zeolith: {error}", err=True)
        return FAILURE
    for damage in restored.damage:
        click.echo(f"zeolith: {damage}", err=True)
    click.echo(
        f"{target.path}: restored from backup {choice.last.name}: "
        f"{restored.file.transactions} transactions up to 0x{restored.file.last_tid.hex()}, "
        f"{restored.blob_count} blobs"
    )
    return FAILURE if restored.damage else OK


def _refuse_others(context: click.Context, option: str, allowed: Container[str]) -> None:
    """Refuse what was given beside *option* and would have no effect.

    :param allowed: names of the parameters that may be given.
    """
    for parameter in context.command.params:
        name = parameter.name or ""
        given = context.get_parameter_source(name) is ParameterSource.COMMANDLINE
        if given and name not in allowed:
            raise click.UsageError(f"{parameter.opts[0]} has no effect with {option}", context)

"""``zeolith cache check``."""

from __future__ import annotations

from typing import Final

import click

from ..cachefiles import describe
from ..console import Console, interruptible
from ..main import FAILURE, OK, USAGE

MOST: Final = 20
"""Damaged records that are listed of one file unless more are asked for: after a crash there may be
many thousands."""


@click.command("check")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--fix", is_flag=True, help="Leave out of the index what is damaged.")
@click.option("-v", "--verbose", is_flag=True, help=f"List all that is damaged, not only {MOST}.")
@click.pass_context
def cache_check(context: click.Context, files: tuple[str, ...], fix: bool, verbose: bool) -> int:
    """Read cache files to their end, and say what is damaged.

    FILE is a client's cache file, as var/app1-1.zec, which no process may be using.  Each record
    that its index names is read and compared with its checksum.  Nothing is changed without --fix.

    The exit status is 0 if all is well, 1 if anything is damaged, also if that was fixed, and 2 if
    a file cannot be read, is in use, or is no cache.
    """
    from ...admin.cachecheck import check_cache
    from ...errors import ConfigurationError

    console = Console(verbose)
    status = OK
    with interruptible(context):
        for path in files:
            try:
                checked = check_cache(
                    path, console.progress, mend=fix, most=None if verbose else MOST
                )
            except (ConfigurationError, OSError) as error:
                problem = describe(path, error)
                click.echo(f"zeolith: {problem}", err=True)
                status = USAGE
                continue
            for damage in checked.damages:
                click.echo(f"zeolith: {path}: {damage}", err=True)
            if checked.left_out:
                click.echo(f"zeolith: {path}: and {checked.left_out} more; -v lists all", err=True)
            click.echo(checked.summary())
            if not checked.is_clean:
                status = max(status, FAILURE)
    return status

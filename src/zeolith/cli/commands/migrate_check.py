"""``zeolith migrate-check``."""

from __future__ import annotations

import click

from ..main import FAILURE, OK, USAGE


@click.command()
@click.option(
    "--kind",
    type=click.Choice(["zeo.conf", "zope.conf", "buildout.cfg"]),
    help="What the file is, where that cannot be told from what is in it.",
)
@click.option("--json", "is_json", is_flag=True, help="Print JSON.")
@click.argument("file", metavar="FILE")
def migrate_check(file: str, *, kind: str | None, is_json: bool) -> int:
    """Say what would change for a zeo.conf, zope.conf or buildout.cfg of ZEO's.

    What has to be changed, what gets another default or meaning, and what to write.  Nothing is
    started or changed.  The exit status is 0 if nothing would change, 1 if something gets another
    default or meaning, 2 if something has to be changed first, or FILE cannot be read.
    """
    from ...migration.check import check_migration
    from ...migration.remarks import Effect
    from ...migration.report import as_json, as_text

    remarks = check_migration(file, kind)
    click.echo(as_json(remarks) if is_json else as_text(remarks), nl=is_json)
    if remarks.of(Effect.REFUSED):
        return USAGE
    return FAILURE if remarks.of(Effect.CHANGED) else OK

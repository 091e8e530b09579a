"""``zeolith check-config``."""

from __future__ import annotations

import click

from ..main import OK, USAGE


@click.command()
@click.option("--strict", is_flag=True, help="Take warnings for errors.")
@click.option("--json", "is_json", is_flag=True, help="Print JSON.")
@click.option("-q", "--quiet", is_flag=True, help="Print only what is wrong.")
@click.option(
    "--user",
    metavar="USER",
    help="Who will run the server, where that is not you nor named in <runner>.",
)
@click.argument("file", metavar="FILE")
def check_config(file: str, *, strict: bool, is_json: bool, quiet: bool, user: str | None) -> int:
    """Check a zeo.conf: say everything that is wrong, and show all settings.

    FILE is a path, a URL, or - for standard input.  Nothing is started, opened for writing or
    changed.  The exit status is 0 if the server can work with the file, else 2.
    """
    from ...admin.checkreport import as_json, as_text
    from ...config.accounts import find_account
    from ...config.checks.check import check_config as check

    if is_json and quiet:
        raise click.UsageError("--quiet has no effect with --json: leave it out")
    account = None if user is None else find_account(user, "--user")
    source, text = file, None
    if file == "-":
        with click.open_file("-", encoding="utf-8", errors="replace") as stdin:
            source, text = "<stdin>", stdin.read()
    report = check(source, text, account)
    click.echo(
        as_json(report, source) if is_json else as_text(report, source, with_settings=not quiet),
        nl=is_json,
    )
    return USAGE if report.errors or (strict and report.complaints) else OK

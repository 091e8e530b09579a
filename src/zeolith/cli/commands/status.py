"""``zeolith status``."""

from __future__ import annotations

import json
from typing import Any

import click

from ..login import login_options
from ..target import make_target, timeout_option, tls_options


@click.command()
@click.argument("address", required=False)
@click.option("-C", "--configure", metavar="FILE", help="A zeo.conf that names the address.")
@click.option("--storage", metavar="NAME", help="Show only this storage.")
@click.option("-c", "--connections", is_flag=True, help="List the connections.")
@click.option(
    "--limit",
    type=click.IntRange(min=0, max=1000),
    metavar="NUMBER",
    help="How many connections are listed at most; those with a transaction come first.  "
    "[default: 100]",
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print all there is, connections too, as JSON."
)
@timeout_option
@tls_options
@login_options
def status(
    address: str | None,
    storage: str | None,
    connections: bool,
    limit: int | None,
    as_json: bool,
    **options: Any,
) -> int:
    """Show how a server is.

    ADDRESS is PORT, HOST:PORT or the path of a socket, 127.0.0.1:8100 unless given.  The exit
    status is 0 if the server answers and, with --storage, that storage is in service; else 1.
    """
    from ...admin.asking import NotAnswering, Refused
    from ...admin.status import fetch_status
    from ...admin.statustext import render_status

    if limit is not None and not (connections or as_json):
        raise click.UsageError("--limit has no effect without --connections or --json")
    target = make_target(address, **options)
    try:
        found = fetch_status(target, storage, 100 if limit is None else limit)
    except (NotAnswering, Refused) as error:
        click.echo(f"zeolith: {error}", err=True)
        return 1
    if as_json:
        click.echo(json.dumps(found.as_json(), indent=2))
    else:
        click.echo(render_status(found, connections=connections))
    return 1 if storage is not None and found.outages else 0

"""``zeolith kick``."""

from __future__ import annotations

from typing import Any

import click

from ..login import login_options
from ..target import make_target, timeout_option, tls_options


@click.command()
@click.argument("address")
@click.argument("client", required=False)
@click.option("--all", "is_all", is_flag=True, help="End the connections of all clients.")
@click.option("--storage", metavar="NAME", help="End only connections to this storage.")
@click.option("-n", "--dry-run", is_flag=True, help="List the connections, but end none.")
@timeout_option
@tls_options
@login_options
def kick(
    address: str,
    client: str | None,
    is_all: bool,
    storage: str | None,
    dry_run: bool,
    **options: Any,
) -> int:
    """End the connections of a client.

    ADDRESS is that of the server.  CLIENT is a label, an address or a number as zeolith status -c
    shows them; all connections that it fits are ended.  A transaction that is not yet being written
    is aborted.  Clients connect again by themselves.

    The exit status is 0 if there was such a connection, else 1.
    """
    from ...admin.asking import NotAnswering, NotZeolith, Refused
    from ...admin.kick import kick_clients
    from ...admin.statustext import render_connections

    if (client is None) is not is_all:
        raise click.UsageError("give either CLIENT or --all")
    target = make_target(address, **options)
    try:
        kicked = kick_clients(target, client, storage, dry_run)
    except (NotAnswering, NotZeolith, Refused) as error:
        click.echo(f"zeolith: {error}", err=True)
        return 1
    if not kicked.total:
        what = "no client is connected" if client is None else f"no client {client!r} is connected"
        click.echo(f"zeolith: {what}", err=True)
        return 1
    click.echo("\n".join(render_connections(*kicked)))
    verb = "would be ended" if dry_run else "ended"
    click.echo(f"{kicked.total} connection{'' if kicked.total == 1 else 's'} {verb}")
    return 0

"""``zeolith blob fetch``."""

from __future__ import annotations

import click

from ..blobdisplay import told_of_failures
from ..console import Console, interruptible


@click.command()
@click.option("-C", "--configure", metavar="FILE", required=True, help="The server's zeo.conf.")
@click.option("--storage", metavar="NAME", help="The storage, if several have an object store.")
@click.pass_context
def blob_fetch(context: click.Context, /, configure: str, storage: str | None) -> None:
    """Bring all blobs of a stopped server back from its object store, which keeps them.

    Afterwards the section <tieredblobs> can be replaced by the <filestorage> in it.  It can be
    interrupted and repeated.

    The exit status is 0 if all blobs are here, 1 if not, 2 for wrong usage.
    """
    from ...admin.tables import size
    from ...admin.tiering import cold_size, fetch_all, opened_place

    console = Console()
    with (
        told_of_failures(context),
        interruptible(context),
        opened_place(configure, storage) as place,
    ):
        total = cold_size(place)
        with console.progress("fetching", total) as advance:
            count = fetch_all(place, advance)
        click.echo(f"{count} blobs fetched, {size(total)}; {place.stock().files} are here")

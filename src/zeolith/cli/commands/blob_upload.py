"""``zeolith blob upload``."""

from __future__ import annotations

import click

from ..blobdisplay import told_of_failures
from ..console import Console, interruptible


@click.command()
@click.option("-C", "--configure", metavar="FILE", required=True, help="The server's zeo.conf.")
@click.option("--storage", metavar="NAME", help="The storage, if several have an object store.")
@click.pass_context
def blob_upload(context: click.Context, /, configure: str, storage: str | None) -> None:
    """Upload all blobs of a stopped server that its object store does not have.

    A server with an object store does the same in the background; this is for those who want to
    have it done before, or see how far it is.  It can be interrupted and repeated.

    The exit status is 0 if the store has all of them, 1 if not, 2 for wrong usage.
    """
    from ...admin.tables import size
    from ...admin.tiering import claim, opened_place, upload_all

    console = Console()
    with (
        told_of_failures(context),
        interruptible(context),
        opened_place(configure, storage) as place,
    ):
        stock = claim(place)
        with console.progress("uploading", stock.pending_size) as advance:
            count = upload_all(place, advance)
        click.echo(
            f"{count} blobs uploaded, {size(stock.pending_size)}; "
            f"{stock.files + stock.cold} are in the store"
        )

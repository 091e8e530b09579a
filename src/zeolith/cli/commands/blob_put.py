"""``zeolith blob put``."""

from __future__ import annotations

import os
import tempfile
from typing import Any

import click

from ..blobdisplay import BlobDisplay, split_words, told_of_failures
from ..console import interruptible
from ..login import login_options
from ..target import make_target, timeout_option, tls_options


@click.command()
@click.argument("words", nargs=-1, metavar="[ADDRESS] FILE")
@click.option("-C", "--configure", metavar="FILE", help="A zeo.conf that names the address.")
@click.option("--storage", default="1", show_default=True, metavar="NAME", help="The storage.")
@click.option("--oid", metavar="OID", help="Replace the contents of this Blob object.")
@click.option(
    "--root-key", metavar="NAME", help="Make a Blob object under this key of the root object."
)
@click.option("--note", metavar="TEXT", help="The description of the transaction.  "
              "[default: zeolith blob put and the name of the file]")  # fmt: skip
@timeout_option
@tls_options
@login_options
@click.pass_context
def blob_put(
    context: click.Context,
    /,
    words: tuple[str, ...],
    storage: str,
    oid: str | None,
    root_key: str | None,
    note: str | None,
    **options: Any,
) -> None:
    """Store FILE as a blob, in a transaction of its own.

    ADDRESS is PORT, HOST:PORT or the path of a socket, 127.0.0.1:8100 unless given.  With --oid the
    blob gets a new revision, and its object stays as it is; it can be undone.  With --root-key the
    key must not be in use.  FILE is copied to the system's directory for temporary files
    (TMPDIR) first.

    The exit status is 0 if the blob was stored, 1 if not, 2 for wrong usage.
    """
    from ...admin.blobtransfer import connected, create_blob, parse_oid, replace_blob
    from ...admin.tables import size

    address, (path,) = split_words(words, 1, "[ADDRESS] FILE")
    if (oid is None) == (root_key is None):
        raise click.UsageError("give either --oid or --root-key: which blob is it to be?")
    if not os.path.isfile(path):
        raise click.UsageError(f"{path} is no file")
    number = None if oid is None else parse_oid(oid)
    text = f"zeolith blob put {os.path.basename(path)}" if note is None else note
    target = make_target(address, **options)
    with (
        told_of_failures(context),
        interruptible(context),
        tempfile.TemporaryDirectory(prefix="zeolith-blob-") as directory,
        connected(target, storage, directory) as client,
    ):
        with BlobDisplay(os.path.basename(path)) as display:
            if number is not None:
                found = replace_blob(client, number, path, text, display.progress)
            else:
                assert root_key is not None
                found = create_blob(client, root_key, path, text, display.progress)
        click.echo(f"0x{found.oid.hex()}: {size(found.size)}, transaction 0x{found.tid.hex()}")

"""``zeolith blob get``."""

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
@click.argument("words", nargs=-1, metavar="[ADDRESS] OID FILE")
@click.option("-C", "--configure", metavar="FILE", help="A zeo.conf that names the address.")
@click.option("--storage", default="1", show_default=True, metavar="NAME", help="The storage.")
@click.option("--serial", metavar="TID", help="The revision that this transaction wrote.  "
              "[default: the current one]")  # fmt: skip
@click.option("--force", is_flag=True, help="Replace FILE if there is one.")
@timeout_option
@tls_options
@login_options
@click.pass_context
def blob_get(
    context: click.Context,
    /,
    words: tuple[str, ...],
    storage: str,
    serial: str | None,
    force: bool,
    **options: Any,
) -> None:
    """Bring a blob of a database into FILE.

    ADDRESS is PORT, HOST:PORT or the path of a socket, 127.0.0.1:8100 unless given.  OID is the id
    of the Blob object, TID that of a transaction, both in hexadecimal digits.  FILE is there when
    all of it is; until then the blob is in a hidden directory beside it.

    The exit status is 0 if the blob was fetched, 1 if not, 2 for wrong usage.
    """
    from ...admin.blobtransfer import connected, get_blob, parse_oid
    from ...admin.tables import size
    from .watch import parse_since

    address, (text, path) = split_words(words, 2, "[ADDRESS] OID FILE")
    oid = parse_oid(text)
    if serial in ("now", "start"):
        raise click.UsageError(f"--serial {serial} is no transaction id")
    tid = None if serial is None else parse_since(serial)
    if os.path.lexists(path) and not force:
        raise click.UsageError(f"{path} exists; --force replaces it")
    target = make_target(address, **options)
    place = os.path.dirname(os.path.abspath(path))
    with (
        told_of_failures(context),
        interruptible(context),
        tempfile.TemporaryDirectory(prefix=".zeolith-blob-", dir=place) as directory,
        connected(target, storage, directory) as client,
    ):
        with BlobDisplay(f"0x{oid.hex()}") as display:
            found = get_blob(client, oid, tid, path, display.progress)
        click.echo(f"{path}: {size(found.size)}, transaction 0x{found.tid.hex()}")

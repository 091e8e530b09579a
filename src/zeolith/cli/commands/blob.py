"""``zeolith blob``: its commands are the modules ``blob_*`` beside this one."""

from __future__ import annotations

from typing import Final

import click

from ..group import Commands

COMMANDS: Final[dict[str, str]] = {
    "get": "Bring a blob of a database into a file.",
    "put": "Store a file as a blob.",
    "upload": "Upload all blobs of a stopped server to its object store.",
    "fetch": "Bring all blobs of a stopped server back from its object store.",
}
"""As the table of the same name in :mod:`..group`; the command ``get`` is ``blob_get``."""


@click.group(cls=Commands, table=COMMANDS, prefix="blob_")
def blob() -> None:
    """Fetch and store blobs."""

"""``zeolith version``."""

from __future__ import annotations

import platform
from importlib import metadata

import click

from ... import __version__


@click.command()
def version() -> None:
    """Print the versions of Zeolith and of what it runs on."""
    parts = [f"zeolith {__version__}", f"Python {platform.python_version()}"]
    for name in ("ZODB", "uvloop"):
        try:
            parts.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            parts.append(f"no {name}")
    click.echo(", ".join(parts))

"""``zeolith cache info``."""

from __future__ import annotations

import json
from typing import Any

import click

from ..cachefiles import describe
from ..main import OK, USAGE


@click.command("info")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--json", "as_json", is_flag=True, help="Print a list with an object for each file.")
def cache_info(files: tuple[str, ...], as_json: bool) -> int:
    """Show what is in cache files, also while they are in use.

    FILE is a client's cache file, as var/app1-1.zec.  What is shown is what the file's index says,
    which a running client saves once a minute.  Nothing is changed or locked.  The exit status is
    2 if one of the files cannot be read or is no cache, else 0.
    """
    from ...admin.cacheinfo import read_info
    from ...admin.cachetext import render_info
    from ...errors import ConfigurationError

    status = OK
    found: list[dict[str, Any]] = []
    texts: list[str] = []
    for path in files:
        try:
            told = read_info(path)
        except (ConfigurationError, OSError) as error:
            status = USAGE
            problem = describe(path, error)
            click.echo(f"zeolith: {problem}", err=True)
            found.append({"path": path, "error": problem})
        else:
            found.append(told.as_json())
            texts.append(render_info(told))
    if as_json:
        click.echo(json.dumps(found, indent=2))
    elif texts:
        click.echo("\n\n".join(texts))
    return status

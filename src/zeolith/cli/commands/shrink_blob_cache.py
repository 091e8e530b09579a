"""``zeolith shrink-blob-cache``."""

from __future__ import annotations

import click

from ...errors import ConfigurationError


def _bytes(context: click.Context, parameter: click.Parameter, value: str) -> int:
    from ZConfig.datatypes import SuffixMultiplier

    multiplier = SuffixMultiplier({"kb": 1 << 10, "mb": 1 << 20, "gb": 1 << 30})
    try:
        size: int = multiplier(value)
    except ValueError:
        size = -1
    if size < 0:
        raise ConfigurationError(
            parameter.human_readable_name, f"{value!r} is no size", "give bytes, or 500MB, 2GB"
        )
    return size


@click.command()
@click.argument("directory")
@click.argument("size", callback=_bytes)
def shrink_blob_cache(directory: str, size: int) -> None:
    """Bring a client's blob cache down to a size.

    DIRECTORY is the blob_dir of one client or several on this host, which may be using it; SIZE is
    in bytes, or with KB, MB or GB behind it.  What was used longest ago goes first.  Clients with
    a blob_cache_size do this by themselves; here is what cron can do for all others.
    """
    from ...client.blobsizes import shrink_cache

    shrink_cache(directory, size)

"""``zeolith cache``: its commands are the modules ``cache_*`` beside this one."""

from __future__ import annotations

from typing import Final

import click

from ..group import Commands

COMMANDS: Final[dict[str, str]] = {
    "check": "Read cache files to their end, and say what is damaged.",
    "info": "Show what is in cache files, also while they are in use.",
    "stats": "Say what a trace of a client's cache holds.",
    "simulate": "Say what size of a cache would give which hit rate.",
}
"""As the table of the same name in :mod:`..group`; the command ``stats`` is ``cache_stats``."""


@click.group(cls=Commands, table=COMMANDS, prefix="cache_")
def cache() -> None:
    """Look at client caches and at traces of their use."""

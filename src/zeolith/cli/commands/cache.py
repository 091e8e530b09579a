"""``zeolith cache``: the group; each command has a module of its own beside this one."""

from __future__ import annotations

from typing import Final

import click

from ..group import LazyGroup

COMMANDS: Final = {
    "info": "Show what is in cache files, also while they are in use.",
}
"""As :data:`..group.COMMANDS`.  ``some-name`` is ``cache_some_name`` in a module of that name."""


@click.group(cls=LazyGroup, table=COMMANDS, prefix="cache_")
def cache() -> None:
    """Look at the cache files of clients."""

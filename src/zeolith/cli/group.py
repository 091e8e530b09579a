"""The commands of ``zeolith``, each imported when it is asked for.

A server listens within a fraction of a second of its start: it must not wait for the modules of
commands that it has no use for.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, Final

import click

from .. import __version__

COMMANDS: Final = {
    "serve": "Serve storages in the foreground.",
    "ctl": "Run a server in the background, kept alive by a daemon manager.",
    "check-config": "Check a zeo.conf: say everything that is wrong, and show all settings.",
    "migrate-check": "Say what would change for a zeo.conf, zope.conf or buildout.cfg of ZEO's.",
    "init": "Make a new instance: directories, zeo.conf, systemd unit, logrotate file.",
    "shrink-blob-cache": "Bring a client's blob cache down to a size.",
    "pack": "Pack storages of running servers.",
    "status": "Show how a server is.",
    "watch": "Show the transactions of a storage as they come.",
    "wire": "Show what clients and a server say to each other, for debugging.",
    "blob": "Fetch and store blobs.",
    "kick": "End the connections of a client.",
    "user": "Look after the users who may connect to a server, and their rights.",
    "nagios": "Check a server for Nagios.",
    "backup": "Back up a database with its blobs, also while it is served.",
    "restore": "Restore a database from a backup.",
    "verify": "Prove that a backup can be restored.",
    "certs": "Make the certificates of a site: its own authority, its server, its clients.",
    "cache": "Look at client caches and at traces of their use.",
    "version": "Print the versions of Zeolith and of what it runs on.",
}
"""Name of each command → what ``zeolith --help`` says of it.  The command ``some-name`` is the
function ``some_name`` of the module :mod:`.commands.some_name`."""


class Commands(click.Group):
    """Commands that are modules of :mod:`.commands`.

    :param table: as :data:`COMMANDS`.
    :param prefix: of the names of their modules and functions, which begin with that of the group
        they are in: ``zeolith cache stats`` is ``cache_stats``.
    """

    def __init__(
        self,
        *args: Any,
        table: Mapping[str, str] = COMMANDS,
        prefix: str = "",
        **options: Any,
    ) -> None:
        super().__init__(*args, **options)
        self._table = table
        self._prefix = prefix

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._table:
            return None
        name = self._prefix + cmd_name.replace("-", "_")
        module = import_module(f"{__package__}.commands.{name}")
        command: click.Command = getattr(module, name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        # As inherited, but without importing each command for its help.
        with formatter.section("Commands"):
            formatter.write_dl(list(self._table.items()))


@click.command(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, message="zeolith %(version)s")
def zeolith() -> None:
    """A storage server for ZODB that speaks ZEO's wire protocol."""

"""``zeolith init``."""

from __future__ import annotations

import os
from pathlib import Path

import click


@click.command()
@click.argument("directory")
@click.option(
    "-a",
    "--address",
    default="127.0.0.1:8100",
    show_default=True,
    help="Where the server is to listen.",
)
@click.option(
    "-s", "--storage", metavar="NAME", default="1", show_default=True, help="Name of the storage."
)
@click.option(
    "-u",
    "--user",
    help="Who is to run the server.  Root gives the directories to that user.",
)
@click.option(
    "--add",
    is_flag=True,
    help="Accept a directory that is not empty: add what is missing, change nothing.",
)
def init(directory: str, address: str, storage: str, user: str | None, add: bool) -> int:
    """Make a new instance: directories, zeo.conf, systemd unit, logrotate file.

    All of it is in DIRECTORY, and so are data, logs and backups.  No file is ever overwritten.
    """
    from ...admin.instance import Instance, make_instance

    root = Path(os.path.abspath(os.path.expanduser(directory)))
    instance = Instance(directory=root, address=address, storage=storage, user=user)
    try:
        made = make_instance(instance, add)
    except OSError as error:
        click.echo(f"zeolith: {error.filename}: {error.strerror}", err=True)
        return 1
    for path in made.created:
        click.echo(f"created {path}")
    if add:
        for path in made.kept:
            click.echo(f"kept    {path}")
    click.echo(_next_steps(root, instance.address, user))
    return 0


def _next_steps(root: Path, address: str, user: str | None) -> str:
    conf = root / "etc" / "zeo.conf"
    lines = [
        "",
        f"Look through {conf}.  Then, to start the server at {address}:",
        f"  zeolith ctl -C {conf} start",
        "or have systemd run it: see the first lines of",
        f"  {root / 'etc' / 'zeolith.service'}",
        "To rotate its logs, see the first lines of",
        f"  {root / 'etc' / 'logrotate.conf'}",
    ]
    if user is None and os.geteuid() == 0:
        lines.append("As it is, the server runs as root.  --user names somebody else.")
    return "\n".join(lines)

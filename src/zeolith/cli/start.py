"""``python -m zeolith.start``: the options of ZEO 2.0's ``start.py``.

They are those of ``zeolith serve`` but for ``-h``, which is a host here, and for what start.py
did without being told: where it looked for files, and whom it served as.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import click

from .activation import take_sockets
from .commands.serve import choose_level
from .settings import Settings, read_config, take_variables
from .signals import Signals

NOBODY: Final = "nobody"


@click.command(context_settings={"help_option_names": ["--help"]})
@click.option("-p", "port", type=click.IntRange(0, 65535), metavar="PORT", help="TCP port.")
@click.option(
    "-h",
    "host",
    metavar="HOST",
    help="Host name or IP address for -p; * or nothing at all ('') for all interfaces.  "
    "[default: the loopback interface]",
)
@click.option("-U", "unix", metavar="PATH", help="Unix socket, in place of -p.")
@click.option(
    "-u",
    "user",
    metavar="USER",
    help=f"User (name or id) to become when root starts it.  [default: {NOBODY}]",
)
@click.option("-D", "debug", is_flag=True, help="Set Z_DEBUG_MODE=1 and log on the level debug.")
@click.option(
    "-d", "is_verbose", is_flag=True, help="Log on the level debug; set STUPID_LOG_SEVERITY=-300."
)
@click.option("-s", "no_daemon", is_flag=True, help="Stay in the foreground, which is always so.")
@click.option(
    "-S",
    "objects",
    metavar="NAME=MODULE:ATTRIBUTE",
    multiple=True,
    help="Serve an object of a Python file as storage NAME: the file's path, and the name of the "
    "object in it (NAME unless given).",
)
@click.option(
    "-P",
    "profile",
    metavar="FILE",
    help="Profile the event loop; write FILE for Python's pstats at the end.",
)
@click.argument("arguments", metavar="[FILE] [NAME=VALUE]...", nargs=-1)
@click.pass_obj
def start(
    signals: Signals | None,
    /,
    *,
    arguments: tuple[str, ...],
    port: int | None,
    host: str | None,
    unix: str | None,
    user: str | None,
    debug: bool,
    is_verbose: bool,
    no_daemon: bool,
    objects: tuple[str, ...],
    profile: str | None,
) -> int:
    """Serve FILE, or $INSTANCE_HOME/var/Data.fs, in the foreground.

    NAME=VALUE sets an environment variable before anything is read.
    """
    level = choose_level(None, is_verbose=is_verbose, debug=debug)
    files = take_variables(arguments, os.environ)
    var = directory(os.environ, sys.argv[0])
    if not files and not objects:
        files = [str(var / "Data.fs")]
    sockets = take_sockets(os.environ)
    if port is None and unix is None and not sockets:
        raise click.UsageError("give a port (-p) or a Unix socket (-U)")
    config = read_config(
        Settings(
            port=port,
            host=host,
            unix=unix,
            filenames=files,
            objects=objects,
            pid_file=os.environ.get("ZEO_SERVER_PID") or str(var / "ZEO_SERVER.pid"),
            sockets=sockets,
        )
    )

    from .serve import ProcessOptions, serve

    if user is None and os.geteuid() == 0:
        user = NOBODY
    options = ProcessOptions(user=user, profile=profile, log_level=level, sockets=sockets)
    return serve(config, signals, options)


def directory(environ: Mapping[str, str], program: str) -> Path:
    """Return where files are that nobody names: the ``var`` of the instance, or the instance.

    :param program: path of the running program; an instance into which the package was copied
        (as ``lib/python/zeolith``) is found by it.
    """
    home = environ.get("INSTANCE_HOME")
    if not home:
        parents = Path(program).absolute().parents
        home = (
            str(parents[3]) if len(parents) > 3 and (parents[3] / "var").is_dir() else os.getcwd()
        )
    var = Path(home, "var")
    return var if var.is_dir() else Path(home)

"""``zeolith serve``: its options."""

from __future__ import annotations

import logging
import os
from typing import Any, Final

import click

from ...config.server import DEFAULT_TRANSACTION_TIMEOUT
from ..activation import take_sockets
from ..numbers import NumberRange
from ..settings import Settings, read_config, take_variables
from ..signals import Signals

_LEVELS: Final = ("debug", "info", "warning", "error", "critical")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "-a",
    "--address",
    metavar="ADDRESS",
    help="Where to listen: PORT (loopback only), HOST:PORT, [IPv6]:PORT, *:PORT (all interfaces) "
    "or a path with a slash in it (Unix socket).  Port 0: the system chooses.",
)
@click.option(
    "-p",
    "--port",
    type=click.IntRange(0, 65535),
    metavar="PORT",
    help="In place of -a: a TCP port, of the loopback interface unless --host says otherwise.",
)
@click.option("--host", metavar="HOST", help="Host name or IP address for -p; * for all.")
@click.option("-U", "--unix", metavar="PATH", help="In place of -a: a Unix socket.")
@click.option(
    "--socket-mode",
    metavar="MODE",
    help="Permissions of the Unix socket, such as 0660.  Who may write to it may connect.",
)
@click.option(
    "--socket-owner",
    metavar="OWNER",
    help="Whom the Unix socket belongs to: USER, USER:GROUP or :GROUP.",
)
@click.option(
    "-f",
    "--filename",
    "filenames",
    metavar="FILE",
    multiple=True,
    help="FileStorage to serve; created if it does not exist.  Given several times, the storages "
    "are called 1, 2, and so on.  A FILE without -f is the same.",
)
@click.option(
    "--blob-dir",
    "blob_dirs",
    metavar="DIR",
    multiple=True,
    help="Directory for the blobs of -f; with several -f, give one for each, in the same order.",
)
@click.option(
    "-S",
    "--storage",
    "objects",
    metavar="NAME=MODULE:ATTRIBUTE",
    multiple=True,
    help="Serve an object of a Python file as storage NAME: the file's path, and the name of the "
    "object in it (NAME unless given).",
)
@click.option(
    "-t",
    "--timeout",
    type=NumberRange(min=0),
    metavar="SECONDS",
    help="How long a client may hold the commit lock; 0: for ever.  "
    f"[default: {DEFAULT_TRANSACTION_TIMEOUT:g}]",
)
@click.option("--pid-file", metavar="FILE", help="File to hold the process id while serving.")
@click.option(
    "-C",
    "--configure",
    metavar="FILE",
    help="A zeo.conf: path, URL, or - for standard input.  Replaces -f and -S; the other options "
    "override what it says.",
)
@click.option(
    "-u",
    "--user",
    metavar="USER",
    help="User (name or id) to become once the address is bound; only root can.",
)
@click.option("--read-only", is_flag=True, help="Clients may not commit.")
@click.option("--msgpack", is_flag=True, help="Propose msgpack instead of pickle to clients.")
@click.option("--no-pickle", is_flag=True, help="Turn away clients that insist on pickle.")
@click.option(
    "--limit",
    "limits",
    metavar="KEY=VALUE",
    multiple=True,
    help="A limit of <zeo>, written as there: --limit max-connections=100.  May be repeated.",
)
@click.option(
    "--loop",
    type=click.Choice(["auto", "uvloop", "asyncio"]),
    help="Event loop; auto, the default, takes uvloop if it is installed.",
)
@click.option(
    "--compression",
    type=click.Choice(["auto", "on", "off"]),
    help="Whether large messages are compressed for clients that want it; auto, the default, does "
    "so if the extra zeolith[zstd] is installed.",
)
@click.option(
    "--conflict-resolution",
    type=click.Choice(["off", "in-process", "worker"]),
    help="Where the server resolves conflicts, which runs the application's code: worker, the "
    "default, is a process of its own, within limits.",
)
@click.option(
    "--certificate",
    metavar="FILE",
    help="TLS: the server's certificate, perhaps with its key.  With the next five options this "
    "takes the place of <ssl>.",
)
@click.option("--key", metavar="FILE", help="TLS: its private key, if not in --certificate.")
@click.option(
    "--password-file", metavar="FILE", help="TLS: its first line is the password of the key."
)
@click.option(
    "--authenticate",
    metavar="PATH",
    help="TLS: certificates of clients or authorities to admit.",
)
@click.option("--crl", metavar="PATH", help="TLS: revocation lists for clients' certificates.")
@click.option(
    "--client-certificates",
    type=click.Choice(["required", "optional", "none"]),
    help="TLS: whether clients must show a certificate.  [default: required]",
)
@click.option(
    "--log-level",
    type=click.Choice(_LEVELS),
    help="What to log at least; overrides <eventlog>.  [default: info]",
)
@click.option("-d", "is_verbose", is_flag=True, help="The same as --log-level debug.")
@click.option("-D", "--debug", is_flag=True, help="Set Z_DEBUG_MODE=1 and log on the level debug.")
@click.option("-s", "--no-daemon", is_flag=True, help="Stay in the foreground, which is always so.")
@click.option(
    "-P",
    "--profile",
    metavar="FILE",
    help="Profile the event loop; write FILE for Python's pstats at the end.",
)
@click.option("--test", "is_test", is_flag=True, help="End as soon as the server listens.")
@click.option("--control-fd", type=click.IntRange(min=0), hidden=True)
@click.argument("arguments", metavar="[FILE] [NAME=VALUE]...", nargs=-1)
@click.pass_obj
def serve(
    signals: Signals | None,
    /,
    *,
    arguments: tuple[str, ...],
    filenames: tuple[str, ...],
    user: str | None,
    log_level: str | None,
    is_verbose: bool,
    debug: bool,
    no_daemon: bool,
    profile: str | None,
    is_test: bool,
    control_fd: int | None,
    **options: Any,
) -> int:
    """Serve storages in the foreground until SIGINT (Ctrl-C) or SIGTERM.

    NAME=VALUE sets an environment variable before anything is read.
    """
    level = choose_level(log_level, is_verbose=is_verbose, debug=debug)
    files = take_variables(arguments, os.environ)
    if files and filenames:
        raise click.UsageError(f"{files[0]} and -f exclude each other: use -f for each file")
    sockets = take_sockets(os.environ)
    config = read_config(Settings(filenames=filenames or files, sockets=sockets, **options))

    from ..serve import ProcessOptions
    from ..serve import serve as serve_config

    return serve_config(
        config,
        signals,
        ProcessOptions(
            user=user,
            profile=profile,
            log_level=level,
            is_test=is_test,
            sockets=sockets,
            control_fd=control_fd,
        ),
    )


def choose_level(log_level: str | None, *, is_verbose: bool, debug: bool) -> int | None:
    """Return what is to be logged at least; do what else -D and -d mean.

    :raises click.UsageError: --log-level says otherwise.
    """
    if debug:
        os.environ["Z_DEBUG_MODE"] = "1"
    if is_verbose:
        os.environ["STUPID_LOG_SEVERITY"] = "-300"
    if debug or is_verbose:
        if log_level not in (None, "debug"):
            raise click.UsageError(f"-{'D' if debug else 'd'} and --log-level {log_level} differ")
        return logging.DEBUG
    return None if log_level is None else logging.getLevelNamesMapping()[log_level.upper()]

"""``zeolith serve``: its options, and what they mean together."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import click

from ...config.address import parse_address
from ...config.pidfile import default_pid_file
from ...config.server import (
    DEFAULT_TRANSACTION_TIMEOUT,
    ServerConfig,
    load_server_config,
    msgpack_by_environment,
    parse_server_config,
)
from ...config.storages import File, name_storages
from ..signals import Signals


@click.command()
@click.option(
    "-a",
    "--address",
    metavar="ADDRESS",
    help="Where to listen: PORT (loopback only), HOST:PORT, [IPv6]:PORT, *:PORT (all interfaces) "
    "or a path with a slash in it (Unix socket).  Port 0: the system chooses.",
)
@click.option(
    "-f",
    "--filename",
    "filenames",
    metavar="FILE",
    multiple=True,
    help="FileStorage to serve; created if it does not exist.  Given several times, the storages "
    "are called 1, 2, and so on.",
)
@click.option(
    "--blob-dir",
    "blob_dirs",
    metavar="DIR",
    multiple=True,
    help="Directory for the blobs of -f; with several -f, give one for each, in the same order.",
)
@click.option(
    "-t",
    "--timeout",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="How long a client may hold the commit lock; 0: for ever.  "
    f"[default: {DEFAULT_TRANSACTION_TIMEOUT:g}]",
)
@click.option("--pid-file", metavar="FILE", help="File to hold the process id while serving.")
@click.option(
    "-C",
    "--configure",
    metavar="FILE",
    help="A zeo.conf: path, URL, or - for standard input.  Replaces -f; the other options "
    "override what it says.",
)
@click.option("--read-only", is_flag=True, help="Clients may not commit.")
@click.option("--msgpack", is_flag=True, help="Propose msgpack instead of pickle to clients.")
@click.option(
    "--loop",
    type=click.Choice(["auto", "uvloop", "asyncio"]),
    default="auto",
    show_default=True,
    help="Event loop; auto takes uvloop if it is installed.",
)
@click.option("--control-fd", type=click.IntRange(min=0), hidden=True)
@click.pass_obj
def serve(signals: Signals | None, /, control_fd: int | None, **options: Any) -> int:
    """Serve storages in the foreground until SIGINT (Ctrl-C) or SIGTERM."""
    config = read_config(**options)

    from ..serve import serve as serve_config

    return serve_config(config, signals, control_fd)


def read_config(
    *,
    address: str | None,
    filenames: tuple[str, ...],
    blob_dirs: tuple[str, ...],
    timeout: float | None,
    pid_file: str | None,
    configure: str | None,
    read_only: bool,
    msgpack: bool,
    loop: str,
) -> ServerConfig:
    """Return what the options of ``serve`` mean together.

    :raises click.UsageError: an option is missing, or would have no effect.
    :raises ConfigurationError: a value cannot be used.
    """
    if configure is None:
        config = _config_from_files(address, filenames, blob_dirs)
    else:
        for option, given in (("-f", filenames), ("--blob-dir", blob_dirs)):
            if given:
                raise click.UsageError(
                    f"{option} and -C exclude each other: name the storages in {configure}"
                )
        if configure == "-":
            with click.open_file("-", encoding="utf-8") as stdin:
                config = parse_server_config(stdin.read(), "<stdin>")
        else:
            config = load_server_config(configure)
    changes: dict[str, Any] = {"loop": loop}
    if address is not None:
        changes["address"] = parse_address(address, "--address")
    if timeout is not None:
        changes["transaction_timeout"] = timeout or None
    if read_only:
        changes["read_only"] = True
    if msgpack:
        changes["msgpack"] = True
    changes["pid_file"] = pid_file or config.pid_file or default_pid_file(os.environ)
    return dataclasses.replace(config, **changes)


def _config_from_files(
    address: str | None, filenames: tuple[str, ...], blob_dirs: tuple[str, ...]
) -> ServerConfig:
    if not filenames:
        raise click.UsageError("no storage: give -f FILE, or a zeo.conf with -C")
    if address is None:
        raise click.UsageError("no address: give -a ADDRESS, or a zeo.conf with -C")
    if blob_dirs and len(blob_dirs) != len(filenames):
        raise click.UsageError(
            f"--blob-dir is given {len(blob_dirs)} times and -f {len(filenames)} times: give one "
            "for each file, or describe the storages in a zeo.conf (-C)"
        )
    openers = [
        File(str(number), filename, blob_dir)
        for number, (filename, blob_dir) in enumerate(
            zip(filenames, blob_dirs or [None] * len(filenames)), start=1
        )
    ]
    return ServerConfig(
        address=parse_address(address, "--address"),
        storages=name_storages(openers, "-f"),
        msgpack=msgpack_by_environment(),
    )

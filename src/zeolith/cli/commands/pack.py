"""``zeolith pack``: also what ``zeopack`` and the recipe's script of that name understand."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any, Unpack

import click

from ..login import ask_principal, login_options
from ..numbers import NumberRange
from ..signals import Signals
from ..target import TlsOptions, make_credentials, tls_options

if TYPE_CHECKING:
    from ...admin.packing import Packer
    from ...admin.packtarget import PackTarget
    from ...config.server import ServerConfig


@click.command(context_settings={"help_option_names": ["--help"]})
@click.argument("servers", nargs=-1, metavar="[HOST:PORT[:NAME]]...")
@click.option("-u", "--unix", "sockets", metavar="PATH[:NAME]", multiple=True,
              help="A server that listens on a Unix socket.")  # fmt: skip
@click.option("-C", "--configure", metavar="FILE",
              help="A zeo.conf that names the address, the storages and TLS.")  # fmt: skip
@click.option("-S", "--storage", "names", metavar="NAME", multiple=True,
              help="With -C: only this storage.  Else the storage of -p and -U, 1 unless given.",
              )  # fmt: skip
@click.option("-d", "-D", "--days", type=NumberRange(min=0), default=0.0, metavar="DAYS",
              help="Keep what was replaced or deleted in the last DAYS days.")  # fmt: skip
@click.option("-t", "--time", "time_of_day", metavar="HH[:MM[:SS]]",
              help="Count the days from this time of day; default: now.")  # fmt: skip
@click.option("-n", "--dry-run", is_flag=True, help="Find out what a pack would bring; no pack.")
@click.option("--force", is_flag=True, help="Pack although the disk may be too small.")
@click.option("--wait", type=NumberRange(min=0), default=60.0, show_default=True,
              metavar="SECONDS", help="How long to wait for a server that is not there.",
              )  # fmt: skip
@tls_options
@login_options
@click.option("-h", "host", metavar="HOST", help="Deprecated: write HOST:PORT:NAME.")
@click.option("-p", "port", type=click.IntRange(1, 65535), metavar="PORT",
              help="Deprecated: write HOST:PORT:NAME.")  # fmt: skip
@click.option("-U", "socket", metavar="PATH", help="Deprecated: write -u PATH:NAME.")
@click.option("-B", "blob_dir", metavar="DIR",
              help="Deprecated, without effect: the server knows its blob directory.")  # fmt: skip
@click.option("-W", "old_wait", is_flag=True, help="Deprecated, without effect: see --wait.")
@click.option("-1", "old_protocol", is_flag=True, help="Deprecated, without effect.")
@click.pass_obj
def pack(
    signals: Signals | None,
    /,
    servers: tuple[str, ...],
    sockets: tuple[str, ...],
    configure: str | None,
    names: tuple[str, ...],
    days: float,
    time_of_day: str | None,
    dry_run: bool,
    force: bool,
    wait: float,
    host: str | None,
    port: int | None,
    socket: str | None,
    blob_dir: str | None,
    old_wait: bool,
    old_protocol: bool,
    username: str | None,
    login_password_file: str | None,
    realm: str | None,
    **tls: Unpack[TlsOptions],
) -> int:
    """Pack storages of running servers.

    Revisions that were replaced, and objects that nothing refers to any more, are removed if that
    was so before a given time: now, unless -d or -t say otherwise.  Servers are named as HOST:PORT,
    [IPv6]:PORT or PORT, with :NAME for a storage that is not called 1; or by -u or -C.

    The exit status is 0 if all were packed, 1 if one was not, 2 for wrong usage.
    """
    from ...admin.packing import Packer
    from ...admin.packtarget import pack_time
    from ..packdisplay import PackDisplay

    targets = _find_targets(servers, sockets, names, host, port, socket)
    config = None
    if configure is not None:
        if targets or host or port or socket:
            raise click.UsageError("-C and other servers exclude each other")
        targets, config = _read_configuration(configure, names)
    elif not targets:
        raise click.UsageError("no server: name one as HOST:PORT[:NAME], or give -C FILE")
    credentials = make_credentials([target.address for target in targets], config, **tls)
    if force and dry_run:
        raise click.UsageError("--force has no effect with --dry-run")
    when = pack_time(days, time_of_day, time.time())
    principal = ask_principal(username, login_password_file, realm)
    interrupted = threading.Event()
    if signals is not None:
        signals.direct_to(interrupted.set, None)
    with PackDisplay() as display:
        packer = Packer(
            when,
            display,
            interrupted,
            credentials,
            tls.get("server_hostname"),
            wait,
            force,
            principal,
        )
        return _pack_all(packer, targets, display, dry_run=dry_run)


def _pack_all(packer: Packer, targets: list[PackTarget], display: Any, *, dry_run: bool) -> int:
    from ...admin.packing import Interrupted, PackFailed

    status = 0
    for number, target in enumerate(targets):
        try:
            if dry_run:
                packer.estimate(target)
            else:
                packer.pack(target)
        except PackFailed as error:
            display.complain(str(error))
            status = 1
        except Interrupted as error:
            display.complain(str(error))
            for other in targets[number + 1 :]:
                display.complain(f"{other}: not packed")
            return 1
    return status


def _find_targets(
    servers: tuple[str, ...],
    sockets: tuple[str, ...],
    names: tuple[str, ...],
    host: str | None,
    port: int | None,
    socket: str | None,
) -> list[PackTarget]:
    from ...admin.packtarget import PackTarget, parse_server, parse_socket

    targets = []
    if host is not None and port is None:
        raise click.UsageError("-h has no effect without -p")
    for name in names or ("1",):
        if port is not None:
            targets.append(PackTarget((host or "127.0.0.1", port), name))
        if socket is not None:
            targets.append(PackTarget(socket, name))
    targets += map(parse_server, servers)
    targets += map(parse_socket, sockets)
    if names and targets and port is None and socket is None:
        raise click.UsageError("-S has no effect here: write HOST:PORT:NAME, or -u PATH:NAME")
    return targets


def _read_configuration(path: str, names: tuple[str, ...]) -> tuple[list[PackTarget], ServerConfig]:
    """Return the storages of a zeo.conf, and what else it says."""
    from ...admin.packtarget import PackTarget
    from ...config.address import local_address
    from ...config.server import load_server_config

    config = load_server_config(path)
    served = [opener.name or "1" for opener in config.storages]
    for name in names:
        if name not in served:
            raise click.UsageError(f"{path} has no storage {name!r}; it has: {', '.join(served)}")
    targets = [
        PackTarget(local_address(config.address), name) for name in served
        if not names or name in names
    ]  # fmt: skip
    return targets, config

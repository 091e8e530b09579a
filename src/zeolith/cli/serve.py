"""Serving in the foreground: what the process does around the server.

The order is what matters.  The log comes first, so that it has everything; then the address,
which may need root's rights; then those rights are given up; only then are storages opened.  Log
files are opened with the rights of the user who will write and rotate them.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from ..admin.privileges import account_to_become, acting_as, become, check_library
from ..config.accounts import Account
from ..config.address import Address, format_address, local_address
from ..config.logs import logs_to_stdout
from ..config.pidfile import PidFile
from ..config.storages import DEFAULT_NAME, describe_storage
from ..errors import ConfigurationError
from .notify import Notifier

if TYPE_CHECKING:
    from ..config.server import ServerConfig
    from ..server import Server
    from ..server.endpoint import Endpoint
    from .profiling import ProfileFile
    from .signals import Signals

logger = logging.getLogger(__name__)

SWITCH_INTERVAL: Final = 0.0005
"""Seconds after which a thread must hand the interpreter to another one that waits for it.  A
commit thread that pickles and writes would otherwise keep the event loop, and with it every load,
waiting for 5 ms at a time, Python's default; ten loads fit into this one."""


@dataclass(frozen=True, kw_only=True)
class ProcessOptions:
    """How the process behaves, whatever it serves.

    :ivar user: name or id of the user to serve as, or None to stay who we are.
    :ivar profile: file for a profile of the event loop, or None.
    :ivar log_level: one of :mod:`logging`'s levels, or None for what the configuration says.
    :ivar is_test: whether to end as soon as the server listens.
    :ivar sockets: listening sockets that were passed to this process; none: bind the address.
    :ivar control_fd: descriptor of a socket whose other end the parent process holds: the
        address is written to it as soon as the server listens, and the server stops when the
        parent closes it, be it by dying.
    """

    user: str | None = None
    profile: str | None = None
    log_level: int | None = None
    is_test: bool = False
    sockets: Sequence[socket.socket] = ()
    control_fd: int | None = None


def serve(
    config: ServerConfig,
    signals: Signals | None = None,
    options: ProcessOptions = ProcessOptions(),
) -> int:
    """Serve what *config* says until a signal ends it.

    Needs a process of its own: it sets up logging and the interpreter's switch interval, and may
    become another user.

    :param signals: what takes the signals of this process.
    :return: exit status.
    :raises ConfigurationError: something cannot be opened, written or listened on.
    """
    with ExitStack() as cleanup:
        for sock in options.sockets:
            cleanup.callback(sock.close)
        account = account_to_become(options.user)
        set_up_logging(config.eventlog, options.log_level, account)
        sys.setswitchinterval(SWITCH_INTERVAL)
        try:
            return _serve(config, signals, options, account, cleanup)
        except ConfigurationError as error:
            if config.eventlog is not None:
                # Whoever looks into the log has not seen standard error.
                logger.critical("the server does not start: %s", error)
            raise


def _serve(
    config: ServerConfig,
    signals: Signals | None,
    options: ProcessOptions,
    account: Account | None,
    cleanup: ExitStack,
) -> int:
    profile = _profile(options.profile)
    notifier = Notifier(os.environ)
    cleanup.callback(notifier.close)
    endpoint = _open_endpoint(config, options.sockets, account)
    cleanup.callback(endpoint.close)
    monitor = _open_monitor(config, account)
    if monitor is not None:
        cleanup.callback(monitor.close)
    pid_file = PidFile(config.pid_file) if config.pid_file else None
    if pid_file is not None:
        cleanup.callback(pid_file.remove)
    if signals is not None:
        signals.clean_up_by(cleanup_early(pid_file, endpoint, monitor))
    if account is not None:
        if pid_file is not None:
            _claim(pid_file, account)
        become(account)
        check_library(account)
        logger.info("serving as user %s", account.name)
    warn_of_strangers(config, endpoint.sockets)
    if profile is not None:
        profile.check()
    from ..server.openfiles import make_room
    from ..server.turns import ask_for_short_turns

    server = config.make_server(notifier.starting)
    make_room(server.max_connections)

    def stop() -> None:
        notifier.stopping()
        server.stop()

    if signals is not None:
        # The process is ours, and this thread runs the loop for as long as it lives.
        ask_for_short_turns()
        refresh = None if config.tls is None else config.tls.refresh
        signals.direct_to(stop, config.eventlog, refresh)

    def on_listening(address: Address) -> None:
        if pid_file is not None and not pid_file.is_written:
            pid_file.write()
        announce(config, address)
        notifier.ready(describe(config, address), asyncio.get_running_loop())
        if options.control_fd is not None:
            _report_to_parent(options.control_fd, address, server)
        if options.is_test:
            stop()

    with profile or nullcontext():
        status = server.run(on_listening, endpoint, monitor)
    notifier.stopping()
    return status or (0 if signals is None else signals.status)


def cleanup_early(pid_file: PidFile | None, *endpoints: Endpoint | None) -> Callable[[], None]:
    """Return what removes the files that tell others of this server."""

    def clean_up() -> None:
        for endpoint in filter(None, endpoints):
            endpoint.close()
        if pid_file is not None:
            pid_file.remove()

    return clean_up


def _open_endpoint(
    config: ServerConfig, sockets: Sequence[socket.socket], account: Account | None
) -> Endpoint:
    from ..server.endpoint import Endpoint
    from ..server.listening import SocketPermissions

    is_unix = isinstance(config.address, str)
    for key, value in (("socket-mode", config.socket_mode), ("socket-owner", config.socket_owner)):
        if value is not None and (sockets or not is_unix):
            what = (
                "the service manager has made the socket" if sockets else "the address is no path"
            )
            raise ConfigurationError(key, f"has no effect: {what}", "remove it")
    if sockets:
        return Endpoint.adopt(sockets)
    uid, gid = (-1, -1) if account is None else (account.uid, account.gid)
    if config.socket_owner is not None:
        uid, gid = config.socket_owner.uid, config.socket_owner.gid
    return Endpoint.bind(config.address, SocketPermissions(config.socket_mode, uid, gid))


def _open_monitor(config: ServerConfig, account: Account | None) -> Endpoint | None:
    from ..server.endpoint import MONITOR_OPTION, Endpoint
    from ..server.listening import SocketPermissions

    if config.monitor_address is None:
        return None
    uid, gid = (-1, -1) if account is None else (account.uid, account.gid)
    permissions = SocketPermissions(None, uid, gid)
    return Endpoint.bind(config.monitor_address, permissions, MONITOR_OPTION)


def _claim(pid_file: PidFile, account: Account) -> None:
    """Write *pid_file* now if the user whom we become could not do it."""
    with acting_as(account):
        can_wait = os.access(pid_file.directory, os.W_OK | os.X_OK, effective_ids=True)
    if not can_wait:
        pid_file.write()
        pid_file.hand_over(account.uid, account.gid)


def _profile(path: str | None) -> ProfileFile | None:
    if path is None:
        return None
    # Imported here: few need it.  And before we become another user, who might not be able to.
    from .profiling import ProfileFile

    return ProfileFile(path)


def set_up_logging(
    eventlog: Callable[[], Any] | None, level: int | None = None, account: Account | None = None
) -> None:
    """Log as *eventlog* says, or to standard error.

    :param level: what is logged, if it is not to be what *eventlog* says.
    :param account: whom the log files are opened as.
    :raises ConfigurationError: a file cannot be opened.
    """
    if eventlog is None:
        logging.basicConfig(
            level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s"
        )
    else:
        try:
            with acting_as(account):
                eventlog()
        except OSError as error:
            who = "this user" if account is None else f"user {account.name}"
            raise ConfigurationError(
                "eventlog",
                f"{error.filename} cannot be opened: {error.strerror}",
                f"let {who} write it, and its directory if files are rotated",
            ) from error
    if level is not None:
        logging.getLogger().setLevel(level)


def warn_of_strangers(config: ServerConfig, sockets: Sequence[socket.socket]) -> None:
    """Warn, in one line, of a server that anybody on the network can use."""
    tls = config.tls
    if tls is not None and (
        config.user_file is not None or tls.settings.client_certificates in (None, "required")
    ):
        return
    wide = [
        f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        for host, port in (
            sock.getsockname()[:2] for sock in sockets if sock.family != socket.AF_UNIX
        )
        if not ipaddress.ip_address(host.partition("%")[0]).is_loopback
    ]
    if wide and config.user_file is not None:
        logger.warning(
            "%s can be reached from other machines without TLS: who sits between can read along, "
            "and take over the connection of who has logged in.  Add an <ssl> section",
            " and ".join(wide),
        )
    elif wide:
        logger.warning(
            "%s can be reached from other machines, %s and without log-in: who reaches "
            "it can read and change every object.  %s, or listen on 127.0.0.1",
            " and ".join(wide),
            "without TLS" if tls is None else "without a client certificate",
            "Add an <ssl> section" if tls is None else "Set client-certificates required",
        )


def announce(config: ServerConfig, address: Address) -> None:
    """Say in one line on standard output what is served where, and how to connect.

    Where the log itself goes there, only in the log: its lines may be meant for a program.
    """
    line = describe(config, address)
    if config.eventlog is not None:
        logger.info("%s", line)
    if not logs_to_stdout(config.eventlog):
        print(f"zeolith: {line}", flush=True)


def describe(config: ServerConfig, address: Address) -> str:
    """Return the line for :func:`announce`.

    :param address: where the server really listens.
    """
    storages = ", ".join(
        f"{describe_storage(opener)} as storage {opener.name}" for opener in config.storages
    )
    name = config.storages[0].name
    arguments = repr(local_address(address))
    if name != DEFAULT_NAME:
        arguments += f", storage={name!r}"
    if config.read_only:
        arguments += ", read_only=True"
    if config.user_file is not None:
        arguments += ", username=..., password_file=..."
    if config.tls is None:
        how = f'python -c "import zeolith; print(zeolith.connection({arguments}).root())"'
    else:
        how = f"zeolith.DB({arguments}, ssl=zeolith.tls(...))"
    mode = " read-only" if config.read_only else ""
    tls = " with TLS" if config.tls is not None else ""
    return f"serving{mode} {storages} at {format_address(address)}{tls}; connect with: {how}"


def _report_to_parent(control_fd: int, address: Address, server: Server) -> None:
    """Tell the parent the address, and stop when it goes away."""
    import json

    os.write(control_fd, json.dumps(address).encode() + b"\n")

    def wait_for_parent() -> None:
        # The parent never writes: a read returns only at the end of the connection.
        while os.read(control_fd, 64):
            pass
        server.stop()

    threading.Thread(target=wait_for_parent, name="zeolith-parent", daemon=True).start()

"""Serving in the foreground: logging, process id, and the line that says it is ready."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from ..config.address import Address, format_address, local_address
from ..config.pidfile import PidFile
from ..config.storages import DEFAULT_NAME, describe_storage

if TYPE_CHECKING:
    from ..config.server import ServerConfig
    from ..server import Server
    from .signals import Signals

logger = logging.getLogger(__name__)

SWITCH_INTERVAL: Final = 0.0005
"""Seconds after which a thread must hand the interpreter to another one that waits for it.  A
commit thread that pickles and writes would otherwise keep the event loop, and with it every load,
waiting for 5 ms at a time, Python's default; ten loads fit into this one."""


def serve(
    config: ServerConfig, signals: Signals | None = None, control_fd: int | None = None
) -> int:
    """Serve what *config* says until a signal ends it.

    Needs a process of its own: it sets up logging and the interpreter's switch interval.

    :param signals: what takes the signals of this process.
    :param control_fd: descriptor of a socket whose other end the parent process holds: the
        address is written to it as soon as the server listens, and the server stops when the
        parent closes it, be it by dying.
    :return: exit status.
    :raises ConfigurationError: something cannot be opened, written or listened on.
    """
    set_up_logging(config.eventlog)
    sys.setswitchinterval(SWITCH_INTERVAL)
    pid_file = PidFile(config.pid_file) if config.pid_file else None
    server = config.make_server()
    if signals is not None:
        signals.direct_to(server.stop, config.eventlog)

    def on_listening(address: Address) -> None:
        if pid_file is not None:
            pid_file.write()
        announce(config, address)
        if control_fd is not None:
            _report_to_parent(control_fd, address, server)

    try:
        status = server.run(on_listening)
    finally:
        if pid_file is not None:
            pid_file.remove()
    return status or (0 if signals is None else signals.status)


def set_up_logging(eventlog: Callable[[], Any] | None) -> None:
    """Log as *eventlog* says, or to standard error."""
    if eventlog is not None:
        eventlog()
        return
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")


def announce(config: ServerConfig, address: Address) -> None:
    """Say in one line on standard output what is served where, and how to connect."""
    line = describe(config, address)
    if config.eventlog is not None:
        logger.info("%s", line)
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
    if config.ssl is None:
        how = f'python -c "import zeolith; print(zeolith.connection({arguments}).root())"'
    else:
        how = f"zeolith.DB({arguments}, ssl=zeolith.config.tls.client_context(...))"
    mode = " read-only" if config.read_only else ""
    tls = " with TLS" if config.ssl is not None else ""
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

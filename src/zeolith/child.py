"""A server in a child process that cannot outlive its parent."""

from __future__ import annotations

import atexit
import json
import os
import socket
import subprocess
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from .config.address import Address
from .errors import ConfigurationError

if TYPE_CHECKING:
    from .standalone import Stop


def start_child(config: str, name: str | None, start_timeout: float) -> tuple[Address, Stop]:
    """Start a server process; return its address and a function that stops it.

    The two processes hold a pair of sockets: the child reports its address there, and ends when
    the parent's end is closed, which the system does for a parent that dies.

    :param config: text of a ``zeo.conf``.
    :param name: what to call the process in errors.
    :param start_timeout: seconds until it must listen.
    :raises ConfigurationError: it does not start; its standard error, which is ours, says why.
    """
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(
            _command(theirs.fileno()),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            # Ctrl-C is meant for the interpreter that one tries things out in.
            start_new_session=True,
        )
    stop = _make_stop(process, ours)
    try:
        assert process.stdin is not None
        # A child that dies early does not read: its silence below says the same.
        with suppress(BrokenPipeError), process.stdin as stdin:
            stdin.write(config.encode())
        ours.settimeout(start_timeout)
        with ours.makefile("rb") as reports:
            report = reports.readline()
    except TimeoutError:
        stop(0)
        raise _not_started(name, f"does not listen after {start_timeout:g} seconds") from None
    except BaseException:
        stop(0)
        raise
    if not report:
        stop()
        raise _not_started(name, f"ended with status {process.returncode}")
    atexit.register(stop)
    address = json.loads(report)
    return (address if isinstance(address, str) else tuple(address)), stop


def _command(control_fd: int) -> list[str]:
    return [
        *(sys.executable, "-m", "zeolith", "serve"),
        *("--configure", "-", "--control-fd", str(control_fd)),
    ]


def _make_stop(process: subprocess.Popen[bytes], control: socket.socket) -> Stop:
    def stop(stop_timeout: float = 99) -> None:
        atexit.unregister(stop)
        if process.returncode is not None:
            return
        try:
            # Closing alone would not be seen while a fork of ours holds a copy of the socket.
            control.shutdown(socket.SHUT_RDWR)
        except OSError:
            # The child has gone already.
            pass
        control.close()
        try:
            process.wait(stop_timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    return stop


def _not_started(name: str | None, problem: str) -> ConfigurationError:
    return ConfigurationError(
        f"server process {name!r}" if name else "the server process",
        problem,
        "its messages on standard error say why",
    )

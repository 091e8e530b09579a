"""A server in the background, started again by a daemon manager: what ``start.py`` does.

The manager is that of ``zeolith ctl``.  It ends with the server when that was stopped (SIGTERM,
SIGINT) or says that a restart would not help (status 2), and takes the server with it when it is
told to end itself.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click

from zeolith.admin.asking import NotAnswering
from zeolith.admin.liveness import check_alive
from zeolith.admin.managersocket import ask_status
from zeolith.cli.main import OK, START, USAGE, main
from zeolith.cli.settings import take_variables
from zeolith.cli.signals import Signals
from zeolith.cli.start import directory
from zeolith.cli.start import start as foreground
from zeolith.config.address import LOOPBACK, Address
from zeolith.config.runner import LONGEST_SOCKET_PATH

PATIENCE: Final = 60.0
"""Seconds to wait until the server listens: an index that is rebuilt may take longer, and is no
reason to stop it."""

_PAUSE: Final = 0.05

LOG_VARIABLES: Final = ("EVENT_LOG_FILE", "STUPID_LOG_FILE")
"""Environment variables that name the server's log, as ZEO 2.0 read them."""


@dataclass(frozen=True)
class Plan:
    """How to run a server in the background.

    :ivar arguments: of ``start.py``.
    :ivar address: where it will listen; None if the system chooses.
    :ivar home: the instance, for the files that nobody names.
    :ivar socket: path of the manager's socket.
    :ivar log: file for what the server logs and prints.
    """

    arguments: tuple[str, ...]
    address: Address | None
    home: str
    socket: str
    log: str

    @classmethod
    def make(cls, arguments: Sequence[str], options: dict[str, Any]) -> Plan:
        """Return the plan for *arguments*.

        :param options: what they mean, by name.
        """
        take_variables(options["arguments"], os.environ)
        var = directory(os.environ, sys.argv[0])
        pid_file = Path(os.environ.get("ZEO_SERVER_PID") or var / "ZEO_SERVER.pid")
        named = next(filter(None, map(os.environ.get, LOG_VARIABLES)), None)
        return cls(
            arguments=tuple(arguments),
            address=_address(options),
            home=os.path.abspath(var.parent if var.name == "var" else var),
            socket=os.path.abspath(pid_file.with_suffix(".zdsock")),
            log=os.path.abspath(named or pid_file.with_suffix(".log")),
        )

    def command(self) -> list[str]:
        """Return the command of the manager."""
        python = (sys.executable, "-P", "-m")
        manager = ("zeolith.admin.manager", "-d", "-s", self.socket, "-t", self.log, "-x", "0,2")
        # The server writes to the file itself: a manager that copies what it says may end before
        # it has copied the last of it, which is why it ended.
        redirected = ("/bin/sh", "-c", 'exec "$@" >> "$0" 2>&1', self.log)
        return [*python, *manager, *redirected, *python, "zeolith.start", "-s", *self.arguments]


def start(arguments: list[str]) -> int:
    """Start a server in the background; in the foreground if the arguments say so, or are wrong.

    :return: an exit status.
    """
    options = _parse(arguments)
    if options is None or _stays(options):
        return main(arguments, Signals(), program=START)
    plan = Plan.make(arguments, options)
    if len(os.fsencode(plan.socket)) > LONGEST_SOCKET_PATH:
        return _fail(
            f"{plan.socket} is too long for a socket, the system allows {LONGEST_SOCKET_PATH} "
            "bytes: name a shorter path in $ZEO_SERVER_PID, its socket is made beside it"
        )
    status = ask_status(plan.socket)
    if status is not None:
        return _fail(
            f"a server is running already (process {status.pid}, manager {status.manager}, "
            f"{plan.socket}): stop it, or name another file in $ZEO_SERVER_PID"
        )
    return _launch(plan)


def _parse(arguments: list[str]) -> dict[str, Any] | None:
    """Return what *arguments* mean by name; None if they are wrong, or ask for help."""
    try:
        parameters = foreground.make_context("start.py", list(arguments)).params
    except (click.ClickException, click.exceptions.Exit):
        return None
    return None if parameters["port"] is None and parameters["unix"] is None else parameters


def _stays(options: dict[str, Any]) -> bool:
    return bool(options["no_daemon"] or options["debug"] or os.environ.get("Z_DEBUG_MODE"))


def _address(options: dict[str, Any]) -> Address | None:
    path, port, host = options["unix"], options["port"], options["host"]
    if path is not None:
        return os.path.abspath(str(path))
    return (LOOPBACK if host in (None, "", "*") else str(host), int(port)) if port else None


def _launch(plan: Plan) -> int:
    begin = os.path.getsize(plan.log) if os.path.exists(plan.log) else 0
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        # The server would look beside its own program.
        "INSTANCE_HOME": plan.home,
        "ZDAEMON_MANAGED": "1",
    }
    launched = subprocess.run(
        plan.command(), stdin=subprocess.DEVNULL, env=environment, check=False
    )
    if launched.returncode:
        return _fail(f"the daemon manager ended with status {launched.returncode}")
    return _wait(plan, begin)


def _wait(plan: Plan, begin: int) -> int:
    """Wait until the server listens; say what became of it, and return an exit status.

    :param begin: where in the log it begins to speak.
    """
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        status = ask_status(plan.socket)
        if status is None:
            with open(plan.log, "rb") as log:
                log.seek(begin)
                print(log.read().decode(errors="replace"), end="", file=sys.stderr)
            return _fail(f"the server has ended; its log is {plan.log}")
        if status.pid and (plan.address is None or _is_up(plan.address)):
            print(f"server started, pid={status.pid}; log {plan.log}")
            return OK
        time.sleep(_PAUSE)
    return _fail(
        f"the server does not listen after {PATIENCE:.0f} seconds; it goes on trying, and its log "
        f"is {plan.log}"
    )


def _is_up(address: Address) -> bool:
    try:
        check_alive(address)
    except NotAnswering:
        return False
    return True


def _fail(text: str) -> int:
    print(f"start.py: {text}", file=sys.stderr)
    return USAGE

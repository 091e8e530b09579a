"""A server as ``zeolith ctl`` handles it: what its configuration and the options say together."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ..config.accounts import Account
from ..config.address import Address
from ..config.logs import log_files
from ..config.runner import LONGEST_SOCKET_PATH, Runner
from ..config.server import ServerConfig, load_server_config
from ..config.tls import TlsSettings
from ..errors import ConfigurationError
from .privileges import account_to_become

SOCKET_NAME: Final = "zeo.zdsock"
"""File name of the manager's socket unless one is given."""

_SCHEMA: Final = Path(__file__).parents[1] / "config" / "schema.xml"


@dataclass(frozen=True, kw_only=True)
class Supervised:
    """A server that is, or can be, kept running by a daemon manager.

    :ivar configuration: path of its ``zeo.conf``.
    :ivar address: where it listens.
    :ivar tls: its ``<ssl>`` section, or None.
    :ivar runner: its ``<runner>`` section, with the options of the command applied.
    :ivar changes: what the options of the command changed in *runner*.
    :ivar socket: path of the manager's socket.
    :ivar program: the command that is the server.
    :ivar logfile: the log to show, or None.
    """

    configuration: str
    address: Address
    tls: TlsSettings | None
    runner: Runner
    changes: frozenset[str]
    socket: str
    program: tuple[str, ...]
    logfile: str | None

    @classmethod
    def load(cls, configuration: str, changes: Mapping[str, Any] | None = None) -> Supervised:
        """Read *configuration*.

        :param changes: attributes of :class:`Runner` to put over what the file says.
        :raises ConfigurationError: it cannot be read or used.
        """
        config = load_server_config(configuration)
        runner = dataclasses.replace(config.runner, **(changes or {}))
        if runner.transcript and runner.directory:
            # The manager opens it when it is there.
            transcript = os.path.abspath(os.path.join(runner.directory, runner.transcript))
            runner = dataclasses.replace(runner, transcript=transcript)
        path = os.path.abspath(configuration)
        server = (sys.executable, "-P", "-m", "zeolith", "serve", "-C", path)
        return cls(
            configuration=path,
            address=_under(runner, config.address),
            tls=None if config.tls is None else config.tls.settings,
            runner=runner,
            changes=frozenset(changes or ()),
            socket=_socket(runner, config, path),
            program=runner.program or server,
            logfile=_logfile(runner, config),
        )

    @property
    def is_own_program(self) -> bool:
        """Whether the program is this server, not what ``program`` names."""
        return self.runner.program is None

    @property
    def environment(self) -> dict[str, str]:
        """The environment for the manager and the server."""
        environment = dict(os.environ)
        if self.is_own_program and self.runner.python is None:
            # Scripts of buildout and their like find their modules by sys.path alone.
            environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
        return environment

    @property
    def account(self) -> Account | None:
        """Whom to become before starting anything; None to stay the same.

        :raises ConfigurationError: there is no such user, or this process cannot become it.
        """
        return account_to_become(self.runner.user, "user")

    def manager_command(self, arguments: tuple[str, ...]) -> list[str]:
        """Return the command of the manager.

        :param arguments: further ones for the program.
        """
        runner = self.runner
        script = (runner.zdrun,) if runner.zdrun else ("-P", "-m", "zeolith.admin.manager")
        command = [
            *(runner.python or sys.executable, *script),
            *("-S", str(_SCHEMA), "-C", self.configuration, "-s", self.socket),
        ]
        # The manager reads the file itself; what the options changed it has to be told.
        options = {
            "backoff_limit": ("-b", str(runner.backoff_limit)),
            "transcript": ("-t", str(runner.transcript)),
            "umask": ("-m", f"{runner.umask:o}"),
            "exit_codes": ("-x", ",".join(map(str, runner.exit_codes))),
            "directory": ("-z", str(runner.directory)),
        }
        for name, option in options.items():
            if name in self.changes:
                command += option
        command += ["-d"] if "daemon" in self.changes and runner.daemon else []
        command += ["-f"] if "forever" in self.changes and runner.forever else []
        return [*command, *self.program, *arguments]

    def create_directories(self) -> None:
        """Create the directory to run in and that of the manager's socket.

        :raises OSError: a directory cannot be created.
        """
        for path in (self.runner.directory, os.path.dirname(self.socket)):
            if path and not os.path.isdir(path):
                os.mkdir(path)
                if self.account is not None:
                    os.chown(path, self.account.uid, self.account.gid)


def _under(runner: Runner, address: Address) -> Address:
    """Return *address* as it is reached from here: the server runs in a directory of its own."""
    if isinstance(address, str) and runner.directory is not None:
        return os.path.join(runner.directory, address)
    return address


def _socket(runner: Runner, config: ServerConfig, configuration: str) -> str:
    path = runner.socket_name
    if path is None:
        path = os.path.join(os.path.dirname(config.pid_file or configuration), SOCKET_NAME)
    path = os.path.abspath(path)
    if len(os.fsencode(path)) > LONGEST_SOCKET_PATH:
        raise ConfigurationError(
            "socket-name",
            f"{path} is too long for a socket, the system allows {LONGEST_SOCKET_PATH} bytes here",
            "use a shorter path",
        )
    return path


def _logfile(runner: Runner, config: ServerConfig) -> str | None:
    files = [runner.logfile, *log_files(config.eventlog), runner.transcript]
    found = next((path for path in files if path), None)
    if found is not None and runner.directory is not None:
        found = os.path.join(runner.directory, found)
    return found

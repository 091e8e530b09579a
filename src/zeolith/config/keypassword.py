"""Where the password of a private key comes from.

It is asked for when the key is read, and again when a renewed key is; it is kept nowhere.
"""

from __future__ import annotations

import importlib
import os
import shlex
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, TypeAlias

from ..errors import ConfigurationError

Password: TypeAlias = Callable[[], bytes]

MAX_PASSWORD: Final = 1024
"""Bytes of a password: OpenSSL takes no more."""

COMMAND_TIMEOUT: Final = 30.0
"""Seconds for a command that prints the password.  A password store answers within one; whoever
waits longer waits for somebody to type, who is not there when a server starts."""


@dataclass(frozen=True, kw_only=True)
class KeyPassword:
    """The password of a private key; at most one of the sources is given.

    :ivar function: dotted name of a function without arguments that returns it.  It is imported:
        only an administrator's own file may name it.
    :ivar file: path of a file whose first line it is.
    :ivar variable: name of an environment variable that holds it.
    :ivar command: command that prints it on its first line; run without a shell.
    :raises ConfigurationError: there is more than one.
    """

    function: str | None = None
    file: str | None = None
    variable: str | None = None
    command: str | None = None

    def __post_init__(self) -> None:
        given = [option for option, value in self._sources() if value is not None]
        if len(given) > 1:
            raise ConfigurationError(
                given[1], f"excludes {given[0]}", "name one source of the password"
            )

    def _sources(self) -> list[tuple[str, str | None]]:
        return [
            ("password-function", self.function),
            ("password-file", self.file),
            ("password-environment", self.variable),
            ("password-command", self.command),
        ]

    @property
    def option(self) -> str:
        """The option that names the source; empty if none does."""
        return next((option for option, value in self._sources() if value is not None), "")

    def asker(self) -> Password:
        """Return what asks for the password.  Where there is none, it raises ConfigurationError.

        :raises ConfigurationError: the function cannot be imported.
        """
        if self.function is not None:
            return partial(_call, self.function, _import(self.function))
        return self._ask

    def _ask(self) -> bytes:
        if self.file is not None:
            return _first_line(self.option, self.file, _read(self.file))
        if self.variable is not None:
            value = os.environb.get(os.fsencode(self.variable))
            if value is None:
                raise ConfigurationError(
                    self.option,
                    f"the environment has no variable {self.variable}",
                    "set it, or name another source",
                )
            return _limited(self.option, self.variable, value)
        if self.command is not None:
            return _first_line(self.option, self.command, _output(self.command))
        # Without this OpenSSL would ask on the terminal and the server would wait there.
        raise ConfigurationError(
            "key",
            "the private key is encrypted",
            "set password-file, password-environment, password-command or password-function, or "
            "decrypt the key file",
        )


def _call(name: str, function: Callable[[], object]) -> bytes:
    option, remedy = "password-function", "it must return the password of the key"
    try:
        given = function()
    except Exception as error:
        # It may ask somebody who is away, also when a renewed key is read in a running process.
        # What it says is left out: it may have to do with the password.
        problem = f"{name} raised {type(error).__name__}"
        raise ConfigurationError(option, problem, remedy) from error
    if isinstance(given, str):
        given = given.encode()
    if not isinstance(given, (bytes, bytearray)):
        raise ConfigurationError(option, f"{name} returned {type(given).__name__}", remedy)
    return _limited(option, name, bytes(given))


def _import(name: str) -> Callable[[], object]:
    module_name, _, attribute = name.rpartition(".")
    option = "password-function"
    if not module_name:
        raise ConfigurationError(option, f"{name!r} is not a dotted name", "use package.function")
    try:
        function = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(
            option, f"{name} cannot be imported: {error}", "check the name and the Python path"
        ) from error
    if not callable(function):
        raise ConfigurationError(option, f"{name} is not a function", "name a function")
    found: Callable[[], object] = function
    return found


def _read(path: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            # One byte more than may be, so that too long a line shows.
            return file.read(MAX_PASSWORD + 2)
    except OSError as error:
        raise ConfigurationError(
            "password-file",
            f"{path} cannot be read: {error.strerror}",
            "it must hold the password of the key",
        ) from error


def _output(command: str) -> bytes:
    option = "password-command"
    try:
        arguments = shlex.split(command)
    except ValueError as error:
        raise ConfigurationError(option, f"{command!r} cannot be split: {error}") from error
    if not arguments:
        raise ConfigurationError(option, "is empty", "name a command that prints the password")
    try:
        with subprocess.Popen(
            arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            try:
                printed, complaint = process.communicate(timeout=COMMAND_TIMEOUT)
            except subprocess.TimeoutExpired:
                process.kill()
                raise ConfigurationError(
                    option,
                    f"{arguments[0]} has not ended within {COMMAND_TIMEOUT:g} s",
                    "name a command that asks nobody",
                ) from None
    except OSError as error:
        raise ConfigurationError(
            option, f"{arguments[0]} cannot be run: {error.strerror}", "check its path"
        ) from error
    if process.returncode:
        # What it printed may be a part of the password; what it complained of is not.
        said = complaint.decode("utf-8", "replace").strip()[:200]
        raise ConfigurationError(
            option,
            f"{arguments[0]} ended with status {process.returncode}"
            + (f": {said}" if said else ""),
            "it must print the password",
        )
    return printed


def _first_line(option: str, source: str, data: bytes) -> bytes:
    line = data.partition(b"\n")[0].rstrip(b"\r")
    if not line:
        raise ConfigurationError(
            option, f"{source} gives no password", "the password must be its first line"
        )
    return _limited(option, source, line)


def _limited(option: str, source: str, password: bytes) -> bytes:
    if len(password) > MAX_PASSWORD:
        raise ConfigurationError(
            option, f"{source} gives more than {MAX_PASSWORD} bytes", "use a shorter password"
        )
    return password

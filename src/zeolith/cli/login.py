"""The options by which a command says who it is, the same for all commands.

A password is never an argument: everybody on the machine could read it there.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

if TYPE_CHECKING:
    from ..client.principal import Principal

Command = TypeVar("Command", bound=Callable[..., Any])

PASSWORD: Final = "ZEOLITH_PASSWORD"
"""Variable of the environment."""

_OPTIONS: Final = (
    click.option(
        "--username",
        metavar="NAME",
        envvar="ZEOLITH_USERNAME",
        help=f"Log in as this user; the password is asked for, or taken from {PASSWORD}.",
    ),
    click.option(
        "--login-password-file",
        metavar="FILE",
        envvar="ZEOLITH_PASSWORD_FILE",
        help="File whose first line is the password.",
    ),
    click.option("--realm", metavar="NAME", help="What the realm of the users must be called."),
)


def login_options(command: Command) -> Command:
    """Give *command* the options ``--username``, ``--login-password-file`` and ``--realm``."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def ask_principal(
    username: str | None,
    password_file: str | None,
    realm: str | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Principal | None:
    """Return who the options say we are; None if nobody.

    :raises click.UsageError: there is no password, or an option has no effect.
    :raises ConfigurationError: a value cannot be used.
    """
    if username is None:
        for option, value in (("--login-password-file", password_file), ("--realm", realm)):
            if value is not None:
                raise click.UsageError(f"{option} has no effect without --username")
        return None
    from ..client.principal import Principal, read_password

    if password_file is not None:
        password = read_password(password_file, "--login-password-file")
    elif environ.get(PASSWORD):
        password = environ[PASSWORD]
    elif sys.stdin.isatty():
        password = click.prompt(f"Password of {username}", hide_input=True, err=True)
    else:
        raise click.UsageError(
            f"--username needs a password: give --login-password-file, or set {PASSWORD}"
        )
    return Principal(username, password, realm)

"""``zeolith user``: the file of ``authentication-database``."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ..login import PASSWORD

if TYPE_CHECKING:
    from ...admin.users import Grants

Command = TypeVar("Command", bound=Callable[..., Any])

_ACCESS_HELP = (
    "Rights, as in read,pack: read, write, undo, pack, administer, all or none; on one storage as "
    "in 2=read.  Unless given: read,write,undo,pack."
)


def _with(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


_file_options: Callable[[Any], Any] = _with(
    click.option("-f", "--file", metavar="FILE", help="The user file."),
    click.option("-C", "--configure", metavar="FILE", help="A zeo.conf that names it."),
)
_grant_options: Callable[[Any], Any] = _with(
    click.option("--access", multiple=True, metavar="[STORAGE=]RIGHTS", help=_ACCESS_HELP),
    click.option(
        "--certificate",
        "certificates",
        multiple=True,
        metavar="NAME",
        help="Who shows a TLS certificate with this name is the user.",
    ),
    click.option(
        "--uid",
        "accounts",
        multiple=True,
        metavar="USER",
        help="Processes of this user of the server's machine are the user, over a Unix socket.",
    ),
)
_password_options: Callable[[Any], Any] = _with(
    click.option(
        "--password-file",
        metavar="FILE",
        help=f"File whose first line is the password, - for standard input.  Else it is taken from "
        f"{PASSWORD}, or asked for.",
    ),
    click.option(
        "--iterations",
        type=click.IntRange(4096, 5_000_000),
        default=600_000,
        show_default=True,
        metavar="NUMBER",
        help="Rounds of hashing: what a guess costs who has stolen the file.",
    ),
)


@click.group()
def user() -> None:
    """Look after the users who may connect to a server, and their rights.

    They are in the file that authentication-database names in zeo.conf; give it by -f, or the
    zeo.conf by -C.  A server that runs notices changes at the next log-in; who is connected stays
    so, see zeolith kick.
    """


@user.command()
@click.argument("name")
@_file_options
@_grant_options
@click.option("--no-password", is_flag=True, help="This user cannot log in by password.")
@_password_options
def add(
    name: str,
    file: str | None,
    configure: str | None,
    access: tuple[str, ...],
    certificates: tuple[str, ...],
    accounts: tuple[str, ...],
    no_password: bool,
    password_file: str | None,
    iterations: int,
) -> None:
    """Add a user; make the file if there is none."""
    from ...admin.users import add_user, hash_password

    path = _path(file, configure)
    grants = _grants(access, certificates, accounts)
    if no_password and password_file is not None:
        raise click.UsageError("--password-file has no effect with --no-password")
    if no_password and not (certificates or accounts):
        raise click.UsageError("with --no-password the user needs --certificate or --uid")
    secret = None if no_password else hash_password(_new_password(name, password_file), iterations)
    add_user(path, name, secret, grants)
    click.echo(f"{path}: {name} added")


@user.command()
@click.argument("name")
@_file_options
@_password_options
def passwd(
    name: str,
    file: str | None,
    configure: str | None,
    password_file: str | None,
    iterations: int,
) -> None:
    """Set a user's password; of a user of ZEO's old form, too."""
    from ...admin.users import change_user, hash_password

    path = _path(file, configure)
    secret = hash_password(_new_password(name, password_file), iterations)
    change_user(path, name, secret)
    click.echo(f"{path}: the password of {name} is set")


@user.command(name="set")
@click.argument("name")
@_file_options
@_grant_options
def set_(
    name: str,
    file: str | None,
    configure: str | None,
    access: tuple[str, ...],
    certificates: tuple[str, ...],
    accounts: tuple[str, ...],
) -> None:
    """Set what a user may do, and how the user is known besides the password.

    What is given takes the place of all of its kind that was said before; an empty NAME or USER
    stands for none.
    """
    from ...admin.users import change_user

    if not (access or certificates or accounts):
        raise click.UsageError("nothing to set: give --access, --certificate or --uid")
    path = _path(file, configure)
    change_user(path, name, grants=_grants(access, certificates, accounts))
    click.echo(f"{path}: {name} changed")


@user.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@_file_options
def remove(names: tuple[str, ...], file: str | None, configure: str | None) -> None:
    """Remove users."""
    from ...admin.users import remove_users

    path = _path(file, configure)
    remove_users(path, names)
    click.echo(f"{path}: {', '.join(names)} removed")


@user.command(name="list")
@_file_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_(file: str | None, configure: str | None, as_json: bool) -> None:
    """List the users and what they may do."""
    from ...admin.tables import align, printable
    from ...admin.users import list_users

    found = list_users(_path(file, configure))
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    rows = [["name", "password", "access", "known by"]]
    for each in found:
        access = [each["access"], *(f"{name}={on}" for name, on in each["storages"].items())]
        known = [f"certificate {name}" for name in each["certificates"]]
        known += [f"uid {name}" for name in each["accounts"]]
        rows.append(
            [
                printable(each["name"]),
                each["password"],
                printable(" ".join(access)),
                printable(", ".join(known)),
            ]
        )
    click.echo("\n".join(align(rows)))


@user.command(name="import")
@click.argument("source", metavar="SOURCE")
@_file_options
@_grant_options
@click.option(
    "--iterations",
    type=click.IntRange(4096, 5_000_000),
    default=600_000,
    show_default=True,
    metavar="NUMBER",
    help="Rounds of hashing: what a guess costs who has stolen the file.",
)
def import_(
    source: str,
    file: str | None,
    configure: str | None,
    access: tuple[str, ...],
    certificates: tuple[str, ...],
    accounts: tuple[str, ...],
    iterations: int,
) -> None:
    """Take over users from another file.

    SOURCE, or standard input if it is -, is a user file, as of ZEO 3, or has lines NAME:PASSWORD.
    Of a user file those users are taken who are new; who has a password of ZEO's old form must set
    another one.
    """
    from ...admin.users import import_users

    if certificates or accounts:
        raise click.UsageError("--certificate and --uid are one user's: see zeolith user set")
    path = _path(file, configure)
    text = _read_source(source)
    able, unable = import_users(
        path, text, source, _grants(access, certificates, accounts), iterations
    )
    click.echo(f"{path}: {len(able) + len(unable)} users imported")
    if unable:
        names = ", ".join(unable)
        click.echo(f"zeolith: these must set a password: {names}: zeolith user passwd", err=True)


def _read_source(source: str) -> str:
    from ...errors import ConfigurationError

    try:
        data = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
        return data.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is no text in UTF-8"
        raise ConfigurationError(source, f"cannot be read: {why}", "name a file of users") from None


def _path(file: str | None, configure: str | None) -> Path:
    """Return where the users are.

    :raises click.UsageError: that is not said, or twice.
    :raises ConfigurationError: the zeo.conf cannot be read, or names no user file.
    """
    if (file is None) is (configure is None):
        raise click.UsageError("give the user file by -f, or a zeo.conf that names it by -C")
    if file is not None:
        return Path(file)
    assert configure is not None  # the first line sees to it
    from ...config.server import load_server_config
    from ...errors import ConfigurationError

    found = load_server_config(configure).user_file
    if found is None:
        raise ConfigurationError(
            "authentication-database", f"is not in {configure}", "add it, or give -f FILE"
        )
    return Path(found)


def _grants(
    access: tuple[str, ...], certificates: tuple[str, ...], accounts: tuple[str, ...]
) -> Grants:
    from ...admin.users import Grants
    from ...config.accounts import find_uid

    for account in filter(None, accounts):
        find_uid(account, "--uid")
    return Grants(access or None, certificates or None, accounts or None)


def _new_password(name: str, password_file: str | None) -> str:
    """Return the password that a user is to have.

    :raises click.UsageError: there is none.
    """
    from ...client.principal import read_password

    if password_file == "-":
        password = sys.stdin.readline().removesuffix("\n")
        if not password:
            raise click.UsageError("there is no password on standard input")
        return password
    if password_file is not None:
        return read_password(password_file, "--password-file")
    if os.environ.get(PASSWORD):
        return os.environ[PASSWORD]
    if not sys.stdin.isatty():
        raise click.UsageError(f"no password: give --password-file, or set {PASSWORD}")
    found: str = click.prompt(
        f"New password of {name}", hide_input=True, confirmation_prompt=True, err=True
    )
    return found

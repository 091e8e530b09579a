"""The options by which a command finds the server it talks to, the same for all commands."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar, Unpack

import click

from ..config.address import Address, local_address, parse_address
from .login import ask_principal
from .numbers import NumberRange

if TYPE_CHECKING:
    from ..admin.asking import Target
    from ..config.server import ServerConfig
    from ..credentials import Credentials

Command = TypeVar("Command", bound=Callable[..., Any])

DEFAULT_ADDRESS = "127.0.0.1:8100"

_TLS_OPTIONS = (
    click.option("--tls", is_flag=True, help="Use TLS, which the other options of TLS imply."),
    click.option("--certificate", metavar="FILE", help="TLS: our certificate, perhaps with key."),
    click.option("--key", metavar="FILE", help="TLS: our private key, if not in --certificate."),
    click.option(
        "--password-file", metavar="FILE", help="TLS: its first line is the password of the key."
    ),
    click.option(
        "--password-environment",
        metavar="NAME",
        help="TLS: an environment variable with the password of the key.",
    ),
    click.option(
        "--password-command",
        metavar="COMMAND",
        help="TLS: a command that prints the password of the key.",
    ),
    click.option(
        "--authenticate",
        metavar="PATH",
        help="TLS: certificates of servers or authorities to trust; the system's unless given.",
    ),
    click.option(
        "--crl",
        metavar="PATH",
        help="TLS: revocation lists on which the server's certificate must not be.",
    ),
    click.option(
        "--server-hostname",
        metavar="NAME",
        help="TLS: the name that the server's certificate must bear; the host's unless given.",
    ),
)


def tls_options(command: Command) -> Command:
    """Give *command* the options that :class:`TlsOptions` has, which :func:`make_target` and
    :func:`make_credentials` take."""
    for option in reversed(_TLS_OPTIONS):
        command = option(command)
    return command


class TlsOptions(TypedDict, total=False):
    """What the options of :func:`tls_options` said."""

    tls: bool
    certificate: str | None
    key: str | None
    password_file: str | None
    password_environment: str | None
    password_command: str | None
    authenticate: str | None
    crl: str | None
    server_hostname: str | None


def timeout_option(command: Command) -> Command:
    """Give *command* the option ``--timeout``."""
    return click.option(
        "--timeout",
        type=NumberRange(min=0, min_open=True),
        default=10.0,
        show_default=True,
        metavar="SECONDS",
        help="How long to wait for the server.",
    )(command)


def make_credentials(
    addresses: Iterable[Address],
    config: ServerConfig | None = None,
    /,
    **options: Unpack[TlsOptions],
) -> Credentials | None:
    """Return the TLS that the options of :func:`tls_options` mean; None without TLS.

    :param addresses: of the servers.
    :param config: of the server, if that is where the address comes from.  Its own certificate
        serves for both sides unless the options name others.
    :raises click.UsageError: an option would have no effect, or one is missing.
    :raises ConfigurationError: a value cannot be used.
    """
    if not any(options.values()):
        if config is None or config.tls is None:
            return None
        from ..config.credentials import FileCredentials

        return FileCredentials.of_neighbour(config.tls.settings)
    hostname = options.get("server_hostname")
    if hostname is None and any(isinstance(address, str) for address in addresses):
        raise click.UsageError("TLS over a Unix socket needs --server-hostname")
    from ..config.credentials import tls

    return tls(
        options.get("certificate"),
        options.get("authenticate"),
        key=options.get("key"),
        password_file=options.get("password_file"),
        password_environment=options.get("password_environment"),
        password_command=options.get("password_command"),
        crl=options.get("crl"),
    )


def make_target(
    address: str | None,
    *,
    configure: str | None = None,
    username: str | None = None,
    login_password_file: str | None = None,
    realm: str | None = None,
    timeout: float = 10.0,
    **options: Unpack[TlsOptions],
) -> Target:
    """Return the server that the options mean.

    :param configure: path of a zeo.conf that names the address.
    :raises click.UsageError: options exclude each other, or would have no effect.
    :raises ConfigurationError: a value cannot be used.
    """
    from ..admin.asking import Target

    config = None
    if configure is not None:
        if address is not None:
            raise click.UsageError("ADDRESS and -C exclude each other: the file names the address")
        from ..config.server import load_server_config

        config = load_server_config(configure)
        where = local_address(config.address)
    else:
        where = parse_address(DEFAULT_ADDRESS if address is None else address, "ADDRESS")
        where = local_address(where)
    credentials = make_credentials([where], config, **options)
    principal = ask_principal(username, login_password_file, realm)
    return Target(where, credentials, options.get("server_hostname"), timeout, principal)

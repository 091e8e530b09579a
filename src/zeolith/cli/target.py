"""The options by which a command finds the server it talks to, the same for all commands."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ..config.address import Address, local_address, parse_address
from .numbers import NumberRange

if TYPE_CHECKING:
    import ssl

    from ..admin.asking import Target

Command = TypeVar("Command", bound=Callable[..., Any])

DEFAULT_ADDRESS = "127.0.0.1:8100"

_TLS_OPTIONS = (
    click.option("--certificate", metavar="FILE", help="TLS: our certificate, perhaps with key."),
    click.option("--key", metavar="FILE", help="TLS: our private key, if not in --certificate."),
    click.option(
        "--authenticate",
        metavar="PATH",
        help="TLS: certificates of servers or authorities to trust; the system's unless given.",
    ),
    click.option(
        "--server-hostname",
        metavar="NAME",
        help="TLS: the name that the server's certificate must bear; the host's unless given.",
    ),
)


def tls_options(command: Command) -> Command:
    """Give *command* the options ``--certificate``, ``--key``, ``--authenticate`` and
    ``--server-hostname``."""
    for option in reversed(_TLS_OPTIONS):
        command = option(command)
    return command


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


def make_context(
    addresses: Iterable[Address],
    *,
    certificate: str | None = None,
    key: str | None = None,
    authenticate: str | None = None,
    server_hostname: str | None = None,
) -> ssl.SSLContext | None:
    """Return the TLS context that the options of :func:`tls_options` mean; None without TLS.

    :param addresses: of the servers.
    :raises click.UsageError: an option would have no effect, or one is missing.
    :raises ConfigurationError: a value cannot be used.
    """
    if certificate is None and authenticate is None:
        if key is not None or server_hostname is not None:
            raise click.UsageError(
                "--key and --server-hostname have no effect without --certificate or --authenticate"
            )
        return None
    if server_hostname is None and any(isinstance(address, str) for address in addresses):
        raise click.UsageError("TLS over a Unix socket needs --server-hostname")
    from ..config.tls import client_context

    return client_context(certificate, authenticate, key=key)


def make_target(
    address: str | None,
    *,
    configure: str | None = None,
    certificate: str | None = None,
    key: str | None = None,
    authenticate: str | None = None,
    server_hostname: str | None = None,
    timeout: float = 10.0,
) -> Target:
    """Return the server that the options mean.

    :param configure: path of a zeo.conf that names the address.
    :raises click.UsageError: options exclude each other, or would have no effect.
    :raises ConfigurationError: a value cannot be used.
    """
    from ..admin.asking import Target

    needs_tls = False
    if configure is not None:
        if address is not None:
            raise click.UsageError("ADDRESS and -C exclude each other: the file names the address")
        from ..config.server import load_server_config

        config = load_server_config(configure)
        where, needs_tls = local_address(config.address), config.ssl is not None
    else:
        where = parse_address(DEFAULT_ADDRESS if address is None else address, "ADDRESS")
        where = local_address(where)
    context = make_context(
        [where],
        certificate=certificate,
        key=key,
        authenticate=authenticate,
        server_hostname=server_hostname,
    )
    if needs_tls and context is None:
        raise click.UsageError(
            f"the server of {configure} demands TLS: give --certificate and --authenticate"
        )
    return Target(where, context, server_hostname, timeout)

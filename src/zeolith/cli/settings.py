"""What the options of ``serve``, ``start`` and ``runzeo`` mean together."""

from __future__ import annotations

import dataclasses
import os
import re
import socket
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import click

from ..config.accounts import parse_mode, parse_owner
from ..config.address import LOOPBACK, Address, parse_address
from ..config.limits import override_limits
from ..config.objects import parse_object_storage
from ..config.pidfile import default_pid_file
from ..config.server import (
    ServerConfig,
    load_server_config,
    msgpack_by_environment,
    parse_server_config,
)
from ..config.storages import File, StorageOpener, name_storages
from ..errors import ConfigurationError
from .activation import check_address

if TYPE_CHECKING:
    from ..config.credentials import FileCredentials
    from ..config.tls import ClientCertificates

_VARIABLE: Final = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)", re.S)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The options as they were given, without what concerns the process alone.

    :ivar address: ``-a``.
    :ivar host: ``--host``, which goes with a port.
    :ivar port: ``-p``.
    :ivar unix: ``-U``.
    :ivar filenames: ``-f``, or the file named without an option.
    :ivar blob_dirs: ``--blob-dir``.
    :ivar objects: ``-S``.
    :ivar timeout: ``-t``.
    :ivar pid_file: ``--pid-file``.
    :ivar configure: ``-C``.
    :ivar socket_mode: ``--socket-mode``.
    :ivar socket_owner: ``--socket-owner``.
    :ivar read_only: ``--read-only``.
    :ivar msgpack: ``--msgpack``.
    :ivar no_pickle: ``--no-pickle``.
    :ivar limits: ``--limit``.
    :ivar loop: ``--loop``.
    :ivar compression: ``--compression``.
    :ivar conflict_resolution: ``--conflict-resolution``.
    :ivar certificate: ``--certificate``; this and the next five take the place of ``<ssl>``.
    :ivar key: ``--key``.
    :ivar password_file: ``--password-file``.
    :ivar authenticate: ``--authenticate``.
    :ivar crl: ``--crl``.
    :ivar client_certificates: ``--client-certificates``.
    :ivar sockets: those that were passed to this process.
    """

    address: str | None = None
    host: str | None = None
    port: int | None = None
    unix: str | None = None
    filenames: Sequence[str] = ()
    blob_dirs: Sequence[str] = ()
    objects: Sequence[str] = ()
    timeout: float | None = None
    pid_file: str | None = None
    configure: str | None = None
    socket_mode: str | None = None
    socket_owner: str | None = None
    read_only: bool = False
    msgpack: bool = False
    no_pickle: bool = False
    limits: Sequence[str] = ()
    loop: Literal["auto", "uvloop", "asyncio"] | None = None
    compression: Literal["auto", "on", "off"] | None = None
    conflict_resolution: Literal["off", "in-process", "worker"] | None = None
    certificate: str | None = None
    key: str | None = None
    password_file: str | None = None
    authenticate: str | None = None
    crl: str | None = None
    client_certificates: ClientCertificates | None = None
    sockets: Sequence[socket.socket] = ()


def read_config(settings: Settings) -> ServerConfig:
    """Return what *settings* and the file they name mean together.

    :raises click.UsageError: an option is missing, or would have no effect.
    :raises ConfigurationError: a value cannot be used.
    """
    address, option = _address(settings)
    if settings.configure is None:
        config = _config_from_options(settings, address)
    else:
        config = _config_from_file(settings, settings.configure)
        if address is None:
            option = f"{config.source}, address"
    changes: dict[str, Any] = {}
    if address is not None:
        changes["address"] = address
    if settings.socket_mode is not None:
        changes["socket_mode"] = parse_mode(settings.socket_mode, "--socket-mode")
    if settings.socket_owner is not None:
        changes["socket_owner"] = parse_owner(settings.socket_owner, "--socket-owner")
    if settings.timeout is not None:
        changes["transaction_timeout"] = settings.timeout or None
    if settings.loop is not None:
        changes["loop"] = settings.loop
    if settings.compression is not None:
        changes["compression"] = settings.compression
    if settings.conflict_resolution is not None:
        changes["conflict_resolution"] = settings.conflict_resolution
    tls = _tls(settings)
    if tls is not None:
        changes["tls"] = tls
    if settings.read_only:
        changes["read_only"] = True
    if settings.msgpack:
        changes["msgpack"] = True
    if settings.no_pickle:
        changes["pickle"] = False
    if settings.limits:
        changes |= override_limits(config, settings.limits, "--limit")
    changes["pid_file"] = settings.pid_file or config.pid_file or _pid_file_by_environment()
    config = dataclasses.replace(config, **changes)
    if settings.sockets and option:
        check_address(config.address, settings.sockets, option)
    return config


def _tls(settings: Settings) -> FileCredentials | None:
    """Return the TLS that options ask for; None if they do not.

    :raises ConfigurationError: it cannot be had; the option is named.
    """
    given = (
        settings.certificate,
        settings.key,
        settings.password_file,
        settings.authenticate,
        settings.crl,
        settings.client_certificates,
    )
    if not any(given):
        return None
    # Few servers are started like that, and all would wait for OpenSSL.
    from ..config.credentials import FileCredentials
    from ..config.keypassword import KeyPassword
    from ..config.tls import TlsSettings

    try:
        return FileCredentials.of_server(
            TlsSettings(
                certificate=settings.certificate,
                key=settings.key,
                password=KeyPassword(file=settings.password_file),
                authenticate=settings.authenticate,
                revocations=settings.crl,
                client_certificates=settings.client_certificates,
            )
        )
    except ConfigurationError as error:
        raise ConfigurationError(f"--{error.option}", error.problem, error.remedy) from error


def take_variables(arguments: Sequence[str], environ: MutableMapping[str, str]) -> list[str]:
    """Put every ``NAME=VALUE`` of *arguments* into *environ*; return the others, which are files.

    :raises click.UsageError: there is more than one file.
    """
    files = []
    for argument in arguments:
        found = _VARIABLE.fullmatch(argument)
        if found is None:
            files.append(argument)
        else:
            environ[found[1]] = found[2]
    if len(files) > 1:
        raise click.UsageError(
            f"only one file can be named without an option, not {' and '.join(files)}; use -f for "
            "each"
        )
    return files


def _address(settings: Settings) -> tuple[Address | None, str]:
    """Return the address given by options, and which one gave it."""
    given = [
        option
        for option, value in (
            ("-a", settings.address),
            ("-p", settings.port),
            ("-U", settings.unix),
        )
        if value is not None
    ]
    if len(given) > 1:
        raise click.UsageError(f"{' and '.join(given)} exclude each other: give one address")
    if settings.host is not None and settings.port is None:
        raise click.UsageError("a host has no effect without a port (-p)")
    if settings.unix is not None:
        path = settings.unix if "/" in settings.unix else f"./{settings.unix}"
        return parse_address(path, "-U"), "-U"
    if settings.port is not None:
        host = LOOPBACK if settings.host is None else settings.host
        return ("" if host == "*" else host.strip("[]"), settings.port), "-p"
    if settings.address is not None:
        return parse_address(settings.address, "--address"), "--address"
    if settings.sockets:
        name = settings.sockets[0].getsockname()
        if settings.configure is None:
            return (os.fsdecode(name) if isinstance(name, (str, bytes)) else name[:2]), ""
    return None, ""


def _config_from_file(settings: Settings, configure: str) -> ServerConfig:
    for option, given in (
        ("-f", settings.filenames),
        ("--blob-dir", settings.blob_dirs),
        ("-S", settings.objects),
    ):
        if given:
            raise click.UsageError(
                f"{option} and -C exclude each other: name the storages in {configure}"
            )
    if configure == "-":
        with click.open_file("-", encoding="utf-8") as stdin:
            return parse_server_config(stdin.read(), "<stdin>")
    return load_server_config(configure)


def _config_from_options(settings: Settings, address: Address | None) -> ServerConfig:
    filenames, blob_dirs = settings.filenames, settings.blob_dirs
    if not filenames and not settings.objects:
        raise click.UsageError("no storage: give -f FILE, or a zeo.conf with -C")
    if address is None:
        raise click.UsageError("no address: give -a ADDRESS, or a zeo.conf with -C")
    if blob_dirs and len(blob_dirs) != len(filenames):
        raise click.UsageError(
            f"--blob-dir is given {len(blob_dirs)} times and -f {len(filenames)} times: give one "
            "for each file, or describe the storages in a zeo.conf (-C)"
        )
    openers: list[StorageOpener] = [
        File(str(number), filename, blob_dirs[number - 1] if blob_dirs else None)
        for number, filename in enumerate(filenames, start=1)
    ]
    openers += [parse_object_storage(text, "-S") for text in settings.objects]
    return ServerConfig(
        address=address,
        storages=name_storages(openers, "-S" if settings.objects else "-f"),
        msgpack=msgpack_by_environment(),
    )


def _pid_file_by_environment() -> str | None:
    return os.environ.get("ZEO_SERVER_PID") or default_pid_file(os.environ)

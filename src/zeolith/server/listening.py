"""Sockets to listen on."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
import stat
from collections.abc import Callable
from typing import Any, Final

from ..errors import ConfigurationError
from .options import Address, ServerOptions

logger = logging.getLogger(__name__)

BACKLOG: Final = 512
_OPTION: Final = "address"


def open_listeners(address: Address, option: str = "address") -> list[socket.socket]:
    """Return listening sockets for *address*: several where a host name means several addresses.

    :param option: what the setting is called, for the error.
    :raises ConfigurationError: the address is in use, unknown, or not allowed.
    """
    try:
        if isinstance(address, str):
            return [_listen_unix(address)]
        return _listen_tcp(*address)
    except ConfigurationError as error:
        error.option = option
        raise


def bound_address(address: Address, listeners: list[socket.socket]) -> Address:
    """Return the address that clients can use, with the real port."""
    if isinstance(address, str):
        return address
    host, port = listeners[0].getsockname()[:2]
    return str(host), int(port)


def _listen_tcp(host: str, port: int) -> list[socket.socket]:
    try:
        found = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (OSError, UnicodeError) as error:
        raise ConfigurationError(_OPTION, f"{host!r} is not a known host: {error}") from error
    # IPv4 first: it is what bound_address names, and what every client can reach.
    found.sort(key=lambda item: item[0] is not socket.AF_INET)
    listeners: list[socket.socket] = []
    try:
        for family, kind, protocol, _, where in found:
            if listeners and port == 0:
                # The same free port on all addresses.
                where = (where[0], listeners[0].getsockname()[1], *where[2:])
            try:
                listeners.append(_bind(family, kind, protocol, where))
            except OSError as error:
                unavailable = error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)
                if unavailable and len(found) > 1:
                    logger.debug("cannot listen on %s: %s", where, error)
                    continue
                raise _translate(f"{host or '*'}:{port}", error) from error
        if not listeners:
            raise ConfigurationError(_OPTION, f"no address of {host!r} belongs to this machine")
    except ConfigurationError:
        for listener in listeners:
            listener.close()
        raise
    return listeners


def _bind(family: int, kind: int, protocol: int, where: tuple[object, ...]) -> socket.socket:
    listener = socket.socket(family, kind, protocol)
    try:
        # Connections of an earlier server in TIME_WAIT must not keep this one from starting.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(where)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener


def _listen_unix(path: str) -> socket.socket:
    _remove_stale(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(path)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise _translate(path, error) from error
    return listener


def _remove_stale(path: str) -> None:
    """Remove a socket that a server left behind; whether one still listens, connecting tells."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return  # nothing there; or bind() will say what is wrong
    if not stat.S_ISSOCK(mode):
        raise ConfigurationError(_OPTION, f"{path} exists and is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(2.0)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            with contextlib.suppress(FileNotFoundError):
                os.remove(path)
            logger.info("removed the socket %s, which an earlier server left behind", path)
            return
        except OSError as error:
            raise _translate(path, error) from error
    raise ConfigurationError(
        _OPTION, f"{path} is in use by another server", "stop it, or choose another address"
    )


async def start_accepting(
    loop: asyncio.AbstractEventLoop,
    listener: socket.socket,
    factory: Callable[[], asyncio.Protocol],
    options: ServerOptions,
) -> asyncio.Server:
    """Have *loop* accept what comes to *listener*, with TLS if the options say so.

    :param factory: makes the protocol of a connection.
    """
    extra: dict[str, Any] = {}
    if options.ssl is not None:
        extra = {"ssl": options.ssl, "ssl_handshake_timeout": options.register_timeout}
    if listener.family == socket.AF_UNIX:
        return await loop.create_unix_server(factory, sock=listener, backlog=BACKLOG, **extra)
    return await loop.create_server(factory, sock=listener, backlog=BACKLOG, **extra)


def remove_socket(path: str, inode: int) -> None:
    """Remove the socket file *path* if it is still the one with that inode."""
    with contextlib.suppress(FileNotFoundError):
        if os.stat(path).st_ino == inode:
            os.remove(path)


def _translate(where: str, error: OSError) -> ConfigurationError:
    if error.errno == errno.EADDRINUSE:
        return ConfigurationError(
            _OPTION, f"{where} is in use", "stop the server that uses it, or choose another"
        )
    if error.errno == errno.EACCES:
        return ConfigurationError(_OPTION, f"{where}: permission denied", "choose another address")
    if error.errno == errno.EADDRNOTAVAIL:
        return ConfigurationError(_OPTION, f"{where} is no address of this machine")
    return ConfigurationError(_OPTION, f"cannot listen on {where}: {error}")

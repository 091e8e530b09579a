"""Sockets to listen on."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import logging
import os
import socket
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from ..errors import ConfigurationError
from .crowd import Entry
from .options import Address
from .tlsaccepting import TlsAcceptor

if TYPE_CHECKING:
    from .lobby import Lobby

logger = logging.getLogger(__name__)

BACKLOG: Final = 512
OPTION: Final = "address"


@dataclass(frozen=True, slots=True)
class SocketPermissions:
    """Who may connect to a Unix socket: whoever may write to its file.

    :ivar mode: permission bits, or None for what the umask leaves.
    :ivar uid: user id of the owner, or -1 to leave it.
    :ivar gid: id of the group, or -1 to leave it.
    """

    mode: int | None = None
    uid: int = -1
    gid: int = -1


_UNCHANGED: Final = SocketPermissions()


def bind_sockets(
    address: Address,
    option: str = OPTION,
    permissions: SocketPermissions = _UNCHANGED,
) -> list[socket.socket]:
    """Return sockets bound to *address*: several where a host name means several addresses.

    The address is taken from now on.  A TCP port does not accept anybody before :func:`listen` is
    called; a Unix socket does at once, because others could not tell it from one that was left
    behind: clients wait in its queue.

    :param option: what the setting is called, for the error.
    :param permissions: of a Unix socket; they hold before anybody can connect.
    :raises ConfigurationError: the address is in use, unknown, or not allowed.
    """
    try:
        if isinstance(address, str):
            return [_listen_unix(address, permissions)]
        return _bind_tcp(*address)
    except ConfigurationError as error:
        error.option = option
        raise


def listen(sockets: list[socket.socket], option: str = OPTION) -> None:
    """Have *sockets* accept connections; those that do already go on.

    :raises ConfigurationError: another server listens at the same address since they were bound.
    """
    for sock in sockets:
        try:
            sock.listen(BACKLOG)
        except OSError as error:
            error_of_ours = _translate(_format(sock), error)
            error_of_ours.option = option
            raise error_of_ours from error


def _format(sock: socket.socket) -> str:
    name = sock.getsockname()
    return name if isinstance(name, str) else f"{name[0]}:{name[1]}"


def bound_address(address: Address, listeners: list[socket.socket]) -> Address:
    """Return the address that clients can use, with the real port."""
    if isinstance(address, str):
        return address
    host, port = listeners[0].getsockname()[:2]
    return str(host), int(port)


def _bind_tcp(host: str, port: int) -> list[socket.socket]:
    try:
        found = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (OSError, UnicodeError) as error:
        raise ConfigurationError(OPTION, f"{host!r} is not a known host: {error}") from error
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
            raise ConfigurationError(OPTION, f"no address of {host!r} belongs to this machine")
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
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener


def _listen_unix(path: str, permissions: SocketPermissions) -> socket.socket:
    with _only_one_in(os.path.dirname(path) or "."):
        _remove_stale(path)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            _bind_unix(listener, path, permissions)
            listener.listen(BACKLOG)
            listener.setblocking(False)
        except OSError as error:
            listener.close()
            raise _translate(path, error) from error
        except BaseException:
            listener.close()
            raise
    return listener


def _bind_unix(listener: socket.socket, path: str, permissions: SocketPermissions) -> None:
    mode, uid, gid = permissions.mode, permissions.uid, permissions.gid
    # Nobody may connect before the owner and the mode are what they shall be.
    umask = None if mode is None and uid == gid == -1 else os.umask(0o777)
    try:
        listener.bind(path)
    finally:
        if umask is not None:
            os.umask(umask)
    if umask is None:
        return
    try:
        os.chown(path, uid, gid, follow_symlinks=False)
        os.chmod(path, 0o777 & ~umask if mode is None else mode)
    except OSError as error:
        os.remove(path)
        raise ConfigurationError(
            OPTION,
            f"{path}: owner or mode cannot be set: {error.strerror}",
            "start the server as root, or leave out what only root may set",
        ) from error


@contextlib.contextmanager
def _only_one_in(directory: str) -> Iterator[None]:
    """Keep others out that look for stale sockets in *directory*.

    Otherwise two servers started together could both find the same stale socket, and the second
    would remove what the first has just put in its place.
    """
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        yield  # a directory that may not be read; or bind() will say what is wrong
        return
    try:
        with contextlib.suppress(OSError):  # some network file systems have no locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _remove_stale(path: str) -> None:
    """Remove a socket that a server left behind; whether one still listens, connecting tells."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return  # nothing there; or bind() will say what is wrong
    if not stat.S_ISSOCK(mode):
        raise ConfigurationError(OPTION, f"{path} exists and is not a socket")
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
        OPTION, f"{path} is in use by another server", "stop it, or choose another address"
    )


class Factory(Protocol):
    """Makes the protocol of a connection.

    :param entry: the place it has got; None if it is to ask for one.
    """

    def __call__(self, entry: Entry | None = None) -> asyncio.Protocol: ...


class Acceptor(Protocol):
    """What accepts connections until it is closed."""

    def close(self) -> None: ...


async def start_accepting(lobby: Lobby, listener: socket.socket, factory: Factory) -> Acceptor:
    """Have the loop accept what comes to *listener*, with TLS if the options say so.

    :param lobby: of the server; with TLS a connection gets a place there before its handshake.
    :param factory: makes the protocol of a connection.
    """
    loop, credentials = lobby.loop, lobby.options.credentials
    if credentials is not None:
        patience = lobby.options.register_timeout
        return TlsAcceptor(loop, listener, factory, credentials, patience, lobby.crowd, lobby.tally)
    if listener.family == socket.AF_UNIX:
        return await loop.create_unix_server(factory, sock=listener, backlog=BACKLOG)
    return await loop.create_server(factory, sock=listener, backlog=BACKLOG)


def remove_socket(path: str, inode: int) -> None:
    """Remove the socket file *path* if it is still the one with that inode.

    Where this user may not remove it, it stays; the next server replaces it.
    """
    try:
        if os.stat(path).st_ino == inode:
            os.remove(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        logger.info("the socket %s stays: %s", path, error.strerror)


def _translate(where: str, error: OSError) -> ConfigurationError:
    if error.errno == errno.EADDRINUSE:
        return ConfigurationError(
            OPTION, f"{where} is in use", "stop the server that uses it, or choose another"
        )
    if error.errno == errno.EACCES:
        return ConfigurationError(OPTION, f"{where}: permission denied", "choose another address")
    if error.errno == errno.EADDRNOTAVAIL:
        return ConfigurationError(OPTION, f"{where} is no address of this machine")
    return ConfigurationError(OPTION, f"cannot listen on {where}: {error}")

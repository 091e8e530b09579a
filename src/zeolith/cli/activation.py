"""Sockets that a service manager has opened for this process (sd_listen_fds(3))."""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping, Sequence
from typing import Final

from ..config.address import Address, format_address
from ..errors import ConfigurationError

_FIRST: Final = 3
_OPTION: Final = "LISTEN_FDS"
_REMEDY: Final = "use ListenStream= in the socket unit"


def take_sockets(environ: MutableMapping[str, str]) -> tuple[socket.socket, ...]:
    """Return the listening sockets passed to this process; none if none are.

    Removes the variables that announce them, lest a child process take them for its own.

    :raises ConfigurationError: what was passed cannot be listened on.
    """
    pid, count = environ.pop("LISTEN_PID", ""), environ.pop("LISTEN_FDS", "")
    environ.pop("LISTEN_FDNAMES", None)
    if not count or pid != str(os.getpid()):
        return ()  # for another process, of which we inherited the environment
    if not count.isdecimal():
        raise ConfigurationError(_OPTION, f"{count!r} is no number", _REMEDY)
    sockets: list[socket.socket] = []
    try:
        for descriptor in range(_FIRST, _FIRST + int(count)):
            sockets.append(_take(descriptor))
    except ConfigurationError:
        for sock in sockets:
            sock.close()
        raise
    return tuple(sockets)


def _take(descriptor: int) -> socket.socket:
    try:
        sock = socket.socket(fileno=descriptor)
    except OSError as error:
        raise ConfigurationError(
            _OPTION, f"descriptor {descriptor} is no socket: {error.strerror}", _REMEDY
        ) from error
    try:
        is_listening = (
            sock.type == socket.SOCK_STREAM
            and sock.family in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)
            and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
        )
    except OSError:
        is_listening = False
    if not is_listening:
        sock.close()
        raise ConfigurationError(
            _OPTION, f"descriptor {descriptor} is no listening stream socket", _REMEDY
        )
    sock.set_inheritable(False)
    sock.setblocking(False)
    return sock


def check_address(address: Address, sockets: Sequence[socket.socket], option: str) -> None:
    """Check that *address* is where one of *sockets* listens.

    :param option: how the user calls the address, for the error.
    :raises ConfigurationError: it is not, so it would be ignored.
    """
    if any(_is_at(address, sock) for sock in sockets):
        return
    found = ", ".join(sorted(format_address(_name(sock)) for sock in sockets))
    raise ConfigurationError(
        option,
        f"is {format_address(address)}, but the socket passed by the service manager is {found}",
        "say the same in ListenStream= of the socket unit",
    )


def _is_at(address: Address, sock: socket.socket) -> bool:
    name = _name(sock)
    if isinstance(address, str) or isinstance(name, str):
        return (
            isinstance(address, str)
            and isinstance(name, str)
            and os.path.realpath(address) == os.path.realpath(name)
        )
    host, port = address
    if port != name[1]:
        return False
    if not host:
        return name[0] in ("0.0.0.0", "::")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError:
        return False
    return any(item[4][0] == name[0] for item in found)


def _name(sock: socket.socket) -> Address:
    name = sock.getsockname()
    if isinstance(name, (str, bytes)):
        return os.fsdecode(name)
    return str(name[0]), int(name[1])

"""Addresses of servers as people write them.

A bare port means the loopback interface: a database without passwords must not reach the network
because somebody left the host out.  (ZEO reads a bare port as *all* interfaces.)  Whoever wants
all interfaces says so: ``*:8100``.
"""

from __future__ import annotations

import sys
from typing import Final, TypeAlias

from ..errors import ConfigurationError

Address: TypeAlias = tuple[str, int] | str
"""``(host, port)``, where an empty host means all interfaces, or the path of a Unix socket."""

LOOPBACK: Final = "127.0.0.1"

# sockaddr_un holds 108 bytes on Linux and 104 elsewhere, including a final zero.
_MAX_SOCKET_PATH: Final = 107 if sys.platform == "linux" else 103

_FORMS: Final = "use PORT, HOST:PORT, [IPv6]:PORT, *:PORT or a path with a slash in it"
_ALL_INTERFACES: Final = frozenset({"", "*"})


def parse_address(text: str, option: str = "address") -> Address:
    """Return the address that *text* means.

    ===================  =========================================
    ``PORT``             that port of the loopback interface
    ``HOST:PORT``        a host name or IPv4 address
    ``[IPv6]:PORT``      an IPv6 address
    ``*:PORT``, ``:PORT``  that port of all interfaces
    ``/a/path``, ``./a``  a Unix socket; at least one slash is needed
    ===================  =========================================

    Port 0 lets the system choose.

    :param option: how the user calls the setting, for the error.
    :raises ConfigurationError: *text* has none of these forms.
    """
    text = text.strip()
    if "/" in text:
        return _check_path(text, option)
    if not text:
        raise ConfigurationError(option, "is empty", _FORMS)
    host, colon, port = text.rpartition(":")
    if not colon:
        if not port.isdecimal():
            raise ConfigurationError(option, f"{text!r} has no port", _FORMS)
        return LOOPBACK, _parse_port(port, option)
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        if ":" not in host:
            raise ConfigurationError(option, f"[{host}] is not an IPv6 address", _FORMS)
    elif ":" in host:
        raise ConfigurationError(
            option, f"{text!r} is ambiguous", "write an IPv6 address in brackets: [::1]:8100"
        )
    if any(char.isspace() for char in host):
        raise ConfigurationError(option, f"{text!r} has a blank in it", _FORMS)
    if host in _ALL_INTERFACES:
        host = ""
    return host, _parse_port(port, option)


def _parse_port(text: str, option: str) -> int:
    # int() would also admit signs, underscores and blanks.
    if not (text.isascii() and text.isdecimal()):
        raise ConfigurationError(option, f"{text!r} is not a port number", _FORMS)
    port = int(text)
    if port > 65535:
        raise ConfigurationError(option, f"port {port} is too large", "use 0 to 65535")
    return port


def _check_path(path: str, option: str) -> str:
    length = len(path.encode("utf-8", "surrogateescape"))
    if length > _MAX_SOCKET_PATH:
        raise ConfigurationError(
            option,
            f"the socket path is {length} bytes long, the system allows {_MAX_SOCKET_PATH}",
            "use a shorter path",
        )
    return path


def format_address(address: Address) -> str:
    """Return *address* in the form :func:`parse_address` reads."""
    if isinstance(address, str):
        return address
    host, port = address
    if ":" in host:
        return f"[{host}]:{port}"
    return f"{host or '*'}:{port}"


def local_address(address: Address) -> Address:
    """Return the address by which a client on the same machine reaches *address*."""
    if isinstance(address, str):
        return address
    host, port = address
    if host in ("", "0.0.0.0"):
        return LOOPBACK, port
    if host == "::":
        return "::1", port
    return host, port

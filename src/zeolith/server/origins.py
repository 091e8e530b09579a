"""Where peers come from: what counts as one address."""

from __future__ import annotations

from typing import Final

UNIX: Final = "unix"
"""The origin of all that come over Unix sockets: the socket's permissions say who may."""


def origin(peername: object) -> str:
    """Return what counts as one address: a host; of IPv6 the network that a site has (/64), whose
    addresses its machines may take as they like; or :data:`UNIX`.

    :param peername: as a socket has it.
    """
    if not isinstance(peername, tuple):
        return UNIX
    host = str(peername[0])
    if ":" not in host:
        return host
    from ipaddress import IPv6Address, ip_network

    address = IPv6Address(host.partition("%")[0])
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ip_network((address, 64), strict=False))

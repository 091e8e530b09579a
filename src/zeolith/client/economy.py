"""Whether it pays to compress what is sent to a server."""

from __future__ import annotations

from ipaddress import ip_address

from ..errors import ConfigurationError
from ..protocol.compression import EXTRA, is_available
from .wire import Address


def check_compression(compression: object) -> bool | None:
    """Return *compression*, the keyword.

    :raises ConfigurationError: it is neither true, false nor None, or the library is missing.
    """
    if compression is not None and not isinstance(compression, bool):
        raise ConfigurationError("compression", f"{compression!r} is not true, false or None")
    if compression and not is_available():
        raise ConfigurationError(
            "compression", "the library 'zstandard' is not installed", f"install {EXTRA}"
        )
    return compression


def prefers_compression(peer: Address, is_encrypted: bool) -> bool:
    """Return whether to compress where nobody has said so.

    Not within one host, where it only takes time.  Not over TLS: whoever can have data of his own
    stored beside a secret in one object may learn of the secret from how well both compress, if
    he sees how much travels.

    :param peer: the server's address as the socket knows it.
    """
    if is_encrypted or isinstance(peer, str) or not is_available():
        return False
    try:
        # A link-local address may name its interface, which says nothing here.
        address = ip_address(peer[0].partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return not (mapped or address).is_loopback

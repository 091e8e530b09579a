"""What ties a log-in to the TLS connection under it: ``tls-server-end-point`` of RFC 5929.

It is the hash of the certificate that the server has shown.  Who relays a log-in between a client
and the server has shown the client another one, so that the proofs do not fit.

``tls-exporter`` (RFC 9266) would tie the log-in to the very connection.  Python's ``ssl`` module
cannot tell it, and what it does tell (``tls-unique``) is not safe before TLS 1.3 and does not exist
there.  What is lost is small: only who has the server's private key gets past the hash.
"""

from __future__ import annotations

import hashlib
from typing import Final

BINDING: Final = "tls-server-end-point"

_SEQUENCE: Final = 0x30
_OBJECT_ID: Final = 0x06
_LONG: Final = 0x80

_SHA384: Final = frozenset(
    {
        bytes.fromhex("2a864886f70d01010c"),  # RSA
        bytes.fromhex("2a8648ce3d040303"),  # ECDSA
    }
)
_SHA512: Final = frozenset(
    {
        bytes.fromhex("2a864886f70d01010d"),
        bytes.fromhex("2a8648ce3d040304"),
    }
)


def end_point(certificate: bytes) -> bytes:
    """Return the binding of the server that has shown *certificate*.

    The hash is that of the certificate's own signature; SHA-256 where that is weaker or, as with
    Ed25519, none is named, which the RFC leaves open.

    :param certificate: in DER form.
    """
    algorithm = _signature_algorithm(certificate)
    name = "sha384" if algorithm in _SHA384 else "sha512" if algorithm in _SHA512 else "sha256"
    return hashlib.new(name, certificate).digest()


def _signature_algorithm(certificate: bytes) -> bytes:
    """Return the object id of the signature's algorithm; empty if *certificate* is none."""
    try:
        start, _ = _enter(certificate, 0, _SEQUENCE)
        _, behind = _enter(certificate, start, _SEQUENCE)  # what is signed
        start, _ = _enter(certificate, behind, _SEQUENCE)
        start, end = _enter(certificate, start, _OBJECT_ID)
    except (IndexError, ValueError):
        return b""
    return certificate[start:end]


def _enter(data: bytes, at: int, tag: int) -> tuple[int, int]:
    """Return where the content of the DER value at *at* begins and ends."""
    if data[at] != tag:
        raise ValueError(tag)
    length = data[at + 1]
    start = at + 2
    if length & _LONG:
        size = length & ~_LONG
        length = int.from_bytes(data[start : start + size], "big")
        start += size
    return start, start + length

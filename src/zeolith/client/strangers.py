"""Who else may answer at a server's address, told from the first bytes or the TLS library's error.

None of these goes away by waiting: somebody has to change an address or a setting.  A server that
is only away for a moment refuses or resets connections, says nothing, or says less than this.
"""

from __future__ import annotations

import ssl
from typing import Final

from ..errors import FrameTooLarge, ProtocolViolation
from ..protocol.greeting import is_tls

_PLAIN_GREETING: Final = (b"\0\0\0", b"ZM")
"""A ZEO server's: a short length, then the letter of a coding."""

_PROTOCOLS: Final = {b"HTTP": "HTTP", b"SSH-": "SSH"}

_NO_AGREEMENT: Final = frozenset(
    {
        "WRONG_VERSION_NUMBER",
        "UNSUPPORTED_PROTOCOL",
        "NO_PROTOCOLS_AVAILABLE",
        "UNKNOWN_PROTOCOL",
        "HTTP_REQUEST",
        "HTTPS_PROXY_REQUEST",
    }
)
"""OpenSSL's names for a peer that speaks no TLS, or no version of it that we do."""


def describe_violation(error: ProtocolViolation) -> str:
    """Return what is at an address where instead of a greeting came what caused *error*."""
    if not isinstance(error, FrameTooLarge):
        return f"it is not a ZEO server: {error}"
    # What was taken for a length is the beginning of something else.
    begin = error.announced.to_bytes(4, "big")
    if is_tls(begin):
        return "it speaks TLS, and this client plain text: give ssl"
    return f"it is not a ZEO server: {_describe(begin)}"


def describe_plain(data: bytes) -> str | None:
    """Return what is at an address from which *data* came when TLS was to begin; None if TLS."""
    if is_tls(data):
        return None
    length, letters = _PLAIN_GREETING
    if data.startswith(length) and data[4:5] and data[4:5] in letters:
        return "it is a ZEO server that speaks plain text: leave out ssl, or give the server TLS"
    return f"it does not speak TLS: {_describe(data[:4])}; does it speak plain text?"


def is_lasting(error: ssl.SSLError) -> bool:
    """Tell whether TLS will fail in the same way the next time.

    It will if a certificate is refused by either side or there is no version or cipher that both
    know; but not if the connection just ended, or the server had an accident.
    """
    if isinstance(error, ssl.SSLCertVerificationError):
        return True
    reason = error.reason or ""
    if "ALERT" in reason:
        return not reason.endswith(("INTERNAL_ERROR", "USER_CANCELLED", "CLOSE_NOTIFY"))
    return reason in _NO_AGREEMENT


def describe_tls(error: ssl.SSLError) -> str:
    """Return what *error* says, and what may have caused it."""
    if error.reason in _NO_AGREEMENT:
        return f"{error}; does it speak plain text, or another version of TLS?"
    if "ALERT" in (error.reason or ""):
        return f"{error}; does it want a certificate, or another one?"
    return str(error)


def _describe(begin: bytes) -> str:
    protocol = _PROTOCOLS.get(begin)
    return f"it speaks {protocol}" if protocol else f"it begins with {begin!r}"

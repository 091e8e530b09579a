"""Log lines about TLS handshakes that failed, as many as somebody may want to read."""

from __future__ import annotations

import asyncio
import logging
import ssl
from typing import Any, Final

from .limitedlog import LimitedLog

logger = logging.getLogger(__name__)

_REASONS: Final = {
    "HTTP_REQUEST": "it speaks HTTP",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "it shows no certificate",
    "SSLV3_ALERT_BAD_CERTIFICATE": "it does not trust our certificate, or the name in it",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "it says that our certificate has expired",
    "SSLV3_ALERT_CERTIFICATE_REVOKED": "it says that our certificate has been revoked",
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE": "it says that our certificate is not one for servers",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "it does not trust our certificate",
    "TLSV1_ALERT_UNKNOWN_CA": "it does not trust our certificate",
    "UNSUPPORTED_PROTOCOL": "it speaks too old a version of TLS",
    "WRONG_VERSION_NUMBER": "it does not use TLS",
}
"""What OpenSSL's reasons mean for whoever has configured server and clients."""


class Refusals:
    """Tells of the TLS handshakes that failed at one listening socket.

    Belongs to the loop's thread.

    :param loop: knows the time.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._log = LimitedLog(loop, logger, "TLS handshakes failed")

    def note(self, peername: Any, error: OSError) -> None:
        """The handshake of a peer has failed with *error*.

        :param peername: of its socket.
        """
        self._log.warn("(%s) no TLS connection: %s", label(peername), _reason(error))

    def close(self) -> None:
        """Tell what has not been told; any number of times."""
        self._log.close()


def label(peername: Any) -> str:
    """Return what a peer is called that has only an address.

    :param peername: of its socket.
    """
    if not isinstance(peername, tuple):
        return "unix client"
    host, port = peername[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not admitted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        # Only OpenSSL's own errors have a reason.
        return _REASONS.get(getattr(error, "reason", None) or "", str(error))
    return str(error)

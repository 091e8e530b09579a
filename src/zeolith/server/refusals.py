"""Log lines about peers that were not let in, as many as somebody may want to read.

Whoever can reach the port can be refused as often as he likes: his lines must not fill the disk,
nor hide all others (R8).
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from typing import Any, Final

logger = logging.getLogger(__name__)

MOST_LINES: Final = 10
"""Refusals in a period that get a line each; of the others only their number is told."""

PERIOD: Final = 60.0
"""Seconds, counted from the first refusal."""

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
        self._loop = loop
        self._count = 0
        self._timer: asyncio.TimerHandle | None = None

    def note(self, peername: Any, error: OSError) -> None:
        """The handshake of a peer has failed with *error*.

        :param peername: of its socket.
        """
        if self._timer is None:
            self._timer = self._loop.call_later(PERIOD, self._end_period)
        self._count += 1
        if self._count <= MOST_LINES:
            logger.warning("(%s) no TLS connection: %s", _label(peername), _reason(error))

    def close(self) -> None:
        """Tell what has not been told; any number of times."""
        if self._timer is not None:
            self._timer.cancel()
            self._end_period()

    def _end_period(self) -> None:
        self._timer = None
        left_out, self._count = self._count - MOST_LINES, 0
        if left_out > 0:
            logger.warning("%d more TLS handshakes failed within %g s", left_out, PERIOD)


def _label(peername: Any) -> str:
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

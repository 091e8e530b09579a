"""Why a certificate was not accepted, ours or the server's, in words that say what to do."""

from __future__ import annotations

import ssl
import time
from datetime import UTC, datetime
from typing import Final

from ..credentials import Credentials
from ..errors import CertificateProblem, CertificateRefused, ServerRefused
from .strangers import describe_tls

_FOREIGN: Final = (
    CertificateProblem.FOREIGN,
    "nobody whom this client trusts has signed it; name the file of its authority (authenticate)",
)
_MISMATCH: Final = (
    CertificateProblem.MISMATCH,
    "connect by a name that it bears, or give that name (ssl_server_hostname)",
)

_OF_SERVERS: Final = {
    9: (
        CertificateProblem.NOT_YET_VALID,
        "it is not valid yet; compare the clocks of both machines",
    ),
    10: (CertificateProblem.EXPIRED, "it has expired; renew it at the server"),
    2: _FOREIGN,
    18: _FOREIGN,
    19: _FOREIGN,
    20: _FOREIGN,
    21: _FOREIGN,
    3: (
        CertificateProblem.REVOCATION_UNKNOWN,
        "there is no revocation list of its authority; add one (crl)",
    ),
    12: (
        CertificateProblem.REVOCATION_UNKNOWN,
        "the revocation list of its authority has expired; get a new one (crl)",
    ),
    23: (CertificateProblem.REVOKED, "it has been revoked; make a new one for the server"),
    26: (CertificateProblem.UNFIT, "it is not meant for servers"),
    62: _MISMATCH,
    64: _MISMATCH,
}
"""OpenSSL's number of what is wrong (``X509_V_ERR_…``) → what that means to whoever connects."""

_OF_CLIENTS: Final = {
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": (
        CertificateProblem.EXPIRED,
        "it, or the server's revocation list, has expired; renew it",
    ),
    "SSLV3_ALERT_CERTIFICATE_REVOKED": (
        CertificateProblem.REVOKED,
        "it has been revoked; get a new one",
    ),
    "SSLV3_ALERT_BAD_CERTIFICATE": (
        CertificateProblem.OTHER,
        "the server calls it bad; see the server's log",
    ),
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": (
        CertificateProblem.OTHER,
        "see the server's log for what it does not like",
    ),
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE": (
        CertificateProblem.UNFIT,
        "it is not meant for clients",
    ),
    "TLSV1_ALERT_UNKNOWN_CA": (
        CertificateProblem.FOREIGN,
        "nobody whom the server trusts has signed it; get one from the server's authority",
    ),
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": (
        CertificateProblem.MISSING,
        "there is none, and the server demands one: does it want a certificate of its authority?",
    ),
}
"""OpenSSL's name of the server's alert → what that says of our certificate."""


def to_refusal(
    server: str, error: ssl.SSLError, credentials: Credentials | None = None
) -> ServerRefused:
    """Return the error for a TLS connection that will fail in the same way the next time.

    :param server: its address, as people write it.
    :param error: what the TLS layer said.
    :param credentials: those that were used.
    """
    if isinstance(error, ssl.SSLCertVerificationError):
        problem, text = _OF_SERVERS.get(error.verify_code, (CertificateProblem.OTHER, ""))
        if not text or problem is CertificateProblem.MISMATCH:
            said = error.verify_message.rstrip(".")
            text = f"{said}; {text}" if text else said
        return CertificateRefused(server, text, "server", problem)
    found = _OF_CLIENTS.get(error.reason or "")
    if found is None:
        return ServerRefused(server, describe_tls(error))
    problem, text = found
    end = _end_of(credentials)
    if problem is CertificateProblem.EXPIRED and end:
        text = end
    return CertificateRefused(server, text, "client", problem)


def refusal_without_reason(
    server: str, credentials: Credentials | None = None
) -> CertificateRefused:
    """Return the error for a server that agrees upon TLS, and ends the connection.

    ZEO's servers do that to clients whose certificate they do not admit: what TLS has for telling
    them why is not sent.

    :param server: its address, as people write it.
    :param credentials: those that were used.
    """
    end = _end_of(credentials)
    if end:
        return CertificateRefused(server, end, "client", CertificateProblem.EXPIRED)
    text = (
        "it ends each connection after the TLS hand-shake and does not say why, as ZEO's servers "
        "do if they do not admit the certificate, or want one; see the server's log"
    )
    return CertificateRefused(server, text, "client", CertificateProblem.OTHER)


def _end_of(credentials: Credentials | None) -> str:
    """Return when our certificate expired; empty if it has not, or nobody knows."""
    end = None if credentials is None else credentials.expires
    if end is None or end > time.time():
        return ""
    return f"it expired on {datetime.fromtimestamp(end, UTC):%Y-%m-%d %H:%M} UTC; renew it"

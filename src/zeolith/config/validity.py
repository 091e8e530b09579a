"""How long certificates and revocation lists are valid, read from their bytes.

Python's ``ssl`` decodes only the certificates of peers.  What is needed here are the fields of
X.509 that say from when to when: Certificate → TBSCertificate → Validity, and CertificateList →
TBSCertList → nextUpdate.
"""

from __future__ import annotations

import binascii
import re
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

SOON: Final = 30 * 86400.0
"""Seconds before the end of a certificate from which on that is worth a warning: authorities that
sign for 90 days renew within the last 30."""

LIST_SOON: Final = 86400.0
"""The same for revocation lists, which many authorities make anew each week or day."""

_INTEGER: Final = 0x02
_SEQUENCE: Final = 0x30
_VERSION: Final = 0xA0
_UTC_TIME: Final = 0x17
_GENERALIZED_TIME: Final = 0x18

_KIND: Final = "(?:X509 |TRUSTED )?CERTIFICATE"
_PEM: Final = re.compile(f"-----BEGIN {_KIND}-----.+?-----END {_KIND}-----", re.S)
_PEM_LIST: Final = re.compile("-----BEGIN X509 CRL-----(.+?)-----END X509 CRL-----", re.S)


def validities(pem: str) -> Iterator[tuple[datetime, datetime]]:
    """Yield from when to when each certificate in *pem* is valid; what cannot be read is left out.

    :param pem: text of a file with certificates.
    """
    for found in _PEM.finditer(pem):
        text = re.sub("(BEGIN|END) (X509|TRUSTED) ", r"\1 ", found[0])
        try:
            yield _validity(ssl.PEM_cert_to_DER_cert(text))
        except ValueError:
            # A damaged certificate is found by OpenSSL, which has more to say about it.
            continue


def list_ends(pem: str) -> Iterator[datetime]:
    """Yield until when each revocation list in *pem* is valid; what cannot be read is left out.

    :param pem: text of a file with revocation lists.
    """
    for found in _PEM_LIST.finditer(pem):
        try:
            end = _next_update(binascii.a2b_base64(found[1]))
        except ValueError:
            continue  # likewise
        if end is not None:
            yield end


def _next_update(der: bytes) -> datetime | None:
    fields = list(_elements(_content(_content(der, 0, _SEQUENCE), 0, _SEQUENCE)))
    # The version may come first; algorithm, issuer and the time of the list precede.
    at = 4 if fields and fields[0][0] == _INTEGER else 3
    if len(fields) <= at or fields[at][0] not in (_UTC_TIME, _GENERALIZED_TIME):
        return None
    return _time(*fields[at])


def _validity(der: bytes) -> tuple[datetime, datetime]:
    certificate = _content(der, 0, _SEQUENCE)
    fields = list(_elements(_content(certificate, 0, _SEQUENCE)))
    # Serial number, algorithm and issuer precede; the version may come first.
    at = 4 if fields and fields[0][0] == _VERSION else 3
    if len(fields) <= at or fields[at][0] != _SEQUENCE:
        raise ValueError("no validity")
    start, end = (_time(tag, content) for tag, content in _elements(fields[at][1]))
    return start, end


def _time(tag: int, content: bytes) -> datetime:
    text = content.decode("ascii")
    if tag == _UTC_TIME:
        # Two digits of the year, of which 50 to 99 are of the last century (RFC 5280, 4.1.2.5.1).
        text = ("19" if text[:2] >= "50" else "20") + text
    elif tag != _GENERALIZED_TIME:
        raise ValueError(f"tag {tag} is no time")
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)


def _content(data: bytes, at: int, expected: int) -> bytes:
    tag, content, _ = _element(data, at)
    if tag != expected:
        raise ValueError(f"tag {tag} in place of {expected}")
    return content


def _elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(data):
        tag, content, at = _element(data, at)
        yield tag, content


def _element(data: bytes, at: int) -> tuple[int, bytes, int]:
    """Return tag and content of the element at *at*, and where the next one begins."""
    if len(data) < at + 2:
        raise ValueError("cut off")
    tag, length = data[at], data[at + 1]
    at += 2
    if length & 0x80:
        count = length & 0x7F
        length = int.from_bytes(data[at : at + count], "big")
        at += count
    if len(data) < at + length:
        raise ValueError("cut off")
    return tag, data[at : at + length], at + length

"""Which certificates a TLS context shows: Python's ``ssl`` does not tell a server.

Whoever loads a certificate into a context notes it here; a log-in that is tied to the TLS
connection needs it, see :mod:`~zeolith.protocol.binding`.
"""

from __future__ import annotations

import ssl
from typing import Any, Final
from weakref import WeakKeyDictionary

from ..protocol.binding import end_point

_KEPT: Final = 2
"""Bindings kept of one context: when its certificate is renewed, some clients have just been shown
the one before."""

_noted: WeakKeyDictionary[ssl.SSLContext, tuple[bytes, ...]] = WeakKeyDictionary()


def note_certificate(context: ssl.SSLContext, pem: str) -> None:
    """Note that *context* shows the first certificate in *pem* from now on.

    Any thread may call this; the entries are replaced as a whole.
    """
    _, begin, rest = pem.partition("-----BEGIN CERTIFICATE-----")
    body, end, _ = rest.partition("-----END CERTIFICATE-----")
    if begin and end:
        found = end_point(ssl.PEM_cert_to_DER_cert(f"{begin}{body}{end}"))
        before = [each for each in _noted.get(context, ()) if each != found]
        _noted[context] = (found, *before[: _KEPT - 1])


def bindings_of(ssl_object: Any) -> tuple[bytes, ...]:
    """Return the bindings that hold for a connection; none without TLS, or if nothing was noted.

    :param ssl_object: the server's end, or None.
    """
    return () if ssl_object is None else _noted.get(ssl_object.context, ())

"""TLS contexts of both sides, made of files as servers and clients make them."""

from __future__ import annotations

import ssl
from typing import Any, Final

from zeolith.config.keypassword import KeyPassword
from zeolith.config.tls import TlsSettings

_PASSWORDS: Final = {
    "password_function": "function",
    "password_file": "file",
    "password_environment": "variable",
    "password_command": "command",
}


def server_context(
    certificate: str | None = None, authenticate: str | None = None, **options: Any
) -> ssl.SSLContext:
    """Return the context with which a server accepts connections.

    :param options: as those of ``zeolith.tls``, and ``client_certificates``.
    """
    return _settings(certificate, authenticate, options).server_context()


def client_context(
    certificate: str | None = None, authenticate: str | None = None, **options: Any
) -> ssl.SSLContext:
    """Return the context with which a client connects.

    :param options: as those of ``zeolith.tls``.
    """
    return _settings(certificate, authenticate, options).client_context()


def _settings(
    certificate: str | None, authenticate: str | None, options: dict[str, Any]
) -> TlsSettings:
    password = {_PASSWORDS[key]: options.pop(key) for key in _PASSWORDS.keys() & options}
    return TlsSettings(
        certificate=certificate,
        authenticate=authenticate,
        password=KeyPassword(**password),
        revocations=options.pop("crl", None),
        **options,
    )

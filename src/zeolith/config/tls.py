"""TLS contexts as the ``<ssl>`` sections describe them.

Both sides demand a certificate of their peer.  A setting that would leave the door open, or leave
nobody able to enter, is an error here rather than a surprise later.
"""

from __future__ import annotations

import importlib
import re
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from ..errors import ConfigurationError

Password: TypeAlias = Callable[[], str | bytes | bytearray]

# How OpenSSL finds certificates (.0) and revocation lists (.r0) in a directory: by hash.
_HASHED_CERTIFICATE: Final = re.compile(r"[0-9a-f]{8}\.\d+")
_HASHED_CRL: Final = re.compile(r"[0-9a-f]{8}\.r\d+")

_PLACEHOLDERS: Final = frozenset({"-", "SIGNED", "DYNAMIC"})


@dataclass(frozen=True)
class ServerTls:
    """What a server's ``<ssl>`` section says.

    :ivar context: with which the server accepts connections.
    :ivar certificate: its certificate's file.
    :ivar key: its key's file, or None.
    :ivar password_function: dotted name, or None.
    """

    context: ssl.SSLContext
    certificate: str
    key: str | None
    password_function: str | None


def server_context(
    certificate: str,
    authenticate: str,
    *,
    key: str | None = None,
    password_function: str | None = None,
) -> ssl.SSLContext:
    """Return the context with which a server accepts connections.

    :param certificate: file with the server's certificate (PEM), its chain, and perhaps its key.
    :param authenticate: file of certificates, or directory prepared with ``openssl rehash``;
        clients must present one of them or one signed by them.
    :param key: file with the private key (PEM); default: in *certificate*.
    :param password_function: dotted name of a function without arguments that returns the
        password of the key.  It is imported: only an administrator's own file may name it.
    :raises ConfigurationError: a file is missing or unusable; the option is named.
    """
    # Clients make contexts here, too, and have no use for a server's modules.
    from ..server.bindings import note_certificate

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _trust(context, authenticate)
    _load_certificate(context, certificate, key, password_function)
    note_certificate(context, Path(certificate).read_text(encoding="utf-8", errors="replace"))
    return _close(context)


def client_context(
    certificate: str | None = None,
    authenticate: str | None = None,
    *,
    key: str | None = None,
    password_function: str | None = None,
    check_hostname: bool = True,
) -> ssl.SSLContext:
    """Return the context with which a client connects.

    :param certificate: file with the client's certificate (PEM); servers of this protocol
        usually demand one.
    :param authenticate: file or directory of server certificates to trust; default: the
        system's authorities.
    :param key: see :func:`server_context`.
    :param password_function: see :func:`server_context`.
    :param check_hostname: whether the server's certificate must name the host connected to
        (or the ``ssl_server_hostname`` given to the storage).
    :raises ConfigurationError: a file is missing or unusable; the option is named.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if authenticate is None:
        context.load_default_certs()
    else:
        _trust(context, authenticate)
    if certificate is not None:
        _load_certificate(context, certificate, key, password_function)
    elif key is not None or password_function is not None:
        raise ConfigurationError(
            "key" if key is not None else "password-function",
            "has no effect without a certificate",
            "name the certificate, or remove it",
        )
    context.check_hostname = check_hostname
    return _close(context)


def _close(context: ssl.SSLContext) -> ssl.SSLContext:
    """Set what is the same on both sides."""
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    # A certificate listed under authenticate is trusted as it is, also without its authority;
    # Python 3.13 made that the default, and it must not depend on Python's version.
    context.verify_flags |= ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN
    if context.cert_store_stats()["crl"]:
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
    return context


def _trust(context: ssl.SSLContext, authenticate: str) -> None:
    if authenticate in _PLACEHOLDERS:
        raise ConfigurationError(
            "authenticate",
            f"{authenticate} does not say whom to trust",
            "name a file of certificates, or a directory prepared with 'openssl rehash'",
        )
    path = Path(authenticate)
    if path.is_dir():
        names = [entry.name for entry in path.iterdir()]
        if not any(map(_HASHED_CERTIFICATE.fullmatch, names)):
            raise ConfigurationError(
                "authenticate",
                f"the directory {path} holds no certificate under the name OpenSSL looks for",
                f"run 'openssl rehash {path}'",
            )
        context.load_verify_locations(capath=str(path))
        # A directory is read when a peer connects, so the store's statistics do not show that
        # it holds revocation lists.
        if any(map(_HASHED_CRL.fullmatch, names)):
            context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
        return
    try:
        context.load_verify_locations(cafile=str(path))
    except (OSError, ssl.SSLError) as error:
        raise _unusable("authenticate", path, error, "certificates in PEM form") from error


def _load_certificate(
    context: ssl.SSLContext, certificate: str, key: str | None, password_function: str | None
) -> None:
    password = _ask_nobody if password_function is None else _import_password(password_function)
    for option, file in (("certificate", certificate), ("key", key)):
        if file is not None:
            _check_readable(option, Path(file))
    try:
        context.load_cert_chain(certificate, key, password)
    except (OSError, ssl.SSLError) as error:
        what = "a certificate and its private key in PEM form" + (
            "; its password must be right" if password_function else ""
        )
        raise _unusable("certificate", Path(certificate), error, what) from error


def _ask_nobody() -> str:
    # Without this OpenSSL would ask on the terminal and the server would wait there.
    raise ConfigurationError(
        "key", "the private key is encrypted", "set password-function, or decrypt the key file"
    )


def _import_password(name: str) -> Password:
    module_name, _, attribute = name.rpartition(".")
    option = "password-function"
    if not module_name:
        raise ConfigurationError(option, f"{name!r} is not a dotted name", "use package.function")
    try:
        function = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(
            option, f"{name} cannot be imported: {error}", "check the name and the Python path"
        ) from error
    if not callable(function):
        raise ConfigurationError(option, f"{name} is not a function", "name a function")
    password: Password = function
    return password


def _check_readable(option: str, path: Path) -> None:
    try:
        path.open("rb").close()
    except OSError as error:
        raise _unusable(option, path, error, "a file in PEM form") from error


def _unusable(option: str, path: Path, error: OSError, expected: str) -> ConfigurationError:
    # An SSLError's text is OpenSSL's name for the trouble; an OSError's is the system's.
    reason = getattr(error, "reason", None) or error.strerror or str(error)
    return ConfigurationError(
        option, f"{path} cannot be used: {reason}", f"it must hold {expected}"
    )

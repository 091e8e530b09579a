"""TLS contexts as the ``<ssl>`` sections describe them.

A setting that would leave the door open, or leave nobody able to enter, is an error here rather
than a surprise later.
"""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal, TypeAlias

from ..errors import ConfigurationError
from .keypassword import KeyPassword

ClientCertificates: TypeAlias = Literal["required", "optional", "none"]
"""Whether a server asks its clients for certificates: each must have an admitted one; one that is
shown must be admitted; nobody is asked, and the connection is only encrypted."""

# How OpenSSL finds certificates (.0) and revocation lists (.r0) in a directory: by hash.
_HASHED_CERTIFICATE: Final = re.compile(r"[0-9a-f]{8}\.\d+")
_HASHED_CRL: Final = re.compile(r"[0-9a-f]{8}\.r\d+")

_SYSTEM: Final = frozenset({"-", "SIGNED"})
"""What ZEO's documentation has for "whoever is signed by an authority that the system trusts"."""

_END: Final = "-----END CERTIFICATE-----"

_VERSIONS: Final = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


@dataclass(frozen=True, kw_only=True)
class TlsSettings:
    """What an ``<ssl>`` section says; the files are not looked at before a context is made.

    :ivar certificate: file with our own certificate (PEM), its chain, and perhaps its key.
    :ivar key: file with the private key (PEM); None: in *certificate*.
    :ivar password: where the password of the key comes from.
    :ivar authenticate: file of certificates, or directory prepared with ``openssl rehash``: the
        other side must show one of them or one signed by them.
    :ivar revocations: file of revocation lists (PEM), or directory prepared with ``openssl
        rehash``: what the other side shows must have been signed by an authority that has a
        valid list there, and not be on it.
    :ivar client_certificates: only for servers; None: required.
    :ivar check_hostname: only for clients: whether the server's certificate must name the host
        connected to.
    :ivar minimum_version: oldest version of TLS, ``"1.2"`` or ``"1.3"``.
    """

    certificate: str | None = None
    key: str | None = None
    password: KeyPassword = field(default_factory=KeyPassword)
    authenticate: str | None = None
    revocations: str | None = None
    client_certificates: ClientCertificates | None = None
    check_hostname: bool = True
    minimum_version: str = "1.2"

    @property
    def files(self) -> tuple[str, ...]:
        """The files and directories that all this comes from."""
        named = (
            self.certificate,
            self.key,
            self.authenticate,
            self.revocations,
            self.password.file,
        )
        return tuple(path for path in named if path is not None and path not in _SYSTEM)

    def server_context(self) -> ssl.SSLContext:
        """Return the context with which a server accepts connections.

        :raises ConfigurationError: a file is missing or unusable; the option is named.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        if self.certificate is None:
            raise ConfigurationError(
                "certificate", "is missing", "name the file of the server's certificate"
            )
        self._check_admission()
        if self.authenticate is not None:
            _trust(context, self.authenticate)
        self._set_up(context)
        # Resuming a session would admit a client by what was true when it began.  With TLS 1.2
        # it can be resumed all the same, by its number: see Handshake.
        context.num_tickets = 0
        context.options |= ssl.OP_NO_TICKET
        # Clients make contexts here, too, and have no use for a server's modules.
        from ..server.bindings import note_certificate

        path = Path(self.certificate)
        note_certificate(context, path.read_text(encoding="utf-8", errors="replace"))
        if self.client_certificates == "none":
            context.verify_mode = ssl.CERT_NONE
        elif self.client_certificates == "optional":
            context.verify_mode = ssl.CERT_OPTIONAL
        return context

    def client_context(self) -> ssl.SSLContext:
        """Return the context with which a client connects.

        :raises ConfigurationError: a file is missing or unusable; the option is named.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if self.authenticate is None or self.authenticate in _SYSTEM:
            if not self.check_hostname:
                raise ConfigurationError(
                    "check-hostname",
                    "false would trust whoever has a certificate of any public authority",
                    "name the server's certificate or its authority under authenticate",
                )
            context.load_default_certs()
        else:
            _trust(context, self.authenticate)
        self._set_up(context)
        context.check_hostname = self.check_hostname
        return context

    def neighbour_context(self) -> ssl.SSLContext:
        """Return the context of a client that has nothing but these settings of a server.

        The server's own certificate is the only one that is trusted, so no name is checked, and it
        is shown if the server asks for one.

        :raises ConfigurationError: a file is missing or unusable; the option is named.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        assert self.certificate is not None  # a server's settings
        path = Path(self.certificate)
        try:
            # Not those behind it: the authority of a chain signs for others, too.
            first = path.read_text(encoding="utf-8", errors="replace").partition(_END)
            context.load_verify_locations(cadata="".join(first[:2]))
        except (OSError, ssl.SSLError) as error:
            raise _unusable("certificate", path, error, "a certificate in PEM form") from error
        settings = replace(self, revocations=None)
        if self.client_certificates == "none":
            settings = replace(settings, certificate=None, key=None, password=KeyPassword())
        settings._set_up(context)
        return context

    def _check_admission(self) -> None:
        """Refuse what does not say whom a server admits."""
        if self.client_certificates == "none":
            for option, value in (
                ("authenticate", self.authenticate),
                ("crl", self.revocations),
            ):
                if value is not None:
                    raise ConfigurationError(
                        option,
                        "has no effect with client-certificates none",
                        "remove one of the two lines",
                    )
        elif self.authenticate is None:
            raise ConfigurationError(
                "authenticate",
                "is missing: it does not say which clients to admit",
                "name a file of their certificates or authorities; or set client-certificates "
                "none, which encrypts but asks nobody who he is",
            )
        elif self.authenticate in _SYSTEM:
            raise ConfigurationError(
                "authenticate",
                f"{self.authenticate} does not say whom to trust: it would admit everybody who "
                "has a certificate from any public authority",
                "name a file of certificates, or a directory prepared with 'openssl rehash'",
            )

    def _set_up(self, context: ssl.SSLContext) -> None:
        """Set what is the same on both sides."""
        self._load_certificate(context)
        version = _VERSIONS.get(self.minimum_version)
        if version is None:
            raise ConfigurationError(
                "minimum-version",
                f"{self.minimum_version!r} is unknown",
                f"it is one of {', '.join(_VERSIONS)}",
            )
        context.minimum_version = version
        # OpenSSL 3 does not let clients ask for it, OpenSSL 1.1 does: it costs the server much.
        context.options |= ssl.OP_NO_RENEGOTIATION
        context.verify_mode = ssl.CERT_REQUIRED
        # A certificate listed under authenticate is trusted as it is, also without its authority;
        # Python 3.13 made that the default, and it must not depend on Python's version.
        context.verify_flags |= ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN
        if self.revocations is not None:
            _load_revocations(context, self.revocations)
        if context.cert_store_stats()["crl"]:
            context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF

    def _load_certificate(self, context: ssl.SSLContext) -> None:
        if self.certificate is None:
            option = "key" if self.key is not None else self.password.option
            if option:
                raise ConfigurationError(
                    option, "has no effect without a certificate", "name it, or remove this"
                )
            return
        ask = self.password.asker()
        was_asked = False

        def password() -> bytes:
            nonlocal was_asked
            was_asked = True
            return ask()

        for option, file in (("certificate", self.certificate), ("key", self.key)):
            if file is not None:
                _check_readable(option, Path(file))
        try:
            context.load_cert_chain(self.certificate, self.key, password)
        except (OSError, ssl.SSLError) as error:
            what = "a certificate and its private key in PEM form" + (
                "; its password must be right" if was_asked else ""
            )
            raise _unusable("certificate", Path(self.certificate), error, what) from error
        # ZEO's own option has always been allowed for a key without a password.
        if not was_asked and self.password.option not in ("", "password-function"):
            raise ConfigurationError(
                self.password.option,
                "has no effect: the private key is not encrypted",
                "remove it, or encrypt the key",
            )


def _trust(context: ssl.SSLContext, authenticate: str) -> None:
    if authenticate == "DYNAMIC":
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


def _load_revocations(context: ssl.SSLContext, revocations: str) -> None:
    path = Path(revocations)
    context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
    if path.is_dir():
        if not any(_HASHED_CRL.fullmatch(entry.name) for entry in path.iterdir()):
            raise ConfigurationError(
                "crl",
                f"the directory {path} holds no revocation list under the name OpenSSL looks for",
                f"run 'openssl rehash {path}'",
            )
        if any(_HASHED_CERTIFICATE.fullmatch(entry.name) for entry in path.iterdir()):
            # They would be trusted, which is not what this option is for.
            raise ConfigurationError(
                "crl", f"the directory {path} holds certificates, too", "move them elsewhere"
            )
        context.load_verify_locations(capath=str(path))
        return
    before = context.cert_store_stats()
    expected = "revocation lists in PEM form"
    try:
        context.load_verify_locations(cafile=str(path))
    except (OSError, ssl.SSLError) as error:
        raise _unusable("crl", path, error, expected) from error
    after = context.cert_store_stats()
    if after["crl"] == before["crl"]:
        raise ConfigurationError("crl", f"{path} holds no revocation list", f"give {expected}")
    if after["x509"] != before["x509"]:
        raise ConfigurationError(
            "crl", f"{path} holds certificates, too", "name them under authenticate"
        )


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

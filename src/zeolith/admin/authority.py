"""A private certificate authority: its own certificate, those that it signs, those it revokes.

Everything here is bytes in PEM form and objects of ``cryptography``; :mod:`.certstore` has the
files.  All keys are of the curve P-256, which every TLS library has and which takes a server a
tenth of the time of RSA.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ..errors import ConfigurationError

CA_DAYS: Final = 3650
"""Days that an authority lasts: to replace it means a visit to every machine."""

DAYS: Final = 825
"""Days that what it signs lasts: the longest that no TLS library objects to."""

_SKEW: Final = timedelta(hours=1)
"""How far the clocks of two machines of a site may differ on the day that a certificate is made."""

_LOCAL: Final = ("localhost", "127.0.0.1", "::1")
"""What a server is called by the commands beside it."""

_MAX_NAME: Final = 64
"""Characters of a common name: X.509 allows no more."""

_CLIENT_NAME: Final = re.compile(rf"[A-Za-z0-9][A-Za-z0-9@._+-]{{0,{_MAX_NAME - 1}}}")
_HOST_NAME: Final = re.compile(
    r"(\*\.)?([A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?\.)*[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
)


class Authority:
    """Signs for one site.

    :param certificate: its own.
    :param key: its private key.
    """

    def __init__(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        self.certificate = certificate
        self._key = key

    @classmethod
    def make(cls, name: str, days: int = CA_DAYS) -> Authority:
        """Return a new one called *name*, for *days* days."""
        key = ec.generate_private_key(ec.SECP256R1())
        return cls(_sign_self(_subject(name), key, days), key)

    @classmethod
    def load(cls, certificate: bytes, key: bytes, password: bytes | None) -> Authority:
        """Return the one that was written with :attr:`pem` and :meth:`key_pem`.

        :raises ValueError: they cannot be read, or do not belong together.
        """
        try:
            found = serialization.load_pem_private_key(key, password)
        except (TypeError, UnsupportedAlgorithm) as error:
            # TypeError: there is a password and should be none, or the reverse.
            raise ValueError(str(error)) from error
        own = x509.load_pem_x509_certificate(certificate)
        if own.public_key() != found.public_key():
            raise ValueError("certificate and key do not belong together")
        if not isinstance(found, ec.EllipticCurvePrivateKey):
            raise ValueError("it is of another kind than zeolith certs makes")  # noqa: TRY004
        return cls(own, found)

    @property
    def pem(self) -> bytes:
        """The authority's certificate, for everybody."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def key_pem(self, password: bytes | None = None) -> bytes:
        """Return the authority's private key, encrypted if there is a *password*."""
        return _key_pem(self._key, password)

    def renew(self, days: int = CA_DAYS) -> Authority:
        """Return the same authority for *days* days from now: what it has signed stays valid."""
        return Authority(_sign_self(self.certificate.subject, self._key, days), self._key)

    def issue_server(self, names: Sequence[str], days: int = DAYS) -> bytes:
        """Return a certificate and its key for a server.

        It serves for clients, too: for the commands that run beside the server.

        :param names: host names and IP addresses; those of the own host are added.
        :raises ConfigurationError: a name cannot be one of a host, or the authority has expired.
        """
        alternatives = [_host(name) for name in dict.fromkeys([*names, *_LOCAL])]
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        return self._issue(names[0][:_MAX_NAME], alternatives, usages, days)

    def issue_client(self, name: str, days: int = DAYS) -> bytes:
        """Return a certificate and its key for the client *name*.

        :raises ConfigurationError: *name* cannot be one, or the authority has expired.
        """
        check_client_name(name)
        # What looks like an address of mail is looked for there, too.
        alternatives = [x509.RFC822Name(name)] if "@" in name.strip("@") else []
        return self._issue(name, alternatives, [ExtendedKeyUsageOID.CLIENT_AUTH], days)

    def reissue(self, pem: bytes, days: int = DAYS) -> bytes:
        """Return a certificate with a new key for whoever has the one in *pem*.

        :raises ConfigurationError: the authority has expired.
        """
        old = x509.load_pem_x509_certificate(pem)
        usages = list(old.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
        return self._issue(common_name(old), alternatives_of(old), usages, days)

    def revoke(self, serials: Iterable[int], known: bytes | None) -> bytes:
        """Return a revocation list with *serials* and what is on the list *known*.

        It lasts as long as the authority: one that expires would lock everybody out.

        :raises ConfigurationError: the authority has expired.
        """
        self._check_end()
        now = datetime.now(UTC)
        number = 1
        revoked: dict[int, datetime] = dict.fromkeys(serials, now)
        if known is not None:
            old = x509.load_pem_x509_crl(known)
            number += old.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
            revoked.update((item.serial_number, item.revocation_date_utc) for item in old)
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.certificate.subject)
            .last_update(now - _SKEW)
            .next_update(self.certificate.not_valid_after_utc)
            .add_extension(self._key_identifier(), critical=False)
            .add_extension(x509.CRLNumber(number), critical=False)
        )
        for serial, when in revoked.items():
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(when).build()
            )
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def _issue(
        self,
        name: str,
        alternatives: Sequence[x509.GeneralName],
        usages: Sequence[x509.ObjectIdentifier],
        days: int,
    ) -> bytes:
        self._check_end()
        key = ec.generate_private_key(ec.SECP256R1())
        builder = (
            _builder(_subject(name), key, days, self.certificate.not_valid_after_utc)
            .issuer_name(self.certificate.subject)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(digital_signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(self._key_identifier(), critical=False)
        )
        if alternatives:
            builder = builder.add_extension(
                x509.SubjectAlternativeName(alternatives), critical=False
            )
        certificate = builder.sign(self._key, hashes.SHA256())
        return certificate.public_bytes(serialization.Encoding.PEM) + _key_pem(key, None)

    def _check_end(self) -> None:
        """Refuse to sign what would be valid for nobody."""
        end = self.certificate.not_valid_after_utc
        if end <= datetime.now(UTC):
            raise ConfigurationError(
                "ca.pem", f"expired on {end:%Y-%m-%d %H:%M} UTC", "--renew ca makes it anew"
            )

    def _key_identifier(self) -> x509.AuthorityKeyIdentifier:
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())


def check_client_name(name: str) -> None:
    """Refuse what cannot be the name of a client, and of a file.

    :raises ConfigurationError: why.
    """
    if not _CLIENT_NAME.fullmatch(name):
        raise ConfigurationError(
            "--client",
            f"{name!r} cannot be a client's name",
            f"use up to {_MAX_NAME} letters, digits and @ . _ + -",
        )


def common_name(certificate: x509.Certificate) -> str:
    """Return the common name of *certificate*; empty if it has none."""
    found = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(found[0].value) if found else ""


def alternatives_of(certificate: x509.Certificate) -> list[x509.GeneralName]:
    """Return the further names of *certificate*."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return []
    return list(found.value)


def _sign_self(subject: x509.Name, key: ec.EllipticCurvePrivateKey, days: int) -> x509.Certificate:
    return (
        _builder(subject, key, days)
        .issuer_name(subject)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .sign(key, hashes.SHA256())
    )


def _builder(
    subject: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    days: int,
    latest: datetime | None = None,
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    end = now + timedelta(days=days)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(end if latest is None else min(end, latest))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _usage(
    *, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _key_pem(key: ec.EllipticCurvePrivateKey, password: bytes | None) -> bytes:
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if password is not None:
        encryption = serialization.BestAvailableEncryption(password)
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
    )


def _host(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name.strip("[]")))
    except ValueError:
        pass
    try:
        ascii_name = name if name.isascii() else name.encode("idna").decode("ascii")
    except UnicodeError:
        ascii_name = ""
    if not _HOST_NAME.fullmatch(ascii_name) or len(ascii_name) > 253:
        raise ConfigurationError(
            "--server",
            f"{name!r} is neither the name nor the IP address of a host",
            "give it without a port",
        )
    return x509.DNSName(ascii_name)

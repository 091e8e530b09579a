"""Certificates for tests, good and bad ones, as files."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

DAY = timedelta(days=1)


class Certificates:
    """What one authority signs, in the files of one directory.

    :param directory: must exist.
    :param name: of the authority, and part of its files' names.
    :ivar root: file of its certificate.
    """

    def __init__(self, directory: Path, name: str = "ours") -> None:
        self._directory = directory
        self._name = name
        self.ca = trustme.CA(organization_name=name)
        self.root = str(directory / f"{name}.pem")
        self.ca.cert_pem.write_to_path(self.root)

    def issue(
        self, name: str, *identities: str, start: timedelta = -DAY, end: timedelta = 90 * DAY
    ) -> str:
        """Return the file of a certificate with its key.

        :param name: of the file.
        :param identities: whom it names; *name* if there are none.
        :param start: from when it is valid, counted from now.
        :param end: until when.
        """
        now = datetime.now(UTC)
        issued = self.ca.issue_cert(
            *(identities or (f"{name}.example",)), not_before=now + start, not_after=now + end
        )
        path = self._directory / f"{self._name}-{name}.pem"
        issued.private_key_and_cert_chain_pem.write_to_path(str(path))
        return str(path)

    def encrypt(self, path: str, password: bytes) -> str:
        """Return the file of the certificate and key in *path*, with the key encrypted."""
        pem = Path(path).read_bytes()
        key = serialization.load_pem_private_key(pem, None)
        locked = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(password),
        )
        certificate = x509.load_pem_x509_certificate(pem)
        target = Path(path).with_suffix(".locked")
        target.write_bytes(certificate.public_bytes(serialization.Encoding.PEM) + locked)
        return str(target)

    def revoke(self, paths: Sequence[str], next_update: timedelta = DAY, serial: int = 1) -> str:
        """Return the file of a revocation list with the certificates in *paths* on it."""
        authority = x509.load_pem_x509_certificate(self.ca.cert_pem.bytes())
        key = serialization.load_pem_private_key(self.ca.private_key_pem.bytes(), None)
        assert isinstance(key, EllipticCurvePrivateKey)  # trustme's default
        now = datetime.now(UTC)
        own = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(authority.subject)
            .last_update(now - 2 * DAY)
            .next_update(now + next_update)
            .add_extension(x509.CRLNumber(serial), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own),
                critical=False,
            )
        )
        for path in paths:
            certificate = x509.load_pem_x509_certificate(Path(path).read_bytes())
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder()
                .serial_number(certificate.serial_number)
                .revocation_date(now - DAY)
                .build()
            )
        target = self._directory / f"{self._name}-{serial}.crl"
        signed = builder.sign(key, hashes.SHA256())
        target.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
        return str(target)

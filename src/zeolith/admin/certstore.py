"""The certificates of one site, as files in one directory.

::

    ca.pem           the authority's certificate: for everybody
    ca.key           its private key: for whoever makes certificates
    crl.pem          its revocation list: for servers and clients
    server.pem       certificate and key of the server
    client-NAME.pem  certificate and key of a client

Certificate and key of a party are in one file, so that a renewal replaces both in one step: whoever
reads them finds the old or the new pair, never a mixture.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from ..errors import ConfigurationError
from .authority import Authority, alternatives_of, check_client_name, common_name

CA: Final = "ca"
SERVER: Final = "server"
CLIENT_PREFIX: Final = "client-"

DUE: Final = timedelta(days=30)
"""A certificate that ends sooner is due for renewal."""

_PUBLIC: Final = 0o644
_SECRET: Final = 0o600


@dataclass(frozen=True)
class Entry:
    """One certificate of a site.

    :ivar name: ``ca``, ``server`` or the client's name.
    :ivar path: its file.
    :ivar subject: whom it names.
    :ivar expires: when it ends.
    :ivar is_signed: whether the site's authority has signed it.
    :ivar is_revoked: whether it is on the revocation list.
    """

    name: str
    path: Path
    subject: str
    expires: datetime
    is_signed: bool
    is_revoked: bool

    def is_due(self, now: datetime) -> bool:
        """Tell whether it should be renewed."""
        return self.expires - now < DUE


class CertificateStore:
    """The certificates in *directory*.

    :param password: of the authority's key; None if that is not encrypted.
    """

    def __init__(self, directory: Path, password: bytes | None = None) -> None:
        self.directory = directory
        self._password = password

    @property
    def ca(self) -> Path:
        """File of the authority's certificate."""
        return self.directory / "ca.pem"

    @property
    def key(self) -> Path:
        """File of the authority's key."""
        return self.directory / "ca.key"

    @property
    def revocations(self) -> Path:
        """File of the revocation list."""
        return self.directory / "crl.pem"

    def path_of(self, name: str) -> Path:
        """Return the file of *name*: ``ca``, ``server`` or a client's name."""
        if name in (CA, SERVER):
            return self.directory / f"{name}.pem"
        return self.directory / f"{CLIENT_PREFIX}{name}.pem"

    @property
    def has_authority(self) -> bool:
        """Whether there is an authority."""
        return self.ca.exists() or self.key.exists()

    def make(
        self, servers: Sequence[str], clients: Sequence[str], days: int, ca_days: int, title: str
    ) -> Iterator[Path]:
        """Make what is missing of the authority, and certificates; yield the files that are new.

        Nothing is written if anything of it cannot be made.

        :param servers: names of the server; none: no certificate for it.
        :param clients: names of clients.
        :param days: how long they last.
        :param ca_days: how long a new authority lasts.
        :param title: what a new authority is called.
        :raises ConfigurationError: a file exists already, or something cannot be used.
        """
        for name in clients:
            check_client_name(name)
            if name in (CA, SERVER):
                raise ConfigurationError("--client", f"{name!r} is taken", "use another name")
        for name in [SERVER] * bool(servers) + list(clients):
            path = self.path_of(name)
            if path.exists():
                raise ConfigurationError(
                    str(path), "exists already", f"--renew {name} makes it anew"
                )
        is_new = not self.has_authority
        authority = Authority.make(title, ca_days) if is_new else self._authority()
        # Before anything is written: a name may be no name.
        made = {}
        if servers:
            made[SERVER] = authority.issue_server(servers, days)
        for name in clients:
            made[name] = authority.issue_client(name, days)
        if is_new:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            _create(self.key, authority.key_pem(self._password), _SECRET)
            _create(self.ca, authority.pem, _PUBLIC)
            yield self.key
            yield self.ca
        if not self.revocations.exists():
            _create(self.revocations, authority.revoke((), None), _PUBLIC)
            yield self.revocations
        for name, pem in made.items():
            _create(self.path_of(name), pem, _SECRET)
            yield self.path_of(name)

    def renew(self, names: Sequence[str], days: int, ca_days: int) -> Iterator[Path]:
        """Make the certificates of *names* anew, with new keys; yield their files.

        The authority keeps its key: what it has signed stays valid.

        :raises ConfigurationError: there is no such certificate.
        """
        authority = self._authority()
        found = {entry.name: entry for entry in self.entries()}
        for name in names:
            if name not in found:
                raise self._unknown(name)
        # The authority first: what it signs lasts no longer than itself.
        for name in sorted(names, key=lambda name: name != CA):
            path = self.path_of(name)
            if name == CA:
                authority = authority.renew(ca_days)
                _replace(self.ca, authority.pem, _PUBLIC)
                # It lasts as long as the authority.
                _replace(self.revocations, authority.revoke((), self._list()), _PUBLIC)
            else:
                _replace(path, authority.reissue(path.read_bytes(), days), _SECRET)
            yield path

    def revoke(self, names: Sequence[str]) -> Iterator[Path]:
        """Put the certificates of *names* on the revocation list; yield where their files are now.

        :raises ConfigurationError: there is no such certificate.
        """
        authority = self._authority()
        serials = {}
        for name in names:
            path = self.path_of(name)
            if name == CA or not path.exists():
                raise self._unknown(name)
            serials[path] = _load(path).serial_number
        _replace(self.revocations, authority.revoke(serials.values(), self._list()), _PUBLIC)
        for path, serial in serials.items():
            aside = path.with_name(f"revoked-{serial:x}.pem")
            path.rename(aside)
            yield aside

    def entries(self) -> list[Entry]:
        """Return what there is.

        :raises ConfigurationError: there is no authority, or a file cannot be read.
        """
        if not self.ca.exists():
            raise self._no_authority()
        ca = _load(self.ca)
        known = self._list()
        revoked = set()
        if known is not None:
            revoked = {item.serial_number for item in x509.load_pem_x509_crl(known)}
        paths = [self.ca, self.path_of(SERVER), *sorted(self.directory.glob("client-*.pem"))]
        found = []
        for path in paths:
            if not path.exists():
                continue
            certificate = _load(path)
            found.append(
                Entry(
                    path.stem.removeprefix(CLIENT_PREFIX),
                    path,
                    _subject(certificate),
                    certificate.not_valid_after_utc,
                    _has_signed(ca, certificate),
                    certificate.serial_number in revoked,
                )
            )
        return found

    def due(self) -> list[str]:
        """Return the names of the certificates that are due for renewal."""
        now = datetime.now(UTC)
        return [entry.name for entry in self.entries() if entry.is_due(now)]

    def _authority(self) -> Authority:
        if not self.has_authority:
            raise self._no_authority()
        try:
            return Authority.load(self.ca.read_bytes(), self.key.read_bytes(), self._password)
        except OSError as error:
            raise ConfigurationError(
                str(error.filename),
                f"cannot be read: {error.strerror}",
                "the authority is ca.pem and ca.key together",
            ) from error
        except ValueError as error:
            raise ConfigurationError(
                str(self.key),
                f"cannot be used: {error}",
                "it must be the key of ca.pem; if it is encrypted, give --ca-password-file",
            ) from error

    def _list(self) -> bytes | None:
        """Return the revocation list; None if there is none yet.

        :raises ConfigurationError: it is none of this authority's.
        """
        if not self.revocations.exists():
            return None
        data = self.revocations.read_bytes()
        try:
            found = x509.load_pem_x509_crl(data)
            found.extensions.get_extension_for_class(x509.CRLNumber)
            is_ours = found.is_signature_valid(_load(self.ca).public_key())  # type: ignore[arg-type]
        except (ValueError, TypeError, x509.ExtensionNotFound) as error:
            raise ConfigurationError(
                str(self.revocations),
                f"holds no revocation list of zeolith certs: {error}",
                "restore it from a copy: without it, what was revoked would be admitted again",
            ) from error
        if not is_ours:
            raise ConfigurationError(
                str(self.revocations),
                "is not signed by ca.pem",
                "restore the one that is: without it, what was revoked would be admitted again",
            )
        return data

    def _unknown(self, name: str) -> ConfigurationError:
        return ConfigurationError(
            name, f"there is no {self.path_of(name)}", f"zeolith certs {self.directory} lists all"
        )

    def _no_authority(self) -> ConfigurationError:
        return ConfigurationError(
            str(self.directory), "has no ca.pem", "--server NAME makes one, with a certificate"
        )


def _has_signed(ca: x509.Certificate, certificate: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(ca)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _subject(certificate: x509.Certificate) -> str:
    names = [common_name(certificate), *(str(name.value) for name in alternatives_of(certificate))]
    return ", ".join(dict.fromkeys(filter(None, names)))


def _load(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except OSError as error:
        raise ConfigurationError(str(path), f"cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ConfigurationError(str(path), f"holds no certificate: {error}") from error


def _create(path: Path, data: bytes, mode: int) -> None:
    """Write a new file; it appears complete, or not at all.

    :raises ConfigurationError: there is one already.
    """
    temporary = _write(path, data, mode)
    try:
        # Unlike a renaming this fails if somebody else was faster.
        os.link(temporary, path)
    except FileExistsError:
        raise ConfigurationError(str(path), "exists already", "it is never overwritten") from None
    finally:
        os.unlink(temporary)


def _replace(path: Path, data: bytes, mode: int) -> None:
    """Put *data* in the place of the file *path* in one step; owner and mode stay."""
    with suppress(FileNotFoundError):
        mode = path.stat().st_mode & 0o777
    temporary = _write(path, data, mode)
    try:
        with suppress(FileNotFoundError, PermissionError):
            old = path.stat()
            os.chown(temporary, old.st_uid, old.st_gid)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _write(path: Path, data: bytes, mode: int) -> str:
    # It is for its owner alone from the first moment.
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, mode)
    except BaseException:
        os.unlink(temporary)
        raise
    return temporary

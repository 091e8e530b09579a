"""Certificates in files, which are renewed while a process runs."""

from __future__ import annotations

import logging
import os
import ssl
import threading
import time
from collections.abc import Callable, Hashable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from ..credentials import Credentials
from ..errors import ConfigurationError
from .keypassword import KeyPassword
from .tls import TlsSettings
from .validity import LIST_SOON, SOON, list_ends, validities

logger = logging.getLogger(__name__)

REMINDER: Final = 86400.0
"""Seconds between two warnings of the same end."""


class FileCredentials(Credentials):
    """TLS contexts made of the files that *settings* name, and made again when these change.

    Any thread may use it.

    :param settings: which files.
    :param make: makes the context.
    :param now: tells the time in seconds since the epoch.
    :raises ConfigurationError: a file is missing or unusable.
    """

    def __init__(
        self,
        settings: TlsSettings,
        make: Callable[[TlsSettings], ssl.SSLContext],
        now: Callable[[], float] = time.time,
    ) -> None:
        self.settings = settings
        self._make = make
        self._now = now
        self._lock = threading.Lock()  # held while files are read: guards what follows
        # Looked at before the files are read: a change in between is found the next time.
        self._seen = self._look()
        self._context = make(settings)
        self._expires = _end(settings.certificate)
        self._lists = _list_ends(settings)
        self._trouble = ""
        self._reminded = -REMINDER
        self._pid = os.getpid()

    @classmethod
    def of_server(cls, settings: TlsSettings) -> FileCredentials:
        """Return those of a server."""
        return cls(settings, TlsSettings.server_context)

    @classmethod
    def of_client(cls, settings: TlsSettings) -> FileCredentials:
        """Return those of a client."""
        return cls(settings, TlsSettings.client_context)

    @classmethod
    def of_neighbour(cls, settings: TlsSettings) -> FileCredentials:
        """Return those of a client that has nothing but the settings of its server."""
        return cls(settings, TlsSettings.neighbour_context)

    @property
    def context(self) -> ssl.SSLContext:
        return self._context

    @property
    def expires(self) -> float | None:
        return self._expires

    @property
    def trouble(self) -> str:
        return self._trouble

    def refresh(self) -> None:
        """Make the context anew if a file has changed; warn of a certificate that ends soon."""
        if self._pid != os.getpid():
            # In a child made by fork, where the thread that held the lock does not exist.
            self._lock = threading.Lock()
            self._pid = os.getpid()
        with self._lock:
            try:
                self._renew()
            except (OSError, ConfigurationError, ssl.SSLError) as error:
                self._keep(str(error))
            self._remind()

    def _renew(self) -> None:
        seen = self._look()
        if seen == self._seen and not self._trouble:
            return
        self._context = self._make(self.settings)
        self._expires = _end(self.settings.certificate)
        self._lists = _list_ends(self.settings)
        self._seen = seen
        self._trouble = ""
        self._reminded = -REMINDER
        logger.info("certificates read again, for new connections: %s", self._names())

    def _keep(self, trouble: str) -> None:
        """Go on with what was read before; it is tried again the next time."""
        if trouble != self._trouble:
            logger.warning(
                "certificates cannot be read again, those read before stay in use: %s", trouble
            )
        self._trouble = trouble

    def _remind(self) -> None:
        now = self._now()
        if now - self._reminded < REMINDER:
            return
        ends = [("certificate", str(self.settings.certificate), self._expires, SOON)]
        ends += [("revocation list", path, end, LIST_SOON) for path, end in self._lists]
        for what, path, end, soon in ends:
            if end is None or end - now > soon:
                continue
            self._reminded = now
            logger.warning(
                "the %s in %s %s on %s: renew it",
                what,
                path,
                "expires" if end > now else "expired",
                f"{datetime.fromtimestamp(end, UTC):%Y-%m-%d %H:%M} UTC",
            )

    def _names(self) -> str:
        return ", ".join(dict.fromkeys(self.settings.files)) or "the system's authorities"

    def _look(self) -> Hashable:
        """Return what differs when a file has changed."""
        return tuple(_stamp(path) for path in self.settings.files)


def tls(
    certificate: str | None = None,
    authenticate: str | None = None,
    *,
    key: str | None = None,
    password_function: str | None = None,
    password_file: str | None = None,
    password_environment: str | None = None,
    password_command: str | None = None,
    crl: str | None = None,
    check_hostname: bool = True,
    minimum_version: str = "1.2",
) -> Credentials:
    """Return what clients take as ``ssl``: TLS by these files, read again when they change.

    :param certificate: file with the client's certificate (PEM); default: none, for servers that
        ask for none.
    :param authenticate: file or directory of server certificates or authorities to trust;
        default: the system's authorities.
    :param key: see :class:`TlsSettings`.
    :param password_function: see :class:`~.keypassword.KeyPassword`, also for the other three.
    :param crl: see *revocations* of :class:`TlsSettings`.
    :param check_hostname: whether the server's certificate must name the host connected to
        (or the ``ssl_server_hostname`` given to the storage).
    :param minimum_version: ``"1.2"`` or ``"1.3"``.
    :raises ConfigurationError: a file is missing or unusable; the option is named.
    """
    return FileCredentials.of_client(
        TlsSettings(
            certificate=certificate,
            authenticate=authenticate,
            key=key,
            password=KeyPassword(
                function=password_function,
                file=password_file,
                variable=password_environment,
                command=password_command,
            ),
            revocations=crl,
            check_hostname=check_hostname,
            minimum_version=minimum_version,
        )
    )


def _stamp(path: str) -> Hashable:
    """Return what differs when the file *path*, or a file in that directory, has changed."""
    try:
        with os.scandir(path) as entries:
            return tuple(sorted((entry.name, _stat(entry.path)) for entry in entries))
    except NotADirectoryError:
        return _stat(path)
    except OSError as error:
        return error.errno


def _stat(path: str) -> tuple[int | None, ...]:
    try:
        found = os.stat(path)
    except OSError as error:
        return (error.errno,)
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _list_ends(settings: TlsSettings) -> list[tuple[str, float]]:
    """Return the files with revocation lists, and when the first of each ends."""
    found = []
    for path in filter(None, (settings.authenticate, settings.revocations)):
        if Path(path).is_file():
            text = Path(path).read_text(encoding="utf-8", errors="replace")
            ends = [end.timestamp() for end in list_ends(text)]
            found += [(path, min(ends))] if ends else []
    return found


def _end(certificate: str | None) -> float | None:
    """Return when the first certificate of a file's chain ends; None if there is none."""
    if certificate is None:
        return None
    text = Path(certificate).read_text(encoding="utf-8", errors="replace")
    return min((end.timestamp() for _, end in validities(text)), default=None)

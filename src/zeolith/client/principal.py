"""Who a client says it is, kept so that no log or traceback shows the password."""

from __future__ import annotations

import logging
import os
import stat
from typing import Any, Final

from ..errors import ConfigurationError
from ..protocol.saslprep import MAX_LENGTH, saslprep
from ..protocol.scram import salted_password

logger = logging.getLogger(__name__)

_MAX_FILE: Final = 4 * MAX_LENGTH
"""Bytes of a password file that are looked at: each character takes four at most."""

_KEPT: Final = 8
"""Hashed passwords kept: one for each server that has users of its own."""


class Principal:
    """A user's name and password.  Any thread may use it.

    :param user: name of the user.
    :param password: the password.
    :param realm: what the realm of the server's users must be called; None: anything.
    :raises ConfigurationError: name or password have characters that cannot be used.
    """

    __slots__ = ("_password", "_salted", "realm", "user")

    def __init__(self, user: str, password: str, realm: str | None = None) -> None:
        self.user = saslprep(user, "username")
        self.realm = realm
        self._password = saslprep(password, "password")
        # By the password, too: while one is hashed another may take its place.
        self._salted: dict[tuple[str, bytes, int], bytes] = {}

    def __repr__(self) -> str:
        return f"<Principal {self.user!r}>"

    def __reduce__(self) -> Any:
        raise TypeError("a password is not written anywhere")

    def salted(self, salt: bytes, iterations: int) -> bytes:
        """Return the hashed password.

        Takes long the first time, and nothing when the connection is made again.
        """
        password = self._password
        key = password, salt, iterations
        found = self._salted.get(key)
        if found is None:
            found = salted_password(password, salt, iterations)
            if len(self._salted) >= _KEPT:
                self._salted.clear()
            self._salted[key] = found
        return found

    def refresh(self) -> bool:
        """Return whether there is a new password since the last such call.

        One that was given stays.
        """
        return False


class FilePrincipal(Principal):
    """A user whose password is in a file, which is read again when it has changed.

    :param path: of the file.
    :raises ConfigurationError: as :class:`Principal` and :func:`read_password`.
    """

    __slots__ = ("_path", "_seen")

    def __init__(self, user: str, path: Any, realm: str | None = None) -> None:
        # Before it is read: a change in between is found the next time.
        self._seen = _look(path)
        super().__init__(user, read_password(path), realm)
        self._path = os.path.abspath(path)

    def refresh(self) -> bool:
        """Look at the file; return whether there is a new password in it.

        If it cannot be read, the password stays what it was, and the log says so once.
        """
        seen = _look(self._path)
        if seen == self._seen:
            return False
        self._seen = seen
        try:
            password = saslprep(read_password(self._path), "password")
        except ConfigurationError as error:
            logger.warning("the password of %r stays what it was: %s", self.user, error)
            return False
        is_new = password != self._password
        self._password = password
        return is_new


def _look(path: Any) -> tuple[int, int, int, int] | None:
    """Return what differs when the file has changed; None if it is none, as a pipe, which can be
    read once."""
    try:
        found = os.stat(path)
    except (OSError, TypeError, ValueError):
        return None
    if not stat.S_ISREG(found.st_mode):
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def make_principal(
    username: Any = None,
    password: Any = None,
    password_file: Any = None,
    realm: Any = None,
    credentials: Any = None,
) -> Principal | None:
    """Return what the keywords of a client storage mean; None if they ask for no log-in.

    :param password_file: path of a file whose first line is the password.
    :param credentials: an object of ours in place of all others.
    :raises ConfigurationError: one of them cannot be used, or would have no effect.
    """
    if credentials is not None:
        if not isinstance(credentials, Principal):
            raise ConfigurationError("credentials", "are none", "give username and password")
        if (username, password, password_file, realm) != (None, None, None, None):
            raise ConfigurationError("credentials", "contradict username", "give one of the two")
        return credentials
    for option, value in (
        ("username", username),
        ("password", password),
        ("realm", realm),
    ):
        if value is not None and not isinstance(value, str):
            # Not shown: it may be a password.
            raise ConfigurationError(option, f"a value of type {type(value).__name__} is no text")
    if username is None:
        for option, value in (
            ("password", password),
            ("password_file", password_file),
            ("realm", realm),
        ):
            if value is not None:
                raise ConfigurationError(
                    option, "has no effect without username", "give that, too, or leave it out"
                )
        return None
    if password is not None and password_file is not None:
        raise ConfigurationError("password_file", "contradicts password", "give one of the two")
    if password_file is not None:
        return FilePrincipal(username, password_file, realm)
    if password is None:
        raise ConfigurationError(
            "username", "needs a password", "give password or password_file, too"
        )
    return Principal(username, password, realm)


def read_password(path: Any, option: str = "password_file") -> str:
    """Return the password in the first line of a file.

    :param option: what names the file, for errors.
    :raises ConfigurationError: it cannot be read, or has none.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(_MAX_FILE)
    except (OSError, TypeError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise ConfigurationError(
            option, f"{path!r} cannot be read: {why}", "name a file with the password in it"
        ) from error
    first = data.partition(b"\n")[0].removesuffix(b"\r")
    try:
        found = first.decode("utf-8")
    except UnicodeDecodeError:
        found = ""
    if not found:
        raise ConfigurationError(
            option, f"{os.fspath(path)!r} has no password in its first line", "write it there"
        )
    return found

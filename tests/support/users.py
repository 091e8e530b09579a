"""User files for tests, whose passwords are quick to check."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from zeolith.config.userdirectory import UserDirectory
from zeolith.config.userfile import Entry, UserTable, read_users, write_users
from zeolith.protocol.scram import MIN_ITERATIONS, make_secret
from zeolith.rights import Right, parse_rights

PASSWORD = "correct horse"


def entry(
    name: str, access: str | None = None, password: str | None = PASSWORD, **more: Any
) -> Entry:
    """Return a user.

    :param access: rights on all storages; None: the default.
    :param password: None for none.
    :param more: see :class:`Entry`.
    """
    secret = None
    if password is not None:
        secret = make_secret(password, b"salt of " + name.encode()[:8].ljust(8), MIN_ITERATIONS)
    everywhere: Right | None = None if access is None else parse_rights(access, "access")
    return Entry(name, secret, everywhere=everywhere, **more)


def write(path: Path, *entries: Entry) -> None:
    """Write a user file with just these users."""
    before = read_users(path) if path.exists() else UserTable()
    before.lines = list(entries)
    write_users(path, before)


def directory(path: Path, *entries: Entry) -> UserDirectory:
    """Write a user file, and return its users for a server."""
    write(path, *entries)
    return UserDirectory(str(path))

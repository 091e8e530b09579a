"""Changing the users of a server: each function reads the user file, changes it and writes it.

A server that runs notices at the next log-in.  Who is connected stays so.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..config.userfile import (
    Entry,
    UserTable,
    changing,
    check_name,
    parse_users,
    read_users,
    write_users,
)
from ..errors import ConfigurationError
from ..protocol.scram import ITERATIONS, SALT_SIZE, Secret, make_secret
from ..rights import Right, format_rights, parse_rights


@dataclass(frozen=True)
class Grants:
    """What is to be said of a user besides the password; None leaves it as it is.

    :ivar access: rights, as in ``read,pack`` for all storages or ``NAME=read`` for one.
    :ivar certificates: names in certificates that stand for the user.
    :ivar accounts: users of this machine whose processes are the user.
    """

    access: Sequence[str] | None = None
    certificates: Sequence[str] | None = None
    accounts: Sequence[str] | None = None

    def apply(self, entry: Entry) -> Entry:
        """Return *entry* with these.

        :raises ConfigurationError: one of them makes no sense.
        """
        if self.access is not None:
            everywhere, storages = parse_access(self.access)
            entry = replace(entry, everywhere=everywhere, storages=storages)
        if self.certificates is not None:
            entry = replace(entry, certificates=_distinct(self.certificates))
        if self.accounts is not None:
            entry = replace(entry, accounts=_distinct(self.accounts))
        return entry


def _distinct(values: Sequence[str]) -> tuple[str, ...]:
    # An empty one is how "none" is said.
    return tuple(dict.fromkeys(value for value in values if value))


def parse_access(texts: Sequence[str]) -> tuple[Right | None, dict[str, Right]]:
    """Return what several ``--access`` mean: everywhere, and by storage.

    :raises ConfigurationError: a word is no right, or something is said twice.
    """
    everywhere: Right | None = None
    storages: dict[str, Right] = {}
    for text in texts:
        storage, equals, words = text.rpartition("=")
        rights = parse_rights(words, "--access")
        if (equals and storage in storages) or (not equals and everywhere is not None):
            where = f"on storage {storage}" if equals else "on all storages"
            raise ConfigurationError("--access", f"is given twice {where}", "give it once")
        if equals:
            storages[storage] = rights
        else:
            everywhere = rights
    return everywhere, storages


def hash_password(password: str, iterations: int = ITERATIONS) -> Secret:
    """Return what is kept of *password*, with a salt of its own.

    :raises ConfigurationError: the password cannot be used, or *iterations* is out of bounds.
    """
    return make_secret(password, secrets.token_bytes(SALT_SIZE), iterations)


def add_user(path: Path, name: str, secret: Secret | None, grants: Grants) -> None:
    """Add a user; make the file if there is none.

    :raises ConfigurationError: there is such a user, or the file cannot be changed.
    """
    name = check_name(name)
    with changing(path):
        table = _read(path, may_be_new=True)
        if name in table.entries:
            raise ConfigurationError(
                name, "is a user already", "zeolith user passwd sets a new password, set the rest"
            )
        table.put(grants.apply(Entry(name, secret)))
        _write(path, table)


def change_user(
    path: Path, name: str, secret: Secret | None = None, grants: Grants = Grants()
) -> None:
    """Give a user a new password, or other rights.

    :param secret: of the new password; None leaves the old one.
    :raises ConfigurationError: there is no such user, or the file cannot be changed.
    """
    with changing(path):
        table = _read(path)
        entry = grants.apply(_find(table, name, path))
        if secret is not None:
            entry = replace(entry, secret=secret, digest=None)
        table.put(entry)
        _write(path, table)


def remove_users(path: Path, names: Sequence[str]) -> None:
    """Remove users; all of them, or none.

    :raises ConfigurationError: one does not exist, or the file cannot be changed.
    """
    with changing(path):
        table = _read(path)
        for entry in [_find(table, name, path) for name in names]:
            table.remove(entry.name)
        _write(path, table)


def list_users(path: Path) -> list[dict[str, Any]]:
    """Return the users by name, without anything secret.

    :raises ConfigurationError: the file cannot be read.
    """
    return [_describe(entry) for _, entry in sorted(read_users(path).entries.items())]


def import_users(
    path: Path,
    text: str,
    source: str,
    grants: Grants,
    iterations: int = ITERATIONS,
) -> tuple[list[str], list[str]]:
    """Take over the users in *text*; make the file if there is none.

    It is a user file, such as ZEO 3 had, if its first line is ``realm NAME``; else each line is
    ``NAME:PASSWORD``.  Users that are there already get the password, in the second form, and
    keep all else.  Of the first form only new users are taken.

    :param source: what to call the text in errors.
    :returns: the names of those who can log in by password now, and of those who cannot.
    :raises ConfigurationError: a line makes no sense; nothing is changed then.
    """
    taken: list[Entry] = []
    with changing(path):
        table = _read(path, may_be_new=True)
        known = table.entries
        if text.lstrip().startswith("realm "):
            found = parse_users(text, source)
            if table.realm not in (None, found.realm):
                raise ConfigurationError(
                    source,
                    f"its realm is {found.realm}, that of {path} is {table.realm}",
                    "correct one of them",
                )
            table.realm = found.realm
            taken = [
                grants.apply(entry) for name, entry in found.entries.items() if name not in known
            ]
        else:
            for name, password in _pairs(text, source).items():
                entry = known.get(name) or grants.apply(Entry(name))
                secret = hash_password(password, iterations)
                taken.append(replace(entry, secret=secret, digest=None))
        for entry in taken:
            table.put(entry)
        _write(path, table)
    return (
        [entry.name for entry in taken if entry.secret is not None],
        [entry.name for entry in taken if entry.secret is None],
    )


def _pairs(text: str, source: str) -> Mapping[str, str]:
    found: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        place = f"{source}, line {number}"
        name, colon, password = line.partition(":")
        if not colon or not password:
            raise ConfigurationError(place, "is not NAME:PASSWORD", "correct it")
        name = check_name(name, place)
        if name in found:
            raise ConfigurationError(place, f"the user {name!r} comes twice", "remove one")
        found[name] = password
    return found


def _read(path: Path, may_be_new: bool = False) -> UserTable:
    if may_be_new and not path.exists():
        return UserTable()
    return read_users(path)


def _write(path: Path, table: UserTable) -> None:
    """Write *table*, if what results can be read again.

    :raises ConfigurationError: it cannot, because of what was to be changed.
    """
    from ..config.userfile import format_users

    parse_users(format_users(table), f"the new {path.name}")
    write_users(path, table)


def _find(table: UserTable, name: str, path: Path) -> Entry:
    entry = table.entries.get(check_name(name))
    if entry is None:
        raise ConfigurationError(name, f"is no user in {path}", "zeolith user list shows them")
    return entry


def _describe(entry: Entry) -> dict[str, Any]:
    password = "set" if entry.secret is not None else "outdated" if entry.digest else "none"
    return {
        "name": entry.name,
        "password": password,
        "access": format_rights(entry.rights.everywhere),
        "storages": {name: format_rights(rights) for name, rights in entry.storages.items()},
        "certificates": list(entry.certificates),
        "accounts": list(entry.accounts),
    }

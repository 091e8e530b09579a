"""The users of a server, read from its user file again whenever that changes."""

from __future__ import annotations

import logging
import os
import secrets
from collections import Counter
from collections.abc import Collection, Iterable
from typing import Final

from ..errors import ConfigurationError
from ..protocol.scram import ITERATIONS, Secret, make_decoy
from ..server.identifying import CAN_TELL_UID
from ..server.users import User
from .accounts import find_uid
from .userfile import DEFAULT_REALM, Entry, UserTable, read_users

logger = logging.getLogger(__name__)

OPTION: Final = "authentication-database"

_SHOWN: Final = 10
"""Names in a line of the log; of the others their number is told."""


class UserDirectory:
    """Implements :class:`~zeolith.server.users.Users`.

    Whoever asks does so with a ``stat`` of the file; while it cannot be read, what was read before
    holds, and the log says so once.

    :param path: of the user file.
    :param realm: what its realm has to be; None: anything.
    :param storages: names of the storages that the server has; None: that is not known.
    :raises ConfigurationError: it cannot be used.
    """

    def __init__(
        self, path: str, realm: str | None = None, storages: Iterable[str] | None = None
    ) -> None:
        self._path = path
        self._storages = None if storages is None else frozenset(storages)
        self._wanted = realm
        # Where the file has no key of its own there is nobody who could log in by password.
        self._spare_key = secrets.token_bytes(32)
        self._seen = self._look()
        self._index = _Index(path, realm)

    @property
    def realm(self) -> str:
        """Name of the realm."""
        return self._index.realm

    def find(self, name: str) -> User | None:
        """Return the user of that name."""
        self._refresh()
        return self._index.users.get(name)

    def find_by_certificate(self, names: Iterable[str]) -> User | None:
        """Return the user whom a certificate with *names* stands for; None for nobody, or for
        more than one."""
        self._refresh()
        found = {self._index.by_certificate.get(name) for name in names} - {None}
        return self._index.users[found.pop() or ""] if len(found) == 1 else None

    def find_by_uid(self, uid: int) -> User | None:
        """Return the user that processes of that user id are."""
        self._refresh()
        name = self._index.by_uid.get(uid)
        return None if name is None else self._index.users[name]

    def decoy(self, name: str) -> Secret:
        """Return what is shown for a user who does not exist or has no password."""
        index = self._index
        return make_decoy(index.decoy_key or self._spare_key, name, index.iterations)

    @property
    def names(self) -> list[str]:
        """Who is known."""
        return sorted(self._index.users)

    @property
    def known_by_certificate(self) -> list[str]:
        """Whom certificates stand for."""
        return sorted(set(self._index.by_certificate.values()))

    @property
    def known_by_uid(self) -> list[str]:
        """Whom user ids of this machine stand for."""
        return sorted(set(self._index.by_uid.values()))

    @property
    def complaints(self) -> list[str]:
        """What in the file is of no effect: a line for each kind."""
        users, storages = self._index.users.values(), self._storages
        found = describe_outdated(self._index.outdated, self._path)
        if storages is not None:
            found += describe_strange(users, storages, self._path)
        return found

    def announce(self) -> None:
        """Log how many are known, and what of the file is of no effect."""
        index = self._index
        logger.info("%s: %d users of realm %s", self._path, len(index.users), index.realm)
        for line in self.complaints:
            logger.warning("%s", line)

    def _look(self) -> tuple[int, int, int, int] | None:
        try:
            status = os.stat(self._path)
        except OSError:
            return None
        # The time of its change tells of new permissions, too.
        return status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_size

    def _refresh(self) -> None:
        seen = self._look()
        if seen == self._seen:
            return
        # First, so that a file that cannot be used is complained of once.
        self._seen = seen
        try:
            self._index = _Index(self._path, self._wanted)
        except ConfigurationError as error:
            logger.error("the users stay what they were: %s", error)
        else:
            self.announce()


def describe_outdated(names: Iterable[str], path: str) -> list[str]:
    """Return a line about users who must set a new password, if there are any."""
    found = sorted(names)
    if not found:
        return []
    way_out = f"set a new one each: zeolith user passwd -f {path} NAME"
    problem = "what the file keeps of it is of an old form"
    return [f"{path}: {_list(found)} cannot log in by password: {problem}; {way_out}"]


def describe_strange(users: Iterable[User], storages: Collection[str], path: str) -> list[str]:
    """Return a line about rights on storages that are none of *storages*, if there are any.

    It is no error, as several servers may have one file.  But where the name is a slip, the user
    has the rights that were to be taken away.
    """
    found = sorted({name for user in users for name in user.rights.storages} - set(storages))
    if not found:
        return []
    served = f"this server has {_list(sorted(storages))}"
    way_out = "correct the names, unless another server has these storages and the same users"
    return [f"{path}: access on the storages {_list(found)} has no effect: {served}; {way_out}"]


def _list(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(map(repr, names[:_SHOWN])) + more


class _Index:
    """What is looked up in a user file."""

    def __init__(self, path: str, wanted: str | None) -> None:
        table = read_users(path, OPTION)
        self.realm = table.realm or wanted or DEFAULT_REALM
        if wanted is not None and self.realm != wanted:
            raise ConfigurationError(
                "authentication-realm",
                f"is {wanted}, but the users in {path} belong to the realm {self.realm}",
                "correct it, or leave it out",
            )
        entries = table.entries
        self.decoy_key = table.decoy_key
        self.iterations = _usual_iterations(table)
        self.users = {
            name: User(name, entry.rights, entry.secret) for name, entry in entries.items()
        }
        self.outdated = [name for name, entry in entries.items() if entry.needs_password]
        self.by_certificate = {
            each: name for name, entry in entries.items() for each in entry.certificates
        }
        self.by_uid: dict[int, str] = {}
        for name, entry in entries.items():
            for uid in _uids(entry, path):
                if self.by_uid.setdefault(uid, name) != name:
                    raise ConfigurationError(
                        f"{path}, user {name}",
                        f"the user id {uid} is that of {self.by_uid[uid]!r} too",
                        "remove one of them",
                    )


def _uids(entry: Entry, path: str) -> list[int]:
    if entry.accounts and not CAN_TELL_UID:
        raise ConfigurationError(
            f"{path}, user {entry.name}", "this system does not tell user ids", "remove uid="
        )
    return [find_uid(each, f"{path}, user {entry.name}") for each in entry.accounts]


def _usual_iterations(table: UserTable) -> int:
    """Return the rounds of hashing that most users have, so that decoys look like them."""
    counts = Counter(
        entry.secret.iterations for entry in table.entries.values() if entry.secret is not None
    )
    return counts.most_common(1)[0][0] if counts else ITERATIONS

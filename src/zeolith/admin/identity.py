"""The user who is to run a server."""

from __future__ import annotations

import grp
import os
from typing import NamedTuple

from ..config.accounts import find_account
from ..errors import ConfigurationError


class Identity(NamedTuple):
    """A user, its group and its further groups."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]

    @property
    def group(self) -> str:
        """The name of the group; its number if it has none."""
        try:
            return grp.getgrgid(self.gid).gr_name
        except KeyError:
            return str(self.gid)

    def assume(self) -> None:
        """Become this user for good.  Only root can."""
        os.setgroups(self.groups)
        os.setgid(self.gid)
        os.setuid(self.uid)


def find_user(user: str, option: str) -> Identity:
    """Return the user with that name or number.

    :param option: how the setting is called, for the error.
    :raises ConfigurationError: there is none.
    """
    account = find_account(user, option)
    groups = os.getgrouplist(account.name, account.gid)
    return Identity(account.name, account.uid, account.gid, tuple(groups))


def identity_to_assume(user: str | None, option: str) -> Identity | None:
    """Return whom this process must become to act as *user*; None if nothing is to be done.

    :raises ConfigurationError: there is no such user, or this process cannot become it.
    """
    if user is None:
        return None
    identity = find_user(user, option)
    if identity.uid == os.geteuid():
        return None
    if os.geteuid() != 0:
        raise ConfigurationError(
            option,
            f"only root can start a server for {identity.name}",
            f"call the command as {identity.name} or as root",
        )
    return identity

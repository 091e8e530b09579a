"""Users, groups and permissions as people write them."""

from __future__ import annotations

import os
from dataclasses import dataclass

from ..errors import ConfigurationError

_MOST_PERMISSIONS = 0o777


@dataclass(frozen=True)
class Account:
    """A user of this machine.

    :ivar name: the user's name.
    :ivar uid: user id.
    :ivar gid: id of the user's own group.
    """

    name: str
    uid: int
    gid: int

    @property
    def group(self) -> str:
        """The name of the group; its number if it has none."""
        import grp

        try:
            return grp.getgrgid(self.gid).gr_name
        except KeyError:
            return str(self.gid)

    @property
    def groups(self) -> list[int]:
        """The ids of all groups that the user is in."""
        return os.getgrouplist(self.name, self.gid)


@dataclass(frozen=True)
class Owner:
    """Whom a file shall belong to.

    :ivar text: as it was written.
    :ivar uid: user id, or -1 for no change.
    :ivar gid: group id, or -1 for no change.
    """

    text: str
    uid: int = -1
    gid: int = -1


def find_account(text: str, option: str) -> Account:
    """Return the account with that name, or else with that user id.

    :param option: how the user calls the setting, for the error.
    :raises ConfigurationError: there is none.
    """
    import pwd

    try:
        found = pwd.getpwnam(text)
    except KeyError:
        try:
            found = pwd.getpwuid(_number(text))
        except (KeyError, OverflowError, ValueError):
            raise ConfigurationError(
                option,
                f"there is no user {text!r} on this machine",
                "create the account, or name another",
            ) from None
    return Account(found.pw_name, found.pw_uid, found.pw_gid)


def parse_owner(text: str, option: str) -> Owner:
    """Return what ``USER``, ``USER:GROUP`` or ``:GROUP`` means; numbers may stand for names.

    Unlike an account's, a numeric id needs no entry in the system's tables.

    :param option: how the user calls the setting, for the error.
    :raises ConfigurationError: there is no such user or group.
    """
    import grp
    import pwd

    user, colon, group = text.partition(":")
    if (not user and not group) or (colon and not group):
        raise ConfigurationError(option, f"{text!r} names nobody", "use USER, USER:GROUP or :GROUP")
    uid = gid = -1
    if user:
        try:
            uid = pwd.getpwnam(user).pw_uid
        except KeyError:
            uid = _id(user, "user", option)
    if group:
        try:
            gid = grp.getgrnam(group).gr_gid
        except KeyError:
            gid = _id(group, "group", option)
    return Owner(text, uid, gid)


def find_uid(text: str, option: str) -> int:
    """Return the user id that a name, or a number, means; a number needs no account.

    :param option: how the user calls the setting, for the error.
    :raises ConfigurationError: there is no such user.
    """
    import pwd

    try:
        return pwd.getpwnam(text).pw_uid
    except KeyError:
        return _id(text, "user", option)


def parse_mode(text: str, option: str) -> int:
    """Return the permission bits that an octal number such as ``0660`` means.

    :param option: how the user calls the setting, for the error.
    :raises ConfigurationError: it is none.
    """
    digits = text.removeprefix("0o")
    if not digits or set(digits) - set("01234567") or int(digits, 8) > _MOST_PERMISSIONS:
        raise ConfigurationError(
            option, f"{text!r} is no file mode", "use an octal number such as 0660"
        )
    return int(digits, 8)


def _id(text: str, kind: str, option: str) -> int:
    try:
        number = _number(text)
    except ValueError:
        number = 2**32
    # The largest number of 32 bits means "no change" to the system.
    if number >= 2**32 - 1:
        raise ConfigurationError(
            option, f"there is no {kind} {text!r} on this machine", "create it, or name another"
        )
    return number


def _number(text: str) -> int:
    # int() would also admit signs, underscores and blanks.
    if not (text.isascii() and text.isdecimal()):
        raise ValueError(text)
    return int(text)

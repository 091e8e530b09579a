"""Who runs a server: becoming another user, for good.

A server that root starts needs root's rights to bind a port below 1024 or to make a socket in a
directory of the system.  It gives them up before it opens a storage: what a defect or a hostile
client could reach is then what that user can reach.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from ..config.accounts import Account, find_account
from ..errors import ConfigurationError


def account_to_become(text: str | None, option: str = "--user") -> Account | None:
    """Return the account whose a server is to be; None if that is who this process is anyway.

    :param text: name or id of the user, or None.
    :param option: how the user calls the setting, for the error.
    :raises ConfigurationError: there is no such user, or we may not become him.
    """
    if text is None:
        return None
    account = find_account(text, option)
    if set(os.getresuid()) == {account.uid}:
        return None
    if os.geteuid() == 0:
        return account
    raise ConfigurationError(
        option,
        f"only root can serve as {account.name}, and this is user {os.geteuid()}",
        f"call the command as root or as {account.name}, or leave the option out",
    )


@contextmanager
def acting_as(account: Account | None) -> Iterator[None]:
    """Have the block use files with the rights of *account*; None changes nothing.

    For what belongs to that user later although it is opened before the rights are given up.

    :raises OSError: the system does not allow it.
    """
    if account is None:
        yield
        return
    groups, gid, uid = os.getgroups(), os.getegid(), os.geteuid()
    try:
        os.initgroups(account.name, account.gid)
        os.setegid(account.gid)
        os.seteuid(account.uid)
        yield
    finally:
        # The user first: only root may change the others back.
        os.seteuid(uid)
        os.setegid(gid)
        os.setgroups(groups)


def become(account: Account) -> None:
    """Become *account*, with that user's groups and nothing else, and with no way back.

    :raises ConfigurationError: the system does not allow it, or not completely.
    """
    try:
        # In this order: each step needs root's rights, which the last one takes away.
        os.initgroups(account.name, account.gid)
        os.setresgid(account.gid, account.gid, account.gid)
        os.setresuid(account.uid, account.uid, account.uid)
    except OSError as error:
        raise _refused(account, str(error.strerror)) from error
    if set(os.getresuid()) != {account.uid} or set(os.getresgid()) != {account.gid}:
        raise _refused(account, "the ids did not change")
    if account.uid != 0 and _can_return():
        raise _refused(account, "root's rights could be taken back")


def check_library(account: Account) -> None:
    """Look whether this process, which has become *account*, can go on.

    :raises ConfigurationError: the user cannot read Python's library.
    """
    if not os.access(os.__file__, os.R_OK):
        # Python imports much the moment it is needed, even what decodes ASCII.
        raise ConfigurationError(
            f"user {account.name}",
            f"cannot read Python's library at {os.path.dirname(os.__file__)}",
            "install Python where that user can read it",
        )


def _can_return() -> bool:
    try:
        os.setresuid(0, 0, 0)
    except PermissionError:
        return False
    return True


def _refused(account: Account, problem: str) -> ConfigurationError:
    return ConfigurationError(
        f"user {account.name}",
        f"cannot be become: {problem}",
        "give the process the capabilities CAP_SETUID and CAP_SETGID, or start it as that user",
    )

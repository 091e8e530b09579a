"""A new instance: the directories and files of one server."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Final

from ..config.accounts import Account, find_account
from ..config.address import parse_address
from ..config.runner import LONGEST_SOCKET_PATH
from ..errors import ConfigurationError
from .privileges import account_to_become

_PRIVATE: Final = 0o750

DIRECTORIES: Final[Mapping[str, int]] = {
    "etc": 0o755,
    "var": _PRIVATE,
    "var/blobs": 0o700,  # what ZODB itself gives a blob directory
    "log": _PRIVATE,
    "backups": 0o700,
}
"""Directories of an instance, with their permissions."""

FILES: Final = ("zeo.conf", "zeolith.service", "logrotate.conf")
"""Files in ``etc``, each with a template of its name."""

# ZConfig, systemd, logrotate and the shell each have characters of their own that would have to be
# quoted, and no way of quoting in common.
_PLAIN_PATH: Final = re.compile(r"[\w/.,:=+-]+")
_STORAGE_NAME: Final = re.compile(r"[a-z0-9_.-]+")

_LONGEST_DIRECTORY: Final = LONGEST_SOCKET_PATH - len("/var/zeo.zdsock")


class _Template(Template):
    """Text with ``@{name}`` in it: ``$`` and ``%`` mean something to whoever reads the result."""

    delimiter = "@"
    pattern = r"@(?:(?P<escaped>(?!))|(?P<named>(?!))|\{(?P<braced>[a-z_]+)\}|(?P<invalid>(?!)))"  # type: ignore[assignment]


@dataclass(frozen=True, kw_only=True)
class Instance:
    """An instance to be made.

    :ivar directory: where; created if it does not exist.
    :ivar address: where the server is to listen, in the form of ``zeo.conf``.
    :ivar storage: name of the storage.
    :ivar user: who is to run the server, or None for whoever starts it.
    """

    directory: Path
    address: str = "127.0.0.1:8100"
    storage: str = "1"
    user: str | None = None

    def check(self) -> Account | None:
        """Return the user that the directories are to be given to, or None.

        :raises ConfigurationError: something cannot be used.
        """
        parse_address(self.address, "--address")
        if self.address != self.address.strip() or not self.address.isprintable():
            raise ConfigurationError("--address", f"{self.address!r} has blanks around it")
        if not _STORAGE_NAME.fullmatch(self.storage):
            # ZConfig folds the names of sections to lower case.
            raise ConfigurationError(
                "--storage",
                f"{self.storage!r} cannot be the name of a section",
                "use small letters, digits, '.', '-' and '_'",
            )
        path = str(self.directory)
        if not _PLAIN_PATH.fullmatch(path):
            raise ConfigurationError(
                path,
                "has a blank or a special character in it, which zeo.conf, systemd or logrotate "
                "would misread",
                "choose another directory",
            )
        if len(os.fsencode(path)) > _LONGEST_DIRECTORY:
            raise ConfigurationError(
                path,
                f"is too long: the path of a socket in it would exceed what the system allows by "
                f"{len(os.fsencode(path)) - _LONGEST_DIRECTORY} bytes",
                "choose a shorter path",
            )
        return account_to_become(self.user, "--user")

    def runner(self) -> Account | None:
        """Return who will run the server; None if that is root."""
        uid = os.geteuid()
        if self.user is not None:
            return find_account(self.user, "--user")
        return find_account(str(uid), "--user") if uid != 0 else None

    def texts(self) -> dict[str, str]:
        """Return the content of each of :data:`FILES`."""
        runner = self.runner()
        account = None if runner is None else f"{runner.name} {runner.group}"
        values = {
            "directory": str(self.directory),
            "define": str(self.directory),
            "unit": f"zeolith-{self.directory.name}",
            "address": self.address.replace("$", "$$"),
            "storage": self.storage,
            "python": sys.executable,
            # Anybody but root can start the server only for themselves: no need to say so.
            "user_key": "" if self.user is None else f"  user {self.user}\n",
            "user_lines": "" if runner is None else f"User={runner.name}\nGroup={runner.group}\n",
            "su_line": "" if account is None else f"    su {account}\n",
        }
        templates = files(__package__).joinpath("templates")
        return {
            name: _Template(templates.joinpath(name).read_text(encoding="utf-8")).substitute(values)
            for name in FILES
        }


@dataclass
class Made:
    """What :func:`make_instance` did.

    :ivar created: paths that are new.
    :ivar kept: paths that were there, and are as they were.
    """

    created: list[Path] = field(default_factory=list)
    kept: list[Path] = field(default_factory=list)


def make_instance(instance: Instance, add_to_existing: bool = False) -> Made:
    """Make *instance*; nothing that exists is changed.

    :param add_to_existing: whether the directory may hold something already.
    :raises ConfigurationError: something cannot be used, or the directory is not empty.
    :raises OSError: the disk refuses; what was made before stays.
    """
    owner = instance.check()
    root = instance.directory
    if root.exists() and not root.is_dir():
        raise ConfigurationError(str(root), "is a file", "name a directory")
    if not add_to_existing and root.is_dir() and any(root.iterdir()):
        raise ConfigurationError(
            str(root),
            "is not empty",
            "name another directory, or give --add: then what is missing is added and nothing "
            "that is there is changed",
        )
    made = Made()
    _make_directory(root, 0o755, None, made)
    for name, mode in DIRECTORIES.items():
        _make_directory(root / name, mode, None if name == "etc" else owner, made)
    for name, text in instance.texts().items():
        _write(root / "etc" / name, text, made)
    return made


def _make_directory(path: Path, mode: int, owner: Account | None, made: Made) -> None:
    if path.is_dir():
        made.kept.append(path)
        return
    path.mkdir(parents=True)
    path.chmod(mode)  # whatever the umask
    if owner is not None:
        os.chown(path, owner.uid, owner.gid)
    made.created.append(path)


def _write(path: Path, text: str, made: Made) -> None:
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        made.kept.append(path)
    else:
        made.created.append(path)

"""What the user that runs the server may do with files."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from ..accounts import Account


class Rights:
    """The rights of *account*, or of this process if that is None or the process's own.

    Another user's are reckoned from the permission bits: access control lists and the like are
    not seen.
    """

    def __init__(self, account: Account | None = None) -> None:
        self._account = account
        if account is None or account.uid == os.geteuid():
            self._account = None
            self._groups = frozenset[int]()
        else:
            self._groups = frozenset(account.groups)

    @property
    def user(self) -> str:
        """Whose rights these are, in words."""
        return "this user" if self._account is None else f"the user {self._account.name}"

    def may(self, path: Path, mode: int) -> bool:
        """Return whether *path*, which exists, may be used.

        :param mode: ``os.R_OK``, ``os.W_OK``, ``os.X_OK`` or several of them.
        """
        account = self._account
        if account is None:
            return os.access(path, mode)
        try:
            status = path.stat()
        except OSError:
            return False
        if account.uid == 0:
            return True
        if status.st_uid == account.uid:
            granted = status.st_mode >> 6
        elif status.st_gid in self._groups:
            granted = status.st_mode >> 3
        else:
            granted = status.st_mode
        return granted & mode == mode and self._may_reach(path)

    def _may_reach(self, path: Path) -> bool:
        return all(self.may(parent, os.X_OK) for parent in path.absolute().parents[:1])

    def why_no_file(self, path: Path) -> tuple[str, str] | None:
        """Return what keeps the file *path* from being written, made if need be, and the remedy.

        None: nothing does.
        """
        try:
            kind = path.stat().st_mode
        except FileNotFoundError:
            return self.why_no_entry(path)
        except OSError as error:
            return f"{path}: {error.strerror}", f"let {self.user} use it, or correct the path"
        if stat.S_ISDIR(kind):
            return f"{path} is a directory", "name a file in it"
        if not self.may(path, os.R_OK | os.W_OK):
            return f"{self.user} may not read and write {path}", "change its owner or permissions"
        return None

    def why_no_entry(self, path: Path) -> tuple[str, str] | None:
        """Return what keeps something new from being made at *path*, and the remedy, or None."""
        parent = path.absolute().parent
        if not parent.exists():
            return f"the directory {parent} does not exist", "create it, or correct the path"
        if not parent.is_dir():
            return f"{parent} is not a directory", "correct the path"
        if not self.may(parent, os.W_OK | os.X_OK):
            return (
                f"{self.user} may not write to the directory {parent}",
                "change its owner or permissions",
            )
        return None

    def why_no_directory(self, path: Path) -> tuple[str, str] | None:
        """Return what keeps the directory *path* from being used, made if need be, or None."""
        if not path.exists():
            return self.why_no_entry(path)
        if not path.is_dir():
            return f"{path} is not a directory", "name a directory"
        if not self.may(path, os.R_OK | os.W_OK | os.X_OK):
            return f"{self.user} may not write to {path}", "change its owner or permissions"
        return None

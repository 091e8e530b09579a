"""The file that holds a server's process id while it serves."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from ..errors import ConfigurationError


def default_pid_file(environ: Mapping[str, str]) -> str | None:
    """Return ``$INSTANCE_HOME/var/ZEO.pid`` if that directory exists, as Zope's scripts expect."""
    home = environ.get("INSTANCE_HOME")
    if not home:
        return None
    directory = Path(home, "var")
    return str(directory / "ZEO.pid") if directory.is_dir() else None


class PidFile:
    """Writes the process id of this process, and takes it away again.

    :param path: the file; its directory must exist.
    """

    def __init__(self, path: str) -> None:
        self._path = Path(path).absolute()  # survives a change of directory
        self._text = ""

    @property
    def directory(self) -> str:
        """The directory that the file is made in."""
        return str(self._path.parent)

    @property
    def is_written(self) -> bool:
        """Whether the file is there, by our doing."""
        return bool(self._text)

    def write(self) -> None:
        """Write the file, replacing one that is there.

        :raises ConfigurationError: the file cannot be written.
        """
        text = f"{os.getpid()}\n"
        # Readers must never see an empty file, so it appears under its name when it is complete.
        temporary = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        try:
            temporary.unlink(missing_ok=True)
            # "x" follows no link that somebody put there, in a directory that others may write to.
            with temporary.open("x", encoding="ascii") as file:
                file.write(text)
            temporary.replace(self._path)
        except OSError as error:
            raise ConfigurationError(
                f"pid file {self._path}",
                f"cannot be written: {error.strerror}",
                "name a file in a directory that this user may write to",
            ) from error
        self._text = text

    def hand_over(self, uid: int, gid: int) -> None:
        """Let the file, which is written, belong to that user: this process becomes him.

        :raises OSError: the system does not allow it.
        """
        os.chown(self._path, uid, gid, follow_symlinks=False)

    def remove(self) -> None:
        """Remove the file if it is still ours; do nothing otherwise, and never fail."""
        if not self._text:
            return
        try:
            # Another server may have been started with the same pid file meanwhile.
            if self._path.read_text(encoding="ascii", errors="replace") == self._text:
                self._remove()
        except OSError:
            # Somebody took it, or the directory, away: what we want is already so.
            pass
        self._text = ""

    def _remove(self) -> None:
        try:
            self._path.unlink()
        except PermissionError:
            # Handed over in a directory that stayed somebody else's.  An empty file names no
            # process, and that is what matters.
            os.truncate(self._path, 0)

"""What can go wrong with a backup, beside wrong usage."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from ...errors import ZeolithError


class BackupError(ZeolithError):
    """A backup could not be made or restored.  The text names the thing and the way out."""


class Damage(BackupError):
    """Something is missing from a file, or is not what it should be.

    :param where: the file, or the object in it.
    :param problem: what is wrong with it.
    """

    def __init__(self, where: str, problem: str) -> None:
        super().__init__(where, problem)
        self.where = where
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.where}: {self.problem}"


class SourceChanged(Exception):
    """The file was replaced while it was copied: another try is needed."""


@contextmanager
def translated(doing: str, assurance: str) -> Iterator[None]:
    """Turn what the operating system reports in the block into :class:`BackupError`.

    :param doing: what failed, for the message.
    :param assurance: what the reader need not worry about.
    """
    try:
        yield
    except OSError as error:
        where = f"{error.filename}: " if isinstance(error.filename, str) else ""
        problem = f"{doing} failed: {where}{error.strerror or error}"
        match error.errno:
            case errno.ENOSPC | errno.EDQUOT | errno.EFBIG:
                remedy = "; make room on the disk and try again"
            case errno.EACCES | errno.EPERM:
                remedy = f"; let user {os.geteuid()} have access"
            case _:
                remedy = ""
        raise BackupError(f"{problem}{remedy}; {assurance}") from error

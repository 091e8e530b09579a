"""FileStorages are opened by the real names of their files, which are claimed before.

A link would be replaced by a pack, which renames a new file to the name it knows: the file behind
the link would stay as it was, for whoever opens it later.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any

from .leftovers import openers_in

if TYPE_CHECKING:
    from ..server.fileclaim import FileClaim

logger = logging.getLogger(__name__)


class Claims:
    """The files of the FileStorages that one opener opens; they have their real names meanwhile."""

    def __init__(self, option: str) -> None:
        self._option = option
        self._claims: dict[str, FileClaim] = {}
        self._undo = ExitStack()

    def add(self, config: Any) -> None:
        """Claim what *config* says to open.

        :raises zc.lockfile.LockError: a process uses the same name.
        :raises FileInUse: a process uses another name of the same file.
        :raises OSError: the file cannot be opened.
        """
        self._resolve(config, "blob_dir")
        given = self._resolve(config, "path")
        if given is None or getattr(config, "read_only", False):
            return
        claim = self._claim(config.path)
        self._claims[config.path] = claim
        if given != config.path:
            logger.info("%s: %s is a link to %s", self._option, given, config.path)
            directory, name = os.path.split(given)
            link = os.path.join(os.path.realpath(directory), name)
            if link != config.path:  # else a directory above it is a link
                from zc.lockfile import LockFile

                # For those who know only this name, ZEO for example.
                claim.also(LockFile(link + ".lock"))
                _move_index(link, config.path)

    def _resolve(self, config: Any, name: str) -> str | None:
        """Replace a path by what it really is; return it as it was given."""
        path = getattr(config, name, None)
        if not isinstance(path, str) or not path:
            return None
        setattr(config, name, os.path.realpath(path))
        self._undo.callback(setattr, config, name, path)
        return os.path.abspath(path)

    def _claim(self, path: str) -> FileClaim:
        from zc.lockfile import LockFile

        from ..server.fileclaim import FileClaim, FileInUse

        try:
            return FileClaim(path, self._option)
        except FileInUse:
            # If it has the same name there, this says so, and who it is.
            LockFile(path + ".lock").close()
            raise

    def hand_over(self, storage: Any) -> None:
        """Have the FileStorages in *storage* keep the claims until they are closed.

        :raises FileInUse: somebody was quicker with a file that did not exist before.
        :raises OSError: a file cannot be opened.
        """
        from ..server.fileclaim import file_storages_of

        for part in file_storages_of(storage):
            claim = self._claims.get(part._file_name)
            if claim is not None:
                claim.follow()
                claim.attach(part)
                del self._claims[part._file_name]

    def close(self) -> None:
        """Give free what was not handed over; let the opener have its names again."""
        try:
            for claim in self._claims.values():
                claim.close()
        finally:
            self._undo.close()


@contextmanager
def claimed(opener: Any, option: str) -> Iterator[Claims]:
    """Let *opener* open files by their real names, and keep others from doing so meanwhile.

    :param option: how the user calls the storage, for errors.
    :raises zc.lockfile.LockError, FileInUse, OSError: see :meth:`Claims.add`.
    """
    claims = Claims(option)
    try:
        for inner, config in openers_in(opener):
            if _has_files(inner):
                claims.add(config)
        yield claims
    finally:
        claims.close()


def _has_files(opener: Any) -> bool:
    """Whether *opener* opens a FileStorage, or a directory for blobs."""
    if not hasattr(opener, "config"):
        return True  # one of ours
    import ZODB.config

    return isinstance(opener, ZODB.config.FileStorage | ZODB.config.BlobStorage)


def _move_index(link: str, real: str) -> None:
    """Bring the index that a server has saved beside a link to the file itself.

    Without it a large file would have to be read; and one that stays behind would be wrong after
    the next pack.
    """
    old, new = link + ".index", real + ".index"
    try:
        if os.path.exists(new) and os.stat(new).st_mtime >= os.stat(old).st_mtime:
            return
        temporary = new + ".tmp"
        shutil.copyfile(old, temporary)
        os.replace(temporary, new)
        os.remove(old)
    except FileNotFoundError:
        return
    except OSError as error:
        logger.warning("the index %s cannot be moved to %s: %s", old, new, error)
        with suppress(OSError):
            os.remove(new + ".tmp")

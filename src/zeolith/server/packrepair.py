"""What a pack that was cut off has left beside a FileStorage, seen to before it is opened.

A process that is killed while it packs leaves the unfinished new file (``Data.fs.pack``) and the
list of blobs to be removed.  Packers that rename twice, as ZODB's own does, can also leave the
database without its name: it is ``Data.fs.old`` then.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from zc.lockfile import LockFile

from ..errors import ConfigurationError
from .packwire import OLD_SUFFIX, PACK_SUFFIX, REMOVED

logger = logging.getLogger(__name__)


def repair_after_pack(path: str, blob_dir: str | None, option: str) -> None:
    """Bring the files of a FileStorage into the state before the pack that was cut off.

    Does nothing if there is nothing to do.  Every file that is touched is named in the log.

    :param path: the storage's file.
    :param blob_dir: its blob directory, or None.
    :param option: how the user calls the storage, for the error.
    :raises zc.lockfile.LockError: a process has the storage open.
    :raises ConfigurationError: the database has lost its name, and it is not clear why.
    :raises OSError: a file cannot be renamed or removed.
    """
    new, old = path + PACK_SUFFIX, path + OLD_SUFFIX
    is_lost = not os.path.exists(path) and os.path.exists(old)
    if not is_lost and not os.path.exists(new):
        return
    with _locked(path):
        # Looked at again: whoever had the lock may have been at work.
        if not os.path.exists(path) and os.path.exists(old):
            if not os.path.exists(new):
                raise ConfigurationError(
                    option,
                    f"{path} is missing, but there is {old}, as after a pack that was cut off",
                    f"rename that to {path} to go on with it, or put it elsewhere to begin anew",
                )
            os.rename(old, path)
            logger.warning("a pack was cut off: %s is %s again", old, path)
        if os.path.exists(old) and os.path.samefile(old, path):
            os.unlink(old)
            logger.warning("a pack was cut off: removed %s, another name of %s", old, path)
        # The list first: while the new file is there it is known to be of no use.
        for debris in (blob_dir and os.path.join(blob_dir, REMOVED), new):
            if debris and os.path.exists(debris):
                os.unlink(debris)
                logger.warning("a pack was cut off: removed %s", debris)


@contextmanager
def _locked(path: str) -> Iterator[None]:
    """Hold the lock that a FileStorage holds while it is open for writing."""
    lock = LockFile(path + ".lock")
    try:
        yield
    finally:
        with suppress(OSError):
            lock.close()

"""Files that clients have put into the server's blob directory themselves.

Only their names come over the wire.  Who can write to the directory could do harm without us; but
a client must not be able to have the server do what it cannot do itself: hand out, move or remove
files from elsewhere.
"""

from __future__ import annotations

import os
import stat
from typing import Any, Final

_SUFFIX: Final = ".tmp"


def check_shared_name(filename: str) -> None:
    """Check the name of a file that a client claims to have put into a shared blob directory.

    :raises ValueError: it is not a plain file name ending in ``.tmp`` and perhaps one character.
    """
    plain = filename and not (set(filename) & {"/", "\\", "\0"}) and os.sep not in filename
    ending = filename.endswith(_SUFFIX) or filename[:-1].endswith(_SUFFIX)
    if not plain or not ending or filename.startswith("."):
        raise ValueError(f"{filename[:100]!r} is not the name of a temporary blob file")


def find_shared_blob(helper: Any, oid: bytes, filename: str) -> str:
    """Return the path of a file that a client has put into the blob directory.

    :param helper: the directory, as ZODB's ``FilesystemHelper``.
    :raises ValueError: *filename* is not such a name; there is no such file in the directory of
        *oid*; or it is something else, or no file that the server can make a blob of.
    """
    check_shared_name(filename)
    directory = str(helper.getPathForOID(oid))
    path = os.path.join(directory, filename)
    what = f"the file {filename!r} of object {oid.hex()}"
    try:
        status = os.lstat(path)
    except OSError as error:
        raise ValueError(
            f"there is no file {filename!r} for object {oid.hex()} in {helper.base_dir} "
            f"({error.strerror}): does the client really share the server's blob directory?"
        ) from error
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{what} is a link, a directory or a device, not a plain file")
    if status.st_nlink > 1:
        # It is somebody else's file, too, who could change a blob that has been committed.
        raise ValueError(f"{what} has another name, too (a hard link): blobs are copied or moved")
    base = os.path.realpath(helper.base_dir)
    if os.path.realpath(directory) != os.path.join(
        base, os.path.relpath(directory, helper.base_dir)
    ):
        raise ValueError(f"{what} is not in {helper.base_dir}, to which a link leads")
    if not os.access(path, os.R_OK) or not os.access(directory, os.W_OK):
        raise ValueError(
            f"the server may not read or move {what}: it has to run as the user that the client "
            "runs as, or share a group that may write to the blob directory"
        )
    return path

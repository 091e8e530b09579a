"""The file's part of a backup, made by ZODB's repozo in repozo's format."""

from __future__ import annotations

import gzip
import os
import re
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from .failures import BackupError, SourceChanged

FULL_ENDINGS: Final = (".fs", ".fsz")
PART_ENDINGS: Final = (*FULL_ENDINGS, ".deltafs", ".deltafsz")
DAT: Final = ".dat"
INDEX: Final = ".index"
UNFINISHED: Final = "tmp.tmp"
"""What repozo calls a file that it is writing."""

UNREADABLE: Final = (EOFError, zlib.error, gzip.BadGzipFile)
"""What reading a compressed file raises if it is damaged."""

_NAME: Final = re.compile(
    r"(\d{4}(?:-\d\d){5})\.((?:delta)?fsz?|index|dat|json|blobs|[a-z]+\.partial)"
)

Moment = tuple[int, int, int, int, int, int]
"""A time in UTC: year, month, day, hour, minute, second."""


@dataclass(frozen=True)
class Part:
    """What repozo has just written.

    :ivar name: the backup's name: the time it was made.
    :ivar file: name of the file.
    :ivar full: name of the full backup that it belongs to.
    :ivar start: position in the database where it begins.
    :ivar end: position where it ends.
    :ivar md5: checksum of what was copied.
    """

    name: str
    file: str
    full: str
    start: int
    end: int
    md5: str


def split_name(name: str) -> tuple[str, str] | None:
    """Return the backup's name and the ending of one of a backup's files, None for other files."""
    found = _NAME.fullmatch(name)
    return None if found is None else (found[1], "." + found[2])


def is_part(name: str) -> bool:
    """Return whether a name is that of a file with data."""
    found = split_name(name)
    return found is not None and found[1] in PART_ENDINGS


def choose_moment(latest: str | None) -> Moment:
    """Return the time to name a backup by: now, but after the *latest* one.

    Names have seconds only, and clocks are set back at times.
    """
    import calendar

    now = time.time()
    if latest is not None:
        found = calendar.timegm(time.strptime(latest, "%Y-%m-%d-%H-%M-%S"))
        now = max(now, found + 1)
    moment = time.gmtime(now)
    return (*moment[:5], moment[5])


def write_part(
    directory: Path,
    database: Path,
    moment: Moment,
    *,
    full: bool,
    quick: bool,
    compress: bool,
    verbose: bool,
) -> Part | None:
    """Have repozo copy the file, or what is new in it.

    :return: what was written; None if there is nothing new.
    :raises SourceChanged: the file was replaced meanwhile.
    :raises BackupError: the file is no FileStorage, or damaged.
    """
    from ZODB.FileStorage.FileStorage import FileStorageError
    from ZODB.FileStorage.format import CorruptedError
    from ZODB.POSException import POSError, StorageError

    arguments = ["-B", "-r", str(directory), "-f", str(database)]
    arguments += [
        flag for flag, wanted in (("-F", full), ("-Q", quick), ("-z", compress)) if wanted
    ]
    before = set(os.listdir(directory))
    try:
        with _repozo(arguments, verbose) as (repozo, options):
            options.test_now = moment  # repozo's hook for choosing the name
            repozo.do_backup(options)
    except AssertionError as error:
        # repozo found the file shorter than a moment before.
        raise SourceChanged from error
    except FileNotFoundError as error:
        if error.filename == str(database):
            raise SourceChanged from error
        raise
    except UNREADABLE as error:
        raise BackupError(
            f"{directory}: a compressed part is damaged ({error}); `zeolith verify` names it, and "
            "a full backup (-F) does without it"
        ) from error
    except (FileStorageError, CorruptedError, StorageError, POSError) as error:
        text = " ".join(str(error).split()) or type(error).__name__
        raise BackupError(
            f"{database}: is not a FileStorage, or is damaged: {text}; ZODB's fstest examines it"
        ) from error
    new = [name for name in os.listdir(directory) if name not in before and is_part(name)]
    if not new:
        return None
    (file,) = new
    found = split_name(file)
    assert found is not None
    name = found[0]
    starts = sorted(
        root
        for root, kind in filter(None, map(split_name, os.listdir(directory)))
        if kind in FULL_ENDINGS and root <= name
    )
    line = (directory / (starts[-1] + DAT)).read_text().splitlines()[-1]
    _, start, end, md5 = line.rsplit(None, 3)
    return Part(name, file, starts[-1], int(start), int(end), md5)


def recover(directory: Path, name: str, output: Path, verbose: bool) -> None:
    """Have repozo put a file together.  It is not checked.

    :param name: the backup.
    :param output: where to; the index is put beside it.
    :raises UNREADABLE: a compressed part is damaged.
    """
    arguments = ["-R", "-r", str(directory), "-D", name, "-o", str(output)]
    with _repozo(arguments, verbose) as (repozo, options):
        try:
            repozo.do_recover(options)
        except repozo.RepozoError as error:
            raise BackupError(f"{directory}: backup {name}: {error}") from error


@contextmanager
def _repozo(arguments: list[str], verbose: bool) -> Iterator[tuple[Any, Any]]:
    """Yield repozo's module and its parsed options."""
    from ZODB.scripts import repozo

    saved = repozo.VERBOSE
    repozo.VERBOSE = verbose
    try:
        yield repozo, repozo.parseargs(arguments)
    finally:
        repozo.VERBOSE = saved

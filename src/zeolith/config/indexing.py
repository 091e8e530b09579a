"""What a FileStorage is doing while it opens: reading the file to find every object in it.

FileStorage saves its index when it is closed.  If that is missing, or older than the file, the
rest of the file is read, without a word; for a large one that takes minutes.  So we look from
outside, at how far the file has been read.
"""

from __future__ import annotations

import logging
import os
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeAlias

logger = logging.getLogger(__name__)

Report: TypeAlias = Callable[[str], None]
"""Takes a line about what goes on.  Called on a thread of its own, one call at a time."""

INTERVAL: Final = 5.0
"""Seconds between two lines."""

_WORTH_A_LINE: Final = 1_000_000
"""Bytes; less is read before anybody wonders."""

_MB: Final = 1_000_000
_MAGIC: Final = (b"FS21", b"FS30")


def bytes_to_read(path: str) -> int:
    """Return how many bytes of the FileStorage *path* its index does not know; 0 if *path* is none.

    An estimate: FileStorage itself decides whether the index can be used.
    """
    try:
        with open(path, "rb") as file:
            if file.read(4) not in _MAGIC:
                return 0
            size = os.fstat(file.fileno()).st_size
    except OSError:
        return 0  # opening it will say what is wrong
    return max(0, size - _indexed(path + ".index"))


def _indexed(path: str) -> int:
    """Return the size of the file for which the index at *path* was saved; 0 if it is no index."""
    try:
        with open(path, "rb") as file:
            # The position comes first, as a pickle of its own.
            position = _NumberUnpickler(file).load()
    except Exception:  # noqa: BLE001 - whatever damage does to a pickle, the index is of no use
        return 0
    return position if isinstance(position, int) else 0


class _NumberUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"{module}.{name} in the place of a number")


@contextmanager
def told_of_indexing(
    name: str, path: str | None, report: Report | None = None, interval: float = INTERVAL
) -> Iterator[None]:
    """Log how far the FileStorage *path* has been read while the block opens it.

    :param name: the storage's name on the server.
    :param path: None, or no FileStorage: nothing is logged.
    :param report: called with each line too.
    :param interval: seconds between two lines.
    """
    missing = 0 if path is None else bytes_to_read(path)
    if path is None or missing < _WORTH_A_LINE:
        yield
        return
    why = "is older than the file" if os.path.exists(f"{path}.index") else "is missing"

    def tell(line: str) -> None:
        logger.info("%s", line)
        if report is not None:
            report(line)

    tell(
        f"storage {name!r}: {path}.index {why}: reading {_megabytes(missing)} MB to rebuild the "
        "index"
    )
    started = time.monotonic()
    done = threading.Event()
    size = os.path.getsize(path)

    def watch() -> None:
        while not done.wait(interval):
            position = _position(path)
            if position is not None:
                percent = 100 * position // size
                tell(
                    f"storage {name!r}: rebuilding the index: {_megabytes(position)} of "
                    f"{_megabytes(size)} MB ({percent} %)"
                )

    watcher = threading.Thread(target=watch, name="zeolith-indexing", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
    tell(f"storage {name!r}: the index is rebuilt, after {time.monotonic() - started:.1f} s")


def _megabytes(size: int) -> str:
    return f"{size / _MB:.1f}" if size < 100 * _MB else f"{size // _MB}"


def _position(path: str) -> int | None:
    """Return how far this process has read the file at *path*; None if that cannot be told.

    Only Linux tells.
    """
    furthest = None
    try:
        wanted = os.stat(path)
        descriptors = os.listdir("/proc/self/fd")
    except OSError:
        return None
    for descriptor in descriptors:
        try:
            found = os.stat(f"/proc/self/fd/{descriptor}")
            if not os.path.samestat(found, wanted):
                continue
            with open(f"/proc/self/fdinfo/{descriptor}", encoding="ascii") as info:
                position = int(info.readline().split()[1])
        except (OSError, ValueError, IndexError):
            continue  # closed meanwhile
        furthest = max(position, furthest or 0)
    return furthest

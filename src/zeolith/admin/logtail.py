"""The end of a log file, and what is added to it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Final

_BLOCK: Final = 1 << 16
_LONGEST: Final = 1 << 20
"""Bytes in which the last lines are searched: a file without line breaks must not fill memory."""


def last_lines(path: str, lines: int = 10, since: int = 0) -> str:
    """Return the last *lines* lines of *path*.

    :param since: byte before which nothing is wanted.
    :raises OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        return _last_lines(file.fileno(), lines, since)[0].decode(errors="replace")


def _last_lines(fd: int, lines: int, since: int = 0) -> tuple[bytes, int]:
    """Return the last lines, and where the file ends."""
    end = os.fstat(fd).st_size
    start, tail = end, b""
    # One more line break than lines: the one before the first of them.
    while start > since and tail.count(b"\n") <= lines and len(tail) < _LONGEST:
        size = min(_BLOCK, start - since)
        start -= size
        tail = os.pread(fd, size, start) + tail
    return b"".join(tail.splitlines(keepends=True)[-lines:]), end


def follow(path: str, wait: Callable[[], bool], lines: int = 10) -> Iterator[bytes]:
    """Yield the last lines of *path*, then what is added to it.

    A file that was cut short or replaced by another of its name is noticed and read from its
    start.

    :param wait: waits a moment; its result says whether to end.
    :raises OSError: the file cannot be read; if it vanishes later, it is waited for.
    """
    fd = os.open(path, os.O_RDONLY)
    try:
        tail, at = _last_lines(fd, lines)
        yield tail
        while True:
            while piece := os.pread(fd, _BLOCK, at):
                at += len(piece)
                yield piece
            if os.fstat(fd).st_size < at:
                at = 0
                yield b"==> file truncated <==\n"
                continue
            successor = _open_other(path, fd)
            if successor is not None:
                # What was written to the old file up to now comes first.
                while piece := os.pread(fd, _BLOCK, at):
                    at += len(piece)
                    yield piece
                os.close(fd)
                fd, at = successor, 0
                yield b"==> file replaced <==\n"
                continue
            if wait():
                return
    finally:
        os.close(fd)


def _open_other(path: str, fd: int) -> int | None:
    """Open *path* if it is another file by now."""
    try:
        now, then = os.stat(path), os.fstat(fd)
        if (now.st_dev, now.st_ino) == (then.st_dev, then.st_ino):
            return None
        return os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None

"""Putting the files of a part in their places: all of them, or none."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple


class File(NamedTuple):
    """A file of the part's directory.

    :ivar text: what it says.
    :ivar mode: its permissions; None: what the umask leaves.
    """

    text: str
    mode: int | None = None


def is_current(location: Path, files: Mapping[str, File]) -> bool:
    """Return whether the directory *location* has these files, as they are to be."""
    for name, file in files.items():
        try:
            if (location / name).read_text(encoding="utf-8") != file.text:
                return False
        except (OSError, UnicodeDecodeError):
            return False
    return True


def put_in_place(
    location: Path,
    scripts: list[Path],
    files: Mapping[str, File],
    write_scripts: Callable[[Mapping[Path, Path]], None],
) -> None:
    """Write a part; what was there before is replaced.

    Everything is written beside its place first.  If that fails nothing has changed.

    :param location: directory of the part.
    :param scripts: paths of the scripts, in *location* or elsewhere.
    :param files: further files by their paths below *location*.
    :param write_scripts: writes the scripts; is given where to write each, by its path.  That is
        as many directories deep as the path itself.
    :raises OSError: the disk refuses.
    """
    with _temporary(location) as new, _temporary_beside(scripts, location) as beside:
        for name, file in files.items():
            _write(new / name, file)
        (new / "bin").mkdir()
        places = {
            path: new / "bin" / path.name if path.is_relative_to(location) else beside / path.name
            for path in scripts
        }
        write_scripts(places)
        moves = [(new, location)]
        moves += [(place, path) for path, place in places.items() if place.parent == beside]
        with _all_or_none() as move:
            for source, target in moves:
                move(source, target)


@contextmanager
def _all_or_none() -> Iterator[Callable[[Path, Path], None]]:
    """Give a function that moves something to its place; what it moved is moved back on an error.

    What was in the places is removed in the end.
    """
    done: list[tuple[Path, Path, Path | None]] = []

    def move(source: Path, target: Path) -> None:
        kept = None
        if os.path.lexists(target):
            # Beside the source: surely on the same disk.
            kept = source.with_name(f"{source.name}.old")
            os.rename(target, kept)
        try:
            os.rename(source, target)
        except OSError:
            if kept is not None:
                os.rename(kept, target)
            raise
        done.append((source, target, kept))

    try:
        yield move
    except BaseException:
        for source, target, kept in reversed(done):
            os.rename(target, source)
            if kept is not None:
                os.rename(kept, target)
        raise
    for _, _, kept in done:
        if kept is not None and kept.is_dir() and not kept.is_symlink():
            shutil.rmtree(kept)
        elif kept is not None:
            kept.unlink()


def _write(path: Path, file: File) -> None:
    path.parent.mkdir(exist_ok=True)
    # Before the text is in it.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, file.mode or 0o666)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(file.text)


@contextmanager
def _temporary(location: Path) -> Iterator[Path]:
    """Give a new directory beside *location*, which is removed unless it was renamed."""
    path = Path(tempfile.mkdtemp(prefix=f".{location.name}-", dir=location.parent))
    try:
        path.chmod(0o755)
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def _temporary_beside(scripts: list[Path], location: Path) -> Iterator[Path]:
    """Give a new directory beside that of the scripts which are not in *location*."""
    outside = next(path for path in scripts if not path.is_relative_to(location))
    with _temporary(outside.parent) as path:
        yield path

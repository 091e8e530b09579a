"""The directories and files that a part needs: whether they can be used, and making them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from ..config.checks.rights import Rights
from ..errors import ConfigurationError
from .settings import Settings


def needed_directories(settings: Settings) -> dict[Path, str]:
    """Return the directories to make, each with the option that it comes from."""
    wanted: list[tuple[Path, str]] = [(settings.var, "var")]
    if settings.zeo_conf is None:
        wanted += [
            (settings.file_storage.parent, "file-storage"),
            (settings.pid_file.parent, "pid-file"),
            (settings.socket_name.parent, "socket-name"),
        ]
        if not settings.log.exists() or settings.log.is_file():  # not /dev/null and its like
            wanted.append((settings.log.parent, "zeo-log"))
        if settings.blob_storage is not None:
            wanted.append((settings.blob_storage.parent, "blob-storage"))
        if settings.socket_address is not None:
            wanted.append((settings.socket_address.parent, "zeo-address"))
        if settings.monitor is not None:
            wanted.append((settings.monitor.parent, "monitor-address"))
    if settings.backup_name is not None:
        wanted.append((settings.backup_directory.parent, "backup-directory"))
    found: dict[Path, str] = {}
    for path, option in wanted:
        found.setdefault(path, option)
    return found


def _written(settings: Settings) -> Iterator[tuple[Path, str]]:
    """Yield what is written while the server runs, each with its option."""
    if settings.backup_name is not None:
        yield settings.backup_directory, "backup-directory"
    if settings.zeo_conf is not None:
        return
    yield settings.file_storage, "file-storage"
    yield settings.pid_file, "pid-file"
    yield settings.socket_name, "socket-name"
    yield settings.log, "zeo-log"
    for path, option in (
        (settings.blob_storage, "blob-storage"),
        (settings.socket_address, "zeo-address"),
        (settings.monitor, "monitor-address"),
    ):
        if path is not None:
            yield path, option


def _named_files(settings: Settings) -> list[tuple[str, Path]]:
    """Return the files that have to be there, each with its option."""
    named = {
        "zeo-conf": settings.zeo_conf,
        "zeopack": settings.zeopack,
        "repozo": settings.repozo,
        **settings.files,
    }
    return [(option, path) for option, path in named.items() if path is not None]


def _refuse_places_in_the_part(settings: Settings) -> None:
    """Keep what is to stay out of a directory that goes when the part changes."""
    location = settings.layout.location
    named = [(path, option) for option, path in _named_files(settings)]
    for path, option in [(settings.var, "var"), *_written(settings), *named]:
        if Path(os.path.normpath(path)).is_relative_to(location):
            raise ConfigurationError(
                option,
                f"{path} is in the part's directory, which is removed when the part changes",
                "name a place elsewhere",
            )


def _refuse_same_places(settings: Settings) -> None:
    taken: dict[str, str] = {}
    for path, option in _written(settings):
        other = taken.setdefault(os.path.normpath(path), option)
        if other != option:
            raise ConfigurationError(
                option, f"is {path}, and so is {other}", "name another place for one of them"
            )


def check_places(settings: Settings) -> None:
    """Look whether everything can be written where it is to be; nothing is changed.

    :raises ConfigurationError: something cannot.
    """
    _refuse_places_in_the_part(settings)
    _refuse_same_places(settings)
    for option, path in (
        ("parts-directory of [buildout]", settings.layout.location),
        ("bin-directory of [buildout]", settings.layout.bin / settings.layout.part),
    ):
        _refuse(option, _why_no_directory(path.parent, Rights()))
    server = Rights(settings.account)
    for path, option in needed_directories(settings).items():
        if os.path.isdir(path):
            _refuse(option, server.why_no_directory(path))
        else:
            _refuse(option, _why_no_directory(path, Rights()))
            _refuse(option, _why_out_of_reach(path, server))
    if settings.zeo_conf is not None:
        return
    for path, option in (
        (settings.file_storage, "file-storage"),
        (settings.log, "zeo-log"),
        (settings.pid_file, "pid-file"),
    ):
        if os.path.lexists(path):
            _refuse(option, server.why_no_file(path))
    if settings.blob_storage is not None and os.path.lexists(settings.blob_storage):
        _refuse("blob-storage", server.why_no_directory(settings.blob_storage))


def check_files(settings: Settings) -> None:
    """Look whether the files that options name are there.

    :raises ConfigurationError: one is missing, or cannot be read.
    """
    for option, path in _named_files(settings):
        if not path.exists():
            raise ConfigurationError(
                option, f"there is no {path}", "create it, or correct the path"
            )
        if path.is_dir() and not option.endswith(("authenticate", "crl")):
            raise ConfigurationError(option, f"{path} is a directory", "name a file")
        if not os.access(path, os.R_OK):
            raise ConfigurationError(option, f"{path} cannot be read", "change its permissions")
    location = settings.zope2_location
    if location is not None and not location.is_dir():
        raise ConfigurationError(
            "zope2-location", f"{location} is no directory", "correct the path, or remove the line"
        )


def make_directories(settings: Settings) -> Iterator[Path]:
    """Make what is missing; yield each directory after it was made.

    :raises ConfigurationError: the disk refuses.
    """
    owner = settings.account if os.geteuid() == 0 else None
    if not settings.layout.location.exists():
        # Lines of the user's own may name it.
        _make(settings.layout.location, "parts-directory of [buildout]")
        yield settings.layout.location
    for path, option in needed_directories(settings).items():
        for missing in reversed([each for each in (path, *path.parents) if not each.exists()]):
            _make(missing, option)
            yield missing
            if owner is not None:
                os.chown(missing, owner.uid, owner.gid)


def _make(path: Path, option: str) -> None:
    try:
        path.mkdir()
    except OSError as error:
        raise ConfigurationError(
            option, f"{path} cannot be made: {error.strerror}", "name another place"
        ) from error


def _why_no_directory(path: Path, rights: Rights) -> tuple[str, str] | None:
    """Return what keeps *path*, and the directories above it, from being made, or None."""
    while not os.path.lexists(path) and path.parent != path:
        path = path.parent
    return rights.why_no_directory(path)


def _why_out_of_reach(path: Path, rights: Rights) -> tuple[str, str] | None:
    """Return what keeps the user from getting to *path* once it was made, or None."""
    for parent in path.parents:
        if os.path.exists(parent) and not rights.may(parent, os.X_OK):
            return f"{rights.user} may not enter {parent}", "change its permissions"
    return None


def _refuse(option: str, why: tuple[str, str] | None) -> None:
    if why is not None:
        raise ConfigurationError(option, *why)

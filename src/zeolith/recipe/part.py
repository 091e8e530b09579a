"""A part of a buildout that is a server: what zc.buildout loads and calls."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar, Final
from weakref import WeakValueDictionary

import zc.buildout
from zc.buildout import easy_install

from ..errors import ConfigurationError
from .configuration import ITSELF, complaints_about, configuration_lines
from .options import OPTIONS
from .others import refuse_others_sockets
from .places import check_files, check_places, make_directories, needed_directories
from .scripts import refuse_others_scripts, scripts_of
from .settings import Layout, Settings, read_settings
from .staging import File, is_current, put_in_place
from .workingset import find_working_set

_DISTRIBUTION: Final = "zeolith"
_PRIVATE: Final = 0o600


class Recipe:
    """Makes a part: ``zeo.conf``, the control script and the scripts beside it.

    What can be found wrong is found when this object is made: then buildout has not yet removed
    what an earlier run has installed.

    :param buildout: the whole buildout.
    :param name: of the part.
    :param options: of the part.
    :raises zc.buildout.UserError: an option is unknown or cannot be used, or two contradict each
        other; the text names part, option and remedy.
    """

    _parts: ClassVar[WeakValueDictionary[tuple[int, str], Recipe]] = WeakValueDictionary()
    """All that there are, by identity of the buildout, which they keep, and name.  To ask the
    buildout would make parts that are not to be installed now."""

    def __init__(self, buildout: Any, name: str, options: Any) -> None:
        self._buildout = buildout
        self._name = name
        self._options = options
        self._logger = logging.getLogger(name)
        if sys.platform == "win32":
            raise self._error(
                ConfigurationError("recipe", "does not work on Windows", "use another system")
            )
        main = buildout["buildout"]
        layout = Layout(
            part=name,
            directory=Path(main["directory"]),
            parts=Path(main["parts-directory"]),
            bin=Path(main["bin-directory"]),
            is_relative=main.get("relative-paths", "false") == "true",
        )
        try:
            self._settings = read_settings(layout, {key: options[key] for key in options})
            check_places(self._settings)
        except ConfigurationError as error:
            raise self._error(error) from error
        self._refuse(error for error in self._complaints() if not _is_told_later(error))
        self._parts[id(buildout), name] = self
        # For other parts; and when one of these changes, the part is made anew.
        options["location"] = str(layout.location)
        options["bin-directory"] = str(layout.bin)
        options["relative-paths"] = "true" if self._settings.is_relative else "false"

    # -- what buildout calls ---------------------------------------------------------------------

    def install(self) -> list[str]:
        """Make the part; return its files and directories, which buildout removes with it.

        :raises zc.buildout.UserError: that cannot be done; nothing has changed then.
        """
        return self._install(self._find_working_set())

    def update(self) -> list[str]:
        """Make the part anew if something of it has changed or is missing.

        :raises zc.buildout.UserError: see :meth:`install`.
        """
        working_set = self._find_working_set()
        paths = self._paths()
        needed = [script.path for script in scripts_of(self._settings)]
        needed += needed_directories(self._settings)
        is_complete = all(path.exists() for path in needed)
        if is_complete and is_current(self._settings.layout.location, self._files(working_set)):
            return paths
        return self._install(working_set)

    # -- steps -----------------------------------------------------------------------------------

    def _install(self, working_set: Any) -> list[str]:
        settings = self._settings
        files = self._files(working_set)
        made: list[Path] = []
        try:
            check_places(settings)
            check_files(settings)
            refuse_others_scripts(settings)
            refuse_others_sockets(settings, self._others())
            for path in make_directories(settings):
                made.append(path)
            with _importable(working_set, self._extra_paths()):
                self._refuse(self._complaints())
                self._check_own_configuration()
            put_in_place(
                settings.layout.location,
                [script.path for script in scripts_of(settings)],
                files,
                lambda places: self._write_scripts(working_set, places),
            )
        except BaseException as error:
            for path in reversed(made):
                with suppress(OSError):  # somebody else has put something there
                    path.rmdir()
            if isinstance(error, ConfigurationError):
                raise self._error(error) from error
            if isinstance(error, OSError):
                problem = f"cannot be written: {error.strerror}"
                remedy = "correct its permissions, or make room on the disk"
                raise self._error(
                    ConfigurationError(
                        str(error.filename or settings.layout.location), problem, remedy
                    )
                ) from error
            raise
        for script in scripts_of(settings):
            self._logger.info("Generated script %r.", str(script.path))
        self._explain_zope2_location()
        return self._paths()

    def _others(self) -> list[Settings]:
        """Return the other parts of this buildout, in the order of their names."""
        others = {
            name: part._settings
            for (buildout, name), part in self._parts.items()
            if buildout == id(self._buildout) and name != self._name
        }
        return [others[name] for name in sorted(others)]

    def _paths(self) -> list[str]:
        location = self._settings.layout.location
        scripts = [script.path for script in scripts_of(self._settings)]
        outside = [path for path in scripts if not path.is_relative_to(location)]
        return [str(path) for path in (location, *outside)]

    def _files(self, working_set: Any) -> dict[str, File]:
        """Return the files of the part's directory."""
        settings = self._settings
        lines = configuration_lines(settings, is_relative=settings.is_relative)
        # What the scripts are made of: whether they are to be made anew is seen by it.
        recorded = [*_locations(working_set), *map(str, self._extra_paths())]
        recorded += [repr(script) for script in scripts_of(settings)]
        files = {
            "etc/zeo.conf": File("".join(f"{line.text}\n" for line in lines)),
            "etc/.eggs": File("".join(f"{line}\n" for line in recorded)),
        }
        if "pack-password" in settings.texts:
            files["etc/pack-password"] = File(f"{settings.texts['pack-password']}\n", _PRIVATE)
        return files

    def _find_working_set(self) -> Any:
        try:
            return find_working_set(
                self._buildout, self._options, [*self._settings.eggs, _DISTRIBUTION]
            )
        except (zc.buildout.UserError, ValueError) as error:  # the latter: what is no requirement
            raise self._error(
                ConfigurationError("eggs", " ".join(str(error).split()), "check names and versions")
            ) from error

    def _extra_paths(self) -> list[Path]:
        """Return what comes after the eggs on the path of the scripts."""
        paths = list(self._settings.extra_paths)
        location = self._settings.zope2_location
        if location is not None and (location / "lib" / "python").is_dir():
            paths.append(location / "lib" / "python")
        return paths

    def _write_scripts(self, working_set: Any, places: Mapping[Path, Path]) -> None:
        settings = self._settings
        base = str(settings.layout.directory) if settings.is_relative else ""
        with _quiet(logging.getLogger(easy_install.__name__)):
            for script in scripts_of(settings):
                place = places[script.path]
                easy_install.scripts(
                    [(place.name, script.module, script.function)],
                    working_set,
                    sys.executable,
                    str(place.parent),
                    extra_paths=[str(path) for path in self._extra_paths()],
                    arguments=script.arguments,
                    initialization=script.initialization,
                    relative_paths=base,
                )

    # -- what is wrong ---------------------------------------------------------------------------

    def _complaints(self) -> list[ConfigurationError]:
        return [] if self._settings.zeo_conf is not None else complaints_about(self._settings)

    def _check_own_configuration(self) -> None:
        """Check a ``zeo.conf`` of the user's own, and that what the options say is so there."""
        settings = self._settings
        if settings.zeo_conf is None:
            return
        from ..config.address import format_address, local_address, parse_address
        from ..config.server import load_server_config

        try:
            config = load_server_config(str(settings.zeo_conf))
        except ConfigurationError as error:
            raise ConfigurationError(
                "zeo-conf", f"{error.option}: {error.problem}", error.remedy
            ) from error
        if "zeo-address" in settings.texts:
            wanted = local_address(parse_address(settings.address, "zeo-address"))
            if wanted != local_address(config.address):
                raise ConfigurationError(
                    "zeo-address",
                    f"is {settings.address}, but {settings.zeo_conf} has "
                    f"{format_address(config.address)}",
                    "write the same, or remove the option",
                )
        names = [opener.name for opener in config.storages]
        if settings.storage is not None and settings.storage not in names:
            raise ConfigurationError(
                "storage-number",
                f"{settings.zeo_conf} has no storage {settings.storage!r}",
                f"it has {', '.join(map(str, names))}",
            )

    def _refuse(self, errors: Iterable[ConfigurationError]) -> None:
        """Raise buildout's error about *errors*, if there are any."""
        found = list(errors)
        if found:
            raise self._error(*found)

    def _error(self, *errors: ConfigurationError) -> Exception:
        """Return buildout's error that says what *errors* say."""
        texts = [_text(self._name, error) for error in errors]
        error: Exception = zc.buildout.UserError("\n".join(dict.fromkeys(texts)))
        return error

    def _explain_zope2_location(self) -> None:
        location = self._settings.zope2_location
        if location is not None and not (location / "lib" / "python").is_dir():
            self._logger.info(
                "zope2-location %s has no lib/python: nothing of it is used but that it chooses "
                "the defaults; zeopack and repozo do not come from there any more",
                location,
            )


def _text(part: str, error: ConfigurationError) -> str:
    # Other than an option it is a path, the configuration, or an option of [buildout].
    is_other = error.option == ITSELF or " " in error.option or os.sep in error.option
    kind = "" if is_other else "option "
    text = f"part {part}, {kind}{error.option}: {error.problem}"
    return f"{text}; {error.remedy}" if error.remedy else text


def _is_told_later(error: ConfigurationError) -> bool:
    """Whether it may be different when the parts before this one, and the eggs, are installed."""
    option = OPTIONS.get(error.option)
    return option is not None and option.names_file


def _locations(working_set: Any) -> list[str]:
    return [str(distribution.location) for distribution in working_set]


@contextmanager
def _importable(working_set: Any, paths: Iterable[Path]) -> Iterator[None]:
    """Have what the server imports found here, too: its configuration may name some of it."""
    before = list(sys.path)
    sys.path += [*_locations(working_set), *map(str, paths)]
    try:
        yield
    finally:
        sys.path[:] = before


@contextmanager
def _quiet(logger: logging.Logger) -> Iterator[None]:
    """Keep a logger from naming the scripts by where they are written first."""
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)

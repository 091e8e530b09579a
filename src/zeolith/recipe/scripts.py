"""The scripts of a part: what each is called, and what it calls with which arguments."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from ..errors import ConfigurationError
from .settings import Settings

RUNNING: Final = "zeolith.recipe.running"

_CONFIGURATION: Final = re.compile(
    r"""configure=(?:join\(base, )?('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""
)
"""What a script of ours has as its ``zeo.conf``."""


class Script(NamedTuple):
    """One script.

    :ivar path: where it is.
    :ivar module: the module that it imports.
    :ivar function: what it calls there.
    :ivar arguments: the arguments of the call, as Python.
    :ivar initialization: Python to run before the import.
    """

    path: Path
    module: str
    function: str
    arguments: str = ""
    initialization: str = ""


def scripts_of(settings: Settings) -> list[Script]:
    """Return the scripts that the options ask for."""
    return list(_Scripts(settings).scripts())


def refuse_others_scripts(settings: Settings) -> None:
    """Refuse names at which another part of the buildout has a script of this recipe.

    Those of the old recipes, which left them behind, and of other software are replaced.

    :raises ConfigurationError: there is such a script.
    """
    names = {
        settings.zeopack_name: "zeopack-script-name",
        settings.backup_name: "backup-script-name",
    }
    for script in scripts_of(settings):
        option = names.get(script.path.name)
        if option is None or script.module != RUNNING or script.function == "call":
            continue
        try:
            text = script.path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue  # none, or of other software
        if RUNNING in text and not _has_configuration(text, settings):
            raise ConfigurationError(
                option,
                f"{script.path} belongs to another part",
                "choose another name; if there is no such part any more, remove the file",
            )


def _has_configuration(script: str, settings: Settings) -> bool:
    """Whether a script is for the configuration of this part, perhaps before the buildout moved."""
    found = _CONFIGURATION.search(script)
    if found is None:
        return False
    base, own = settings.layout.directory, settings.configuration
    path = base / str(ast.literal_eval(found[1]))
    if path.is_relative_to(base) or not own.is_relative_to(base):
        return path == own
    return str(path).endswith(f"/{own.relative_to(base)}")


class _Scripts:
    """Makes the scripts; see :func:`scripts_of`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def scripts(self) -> Iterator[Script]:
        settings = self._settings
        layout = settings.layout
        own = layout.location / "bin"
        conf = self._path(settings.configuration)
        for path, function in (
            (layout.bin / layout.part, "control"),
            # Supervisors are told these two in buildouts of the old recipes.
            (own / "zeoctl", "control"),
            (own / "runzeo", "serve"),
        ):
            arguments = self._call({}, conf)
            yield Script(path, RUNNING, function, arguments, settings.initialization)
        if settings.zeopack_name is not None:
            path = layout.bin / settings.zeopack_name
            if settings.zeopack is None:
                yield Script(path, RUNNING, "pack", self._call(self._packing()))
            else:
                yield Script(path, RUNNING, "call", self._path(settings.zeopack))
        if settings.repozo_name is not None:
            path = layout.bin / settings.repozo_name
            if settings.repozo is None:
                yield Script(path, "ZODB.scripts.repozo", "main")
            else:
                yield Script(path, RUNNING, "call", self._path(settings.repozo))
        if settings.backup_name is not None:
            arguments = self._call(
                {
                    "configure": settings.configuration,
                    "storage": settings.storage,
                    "repository": settings.backup_directory,
                }
            )
            yield Script(layout.bin / settings.backup_name, RUNNING, "backup", arguments)

    def _packing(self) -> dict[str, Any]:
        """Return the options of ``zeolith pack``."""
        settings = self._settings
        options: dict[str, Any] = {
            "configure": settings.configuration,
            "days": settings.pack_days,
            "names": None if settings.storage is None else (settings.storage,),
        }
        if "pack-user" in settings.texts:
            options["username"] = settings.texts["pack-user"]
            options["login_password_file"] = settings.password_file
            if "authentication-database" in settings.texts:
                options["realm"] = settings.texts.get("authentication-realm", "ZEO")
        for key in ("certificate", "key", "password-file", "authenticate", "crl"):
            options[key.replace("-", "_")] = settings.files.get(f"pack-ssl-{key}")
        options["server_hostname"] = settings.texts.get("pack-ssl-server-hostname")
        return options

    def _call(self, options: dict[str, Any], *arguments: str) -> str:
        """Return the arguments of a call, as Python."""
        named = [f"{name}={self._value(v)}" for name, v in options.items() if v is not None]
        if self._settings.is_relative:
            named.append("buildout=base")
        return ", ".join([*arguments, *named])

    def _value(self, value: Any) -> str:
        return self._path(value) if isinstance(value, Path) else repr(value)

    def _path(self, path: Path) -> str:
        """Return an expression for *path*; ``base`` is the directory of a relative buildout."""
        base = self._settings.layout.directory
        if self._settings.is_relative and path.is_relative_to(base):
            return f"join(base, {str(path.relative_to(base))!r})"
        return repr(str(path))

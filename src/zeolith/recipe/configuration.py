"""The ``zeo.conf`` of a part: its text, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from ..config.complaints import Complaint
from ..config.server import server_schema, to_config
from ..config.survey import survey
from ..errors import ConfigurationError
from .options import VARIABLE
from .settings import Settings

ITSELF: Final = "zeo.conf"
"""What stands for an option where a complaint is about no option in particular."""

_SSL: Final = (
    "certificate",
    "key",
    "password-file",
    "password-environment",
    "password-command",
    "password-function",
    "authenticate",
    "crl",
    "client-certificates",
    "minimum-version",
)
_MADE_LATER: Final = frozenset({"pid-file", "socket-name", "var"})
"""Options whose keys want directories that installing the part makes."""


class Line(NamedTuple):
    """One line.

    :ivar text: what it says.
    :ivar option: the option it comes from; empty: none.
    """

    text: str
    option: str = ""


def configuration_lines(settings: Settings, *, is_relative: bool) -> list[Line]:
    """Return the lines of ``zeo.conf``.

    :param is_relative: whether paths below the buildout are written so that it can be moved.
    """
    writer = _Writer(settings, is_relative)
    return list(writer.lines())


class _Writer:
    def __init__(self, settings: Settings, is_relative: bool) -> None:
        self._settings = settings
        self._texts = settings.texts
        self._is_relative = is_relative

    def lines(self) -> Iterator[Line]:
        settings = self._settings
        yield Line(f"# Made by buildout from the part {settings.layout.part}: change that part.")
        if settings.zeo_conf is not None:
            yield Line(f"%include {self._path(settings.zeo_conf)}", "zeo-conf")
            return
        yield Line(f"%define INSTANCE {self._path(settings.layout.location)}")
        yield from self._zeo()
        yield from self._storage()
        yield from self._eventlog()
        yield from self._runner()
        for line in self._texts.get("zeo-conf-additional", "").splitlines():
            yield Line(line, "zeo-conf-additional")

    def _zeo(self) -> Iterator[Line]:
        settings = self._settings
        address = settings.address
        if settings.socket_address is not None:
            address = self._path(settings.socket_address)
        yield Line("<zeo>")
        yield Line(f"  address {address}", "zeo-address")
        yield Line(f"  read-only {_word(settings.read_only)}", "read-only")
        yield Line(f"  pid-filename {self._path(settings.pid_file)}", "pid-file")
        yield self._given("invalidation-queue-size", "100")
        for name in ("invalidation-age", "transaction-timeout", "monitor-address"):
            if name == "monitor-address" and settings.monitor is not None:
                yield Line(f"  {name} {self._path(settings.monitor)}", name)
            elif name in self._texts:
                yield self._given(name)
        for name in ("client-conflict-resolution", "msgpack"):
            if name in settings.flags:
                yield Line(f"  {name} {_word(settings.flags[name])}", name)
        if "authentication-database" in self._texts:
            yield self._file("authentication-database", "authentication-database")
            yield self._given("authentication-realm", "ZEO")
        if "ssl-certificate" in self._texts:
            yield Line("  <ssl>", "ssl-certificate")
            for key in _SSL:
                option = f"ssl-{key}"
                if option in settings.files:
                    yield self._file(option, key)
                elif option in self._texts:
                    yield Line(f"    {key} {_quoted(self._texts[option])}", option)
            yield Line("  </ssl>")
        yield Line("</zeo>")

    def _storage(self) -> Iterator[Line]:
        settings = self._settings
        yield Line(f"<filestorage {settings.storage}>", "storage-number")
        yield Line(f"  path {self._path(settings.file_storage)}", "file-storage")
        if settings.blob_storage is not None:
            yield Line(f"  blob-dir {self._path(settings.blob_storage)}", "blob-storage")
        for name in ("pack-gc", "pack-keep-old"):
            if settings.flags.get(name) is False:
                yield Line(f"  {name} false", name)
        yield Line("</filestorage>")

    def _eventlog(self) -> Iterator[Line]:
        texts = self._texts
        yield Line("<eventlog>")
        yield Line(f"  level {_quoted(texts.get('zeo-log-level', 'info'))}", "zeo-log-level")
        if "zeo-log-custom" in texts:
            for line in texts["zeo-log-custom"].splitlines():
                yield Line(line, "zeo-log-custom")
        else:
            style = texts.get("zeo-log-format", "%(asctime)s %(message)s")
            # What is wrong with the section as a whole is the format.
            yield Line("  <logfile>", "zeo-log-format")
            yield Line(f"    path {self._path(self._settings.log)}", "zeo-log")
            yield Line(f"    format {_quoted(style)}", "zeo-log-format")
            if "zeo-log-max-size" in texts:
                old = texts.get("zeo-log-old-files", "1")
                yield Line(f"    max-size {_quoted(texts['zeo-log-max-size'])}", "zeo-log-max-size")
                yield Line(f"    old-files {_quoted(old)}", "zeo-log-old-files")
            yield Line("  </logfile>")
        yield Line("</eventlog>")

    def _runner(self) -> Iterator[Line]:
        settings = self._settings
        yield Line("<runner>")
        yield Line(f"  socket-name {self._path(settings.socket_name)}", "socket-name")
        # Not $INSTANCE, as once: buildout removes that directory when the part has changed, and
        # the server that runs meanwhile would be in none.
        yield Line(f"  directory {self._path(settings.var)}", "var")
        yield Line(f"  logfile {self._path(settings.log)}", "zeo-log")
        if "effective-user" in self._texts:
            yield Line(f"  user {_quoted(self._texts['effective-user'])}", "effective-user")
        yield Line("</runner>")

    def _given(self, name: str, default: str = "") -> Line:
        return Line(f"  {name} {_quoted(self._texts.get(name, default))}", name)

    def _file(self, option: str, key: str) -> Line:
        return Line(f"    {key} {self._path(self._settings.files[option])}", option)

    def _path(self, path: Path) -> str:
        base = self._settings.layout.directory
        if self._is_relative and path.is_relative_to(base):
            return f"$({VARIABLE})/{_quoted(str(path.relative_to(base)))}"
        return _quoted(str(path))


def _quoted(text: str) -> str:
    """Return *text* as a value of ``zeo.conf``, where a dollar sign means something."""
    return text.replace("$", "$$")


def _word(flag: bool) -> str:
    return "true" if flag else "false"


def complaints_about(settings: Settings) -> list[ConfigurationError]:
    """Return what the server would refuse, each with the option that it comes from.

    Directories that are made with the part may be missing.  Files that options name are looked at.
    """
    lines = configuration_lines(settings, is_relative=False)
    # A line without its text keeps its place.
    text = "".join("\n" if line.option in _MADE_LATER else f"{line.text}\n" for line in lines)
    found = survey(server_schema(), ITSELF, text)
    if not found.complaints:
        try:
            to_config(found.values, ITSELF)
        except ConfigurationError as error:
            return [ConfigurationError("zeo-conf-additional", error.problem, error.remedy)]
    return [_to_error(complaint, lines) for complaint in found.complaints]


def _to_error(complaint: Complaint, lines: list[Line]) -> ConfigurationError:
    place = complaint.place
    if place.file != ITSELF:
        # In a file that one of the options includes.
        name = "zeo-conf" if lines[-1].option == "zeo-conf" else "zeo-conf-additional"
        return ConfigurationError(
            name, f"{place}, {complaint.subject}: {complaint.problem}", complaint.remedy
        )
    line = lines[place.line - 1] if 0 < place.line <= len(lines) else Line("")
    # What the option's own line has to say needs no further name; what a text of several lines
    # has to say does.
    key = line.text.split()[0] if line.text.split() else ""
    problem = complaint.problem
    if complaint.subject and (complaint.subject != key or line.option.startswith("zeo-conf-")):
        problem = f"{complaint.subject}: {problem}"
    return ConfigurationError(line.option or ITSELF, problem, complaint.remedy)

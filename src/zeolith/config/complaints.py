"""What ZConfig finds wrong with a file, said with file, line, key and the way out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit
from urllib.request import url2pathname

import ZConfig

from ..errors import ConfigurationError
from .datatypes import Refused

_TLS: Final = "remove it; an <ssl> section authenticates clients"

_GONE: Final[Mapping[str, str]] = {
    "monitor-address": "remove it; the server answers 'ruok' on its own address",
    "authentication-protocol": _TLS,
    "authentication-database": _TLS,
    "authentication-realm": _TLS,
}
"""Keys that ZEO once had, and what to do about them."""

_REMEDIES: Final[tuple[tuple[re.Pattern[str], str], ...]] = tuple(
    (re.compile(pattern), remedy)
    for pattern, remedy in (
        (r"not a known key name", "remove it, or correct its name"),
        (r"does not support multiple values", "keep one of them"),
        (r"no values for '(.+)'; 1 required", r"add the key \1"),
        (r"section type 'zodb.storage'; 0 found", "add a storage, for instance <filestorage>"),
        (r"no values for section type '(.+)'", r"add a <\1> section"),
        (r"unknown type name: '(.+)'", r"correct the name, or %import the package that defines it"),
        (r"directory named as part of the path", "create the directory, or correct the path"),
        (r"section names must not be re-used", "give each section its own name"),
        (
            r"no replacement for '(.+)'",
            r"add '%define \1 ...' above, or write $$ for a dollar sign",
        ),
        (r"not a valid boolean", "use true or false"),
        (r"could not load package", "install the package, or remove the line"),
        (r"\[Errno 2\]", "check the path"),
        (r"\[Errno 13\]", "let the user that runs the server read it"),
        (r"\[Errno 21\]", "name a file, not a directory"),
    )
)
"""What to do, by what ZConfig says; it has no codes."""


def translate(
    error: ZConfig.ConfigurationError, source: str, text: str | None
) -> ConfigurationError:
    """Return our error for ZConfig's.

    :param source: the file as the user named it.
    :param text: the configuration itself, if it did not come from a file.
    """
    place = _path(error.url) if error.url else source
    line = getattr(error, "lineno", None) or 0
    lines = [] if line <= 0 else _read_lines(place, text)
    cause = getattr(error, "exception", None)
    if isinstance(cause, Refused) and cause.key:
        # A section that is wrong as a whole is reported at its end.
        key = cause.key
        line = _line_of(key, lines, line)
    else:
        key = _key_at(lines, line)
    option = f"{place}, line {line}" if line > 0 else place
    if key:
        option = f"{option}, {key}"
    if isinstance(cause, Refused):
        return ConfigurationError(option, cause.problem, cause.remedy)
    # A path in its URL form helps nobody, and it is in *place* already.
    problem = re.sub(
        r"^error opening (file|URL) .*?: \[", "cannot be read: [", error.message.strip()
    )
    return ConfigurationError(option, problem, _remedy(problem, key))


def _remedy(problem: str, key: str) -> str:
    if key in _GONE:
        return _GONE[key]
    for pattern, remedy in _REMEDIES:
        found = pattern.search(problem)
        if found:
            return found.expand(remedy)
    return ""


def _path(url: str) -> str:
    parts = urlsplit(url)
    return url2pathname(parts.path) if parts.scheme == "file" else url


def _read_lines(place: str, text: str | None) -> list[str]:
    """Return the configuration's lines; none if they cannot be read again."""
    if text is None:
        try:
            text = Path(place).read_text(encoding="utf-8", errors="replace")
        except OSError:
            # A URL, or a file that vanished: the line number must do.
            return []
    return text.splitlines()


def _key_at(lines: list[str], line: int) -> str:
    """Return the key, or the section header, at *line* (from 1); empty if there is none."""
    if not 1 <= line <= len(lines):
        return ""
    content = lines[line - 1].strip()
    return content if content.startswith("<") else content.partition(" ")[0]


def _line_of(key: str, lines: list[str], before: int) -> int:
    """Return where *key* was set last before line *before*, or *before* if it was not."""
    for line in range(min(before, len(lines)), 0, -1):
        if _key_at(lines, line).lower() == key:
            return line
    return before

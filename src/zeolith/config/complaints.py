"""What is wrong with a configuration, said with file, line, key and the way out."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit
from urllib.request import url2pathname

import ZConfig

from ..errors import ConfigurationError
from .datatypes import Refused
from .outline import Place, Section

_REMEDIES: Final[tuple[tuple[re.Pattern[str], str], ...]] = tuple(
    (re.compile(pattern), remedy)
    for pattern, remedy in (
        (r"not a known key name", "remove it, or correct its name"),
        (r"does not support multiple values", "keep one of them"),
        (r"too many instances", "keep one of them"),
        (r"unknown type name: '(.+)'", r"correct the name, or %import the package that defines it"),
        (r"no matching section defined for type='(.+)', name", r"\1 has no place here: move it"),
        (r"directory named as part of the path", "create the directory, or correct the path"),
        (r"is not an existing directory", "create it, or correct the path"),
        (r"section names must not be re-used", "give each section its own name"),
        (
            r"no replacement for '(.+)'",
            r"add '%define \1 ...' above, or write $$ for a dollar sign",
        ),
        (r"not a valid boolean", "use true or false"),
        (r"could not load package", "install the package, or remove the line"),
        (r"type name cannot be redefined: 'ssl'", "remove the line: <zeolith> needs no %import"),
        (r"invalid literal for int", "give a whole number"),
        (r"could not convert string to float", "give a number"),
        (r"malformed section", "write <type>, <type name> or </type>"),
        (r"unknown directive|missing or unrecognized", "use %define, %import or %include"),
        (r"\[Errno 2\]", "check the path"),
        (r"\[Errno 13\]", "let the user that runs the server read it"),
        (r"\[Errno 21\]", "name a file, not a directory"),
    )
)
"""What to do, by what ZConfig says; it has no codes."""


@dataclass(frozen=True)
class Complaint:
    """Something wrong, or likely to be.

    :ivar place: where.
    :ivar subject: the key or section concerned; empty for the file.
    :ivar problem: what is wrong.
    :ivar remedy: what to do; empty if the problem says it all.
    :ivar is_error: whether the server cannot work like this; otherwise it is a warning.
    """

    place: Place
    subject: str
    problem: str
    remedy: str = ""
    is_error: bool = True

    def __str__(self) -> str:
        text = f"{self._option()}: {self.problem}"
        return f"{text}; {self.remedy}" if self.remedy else text

    def to_error(self) -> ConfigurationError:
        """Return an exception that says the same."""
        return ConfigurationError(self._option(), self.problem, self.remedy)

    def _option(self) -> str:
        return f"{self.place}, {self.subject}" if self.subject else str(self.place)


def place_of(url: str | None, line: int | None, source: str) -> Place:
    """Return the place that ZConfig means.

    :param source: what the configuration is called if there is no URL.
    """
    if not url:
        return Place(source, max(line or 0, 0))
    parts = urlsplit(url)
    return Place(url2pathname(parts.path) if parts.scheme == "file" else url, max(line or 0, 0))


def complain(
    error: Exception, place: Place, subject: str, known_words: Iterable[str] = ()
) -> Complaint:
    """Return the complaint that *error* gives rise to.

    :param known_words: what might have been meant in place of an unknown *subject*.
    """
    cause = getattr(error, "exception", None) or error
    if isinstance(cause, Refused):
        return Complaint(place, subject, cause.problem, cause.remedy)
    if isinstance(cause, ConfigurationError):
        return Complaint(place, subject, f"{cause.option}: {cause.problem}", cause.remedy)
    if isinstance(cause, ImportError):
        return Complaint(
            place, subject, f"needs a module that is not installed: {cause}", "install it"
        )
    if isinstance(error, ZConfig.ConfigurationError):
        problem = error.message.strip()
    elif isinstance(cause, ValueError):
        problem = str(cause) or "cannot be used"
    else:
        problem = f"cannot be used: {type(cause).__name__}: {cause}"
    # The path in its URL form helps nobody, and it is said already.
    problem = re.sub(r"^error opening (file|URL) .*?: \[", "cannot be read: [", problem)
    return Complaint(place, subject, problem, _remedy(problem, subject, known_words))


def complain_about(error: Exception, section: Section) -> Complaint:
    """Return the complaint about *section* as a whole, or about the key in it that is named."""
    key = getattr(getattr(error, "exception", None) or error, "key", "")
    for part in section.walk():
        setting = part.setting(key)
        if setting is not None and setting.place is not None:
            return complain(error, setting.place, key)
        if key == part.header:
            return complain(error, part.place, key)
    if key:
        return complain(error, section.place, f"{section.header}, {key}")
    return complain(error, section.place, section.header)


def _remedy(problem: str, subject: str, known_words: Iterable[str]) -> str:
    if re.search("not a known key name|unknown type name", problem):
        word = subject.strip("<>").partition(" ")[0].lower()
        close = difflib.get_close_matches(word, list(known_words), n=1, cutoff=0.75)
        if close:
            return f"did you mean {close[0]}?"
    if subject == "level":
        return "use critical, error, warn, info, debug, all, or a number from 0 to 50"
    for pattern, remedy in _REMEDIES:
        found = pattern.search(problem)
        if found:
            return found.expand(remedy)
    return ""


def shown(text: str) -> str:
    """Return lines that quote a file as they can be written to a terminal: a file that is no
    configuration may hold what moves its cursor."""
    return "".join(one if one.isprintable() or one == "\n" else "\ufffd" for one in text)

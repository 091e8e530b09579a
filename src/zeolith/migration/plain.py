"""Files in ZConfig's form, read without the schema: that of Zope is Zope's."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ..config.outline import Place
from ..errors import ConfigurationError
from .reading import read_text

_MAX_INCLUDES: Final = 32
"""Files on the way to a line, as for ``zeo.conf``."""

_MAX_DEPTH: Final = 100
"""Sections within one another.  Each takes some of Python's stack (R8)."""


@dataclass
class Part:
    """A section, or the file itself.

    :ivar type: the word after the bracket, in lower case; empty for the file.
    :ivar place: where it begins.
    :ivar keys: key in lower case → values with their places, in order.
    :ivar parts: the sections in it.
    :ivar imports: what is imported there.
    :ivar unread: what is included and was not read: addresses, and names with a substitution.
    """

    type: str
    place: Place
    keys: dict[str, list[tuple[str, Place]]] = field(default_factory=dict)
    parts: list[Part] = field(default_factory=list)
    imports: list[tuple[str, Place]] = field(default_factory=list)
    unread: list[tuple[str, Place]] = field(default_factory=list)

    def find(self, *types: str) -> list[Part]:
        """Return the sections of these types, at any depth."""
        return [
            found
            for part in self.parts
            for found in ([part] if part.type in types else []) + part.find(*types)
        ]

    def value(self, key: str) -> str | None:
        """Return the last value of *key*, None if it is not there."""
        found = self.keys.get(key)
        return found[-1][0] if found else None

    def place_of(self, key: str) -> Place:
        """Return where *key* stands, else where the section begins."""
        found = self.keys.get(key)
        return found[-1][1] if found else self.place


def read_plain(source: str) -> Part:
    """Return what the file *source* says; files that it includes are read as well.

    :raises ConfigurationError: one of them cannot be read, or is not in ZConfig's form.
    """
    whole = Part("", Place(source))
    _read(source, whole, whole, ())
    return whole


def _read(source: str, whole: Part, around: Part, on_the_way: tuple[str, ...]) -> None:
    if source in on_the_way:
        raise ConfigurationError(
            on_the_way[-1], f"includes {source}, which includes it", "remove an %include"
        )
    if len(on_the_way) >= _MAX_INCLUDES:
        raise ConfigurationError(
            source, f"is included through more than {_MAX_INCLUDES} files", "put them into fewer"
        )
    opened = [around]
    for number, raw in enumerate(read_text(Path(source)).splitlines(), 1):
        place = Place(source, number)
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        if line.startswith("%"):
            word, _, rest = line[1:].partition(" ")
            if word == "import":
                whole.imports.append((rest.strip(), place))
            elif word == "include":
                _include(rest.strip(), place, whole, opened[-1], (*on_the_way, source))
        elif line.startswith("</"):
            name = line[2:].rstrip(">").strip().lower()
            if opened[-1] is around or opened[-1].type != name:
                raise ConfigurationError(str(place), f"{line} ends nothing", "check the sections")
            opened.pop()
        elif line.startswith("<"):
            found = re.fullmatch(r"<\s*([^\s/>]+)[^>]*?(/?)>", line)
            if found is None:
                raise ConfigurationError(
                    str(place), f"{line} is no section", "write <type>, <type name> or </type>"
                )
            part = Part(found[1].lower(), place)
            opened[-1].parts.append(part)
            if not found[2]:
                opened.append(part)
            if len(opened) > _MAX_DEPTH:
                raise ConfigurationError(
                    str(place), f"is within more than {_MAX_DEPTH} sections", "check the sections"
                )
        else:
            key, _, value = line.partition(" ")
            opened[-1].keys.setdefault(key.lower(), []).append((value.strip(), place))
    if opened[-1] is not around:
        raise ConfigurationError(
            str(opened[-1].place), f"<{opened[-1].type}> does not end", "check the sections"
        )


def _include(
    name: str, place: Place, whole: Part, around: Part, on_the_way: tuple[str, ...]
) -> None:
    if "$" in name or "://" in name:
        whole.unread.append((name, place))
        return
    _read(str(Path(on_the_way[-1]).parent / name), whole, around, on_the_way)

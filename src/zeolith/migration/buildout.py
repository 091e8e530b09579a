"""Files in buildout's form: sections, options, and what they extend."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias

from ..config.outline import Place
from ..errors import ConfigurationError
from .reading import read_text

Options: TypeAlias = dict[str, tuple[str, Place]]
"""Option → value and place."""

_MAX_FILES: Final = 100
"""Files that one configuration extends, all together: nobody has that many."""

_TAKEN_OVER: Final = "<"


@dataclass
class Buildout:
    """What a configuration says.

    :ivar sections: name → option → value and place.
    :ivar bases: sections whose options others take over.
    :ivar unread: what is extended and was not read: addresses, and names with a substitution.
    """

    sections: dict[str, Options] = field(default_factory=dict)
    bases: set[str] = field(default_factory=set)
    unread: list[tuple[str, Place]] = field(default_factory=list)


def read_buildout(source: str) -> Buildout:
    """Return what the file *source* says, with the local files that it extends.

    :raises ConfigurationError: one of them cannot be read, or is not in buildout's form.
    """
    found = Buildout()
    _Reader(found).read(source, ())
    for section in list(found.sections):
        found.sections[section] = _whole(section, found, ())
    return found


class _Reader:
    """Reads files into *found*, as often as they are extended: the last one that says it wins."""

    def __init__(self, found: Buildout) -> None:
        self._found = found
        self._count = 0

    def read(self, source: str, on_the_way: tuple[str, ...]) -> None:
        if source in on_the_way:
            raise ConfigurationError(
                on_the_way[-1], f"extends {source}, which extends it", "remove one from extends"
            )
        self._count += 1
        if self._count > _MAX_FILES:
            problem = f"is one of more than {_MAX_FILES} files"
            raise ConfigurationError(source, problem, "extend fewer")
        own = _parse(source)
        for option in ("extends", "optional-extends"):
            names, place = own.get("buildout", {}).get(option, ("", Place("")))
            for name in names.split():
                path = os.path.normpath(Path(source).parent / name)
                if "://" in name or "$" in name:
                    self._found.unread.append((name, place))
                elif option == "extends" or os.path.exists(path):
                    self.read(path, (*on_the_way, source))
        for section, options in own.items():
            # What extends wins over what is extended.
            _merge(self._found.sections.setdefault(section, {}), options)


def _whole(section: str, found: Buildout, on_the_way: tuple[str, ...]) -> Options:
    """Return the options of a section with those of the sections that it takes over (``<=``)."""
    if section in on_the_way:
        raise ConfigurationError(
            f"[{section}]", "takes over a section that takes over this one", "remove a line <="
        )
    own = dict(found.sections.get(section, {}))
    names, _ = own.pop(_TAKEN_OVER, ("", None))
    taken: Options = {}
    for name in filter(None, map(str.strip, names.splitlines())):
        found.bases.add(name)
        taken |= _whole(name, found, (*on_the_way, section))
    return taken | own


def _merge(known: Options, options: Options) -> None:
    for name, (value, place) in options.items():
        if name.endswith("+"):
            before = known.get(name[:-1].strip(), ("", place))[0]
            known[name[:-1].strip()] = (f"{before}\n{value}".strip("\n"), place)
        elif name.endswith("-"):
            gone = set(value.splitlines())
            before = known.get(name[:-1].strip(), ("", place))[0]
            kept = [line for line in before.splitlines() if line not in gone]
            known[name[:-1].strip()] = ("\n".join(kept), place)
        else:
            known[name] = (value, place)


def _parse(source: str) -> dict[str, Options]:
    sections: dict[str, Options] = {}
    options: Options | None = None
    name = ""
    for number, line in enumerate(read_text(Path(source)).splitlines(), 1):
        place = Place(source, number)
        if not line.strip() or line[0] in "#;":
            continue
        header = re.match(r"\[\s*([^\[\]:]+?)\s*(?::[^\]]*)?\]\s*([#;].*)?$", line)
        if header:
            # A condition behind a colon is buildout's to judge: the section counts.
            options = sections.setdefault(header[1], {})
            name = ""
        elif options is None:
            raise ConfigurationError(
                str(place), f"{line.strip()!r} stands before any [section]", "check the file"
            )
        elif line[0].isspace():
            if name:
                value, first = options[name]
                options[name] = (f"{value}\n{line.strip()}".strip("\n"), first)
        else:
            key, equals, value = line.partition("=")
            if not equals:
                raise ConfigurationError(
                    str(place), f"{line.strip()!r} is no option", "write NAME = VALUE"
                )
            name = key.strip()
            options[name] = (value.strip(), place)
    return sections

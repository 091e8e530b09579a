"""Files in buildout's form: sections, options, and what they extend."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ..config.outline import Place
from ..errors import ConfigurationError
from .reading import read_text

_MAX_FILES: Final = 100
"""Files that one configuration extends, all together: nobody has that many."""


@dataclass
class Buildout:
    """What a configuration says.

    :ivar sections: name → option → value and place.
    :ivar unread: what is extended and was not read: addresses, and names with a substitution.
    """

    sections: dict[str, dict[str, tuple[str, Place]]] = field(default_factory=dict)
    unread: list[tuple[str, Place]] = field(default_factory=list)


def read_buildout(source: str) -> Buildout:
    """Return what the file *source* says, with the local files that it extends.

    :raises ConfigurationError: one of them cannot be read, or is not in buildout's form.
    """
    found = Buildout()
    _read(source, found, [])
    return found


def _read(source: str, found: Buildout, done: list[str]) -> None:
    if source in done:
        return
    if len(done) >= _MAX_FILES:
        raise ConfigurationError(source, f"is one of more than {_MAX_FILES} files", "extend fewer")
    done.append(source)
    own = _parse(source)
    for name, place in _extended(own):
        if "://" in name or "$" in name:
            found.unread.append((name, place))
        else:
            _read(str(Path(source).parent / name), found, done)
    for section, options in own.items():
        # What extends wins over what is extended.
        _merge(found.sections.setdefault(section, {}), options)


def _extended(sections: dict[str, dict[str, tuple[str, Place]]]) -> list[tuple[str, Place]]:
    value, place = sections.get("buildout", {}).get("extends", ("", Place("")))
    return [(name, place) for name in value.split()]


def _merge(known: dict[str, tuple[str, Place]], options: dict[str, tuple[str, Place]]) -> None:
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


def _parse(source: str) -> dict[str, dict[str, tuple[str, Place]]]:
    sections: dict[str, dict[str, tuple[str, Place]]] = {}
    options: dict[str, tuple[str, Place]] | None = None
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

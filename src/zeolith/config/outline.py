"""What a configuration file says, section by section and key by key, with the places."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final


class _Broken:
    """Stands for a value that could not be made."""

    def __repr__(self) -> str:
        return "<broken>"


BROKEN: Final = _Broken()


@dataclass(frozen=True)
class Place:
    """Where something stands.

    :ivar file: the file as the user named it, or its path.
    :ivar line: from 1; 0 if it concerns the file as a whole.
    """

    file: str
    line: int = 0

    def __str__(self) -> str:
        return f"{self.file}, line {self.line}" if self.line else self.file


@dataclass
class Setting:
    """A key of a section.

    :ivar key: its name.
    :ivar texts: what was written, or the default; empty if the key is not set and has none.
    :ivar value: what that means, :data:`BROKEN` if it cannot be used.
    :ivar place: where it was written; None for a default.
    :ivar is_multiple: whether the key may be given several times.
    :ivar note: the default in words, where it is no value.
    """

    key: str
    texts: list[str]
    value: Any
    place: Place | None
    is_multiple: bool = False
    note: str = ""

    @property
    def is_default(self) -> bool:
        """Whether the file does not say."""
        return self.place is None


@dataclass
class Section:
    """A section of the file, or the file itself.

    :ivar type: the word after the bracket; empty for the file.
    :ivar name: the second word, or None.
    :ivar place: where it begins.
    :ivar settings: its keys, those that are not set included.
    :ivar sections: the sections in it.
    :ivar value: what the whole means, :data:`BROKEN` if something in it cannot be used.
    """

    type: str
    name: str | None
    place: Place
    settings: list[Setting] = field(default_factory=list)
    sections: list[Section] = field(default_factory=list)
    value: Any = BROKEN

    @property
    def header(self) -> str:
        """The section's first line."""
        return f"<{self.type} {self.name}>" if self.name else f"<{self.type}>"

    def setting(self, key: str) -> Setting | None:
        """Return the setting *key*, if the section has such a key."""
        return next((setting for setting in self.settings if setting.key == key), None)

    def value_of(self, key: str) -> Any:
        """Return the value of *key*; None if it is not set, unknown, or cannot be used."""
        setting = self.setting(key)
        return None if setting is None or setting.value is BROKEN else setting.value

    def place_of(self, key: str) -> Place:
        """Return where *key* was set, else where the section begins."""
        setting = self.setting(key)
        return self.place if setting is None or setting.place is None else setting.place

    def walk(self) -> Iterator[Section]:
        """Yield this section and all within it."""
        yield self
        for section in self.sections:
            yield from section.walk()

    def find(self, *types: str) -> list[Section]:
        """Return the sections of these types, at any depth."""
        return [section for section in self.walk() if section.type in types]

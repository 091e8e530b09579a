"""What there is to say about a configuration, line by line."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from ..config.outline import Place


class Effect(Enum):
    """What a remark is about; the value is the word for it."""

    REFUSED = "refused"
    """It does not work like this: something has to be written in its place."""

    CHANGED = "changed"
    """It works, with another default or another meaning."""

    HINT = "hint"
    """It works as before; there is something to know."""


@dataclass(frozen=True)
class Remark:
    """One remark.

    :ivar place: where.
    :ivar subject: key, section or option; empty for the file.
    :ivar effect: what kind of remark it is.
    :ivar text: what is or will be.
    :ivar remedy: what to write, or to do; empty if nothing has to be.
    """

    place: Place
    subject: str
    effect: Effect
    text: str
    remedy: str = ""


@dataclass
class Remarks:
    """All remarks on one file, and on those that it includes.

    :ivar source: the file as the user named it.
    :ivar kind: what it was taken for.
    """

    source: str
    kind: str
    remarks: list[Remark] = field(default_factory=list)

    def add(self, place: Place, subject: str, effect: Effect, text: str, remedy: str = "") -> None:
        """Add a remark, unless the same is there."""
        remark = Remark(place, subject, effect, text, remedy)
        if remark not in self.remarks:
            self.remarks.append(remark)

    def of(self, effect: Effect) -> list[Remark]:
        """Return the remarks of one kind, in the order of the lines."""
        return [remark for remark in self.sorted() if remark.effect is effect]

    def sorted(self) -> list[Remark]:
        """Return all in the order of the lines; other files after the one that was named."""
        files = list(dict.fromkeys([self.source, *(each.place.file for each in self.remarks)]))
        return sorted(self.remarks, key=lambda one: (files.index(one.place.file), one.place.line))

"""What a user may do, on which storage."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Flag, auto
from types import MappingProxyType
from typing import Final

from .errors import ConfigurationError


class Right(Flag):
    """A right; several are combined with ``|``."""

    READ = auto()
    """Load objects and whatever else changes nothing."""

    WRITE = auto()
    """Commit transactions; has the right to read."""

    UNDO = auto()
    """Undo transactions; has the right to write."""

    PACK = auto()
    """Pack, and see how the storage is; has the right to read."""

    ADMINISTER = auto()
    """See who is connected, and end connections.  Has no other right."""


NONE: Final = Right(0)

DEFAULT: Final = Right.READ | Right.WRITE | Right.UNDO | Right.PACK
"""What a user may do of whom nothing is said: what a user of the old log-in of ZEO could do.  To
end the connections of others was not among it."""

_NAMES: Final[Mapping[str, Right]] = {
    "none": NONE,
    "read": Right.READ,
    "write": Right.WRITE | Right.READ,
    "undo": Right.UNDO | Right.WRITE | Right.READ,
    "pack": Right.PACK | Right.READ,
    "administer": Right.ADMINISTER,
    "all": Right.READ | Right.WRITE | Right.UNDO | Right.PACK | Right.ADMINISTER,
}


def parse_rights(text: str, option: str) -> Right:
    """Return what a list such as ``read,pack`` means.

    :param option: for the error.
    :raises ConfigurationError: a word in it is no right.
    """
    found = NONE
    for word in text.split(","):
        if word.strip() not in _NAMES:
            raise ConfigurationError(
                option, f"{word.strip()!r} is no right", f"rights are {', '.join(_NAMES)}"
            )
        found |= _NAMES[word.strip()]
    return found


def format_rights(rights: Right) -> str:
    """Return *rights* as :func:`parse_rights` reads them."""
    for word in ("none", "all"):
        if rights == _NAMES[word]:
            return word
    return ",".join(
        word for word, right in _NAMES.items() if right in rights and word not in ("none", "all")
    )


@dataclass(frozen=True, slots=True)
class Rights:
    """What one user may do.

    :ivar everywhere: on storages of which nothing else is said.
    :ivar storages: by the name of a storage, in place of that.
    """

    everywhere: Right = DEFAULT
    storages: Mapping[str, Right] = field(default_factory=lambda: MappingProxyType({}))

    def on(self, storage: str) -> Right:
        """Return the rights on one storage."""
        return self.storages.get(storage, self.everywhere)

    def on_all(self, storages: Iterable[str]) -> Right:
        """Return the rights that hold on each of *storages*."""
        found = self.everywhere
        for storage in storages:
            found &= self.on(storage)
        return found


UNLIMITED: Final = Rights(_NAMES["all"])
"""Of everybody, where no users are known."""

NOTHING: Final = Rights(NONE)
"""Of who is nobody, where users are known."""

"""The options of a part as they were given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ..errors import ConfigurationError
from .options import OPTIONS, check_names

_TRUE: Final = frozenset({"true", "yes", "on"})
_FALSE: Final = frozenset({"false", "no", "off"})


class Values:
    """Takes the options by name.

    :param given: their texts.
    :raises ConfigurationError: one of them is no option.
    """

    def __init__(self, given: Mapping[str, str]) -> None:
        check_names(given)
        self._given = given

    def text(self, name: str) -> str | None:
        """Return the value; None if it is not given or empty.

        :raises ConfigurationError: it has more than the one line that it may have.
        """
        value = self._given.get(name, "").strip()
        if "\n" in value and not OPTIONS[name].lines:
            raise ConfigurationError(name, "has more than one line", "write it on one line")
        return value or None

    def is_empty(self, name: str) -> bool:
        """Whether it is given as an empty value."""
        return name in self._given and not self._given[name].strip()

    def needed(self, name: str, default: str) -> str:
        """Return the value, or *default*.

        :raises ConfigurationError: it is given as an empty value.
        """
        if self.is_empty(name):
            raise ConfigurationError(name, "is empty", f"remove the line for {default!r}")
        return self.text(name) or default

    def flag(self, name: str, default: bool | None = False) -> bool | None:
        """Return whether the value is ``true``; *default* if there is none."""
        value = self.text(name)
        if value is None:
            return default
        return _flag(name, value)

    def list(self, name: str) -> list[str]:
        """Return the lines of the value."""
        return [line.strip() for line in (self.text(name) or "").splitlines() if line.strip()]


def _flag(name: str, value: str) -> bool:
    word = value.lower()
    if word not in _TRUE | _FALSE:
        raise ConfigurationError(name, f"{value!r} is neither true nor false", "use one of them")
    return word in _TRUE


def script_name(values: Values, kind: str, default: str) -> str | None:
    """Return the name of a script; None if there shall be none.

    :param kind: the options' names begin with it.
    :raises ConfigurationError: it is no name.
    """
    option = f"{kind}-script-name"
    if (kind in OPTIONS and values.is_empty(kind)) or values.is_empty(option):
        return None
    name = values.text(option) or default
    if name in (".", "..") or "/" in name:
        raise ConfigurationError(
            option, f"{name!r} is no name of a script", "give a name, without a directory"
        )
    return name

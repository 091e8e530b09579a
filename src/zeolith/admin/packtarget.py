"""Which storages are to be packed, and to what time, as people write it."""

from __future__ import annotations

import re
import time
from typing import Final, NamedTuple

from ..config.address import Address, format_address, parse_address
from ..config.storages import DEFAULT_NAME
from ..errors import ConfigurationError

DAY: Final = 86400.0

_TCP: Final = re.compile(r"(?P<address>(\[[^\]]*\]|[^:\[\]]*):\d+)(:(?P<name>.+))?")


class PackTarget(NamedTuple):
    """One storage of one server.

    :ivar address: where the server listens.
    :ivar storage: the storage's name.
    """

    address: Address
    storage: str

    def __str__(self) -> str:
        return f"storage {self.storage} of {format_address(self.address)}"


def parse_server(text: str) -> PackTarget:
    """Return what ``HOST:PORT[:NAME]``, ``[IPv6]:PORT[:NAME]``, ``PORT`` or a path means.

    :raises ConfigurationError: *text* has none of these forms.
    """
    if "/" in text:
        return parse_socket(text)
    found = _TCP.fullmatch(text)
    if found is not None:
        return PackTarget(
            _connectable(parse_address(found["address"], text)), found["name"] or DEFAULT_NAME
        )
    return PackTarget(_connectable(parse_address(text, text)), DEFAULT_NAME)


def _connectable(address: Address) -> Address:
    if isinstance(address, str):
        return address
    host, port = address
    return host or "127.0.0.1", port


def parse_socket(text: str) -> PackTarget:
    """Return what ``PATH[:NAME]`` means: the server that listens on a Unix socket."""
    path, _, name = text.partition(":")
    if not path:
        raise ConfigurationError(repr(text), "names no socket", "write PATH or PATH:NAME")
    return PackTarget(path, name or DEFAULT_NAME)


def pack_time(days: float, time_of_day: str | None, now: float) -> float:
    """Return the time to pack to, in seconds since the epoch.

    :param days: how many days before *time_of_day*.
    :param time_of_day: ``HH[:MM[:SS]]`` of this day, local time; None: *now*.
    :param now: seconds since the epoch.
    :raises ConfigurationError: *time_of_day* is none, or the time is before all databases.
    """
    then = now
    if time_of_day is not None:
        parts = time_of_day.split(":")
        bounds = (24, 60, 60)
        numbers = [int(part) for part in parts if part.isascii() and part.isdecimal()]
        if (
            len(parts) > len(bounds)
            or len(numbers) != len(parts)
            or any(number >= bound for number, bound in zip(numbers, bounds))
        ):
            raise ConfigurationError(
                "--time", f"{time_of_day!r} is no time of day", "write HH, HH:MM or HH:MM:SS"
            )
        hour, minute, second = (*numbers, 0, 0)[:3]
        today = time.localtime(now)
        then = time.mktime((*today[:3], hour, minute, second, *today[6:8], -1))
    then -= days * DAY
    if then < 0:
        raise ConfigurationError(
            "--days", f"{days:g} days ago there was no database yet", "give fewer days"
        )
    return then

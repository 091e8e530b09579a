"""Conversions that the ZConfig schema names.

ZConfig reports a ValueError from here together with the file and line; :mod:`.server` turns that
into a :class:`~zeolith.errors.ConfigurationError`.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigurationError
from .accounts import Owner, parse_mode, parse_owner
from .address import Address, parse_address

if TYPE_CHECKING:
    from .tls import ServerTls


class Refused(ValueError):
    """A value cannot be used.

    :param problem: what is wrong with it.
    :param remedy: what to do instead.
    :param key: the key concerned, where that is not the one on the reported line.
    """

    def __init__(self, problem: str, remedy: str = "", key: str = "") -> None:
        super().__init__(problem, remedy)
        self.problem = problem
        self.remedy = remedy
        self.key = key


def address(text: str) -> Address:
    """See :func:`.address.parse_address`."""
    try:
        return parse_address(text)
    except ConfigurationError as error:
        raise Refused(error.problem, error.remedy) from error


def socket_mode(text: str) -> int:
    """See :func:`.accounts.parse_mode`."""
    try:
        return parse_mode(text, "socket-mode")
    except ConfigurationError as error:
        raise Refused(error.problem, error.remedy) from error


def socket_owner(text: str) -> Owner:
    """See :func:`.accounts.parse_owner`."""
    try:
        return parse_owner(text, "socket-owner")
    except ConfigurationError as error:
        raise Refused(error.problem, error.remedy) from error


def seconds(text: str) -> float:
    """A duration, at least 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise Refused(f"{text!r} is not a number of seconds", "give a number, 0 or greater")
    return value


def count(text: str) -> int:
    """A whole number, at least 0."""
    if not (text.isascii() and text.isdecimal()):
        raise Refused(f"{text!r} is not a whole number", "give a number, 0 or greater")
    return int(text)


def file_path(text: str) -> str:
    """A path, in which ``~`` means a home directory."""
    return str(Path(text).expanduser())


def server_tls(section: Any) -> ServerTls:
    """See :func:`.tls.server_context`."""
    from .tls import ServerTls, server_context

    try:
        context = server_context(
            section.certificate,
            section.authenticate,
            key=section.key,
            password_function=section.password_function,
        )
    except ConfigurationError as error:
        raise Refused(error.problem, error.remedy, error.option) from error
    return ServerTls(context, section.certificate, section.key, section.password_function)

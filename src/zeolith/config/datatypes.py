"""Conversions that the ZConfig schema names.

ZConfig reports a ValueError from here together with the file and line; :mod:`.server` turns that
into a :class:`~zeolith.errors.ConfigurationError`.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ..errors import ConfigurationError
from .accounts import Owner, parse_mode, parse_owner
from .address import Address, parse_address

if TYPE_CHECKING:
    from .credentials import FileCredentials
    from .tls import TlsSettings


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

    def __str__(self) -> str:
        # ZConfig shows this where a section is read without our schema, as in a zope.conf.
        text = f"{self.key}: {self.problem}" if self.key else self.problem
        return f"{text}; {self.remedy}" if self.remedy else text


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


_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_SIZES: Final = {"kb": 1024, "mb": 1024**2, "gb": 1024**3}
_LARGE: Final = 1024**2


def seconds(text: str) -> float:
    """A duration in seconds, at least 0; ``s``, ``m``, ``h`` or ``d`` may stand behind it."""
    number, unit = text, 1
    if text[-1:].lower() in _UNITS:
        number, unit = text[:-1], _UNITS[text[-1].lower()]
    try:
        value = float(number) * unit
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise Refused(
            f"{text!r} is not a number of seconds", "give a number, 0 or greater: 30, 1.5 or 5m"
        )
    return value


def positive_seconds(text: str) -> float:
    """A duration as in :func:`seconds`, but not 0."""
    value = seconds(text)
    if not value:
        raise Refused("must be greater than 0", "give a number of seconds: 30, 1.5 or 5m")
    return value


def seconds_or_never(text: str) -> float | None:
    """A duration as in :func:`seconds`; 0 means that there is no limit."""
    return seconds(text) or None


def silence(text: str) -> float:
    """A duration as in :func:`seconds` that can be agreed upon with clients."""
    from ..server.options import check_dead_peer_timeout

    value = seconds(text)
    try:
        check_dead_peer_timeout(value)
    except ConfigurationError as error:
        raise Refused(error.problem, error.remedy) from error
    return value


def count(text: str) -> int:
    """A whole number, at least 0."""
    if not (text.isascii() and text.isdecimal()):
        raise Refused(f"{text!r} is not a whole number", "give a number, 0 or greater")
    return int(text)


def positive_count(text: str) -> int:
    """A whole number, at least 1."""
    value = count(text)
    if not value:
        raise Refused("must be at least 1", "give a number, 1 or greater")
    return value


def size(text: str) -> int:
    """A number of bytes, at least 1; ``KB``, ``MB`` or ``GB`` may stand behind it."""
    number, unit = text.strip(), 1
    suffix = number[-2:].lower()
    if suffix in _SIZES:
        number, unit = number[:-2].strip(), _SIZES[suffix]
    if not (number.isascii() and number.isdecimal() and int(number)):
        raise Refused(f"{text!r} is not a size", "give a number of bytes: 1000000, 64KB, 4MB, 1GB")
    return int(number) * unit


def large_size(text: str) -> int:
    """A size as in :func:`size`, at least one megabyte: with less nothing would work."""
    value = size(text)
    if value < _LARGE:
        raise Refused(f"{text} is too small for anything to work", "give at least 1MB")
    return value


def client_certificates(text: str) -> str:
    """``required``, ``optional`` or ``none``."""
    return _one_of(text, ("required", "optional", "none"))


def tls_version(text: str) -> str:
    """``1.2`` or ``1.3``."""
    return _one_of(text, ("1.2", "1.3"))


def trusted(text: str) -> str:
    """A path as of :func:`file_path`, or one of the words that ZEO has there."""
    return text if text in ("-", "SIGNED", "DYNAMIC") else file_path(text)


def may_be(text: str) -> bool:
    """True or false, where leaving the key out is a third answer."""
    from ZConfig.datatypes import asBoolean

    value: bool = asBoolean(text)
    return value


def event_loop(text: str) -> str:
    """``auto``, ``uvloop`` or ``asyncio``."""
    return _one_of(text, ("auto", "uvloop", "asyncio"))


def loads(text: str) -> str:
    """``auto``, ``loop`` or ``workers``."""
    return _one_of(text, ("auto", "loop", "workers"))


def conflict_resolution(text: str) -> str:
    """``off``, ``in-process`` or ``worker``."""
    return _one_of(text, ("off", "in-process", "worker"))


def compression(text: str) -> str:
    """``auto``, ``on`` or ``off``."""
    from ..server.options import check_compression

    value = _one_of(text, ("auto", "on", "off"))
    try:
        check_compression(value)
    except ConfigurationError as error:
        raise Refused(error.problem, error.remedy) from error
    return value


def _one_of(text: str, choices: tuple[str, ...]) -> str:
    value = text.lower()
    if value not in choices:
        raise Refused(f"{text!r} is unknown", f"it is one of {', '.join(choices)}")
    return value


_PROTOCOLS: Final = ("scram-sha-256", "digest")


def login_protocol(text: str) -> str:
    """How users log in.  ``digest``, the name of ZEO 3, stands for what has taken its place."""
    return _one_of(text, _PROTOCOLS)


def file_path(text: str) -> str:
    """A path, in which ``~`` means a home directory."""
    return str(Path(text).expanduser())


def zeo_section(section: Any) -> Any:
    """Check what the keys of ``<zeo>`` mean together; make its TLS context."""
    if section.ssl is not None:
        section.ssl = server_tls(section.ssl)
    from ..server.options import LOGIN_ATTEMPTS, check_incoming_limit
    from ..server.resolution import check_conflict_resolution

    if section.authentication_database is None:
        for key in ("authentication-protocol", "authentication-realm"):
            if getattr(section, key.replace("-", "_")) is not None:
                raise Refused(
                    "has no effect without authentication-database",
                    "name the file of users, or remove the line",
                    key,
                )
        if section.login_attempts != LOGIN_ATTEMPTS:
            raise Refused(
                "has no effect without authentication-database",
                "name the file of users, or remove the line",
                "login-attempts",
            )
    elif (
        section.monitor_address is not None
        and not isinstance(section.monitor_address, str)
        and section.ssl is None
    ):
        raise Refused(
            "nobody could read it: the server knows its users, and its readers cannot log in",
            "use the path of a Unix socket, add an <ssl> section, or use zeolith status",
            "monitor-address",
        )
    names = ("incoming-limit", "max-message-size")
    try:
        check_conflict_resolution(section, "-")
        check_incoming_limit(section.incoming_limit, section.max_message_size, names)
    except ConfigurationError as error:
        raise Refused(error.problem, error.remedy, error.option) from error
    if section.msgpack is False and not section.pickle:
        raise Refused(
            "has no effect: without pickle, msgpack is what is proposed",
            "remove the line, or say pickle true",
            "msgpack",
        )
    return section


def server_tls(section: Any) -> FileCredentials:
    """Return what the ``<ssl>`` section of a server says."""
    from .credentials import FileCredentials

    for key, value in (
        ("check-hostname", section.check_hostname),
        ("server-hostname", section.server_hostname),
    ):
        if value is not None:
            raise Refused("is for clients, and has no effect in a server", "remove the line", key)
    try:
        return FileCredentials.of_server(tls_settings(section))
    except ConfigurationError as error:
        if error.problem.startswith("is missing"):
            raise Refused(f"{error.option} {error.problem}", error.remedy, "<ssl>") from error
        raise Refused(error.problem, error.remedy, error.option) from error


def tls_settings(section: Any) -> TlsSettings:
    """Return what an ``<ssl>`` section says; nothing is looked at.

    :raises ConfigurationError: keys exclude each other.
    """
    from .keypassword import KeyPassword
    from .tls import TlsSettings

    return TlsSettings(
        certificate=section.certificate,
        key=section.key,
        password=KeyPassword(
            function=section.password_function,
            file=section.password_file,
            variable=section.password_environment,
            command=section.password_command,
        ),
        authenticate=section.authenticate,
        revocations=section.crl,
        client_certificates=section.client_certificates,
        check_hostname=section.check_hostname is not False,
        minimum_version=section.minimum_version,
    )

"""``zeolith://`` URIs for zodburi, which finds :func:`resolve` by its entry point.

``zeolith://HOST:PORT/?KEY=VALUE&…`` is a storage at a server, ``zeolith:///PATH?…`` one behind a
Unix socket.  The keys are those of zodburi's ``zeo://``, with the same meaning, and the other
keywords of the client storage; ``docs/uris.md`` has the table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from .client.options import refuse_unusable
from .config.address import Address
from .config.client import check_keywords, server_address
from .config.datatypes import Refused, count, seconds
from .errors import ConfigurationError

SCHEME: Final = "zeolith"

DEFAULT_PORT: Final = 9991
"""What a host without a port means: the same as with zodburi's ``zeo://``."""

_TRUE: Final = frozenset({"1", "on", "true", "t", "yes", ""})
_FALSE: Final = frozenset({"0", "off", "false", "f", "no"})
_UNITS: Final = {"kb": 1024, "mb": 1024**2, "gb": 1024**3}


def _text(value: str) -> str:
    return value


def _switch(value: str) -> bool:
    word = value.lower()
    if word not in _TRUE | _FALSE:
        raise Refused(f"{value!r} is neither true nor false", "write 1 or 0")
    return word in _TRUE


def _size(value: str) -> int:
    unit = _UNITS.get(value[-2:].lower(), 1)
    number = value[:-2] if unit > 1 else value
    if not (number.isascii() and number.isdecimal()):
        raise Refused(f"{value!r} is not a size", "give bytes, or a number with KB, MB or GB")
    return int(number) * unit


KEYS: Final[Mapping[str, Callable[[str], Any]]] = {
    **dict.fromkeys(
        ("storage", "name", "client", "var", "cache", "blob_dir", "client_label", "username",
         "password", "password_file", "realm", "database_behind", "ssl_server_hostname"),
        _text,
    ),
    **dict.fromkeys(
        ("wait", "wait_for_server_on_startup", "read_only", "read_only_fallback",
         "shared_blob_dir", "shared_cache", "drop_cache_rather_verify", "server_sync",
         "compression", "debug"),
        _switch,
    ),
    **dict.fromkeys(("cache_size", "blob_cache_size"), _size),
    "blob_cache_size_check": count,
    **dict.fromkeys(
        ("wait_timeout", "min_disconnect_poll", "max_disconnect_poll", "dead_server_timeout"),
        seconds,
    ),
}  # fmt: skip
"""Keyword of the client storage → what makes its value of a text."""

TLS_KEYS: Final[Mapping[str, Callable[[str], Any]]] = {
    **dict.fromkeys(
        ("certificate", "authenticate", "key", "password_function", "password_file",
         "password_environment", "password_command", "crl", "minimum_version"),
        _text,
    ),
    "check_hostname": _switch,
}  # fmt: skip
"""Likewise for what :func:`zeolith.tls` takes; in a URI ``ssl_`` stands before each."""

_TLS: Final = "ssl_"

_OURS: Final = frozenset({"ssl", "demostorage", *KEYS, *(_TLS + name for name in TLS_KEYS)})

_FORMS: Final = f"write {SCHEME}://HOST:PORT/ or {SCHEME}:///PATH"


def resolve(uri: str) -> tuple[Callable[[], Any], dict[str, str]]:
    """Return what opens the storage that *uri* names, and the keys that are not the storage's.

    Nothing is connected yet.  zodburi looks for keys of the database among those left over, and
    refuses the others.

    :raises ConfigurationError: the URI, or a key in it, cannot be used.
    """
    try:
        parts = _split(uri)
        given = _query(parts)
        keywords = _keywords(parts, given)
        check_keywords(keywords)
        refuse_unusable(disconnect_poll=None, debug=keywords.get("debug"))
        is_demo = "demostorage" in given and _convert("demostorage", given, _switch)
    except ConfigurationError as error:
        raise ConfigurationError(
            f"{SCHEME}:// URI, {error.option}", error.problem, error.remedy
        ) from error
    left_over = {key: value for key, value in given.items() if key not in _OURS}

    def open_storage() -> Any:
        from .client.storage import ClientStorage

        storage = ClientStorage(**keywords)
        if not is_demo:
            return storage
        from ZODB.DemoStorage import DemoStorage

        return DemoStorage(base=storage)

    return open_storage, left_over


def _split(uri: str) -> SplitResult:
    try:
        parts = urlsplit(uri)
    except ValueError as error:
        raise ConfigurationError("address", str(error), _FORMS) from error
    if parts.scheme != SCHEME or not uri[len(SCHEME) :].startswith("://"):
        raise ConfigurationError("address", "is missing", _FORMS)
    if "@" in parts.netloc:
        # Not echoed: there may be a password in it.
        raise ConfigurationError(
            "address",
            "has a user before the host",
            "write username=NAME&password_file=FILE behind the question mark",
        )
    if parts.fragment:
        raise ConfigurationError("fragment", f"{parts.fragment!r} means nothing", "leave it out")
    return parts


def _query(parts: SplitResult) -> dict[str, str]:
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    given = dict(pairs)
    if len(given) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ConfigurationError(twice, "is given more than once", "leave all but one out")
    return given


def _addresses(parts: SplitResult) -> list[Address]:
    if not parts.netloc:
        path = unquote(parts.path)
        if path in ("", "/"):
            raise ConfigurationError("address", "is missing", _FORMS)
        return [path]
    if parts.path not in ("", "/"):
        raise ConfigurationError(
            "path",
            f"{parts.path!r} has no effect behind a host",
            f"for a Unix socket write {SCHEME}://{parts.path}; storage=NAME chooses a storage",
        )
    return [_address(unquote(text)) for text in parts.netloc.split(",")]


def _address(text: str) -> Address:
    if not text:
        raise ConfigurationError("address", "one of the hosts is empty", _FORMS)
    if text.isdecimal():
        raise ConfigurationError(
            "address",
            f"{text!r} stands where the host is expected",
            f"if it is a port, write {SCHEME}://127.0.0.1:{text}/",
        )
    if ":" not in text.rpartition("]")[2]:
        text = f"{text}:{DEFAULT_PORT}"
    try:
        return server_address(text)
    except Refused as error:
        raise ConfigurationError("address", error.problem, error.remedy) from error


def _keywords(parts: SplitResult, given: Mapping[str, str]) -> dict[str, Any]:
    """Return the keywords of the client storage.

    :raises ConfigurationError: it names the key.
    """
    keywords: dict[str, Any] = {"addr": _addresses(parts)}
    for key, converter in KEYS.items():
        if key in given:
            keywords[key] = _convert(key, given, converter)
    tls = {
        name: _convert(_TLS + name, given, converter)
        for name, converter in TLS_KEYS.items()
        if _TLS + name in given
    }
    if "ssl" in given and not _convert("ssl", given, _switch):
        if tls:
            raise ConfigurationError(
                "ssl", "is off, and there are other keys of TLS", "leave one of them out"
            )
    elif tls or "ssl" in given:
        keywords["ssl"] = _make_tls(tls)
    return keywords


def _make_tls(settings: dict[str, Any]) -> Any:
    from .config.credentials import tls

    try:
        return tls(**settings)
    except ConfigurationError as error:
        raise ConfigurationError(_TLS + error.option, error.problem, error.remedy) from error
    except (OSError, ValueError) as error:
        # A path that the system does not even look for: too long, or with a zero byte.
        raise ConfigurationError(
            "ssl", f"a file cannot be used: {error}", f"look at the keys that begin with {_TLS}"
        ) from error


def _convert(key: str, given: Mapping[str, str], converter: Callable[[str], Any]) -> Any:
    try:
        return converter(given[key])
    except Refused as error:
        raise ConfigurationError(key, error.problem, error.remedy) from error
    except ValueError as error:
        raise ConfigurationError(
            key, "has more digits than a number can have here", "give a smaller number"
        ) from error

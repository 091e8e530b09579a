"""Limits of a server given outside of its file, as ``KEY=VALUE``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any, Final

from ..errors import ConfigurationError
from .server import TUNING, ServerConfig, server_schema

_OWN: Final = "max-message-size"
_NO_LIMITS: Final = (
    *("loads", "load_workers", "commit_memory", "shutdown_grace"),
    # Not of what peers may do; and what they mean depends on other keys.
    *("conflict_resolution_timeout", "conflict_resolution_memory"),
)

KEYS: Final = tuple(
    sorted([_OWN, *(name.replace("_", "-") for name in TUNING if name not in _NO_LIMITS)])
)
"""Keys of ``<zeo>`` that can be given so."""


def override_limits(config: ServerConfig, texts: Sequence[str], option: str) -> dict[str, Any]:
    """Return what to change in *config* for *texts*; of a key given twice the last one counts.

    :param option: what gave them, for errors.
    :raises ConfigurationError: one cannot be read, or two do not go together.
    """
    given: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or key not in KEYS:
            raise ConfigurationError(
                option, f"{text!r} is no limit", f"give KEY=VALUE; the keys are {', '.join(KEYS)}"
            )
        given[key] = _convert(key, value, option)
    changes: dict[str, Any] = {}
    if _OWN in given:
        changes["max_message_size"] = given.pop(_OWN)
    tuning = {**config.tuning, **{key.replace("-", "_"): value for key, value in given.items()}}
    changes["tuning"] = tuning
    _check(changes.get("max_message_size", config.max_message_size), tuning, option)
    if config.user_file is None:
        _check_attempts(given, option)
    return changes


def _convert(key: str, text: str, option: str) -> Any:
    from .datatypes import Refused

    info = server_schema().gettype("zeo").getinfo(key)
    try:
        return info.datatype(text)
    except Refused as error:
        raise ConfigurationError(f"{option} {key}", error.problem, error.remedy) from error


def _check_attempts(given: dict[str, Any], option: str) -> None:
    """Check what is given where nobody logs in.

    :raises ConfigurationError: it would have no effect.
    """
    from ..server.options import LOGIN_ATTEMPTS

    if given.get("login-attempts", LOGIN_ATTEMPTS) != LOGIN_ATTEMPTS:
        raise ConfigurationError(
            f"{option} login-attempts",
            "has no effect without authentication-database",
            "name the file of users in zeo.conf, or leave it out",
        )


def _check(max_message_size: int, tuning: dict[str, Any], option: str) -> None:
    from ..server.options import ServerOptions, check_incoming_limit

    defaults = {each.name: each.default for each in fields(ServerOptions)}
    incoming_limit = tuning.get("incoming_limit", defaults["incoming_limit"])
    names = (f"{option} incoming-limit", "max-message-size")
    check_incoming_limit(incoming_limit, max_message_size, names)

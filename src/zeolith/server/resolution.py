"""How a server may be told to resolve conflicts."""

from __future__ import annotations

from typing import Any, Final, Literal, TypeAlias

from ..errors import ConfigurationError

ConflictResolution: TypeAlias = Literal["off", "in-process", "worker"]

TIMEOUT: Final = 5.0
"""Seconds for the conflicts of one transaction, unless the user says otherwise."""

_MIB: Final = 1 << 20

MEMORY: Final = 1024 * _MIB
"""Bytes of address space of a worker, unless the user says otherwise."""

_MIN_MEMORY: Final = 128 * _MIB  # ZODB's own modules need half of it


def check_conflict_resolution(options: Any, separator: str = "_") -> None:
    """Check the options about conflicts against each other.

    :param options: has them as attributes.
    :param separator: what stands between the words in what the user calls them.
    :raises ConfigurationError: one makes no sense, or would have no effect.
    """
    name = f"conflict{separator}resolution"
    where, is_clients = options.conflict_resolution, options.client_conflict_resolution
    if where not in (None, "off", "in-process", "worker"):
        raise ConfigurationError(name, f"{where!r} is none of off, in-process, worker")
    if is_clients and where not in (None, "off"):
        raise ConfigurationError(
            name,
            f"{where} has no effect, because the clients resolve conflicts "
            f"(client{separator}{name})",
            "remove one of the two",
        )
    memory = options.conflict_resolution_memory
    for limit, value, least, words in (
        ("timeout", options.conflict_resolution_timeout, None, "must be greater than zero"),
        ("memory", memory, _MIN_MEMORY, "is too little for a worker to start"),
    ):
        if value is None:
            continue
        if is_clients or where in ("off", "in-process"):
            raise ConfigurationError(
                f"{name}{separator}{limit}",
                "has no effect, because there is no worker process that resolves conflicts",
                f"remove it, or have {name} worker",
            )
        if value < least if least else value <= 0:
            remedy = f"give at least {least // _MIB}MB" if least else "give a number of seconds"
            raise ConfigurationError(f"{name}{separator}{limit}", words, remedy)

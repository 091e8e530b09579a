"""What the other parts of the same buildout have."""

from __future__ import annotations

from collections.abc import Iterable

from ..errors import ConfigurationError
from .settings import Settings


def refuse_others_sockets(settings: Settings, others: Iterable[Settings]) -> None:
    """Refuse the ``socket-name`` of another server.

    ``bin/<part> stop`` would stop that one.

    :param others: the other parts of the buildout.
    :raises ConfigurationError: one of them has it.
    """
    for other in others:
        if settings.zeo_conf is other.zeo_conf is None and (
            settings.socket_name == other.socket_name
        ):
            raise ConfigurationError(
                "socket-name",
                f"{settings.socket_name} is that of the part {other.layout.part}, too",
                "give each part one of its own",
            )

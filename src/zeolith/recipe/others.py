"""What the other parts of the same buildout have."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

from ..errors import ConfigurationError
from .options import OPTIONS
from .settings import Settings, read_settings

DISTRIBUTION: Final = "zeolith"
"""The distribution of this recipe, which is its name as well."""


def refuse_others_sockets(buildout: Any, settings: Settings) -> None:
    """Refuse the ``socket-name`` of another server.

    ``bin/<part> stop`` would stop that one.

    :param buildout: the whole buildout; all of its parts have been looked at.
    :raises ConfigurationError: another part has it.
    """
    for other in _others(buildout, settings):
        if settings.zeo_conf is other.zeo_conf is None and (
            settings.socket_name == other.socket_name
        ):
            raise ConfigurationError(
                "socket-name",
                f"{settings.socket_name} is that of the part {other.layout.part}, too",
                "give each part one of its own",
            )


def _others(buildout: Any, settings: Settings) -> Iterator[Settings]:
    for name in buildout["buildout"].get("parts", "").split():
        options = buildout[name]
        recipe = re.split(r"[\[:]", options.get("recipe", ""))[0].strip()
        if recipe == DISTRIBUTION and name != settings.layout.part:
            given = {key: options[key] for key in options if key in OPTIONS}
            yield read_settings(replace(settings.layout, part=name), given)

"""Options that would have no effect beside, or without, others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ..errors import ConfigurationError
from .options import OPTIONS, SECURITY
from .values import Values, script_name

_CUSTOM_REPLACES: Final = ("zeo-log-format", "zeo-log-max-size", "zeo-log-old-files")
_SSL: Final = tuple(option.name for option in SECURITY if option.name.startswith("ssl-"))
_PACK_SSL: Final = tuple(name for name in OPTIONS if name.startswith("pack-ssl-"))


def refuse_contradictions(values: Values, texts: Mapping[str, str]) -> None:
    """Refuse options that would have no effect.

    :param texts: those that have values.
    :raises ConfigurationError: there is one.
    """
    if "zeo-conf" in texts:
        for name, option in OPTIONS.items():
            if option.writes and name in texts:
                raise ConfigurationError(
                    name, "has no effect with zeo-conf", "write it in that file, and remove this"
                )
    if "zeo-log-custom" in texts:
        for name in _CUSTOM_REPLACES:
            if name in texts:
                raise ConfigurationError(
                    name, "has no effect with zeo-log-custom", "write it there, or remove it"
                )
    needs = {
        "zeo-log-old-files": "zeo-log-max-size",
        "authentication-realm": "authentication-database",
        "pack-password": "pack-user",
        "pack-password-file": "pack-user",
        **dict.fromkeys(_SSL, "ssl-certificate"),
        "pack-ssl-key": "pack-ssl-certificate",
        "pack-ssl-password-file": "pack-ssl-certificate",
    }
    if "zeo-conf" not in texts:
        needs["pack-user"] = "authentication-database"
        for name in _PACK_SSL:
            needs.setdefault(name, "ssl-certificate")
    for name, other in needs.items():
        if name in texts and other not in texts:
            raise ConfigurationError(name, f"has no effect without {other}", f"add {other}")
    if "pack-user" in texts and not {"pack-password", "pack-password-file"} & texts.keys():
        raise ConfigurationError("pack-user", "has no password", "add pack-password-file")
    if {"pack-password", "pack-password-file"} <= texts.keys():
        raise ConfigurationError(
            "pack-password", "contradicts pack-password-file", "give one of the two"
        )
    if script_name(values, "zeopack", "zeopack") is None or "zeopack" in texts:
        for name in texts:
            if name.startswith("pack-") and not OPTIONS[name].writes:
                raise ConfigurationError(
                    name, "has no effect: zeopack is not ours, or not made", "remove it"
                )
    if values.is_empty("backup-script-name") and "backup-directory" in texts:
        raise ConfigurationError(
            "backup-directory", "has no effect with an empty backup-script-name", "remove it"
        )

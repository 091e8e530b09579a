"""What would change for a configuration of ZEO's, line by line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from .clients import check_zope
from .parts import check_buildout
from .reading import BUILDOUT, ZEO, ZOPE, kind_of, read_text
from .remarks import Remarks
from .servers import check_server

_CHECKS: Final[Mapping[str, Callable[[str, Remarks], None]]] = {
    ZEO: check_server,
    ZOPE: check_zope,
    BUILDOUT: check_buildout,
}


def check_migration(source: str, kind: str | None = None) -> Remarks:
    """Return what would change for the configuration at *source*; nothing is changed or started.

    :param kind: one of :data:`.reading.KINDS`; None: to be told from what is in it.
    :raises ConfigurationError: it cannot be read, or is none of these.
    """
    path = Path(source)
    text = read_text(path)
    remarks = Remarks(source, kind or kind_of(text, path))
    _CHECKS[remarks.kind](source, remarks)
    return remarks

"""Reading configuration files, and telling which kind they are of."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from ..errors import ConfigurationError

MAX_SIZE: Final = 4 * 1024 * 1024
"""Bytes of a configuration file.  None is that long, and a device has no end (R8)."""

ZEO, ZOPE, BUILDOUT = "zeo.conf", "zope.conf", "buildout.cfg"
KINDS: Final = (ZEO, ZOPE, BUILDOUT)


def read_text(path: Path) -> str:
    """Return the text of a configuration file.

    :raises ConfigurationError: it cannot be read, or is no text.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_SIZE + 1)
    except OSError as error:
        problem = f"cannot be read: {error.strerror or error}"
        raise ConfigurationError(str(path), problem, "check the path") from error
    if len(data) > MAX_SIZE:
        raise ConfigurationError(
            str(path), f"is longer than {MAX_SIZE} bytes", "check whether it is the right file"
        )
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigurationError(
            str(path), "is not text in UTF-8", "check whether it is the right file"
        ) from error


def kind_of(text: str, path: Path) -> str:
    """Return which of :data:`KINDS` a file with this text is.

    :raises ConfigurationError: it looks like none of them.
    """
    lines = [line for line in text.splitlines() if line.strip() and line.lstrip()[0] not in "#;"]
    if lines and re.match(r"\[[^\]]+\]", lines[0]):
        return BUILDOUT
    if any(re.match(r"\s*<zeo\s*>", line, re.IGNORECASE) for line in lines):
        return ZEO
    if any(re.match(r"\s*<\w", line) for line in lines):
        return ZOPE
    raise ConfigurationError(
        str(path),
        "is no zeo.conf (there is no <zeo>), no zope.conf (no section at all) and no buildout.cfg "
        "(no [section] at the beginning)",
        "name one of these, or say what it is with --kind",
    )

"""The configuration that holds: what the file says, and the defaults of what it does not say."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from .outline import Section, Setting

_SECRET: Final = re.compile(r"password(?!-(function|file|environment|command))|passwd|secret")
_IN_TEXT: Final = re.compile(r"((?:password|passwd|secret)\s*=\s*)('[^']*'|\"[^\"]*\"|[^\s'\"]+)")
_HIDDEN: Final = "********"
_CLIENT_ONLY: Final = frozenset({"check-hostname", "server-hostname"})
_SERVER_ONLY: Final = frozenset({"client-certificates"})


def format_outline(outline: Section) -> str:
    """Return *outline* as lines in the form of the file; what it does not say is marked.

    Passwords are hidden.
    """
    return "\n".join(_lines(outline)) + "\n"


def to_json(outline: Section) -> list[dict[str, Any]]:
    """Return the sections of *outline* as plain values; passwords are hidden."""
    return [
        {
            "type": section.type,
            "name": section.name,
            "line": section.place.line,
            "file": section.place.file,
            "keys": {
                setting.key: {
                    "value": _texts(setting) if setting.is_multiple else _text(setting),
                    "default": setting.is_default,
                    "line": None if setting.place is None else setting.place.line,
                }
                for setting in _settings(outline, section)
            },
            "sections": to_json(section),
        }
        for section in outline.sections
    ]


def _lines(outline: Section, indent: str = "") -> Iterator[str]:
    for section in outline.sections:
        yield f"{indent}{section.header}"
        settings = _settings(outline, section)
        width = max((len(setting.key) for setting in settings), default=0)
        for setting in settings:
            key = f"{indent}  {setting.key:<{width}}"
            if not setting.texts:
                yield f"{key}  (not set{': ' + setting.note if setting.note else ''})"
            for text in _texts(setting):
                yield f"{key}  {text}" + ("  (default)" if setting.is_default else "")
        yield from _lines(section, f"{indent}  ")
        yield f"{indent}</{section.type}>"


def _settings(parent: Section, section: Section) -> list[Setting]:
    if section.type == "ssl":
        useless = _CLIENT_ONLY if parent.type == "zeo" else _SERVER_ONLY
        return [
            setting
            for setting in section.settings
            if setting.key not in useless or not setting.is_default
        ]
    return section.settings


def _text(setting: Setting) -> str | None:
    return _texts(setting)[0] if setting.texts else None


def _texts(setting: Setting) -> list[str]:
    if _SECRET.search(setting.key):
        return [_HIDDEN if text else text for text in setting.texts]
    return [
        _IN_TEXT.sub(rf"\1{_HIDDEN}", text).replace("\n", r"\n") or "(empty)"
        for text in setting.texts
    ]

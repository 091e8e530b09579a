"""Checks of the file of users."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from ...errors import ConfigurationError
from ..outline import Section
from ..storages import DEFAULT_NAME
from ..userdirectory import UserDirectory
from .databases import storage_sections
from .findings import Findings

_KEY: Final = "authentication-database"
_MOST: Final = 5
"""Names in one line."""


def check_users(findings: Findings) -> None:
    """Check that the server can read its users, and that they can log in."""
    for zeo in findings.outline.find("zeo"):
        path = zeo.value_of(_KEY)
        if path is not None:
            findings.check_absolute(zeo, _KEY, path)
            _check_file(findings, zeo, path)


def _check_file(findings: Findings, zeo: Section, path: str) -> None:
    try:
        storages = [each.name or DEFAULT_NAME for each in storage_sections(findings.outline)]
        users = UserDirectory(path, zeo.value_of("authentication-realm"), storages)
    except ConfigurationError as error:
        key = error.option if error.option.startswith("authentication-") else _KEY
        where = "" if key == error.option else f"{error.option}: "
        findings.error(zeo, key, f"{where}{error.problem}", error.remedy)
        return
    if not findings.rights.may(Path(path), os.R_OK):
        findings.error(
            zeo,
            _KEY,
            f"{findings.rights.user} may not read {path}",
            "change its owner, or its group and permissions (640)",
        )
    for line in users.complaints:
        findings.warning(zeo, _KEY, line)
    _check_ways(findings, zeo, users)
    if not users.names:
        findings.warning(zeo, _KEY, f"{path} has no user: nobody can connect", "add one")


def _check_ways(findings: Findings, zeo: Section, users: UserDirectory) -> None:
    """Warn of those who are known by something that no client can show."""
    tls = next((section for section in zeo.sections if section.type == "ssl"), None)
    if tls is None or tls.value_of("client-certificates") == "none":
        _warn(
            findings,
            zeo,
            users.known_by_certificate,
            "by certificate, and no client is asked for one",
            "add <ssl>" if tls is None else "take out client-certificates none",
        )
    if isinstance(zeo.value_of("address"), tuple):
        _warn(
            findings,
            zeo,
            users.known_by_uid,
            "by user id, which only a Unix socket tells",
            "let the server listen on one",
        )


def _warn(findings: Findings, zeo: Section, names: list[str], how: str, remedy: str) -> None:
    if names:
        listed = ", ".join(map(repr, names[:_MOST])) + (" and others" if names[_MOST:] else "")
        problem = f"{listed}: known {how}"
        findings.warning(zeo, _KEY, problem, f"{remedy}, or give them passwords")

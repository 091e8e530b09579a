"""Checks of the file of users."""

from __future__ import annotations

import os
from pathlib import Path

from ...errors import ConfigurationError
from ..outline import Section
from ..storages import DEFAULT_NAME
from ..userdirectory import UserDirectory
from .databases import storage_sections
from .findings import Findings

_KEY = "authentication-database"


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
    if not users.names:
        findings.warning(zeo, _KEY, f"{path} has no user: nobody can connect", "add one")

"""Checks of the files that ``<ssl>`` sections name."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from ..datatypes import Refused, server_tls
from ..outline import BROKEN, Section
from ..validity import LIST_SOON, SOON, list_ends, validities
from .findings import Findings


def check_certificates(findings: Findings, now: datetime | None = None) -> None:
    """Check the certificates' dates and who may read the key.

    :param now: the present, for tests.
    """
    now = now or datetime.now(UTC)
    for zeo in findings.outline.find("zeo"):
        _check_use(findings, zeo)
    for section in findings.outline.find("ssl"):
        for key in ("certificate", "authenticate", "crl"):
            path = section.value_of(key)
            if path is not None:
                for file in _files(Path(path)):
                    _check_dates(findings, section, key, file, now)
                    _check_lists(findings, section, key, file, now)
        key = "key" if section.value_of("key") is not None else "certificate"
        path = section.value_of(key)
        if path is not None:
            _check_secrecy(findings, section, key, Path(path))


def _check_use(findings: Findings, zeo: Section) -> None:
    """Make a TLS context if that was not tried, because something else in *zeo* is wrong."""
    if zeo.value is not BROKEN:
        return
    for section in zeo.sections:
        if section.type == "ssl" and section.value is not BROKEN:
            try:
                server_tls(section.value)
            except Refused as error:
                key = "" if error.key.startswith("<") else error.key
                findings.error(section, key, error.problem, error.remedy)


def _files(path: Path) -> Iterator[Path]:
    if path.is_dir():
        # As openssl rehash names certificates (.0) and revocation lists (.r0).
        yield from sorted(
            file for file in path.iterdir() if file.suffix[1:].removeprefix("r").isdecimal()
        )
    else:
        yield path


def _check_dates(findings: Findings, section: Section, key: str, file: Path, now: datetime) -> None:
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return  # said when the section was read
    found = list(validities(text))
    # What follows in the certificate's own file is its chain; among those to trust, one that is
    # no longer valid admits nobody, but the others do.
    report = findings.error if key == "certificate" else findings.warning
    for start, end in found:
        if now > end:
            report(section, key, f"a certificate in {file} expired on {end:%Y-%m-%d}", "renew it")
        elif now < start:
            report(
                section,
                key,
                f"a certificate in {file} is not valid before {start:%Y-%m-%d %H:%M} UTC",
                "wait, or set the clock right",
            )
        elif now > end - timedelta(seconds=SOON):
            findings.warning(
                section, key, f"a certificate in {file} expires on {end:%Y-%m-%d}", "renew it"
            )


def _check_lists(findings: Findings, section: Section, key: str, file: Path, now: datetime) -> None:
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return  # said when the section was read
    for end in list_ends(text):
        if now > end:
            findings.error(
                section,
                key,
                f"a revocation list in {file} expired on {end:%Y-%m-%d}: nobody whom its "
                "authority has signed for is admitted",
                "get a new one",
            )
        elif now > end - timedelta(seconds=LIST_SOON):
            findings.warning(
                section,
                key,
                f"a revocation list in {file} expires on {end:%Y-%m-%d %H:%M} UTC",
                "get a new one in time",
            )


def _check_secrecy(findings: Findings, section: Section, key: str, file: Path) -> None:
    try:
        mode = file.stat().st_mode
    except OSError:
        return  # said when the section was read
    if mode & stat.S_IROTH and "PRIVATE KEY" in file.read_text(encoding="utf-8", errors="replace"):
        findings.warning(
            section,
            key,
            f"everybody on this machine may read the private key in {file}",
            f"chmod o-r {file}",
        )
    if not findings.rights.may(file, os.R_OK):
        findings.error(
            section,
            key,
            f"{findings.rights.user} may not read {file}",
            "change its owner or permissions",
        )

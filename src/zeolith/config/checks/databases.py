"""Checks of the storages to serve.  None is opened: the server may be running."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ...client.bloblayout import refuse_cache
from ...errors import ConfigurationError
from ..address import LOOPBACK, Address, local_address
from ..blobdirs import REMEDY
from ..client import Client
from ..outline import Section
from ..storages import DEFAULT_NAME
from .findings import Findings

_NOT_STORAGES: Final = frozenset({"zeo", "runner", "eventlog"})
_CLIENTS: Final = ("zeoclient", "zeolith", "clientstorage")
_MAGIC: Final = (b"FS21", b"FS30")
_GONE: Final = ("fullstorage", "minimalstorage")
"""ZODB still has the sections of storages on Berkeley DB, but not the storages."""


def storage_sections(outline: Section) -> list[Section]:
    """Return the sections of the storages to serve."""
    return [section for section in outline.sections if section.type not in _NOT_STORAGES]


def check_storages(findings: Findings) -> None:
    """Check every storage section, at any depth."""
    _check_names(findings)
    _check_uniqueness(findings)
    for section in _all(findings.outline):
        if section.type == "filestorage":
            _check_file_storage(findings, section)
        elif section.type == "blobstorage":
            _check_blob_dir(findings, section)
        elif section.type == "demostorage":
            _check_demo_storage(findings, section)
        elif section.type in _GONE:
            findings.error(
                section, "", "the storages on Berkeley DB exist no more", "use <filestorage>"
            )
        elif section.type in _CLIENTS:
            _check_client(findings, section)
    for section in storage_sections(findings.outline):
        if section.type == "mappingstorage":
            findings.warning(
                section, "", "the database is lost when the server ends", "use <filestorage>"
            )


def _all(outline: Section) -> Iterator[Section]:
    for section in storage_sections(outline):
        yield from section.walk()


def _check_names(findings: Findings) -> None:
    seen: dict[str, Section] = {}
    for section in storage_sections(findings.outline):
        name = section.name or DEFAULT_NAME
        earlier = seen.setdefault(name, section)
        if earlier is not section and not (section.name and earlier.name):
            findings.error(
                section,
                "",
                f"is called {name!r} (a storage without a name is), and so is the one on line "
                f"{earlier.place.line}",
                "write a name in the section's header, as in <filestorage main>",
            )


def _check_uniqueness(findings: Findings) -> None:
    for key in ("path", "blob-dir"):
        seen: dict[str, Section] = {}
        for section in _all(findings.outline):
            value = section.value_of(key)
            if not isinstance(value, str) or section.type in _CLIENTS:
                continue
            earlier = seen.setdefault(os.path.realpath(value), section)
            if earlier is not section:
                findings.error(
                    section,
                    key,
                    f"{value} belongs to the storage on line {earlier.place.line}, too",
                    "give each storage its own",
                )


def _check_file_storage(findings: Findings, section: Section) -> None:
    text = section.value_of("path")
    if text is None:
        return
    path = Path(text)
    findings.check_absolute(section, "path", text)
    blob_dir = section.value_of("blob-dir")
    if blob_dir:
        _check_blob_dir(findings, section)
    if section.value_of("create"):
        findings.warning(
            section, "create", "empties the database at each start of the server", "remove the line"
        )
    if section.value_of("read-only") and not _serves_read_only(findings):
        findings.warning(
            section,
            "read-only",
            "clients that want to write are admitted, and each of their commits fails",
            "write read-only true into <zeo>, too",
        )
    if not findings.check_file(section, "path", text):
        return
    if not path.exists():
        if blob_dir and Path(blob_dir).is_dir() and any(Path(blob_dir).iterdir()):
            findings.warning(
                section,
                "path",
                f"{path} does not exist, but there are blobs in {blob_dir}: an empty database "
                "would be made",
                "correct the path, or restore the database",
            )
        return
    # Nobody can write beside a file in a directory that is closed: no index, no pack.
    findings.check_entry(section, "path", f"{text}.index")
    _check_content(findings, section, path)


def _serves_read_only(findings: Findings) -> bool:
    return any(zeo.value_of("read-only") for zeo in findings.outline.find("zeo"))


def _check_content(findings: Findings, section: Section, path: Path) -> None:
    try:
        with path.open("rb") as file:
            magic = file.read(4)
        size = path.stat().st_size
        free = shutil.disk_usage(path.parent).free
    except OSError as error:
        findings.error(section, "path", f"{path}: {error.strerror}", "correct the path")
        return
    if magic and magic not in _MAGIC:
        findings.error(
            section,
            "path",
            f"{path} is no FileStorage",
            "correct the path; a damaged file can be mended by ZODB's fsrecover",
        )
        return
    if size > free and section.value_of("pack-keep-old") is not False:
        findings.warning(
            section,
            "path",
            f"{path} has {_megabytes(size)}, and {_megabytes(free)} are free: a pack, which makes "
            "a second file, may not fit",
            "make room on the disk",
        )
    quota = section.value_of("quota")
    if quota is not None and size >= quota:
        findings.warning(
            section,
            "quota",
            f"{path} has {size} bytes already: every commit fails",
            "raise the quota, or pack the database",
        )


def _megabytes(size: int) -> str:
    return f"{size / 1024**2:,.0f} MB"


def _check_blob_dir(findings: Findings, section: Section) -> None:
    path = section.value_of("blob-dir")
    if path:
        if findings.check_directory(section, "blob-dir", path):
            try:
                refuse_cache(path, "blob-dir", REMEDY)
            except ConfigurationError as error:
                findings.error(section, "blob-dir", error.problem, error.remedy)
            except OSError as error:
                findings.error(section, "blob-dir", f"cannot be read: {error}")
        findings.check_absolute(section, "blob-dir", path)


def _check_demo_storage(findings: Findings, section: Section) -> None:
    changes = [part for part in section.sections if part.name == "changes"]
    if not changes or changes[0].type == "mappingstorage":
        findings.warning(
            section,
            "",
            "what is committed is lost when the server ends",
            "add a storage called changes: <filestorage changes>",
        )


def _check_client(findings: Findings, section: Section) -> None:
    if not isinstance(section.value, Client):
        return
    own = [
        _local(zeo.value_of("address"))
        for zeo in findings.outline.find("zeo")
        if zeo.value_of("address") is not None
    ]
    for server in section.value.addresses:
        if _local(server) in own:
            findings.error(
                section, "server", "is this server itself", "name the server to forward to"
            )


def _local(address: Address) -> Address:
    if isinstance(address, str):
        return address
    found = local_address(address)
    return (LOOPBACK, address[1]) if address[0] == "localhost" else found

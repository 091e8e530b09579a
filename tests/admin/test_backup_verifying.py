"""Verifying backups: every kind of damage is found and named."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.support.backups import Silence, Site, listing
from zc.lockfile import LockFile

from zeolith.admin.backup.choosing import choose_newest
from zeolith.admin.backup.failures import BackupError, Damage
from zeolith.admin.backup.repository import open_repository
from zeolith.admin.backup.verifying import verify
from zeolith.errors import ConfigurationError

Check = Callable[..., list[str]]


@pytest.fixture
def backed_up(site: Site) -> Site:
    """The site with a full and an incremental backup."""
    site.backup()
    site.commit(4)
    site.backup()
    return site


@pytest.fixture
def check(site: Site) -> Check:
    """Verify the newest backup; return what is wrong."""

    def check(quick: bool = False, scratch: Path | None = None) -> list[str]:
        choice = choose_newest(site.repository.read_chains())
        found = verify(site.repository, choice, Silence(), quick=quick, scratch=scratch)
        return [str(damage) for damage in found]

    return check


def part(site: Site, number: int) -> Path:
    return site.repository.path / site.repository.read_chains()[-1][number].part


def blob(site: Site) -> Path:
    return sorted((site.repository.path / "blobs").rglob("*.blob"))[0]


def test_a_full_disk_is_said_before_anything_is_written(
    backed_up: Site, check: Check, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    full = SimpleNamespace(f_bavail=1, f_frsize=1)
    monkeypatch.setattr(os, "statvfs", lambda path: full)
    with pytest.raises(BackupError, match="bytes are needed here, 1 are free; make room"):
        check(scratch=scratch)
    assert os.listdir(scratch) == []


@pytest.mark.parametrize("quick", [False, True])
def test_a_good_backup(backed_up: Site, check: Check, quick: bool, tmp_path: Path) -> None:
    before = listing(backed_up.repository.path)
    assert check(quick) == []
    assert listing(backed_up.repository.path) == before
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    assert check(quick, scratch) == []
    assert os.listdir(scratch) == []


@pytest.mark.parametrize("quick", [False, True])
def test_missing_and_short_files(backed_up: Site, check: Check, quick: bool) -> None:
    os.truncate(part(backed_up, 1), 100)
    (found,) = check(quick)
    assert f"{part(backed_up, 1)}: has 100 bytes instead of " in found
    part(backed_up, 1).unlink()
    blob(backed_up).unlink()
    found, other = check(quick)
    assert found == f"{part(backed_up, 1)}: is missing"
    assert "blob 0x" in other
    assert "cannot be read: No such file" in other


@pytest.mark.parametrize("number", [0, 1])
def test_a_changed_byte_in_the_file(backed_up: Site, check: Check, number: int) -> None:
    path = part(backed_up, number)
    content = path.read_bytes()
    path.write_bytes(content[:-30] + b"?" + content[-29:])
    assert check(quick=True) == []
    (found,) = check()
    assert found.startswith(f"{path}: ")


def test_a_changed_byte_in_a_blob(backed_up: Site, check: Check) -> None:
    path = blob(backed_up)
    content = path.read_bytes()
    path.chmod(0o600)
    path.write_bytes(content[:-1] + b"?")
    assert check(quick=True) == []
    (found,) = check()
    assert found.startswith(f"{path}: blob 0x")
    assert found.endswith("its checksum differs")
    path.write_bytes(content + b"?")
    (found,) = check(quick=True)
    assert f"has {len(content) + 1} bytes instead of {len(content)}" in found


def test_a_list_of_blobs_that_is_not_what_was_written(backed_up: Site, check: Check) -> None:
    manifest = backed_up.repository.read_chains()[0][0]
    path = backed_up.repository.path / f"{manifest.name}.blobs"
    path.write_bytes(path.read_bytes().replace(b"1", b"2"))
    for quick in (False, True):
        assert f"{path}: is not what was written: its checksum differs" in check(quick)
    path.unlink()
    assert f"{path}: is missing" in check()


def test_a_blob_that_is_not_backed_up(backed_up: Site, check: Check) -> None:
    """A manifest that agrees with itself, but not with the file."""
    from zeolith.admin.backup.manifest import digest_of

    manifest = backed_up.repository.read_chains()[0][0]
    path = backed_up.repository.path / f"{manifest.name}.blobs"
    path.write_bytes(b"".join(path.read_bytes().splitlines(True)[1:]))
    own = backed_up.repository.path / f"{manifest.name}.json"
    values = json.loads(own.read_text())
    values["blobs_sha256"] = digest_of(path.read_bytes())
    own.write_text(json.dumps(values))
    (found,) = check()
    assert "refers to blob 0x" in found
    assert "which is not backed up" in found


def test_a_blob_that_the_database_had_lost(site: Site, check: Check) -> None:
    next(site.blobs.rglob("*.blob")).unlink()
    site.backup()
    (found,) = check()
    assert "which the database itself had lost" in found


def test_a_compressed_part_that_is_damaged(site: Site, check: Check) -> None:
    path = site.repository.path / site.backup(compress=True).part
    assert check() == []
    content = path.read_bytes()
    for damaged in (b"\0" * len(content), content[:-8] + b"\0" * 8):
        path.write_bytes(damaged)
        (found,) = check()
        assert found.startswith(f"{path}: cannot be decompressed: ")


def test_a_manifest_that_is_damaged(backed_up: Site) -> None:
    manifest = backed_up.repository.read_chains()[0][1]
    path = backed_up.repository.path / f"{manifest.name}.json"
    content = path.read_text()
    for text in ("", "{", "[]", "{}", content[:-40], content.replace('"part"', '"bart"')):
        path.write_text(text)
        with pytest.raises(Damage, match=r"\.json: (is no manifest|has the unknown entries)"):
            backed_up.repository.read_chains()
    path.write_text(content.replace('"format": 1', '"format": 2'))
    with pytest.raises(Damage, match="newer version"):
        backed_up.repository.read_chains()
    path.write_text(content.replace(manifest.name, "2000-01-01-00-00-00"))
    with pytest.raises(Damage, match="is the manifest of 2000"):
        backed_up.repository.read_chains()


def test_a_manifest_that_is_missing_in_between(backed_up: Site) -> None:
    backed_up.commit(5)
    backed_up.backup()
    first, second, _ = backed_up.repository.read_chains()[0]
    (backed_up.repository.path / f"{second.name}.json").unlink()
    with pytest.raises(Damage, match=f"continues the backup {second.name}, which is missing"):
        open_repository(str(backed_up.repository.path))
    (backed_up.repository.path / f"{first.name}.json").unlink()
    with pytest.raises(Damage, match="which is missing"):
        open_repository(str(backed_up.repository.path))


def test_without_backups_there_is_nothing_to_verify(site: Site, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="has no backup; make one"):
        open_repository(str(site.repository.path))
    with pytest.raises(ConfigurationError, match="nowhere: cannot be read"):
        open_repository(str(tmp_path / "nowhere"))
    path = site.repository.path
    (path / "2026-01-01-00-00-00.fs").write_bytes(b"")
    with pytest.raises(ConfigurationError, match="what repozo alone has made"):
        open_repository(str(path))


def test_what_a_killed_verification_has_left_goes_away(backed_up: Site, check: Check) -> None:
    repository = backed_up.repository.path
    left, used = repository / ".verify-left", repository / ".verify-used"
    for directory in (left, used):
        directory.mkdir()
        (directory / "Data.fs").write_text("large")
    lock = LockFile(str(used / "lock"))
    assert check() == []
    lock.close()
    assert not left.exists()
    assert used.exists()


def test_a_place_that_cannot_be_written(backed_up: Site, check: Check, tmp_path: Path) -> None:
    with pytest.raises(BackupError, match="name another place with --scratch"):
        check(scratch=tmp_path / "nowhere")


@pytest.mark.parametrize("is_gone", [False, True])
def test_another_verification_takes_a_fresh_directory_for_an_abandoned_one(
    backed_up: Site, check: Check, tmp_path: Path, is_gone: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between its making and its locking it looks like one that a crash has left."""
    taken: list[LockFile] = []
    mkdtemp = tempfile.mkdtemp

    def make(**options: Any) -> str:
        found: str = mkdtemp(**options)
        if not taken:
            taken.append(LockFile(f"{found}/lock"))
            if is_gone:
                shutil.rmtree(found)
        return found

    monkeypatch.setattr(tempfile, "mkdtemp", make)
    try:
        assert check(scratch=tmp_path) == []
    finally:
        taken[0].close()


def test_a_place_without_locks_is_said(
    backed_up: Site, check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("zc.lockfile.LockFile", refuse)
    with pytest.raises(BackupError, match="No locks available"):
        check()

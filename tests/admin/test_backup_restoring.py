"""Restoring backups: of a date, of a transaction, and only where nothing is in the way."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.support.backups import Silence, Site, blob_files, content_of, listing, read_blobs
from zc.lockfile import LockFile
from ZODB.FileStorage import FileStorage
from ZODB.fsIndex import fsIndex

from zeolith.admin.backup import choosing, restoring
from zeolith.admin.backup.choosing import Choice
from zeolith.admin.backup.failures import BackupError
from zeolith.admin.backup.restoring import Restored, Target, restore
from zeolith.errors import ConfigurationError
from zeolith.types import Tid

Restore = Callable[..., Restored]


@pytest.fixture
def target(tmp_path: Path) -> Target:
    """Where nothing is yet."""
    directory = tmp_path / "new place"
    directory.mkdir()
    return Target(path=directory / "Data.fs", blob_dir=directory / "blobs")


@pytest.fixture
def restored(site: Site, target: Target) -> Restore:
    """Restore a backup of the site, the newest unless told otherwise."""

    def restored(choice: Choice | None = None, **changes: Any) -> Restored:
        place = Target(**{**vars(target), **changes})
        chosen = choice or choosing.choose_newest(site.repository.read_chains())
        return restore(site.repository, chosen, place, Silence())

    return restored


@pytest.mark.parametrize("wishes", [{}, {"compress": True}])
def test_what_was_backed_up_is_restored(
    site: Site, target: Target, restored: Restore, wishes: dict[str, Any]
) -> None:
    site.backup(**wishes)
    site.commit(4)
    site.backup(**wishes)
    done = restored()
    assert (done.blob_count, done.damage, done.file.transactions) == (4, [], 5)
    assert target.path.read_bytes() == site.path.read_bytes()
    assert target.blob_dir is not None
    assert blob_files(target.blob_dir) == site.blob_files()
    assert (target.blob_dir / ".layout").read_text() == "bushy"
    for path in target.blob_dir.rglob("*.blob"):
        assert not path.stat().st_mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH)
    assert fsIndex.load(f"{target.path}.index")["pos"] == target.path.stat().st_size
    assert set(os.listdir(target.path.parent)) <= {
        *("Data.fs", "Data.fs.index", "Data.fs.lock", "blobs")
    }
    assert set(os.listdir(target.blob_dir)) == {".layout", "tmp", "0x00"}
    assert read_blobs(target.path, target.blob_dir) == {n: content_of(n) for n in (1, 2, 3, 4)}


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_restored_database_is_on_disk_before_it_has_its_name(
    site: Site,
    target: Target,
    restored: Restore,
    overwrite: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And it is never beside the index of another one."""
    site.backup()
    if overwrite:
        restored()
    synced: set[int] = set()
    before: set[int] = set()
    fsync, replace = os.fsync, os.replace

    def sync(descriptor: int) -> None:
        fsync(descriptor)
        synced.add(os.fstat(descriptor).st_ino)

    def move(source: Any, destination: Any, **options: Any) -> None:
        if Path(destination) == target.path:
            assert not Path(f"{target.path}.index").exists()
            before.update(synced)
            synced.clear()
        replace(source, destination, **options)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "replace", move)
    restored(overwrite=overwrite)
    assert target.blob_dir is not None
    paths = [target.path, Path(f"{target.path}.index"), target.blob_dir, target.path.parent]
    for blob in target.blob_dir.rglob("*.blob"):
        paths += [blob, *(up for up in blob.parents if up.is_relative_to(target.blob_dir))]
    assert {path for path in paths if path.stat().st_ino not in before} == set()
    assert target.path.parent.stat().st_ino in synced


def test_the_restored_database_goes_on(site: Site, target: Target, restored: Restore) -> None:
    site.backup()
    restored()
    copy = Site(target.path.parent)
    copy.commit(4)
    assert read_blobs(copy.path, copy.blobs).keys() == {1, 2, 3, 4}


def test_a_lawn_is_restored_as_a_lawn(tmp_path: Path, target: Target, restored: Restore) -> None:
    directory = tmp_path / "lawn"
    directory.mkdir()
    site = Site(directory, "lawn")
    site.commit(1)
    site.backup()
    chains = site.repository.read_chains()
    restore(site.repository, choosing.choose_newest(chains), target, Silence())
    assert target.blob_dir is not None
    assert (target.blob_dir / ".layout").read_text() == "lawn"
    assert blob_files(target.blob_dir) == site.blob_files()


# Of when


@pytest.fixture
def history(site: Site, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Backups at 10:00, 11:00 and, after a pack, 12:00 of a day; the tids of blobs 4 to 7.

    Blobs 1 to 3 are in the first, 4 and 5 in the second, 6 and 7 in the third.
    """
    moments = iter((10, 11, 12))
    monkeypatch.setattr(
        "zeolith.admin.backup.making.choose_moment",
        lambda latest: (2026, 3, 4, next(moments), 0, 0),
    )
    site.backup()
    tids = site.commit(4, 5)
    site.backup()
    tids += site.commit(6)
    site.pack()
    tids += site.commit(7)
    site.backup()
    return tids


@pytest.mark.parametrize(
    ("date", "last"),
    [("2026-03-04-10", 3), ("2026-03-04-11-59-59", 5), ("2026-03-04-12-00", 7), ("2030-01-01", 7)],
)
def test_a_date_chooses_the_backup_made_by_then(
    site: Site,
    target: Target,
    restored: Restore,
    history: list[bytes],
    date: str,
    last: int,
) -> None:
    chains = site.repository.read_chains()
    restored(choosing.choose_by_date(chains, choosing.parse_date(date, "-D")))
    assert target.blob_dir is not None
    assert read_blobs(target.path, target.blob_dir).keys() == set(range(1, last + 1))
    assert len(blob_files(target.blob_dir)) == last


def test_before_the_first_backup_there_is_none(site: Site, history: list[bytes]) -> None:
    with pytest.raises(ConfigurationError, match="is before the first backup, 2026-03-04-10-00-00"):
        choosing.choose_by_date(site.repository.read_chains(), "2026-03-04-09-00-00")


@pytest.mark.parametrize("number", [4, 5, 6, 7])
def test_a_tid_gives_the_state_just_after_it(
    site: Site, target: Target, restored: Restore, history: list[bytes], number: int
) -> None:
    tid = Tid(history[number - 4])
    done = restored(choosing.choose_by_tid(site.repository.read_chains(), tid))
    assert done.file.last_tid == tid
    assert target.blob_dir is not None
    assert read_blobs(target.path, target.blob_dir).keys() == set(range(1, number + 1))
    assert len(blob_files(target.blob_dir)) == number
    storage = FileStorage(str(target.path), read_only=True)
    assert storage.lastTransaction() == tid
    storage.close()


def test_a_tid_between_two_gives_the_earlier(
    site: Site, restored: Restore, history: list[bytes]
) -> None:
    between = Tid((int.from_bytes(history[1], "big") - 1).to_bytes(8, "big"))
    done = restored(choosing.choose_by_tid(site.repository.read_chains(), between))
    assert done.file.last_tid == history[0]


def test_a_state_that_a_pack_has_removed_is_not_taken_from_the_packed_file(
    site: Site, history: list[bytes]
) -> None:
    chains = site.repository.read_chains()
    choice = choosing.choose_by_tid(chains, Tid(history[0]))
    assert [manifest.name[11:13] for manifest in choice.chain] == ["10", "11"]
    with pytest.raises(ConfigurationError, match="its state was not backed up"):
        choosing.choose_by_tid(chains[1:], Tid(history[0]))


def test_a_state_after_the_last_backup_is_refused(site: Site, history: list[bytes]) -> None:
    later = Tid((int.from_bytes(history[-1], "big") + 1).to_bytes(8, "big"))
    with pytest.raises(ConfigurationError, match=f"ends with 0x{history[-1].hex()}"):
        choosing.choose_by_tid(site.repository.read_chains(), later)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("2026-03-04", "2026-03-04-00-00-00"),
        ("2026-03-04-05", "2026-03-04-05-00-00"),
        ("2026-03-04-05-06", "2026-03-04-05-06-00"),
        ("2026-03-04-05-06-07", "2026-03-04-05-06-07"),
        ("2026-03-04T05:06:07Z", "2026-03-04-05-06-07"),
        ("2026-03-04 05:06", "2026-03-04-05-06-00"),
    ],
)
def test_dates(text: str, name: str) -> None:
    assert choosing.parse_date(text, "-D") == name


@pytest.mark.parametrize("text", ["", "yesterday", "2026-13-04", "2026-02-30", "2026", "26-01-01"])
def test_what_is_no_date(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"-D: .* is no date; write it as yyyy-mm-dd"):
        choosing.parse_date(text, "-D")


def test_a_date_is_the_tid_of_its_moment(site: Site) -> None:
    from persistent.TimeStamp import TimeStamp

    tid = choosing.tid_of_date("2026-03-04-05-06-07")
    assert str(TimeStamp(tid)) == "2026-03-04 05:06:07.000000"


@pytest.mark.parametrize("text", ["", "0x12", "g" * 16, "0" * 17])
def test_what_is_no_tid(text: str) -> None:
    with pytest.raises(ConfigurationError, match="is no transaction id"):
        choosing.parse_tid(text, "--tid")


def test_a_tid_is_hexadecimal() -> None:
    assert choosing.parse_tid("0x00000000000000FF", "--tid") == b"\0" * 7 + b"\xff"


# What is in the way


def test_a_file_that_exists_is_not_touched(site: Site, target: Target, restored: Restore) -> None:
    site.backup()
    target.path.write_bytes(b"precious")
    with pytest.raises(ConfigurationError, match=r"Data\.fs: exists; .* --overwrite"):
        restored()
    assert listing(target.path.parent) == {"Data.fs": b"precious"}


def test_blobs_that_exist_are_not_touched(site: Site, target: Target, restored: Restore) -> None:
    site.backup()
    assert target.blob_dir is not None
    target.blob_dir.mkdir()
    (target.blob_dir / "0x00").write_bytes(b"precious")
    with pytest.raises(ConfigurationError, match="blobs: is not empty: there is 0x00"):
        restored()
    assert listing(target.path.parent) == {"blobs/0x00": b"precious"}


def test_an_unused_blob_directory_is_used(site: Site, target: Target, restored: Restore) -> None:
    site.backup()
    assert target.blob_dir is not None
    (target.blob_dir / "tmp").mkdir(parents=True)
    (target.blob_dir / ".layout").write_text("lawn")
    inode = target.blob_dir.stat().st_ino
    restored()
    assert target.blob_dir.stat().st_ino == inode
    assert read_blobs(target.path, target.blob_dir).keys() == {1, 2, 3}


def test_overwriting_replaces_file_index_and_blobs(
    site: Site, target: Target, restored: Restore
) -> None:
    site.backup()
    restored()
    copy = Site(target.path.parent)
    copy.commit(*range(10, 15))
    restored(overwrite=True)
    assert target.path.read_bytes() == site.path.read_bytes()
    assert blob_files(copy.blobs) == site.blob_files()
    assert fsIndex.load(f"{target.path}.index")["pos"] == target.path.stat().st_size
    assert set(os.listdir(copy.blobs)) == {".layout", "tmp", "0x00"}


def test_a_file_that_is_open_is_not_replaced(site: Site, target: Target, restored: Restore) -> None:
    site.backup()
    lock = LockFile(f"{target.path}.lock")
    target.path.write_bytes(b"open")
    with pytest.raises(ConfigurationError, match=f"is open in process {os.getpid()}"):
        restored(overwrite=True)
    lock.close()
    assert target.path.read_bytes() == b"open"


def test_the_blobs_of_the_database_itself_are_not_replaced_alone(
    site: Site, restored: Restore
) -> None:
    """Its file may be open, but nothing locks the blobs."""
    site.backup()
    before = listing(site.directory)
    with pytest.raises(ConfigurationError, match=r"blobs: belongs to .*a site/Data\.fs, but"):
        restored(blob_dir=site.blobs, overwrite=True)
    assert listing(site.directory) == before
    restored(path=site.path, blob_dir=site.blobs, overwrite=True)
    assert read_blobs(site.path, site.blobs).keys() == {1, 2, 3}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"blob_dir": None}, "has 3 blobs; name the directory"),
        ({"leave_blobs_out": True}, "is not needed: --no-blobs"),
        ({"path": Path("/no/where/Data.fs")}, "its directory does not exist; create /no/where"),
        ({"path": Path("/")}, "is a directory"),
        ({"blob_dir": Path("/no/where/blobs")}, "its parent does not exist"),
    ],
)
def test_wrong_targets(
    site: Site, restored: Restore, changes: dict[str, Any], message: str
) -> None:
    site.backup()
    with pytest.raises(ConfigurationError, match=message):
        restored(**changes)


def test_the_file_alone_can_be_restored(site: Site, target: Target, restored: Restore) -> None:
    site.backup()
    done = restored(blob_dir=None, leave_blobs_out=True)
    assert done.blob_count == 0
    assert target.path.read_bytes() == site.path.read_bytes()


# Failures and their traces


def test_a_disk_without_room_is_said_before(
    site: Site, target: Target, restored: Restore, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.backup()

    def full(path: Path) -> os.statvfs_result:
        return os.statvfs_result((4096, 4096, 10, 1, 1, 0, 0, 0, 0, 255))

    monkeypatch.setattr("zeolith.admin.backup.files.os.statvfs", full)
    site.commit(*range(10, 40))
    site.backup()
    with pytest.raises(BackupError, match="bytes are needed here, 4096 are free; make room"):
        restored()
    assert set(listing(target.path.parent)) == set()


@pytest.mark.parametrize("step", ["recover_file", "_copy_blobs", "_put_in_place"])
@pytest.mark.parametrize(
    "error",
    [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device", "there")],
    ids=["interrupted", "full"],
)
def test_a_restore_that_fails_leaves_nothing(
    site: Site,
    target: Target,
    restored: Restore,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    error: BaseException,
) -> None:
    site.backup()
    original: Callable[..., Any] = getattr(restoring, step)

    def failing(*args: Any, **keywords: Any) -> Any:
        if step != "_put_in_place":
            original(*args, **keywords)
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(restoring, step, failing)
        with pytest.raises((KeyboardInterrupt, BackupError)) as caught:
            restored()
    if isinstance(error, OSError):
        assert "there: No space left on device; make room" in str(caught.value)
    assert set(os.listdir(target.path.parent)) == {"Data.fs.lock"}
    restored()


def test_what_a_killed_restore_has_left_does_not_matter(
    site: Site, target: Target, restored: Restore, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.backup()
    assert target.blob_dir is not None
    (target.blob_dir / ".restoring" / "tmp").mkdir(parents=True)
    (target.blob_dir / ".restoring" / "tmp" / "half").write_text("")
    for name in ("Data.fs.restoring", "Data.fs.restoring.index", "Data.fs.restoring.part"):
        (target.path.parent / name).write_text("half")
    restored()
    assert not list(target.path.parent.rglob("*.restoring*"))
    assert read_blobs(target.path, target.blob_dir).keys() == {1, 2, 3}


def damage_blob(site: Site) -> Path:
    path: Path = next((site.repository.path / "blobs").rglob("*.blob"))
    path.chmod(0o600)
    path.write_bytes(b"?" * path.stat().st_size)
    return path


def test_a_damaged_blob_is_not_restored(site: Site, target: Target, restored: Restore) -> None:
    site.backup()
    path = damage_blob(site)
    with pytest.raises(BackupError, match="is not what was backed up; --keep-going") as caught:
        restored()
    assert str(path) in str(caught.value)
    assert not target.path.exists()
    done = restored(keep_going=True)
    assert (done.blob_count, len(done.damage)) == (2, 1)
    assert target.blob_dir is not None
    assert len(blob_files(target.blob_dir)) == 2


def test_a_missing_blob_is_named(site: Site, target: Target, restored: Restore) -> None:
    site.backup()
    next((site.repository.path / "blobs").rglob("*.blob")).unlink()
    with pytest.raises(BackupError, match="is missing; --keep-going"):
        restored()
    assert restored(keep_going=True).blob_count == 2


@pytest.mark.parametrize("compress", [False, True])
def test_a_damaged_part_is_not_restored(
    site: Site, target: Target, restored: Restore, compress: bool
) -> None:
    part = site.repository.path / site.backup(compress=compress).part
    content = part.read_bytes()
    middle = len(content) // 2
    part.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    with pytest.raises(BackupError) as caught:
        restored()
    assert str(caught.value).startswith(f"{part}: ")
    assert not target.path.exists()


def test_a_blob_that_the_database_had_lost_does_not_stop_a_restore(
    site: Site, target: Target, restored: Restore
) -> None:
    next(site.blobs.rglob("*.blob")).unlink()
    site.backup()
    done = restored()
    assert (done.blob_count, len(done.file.lost), done.damage) == (2, 1, [])

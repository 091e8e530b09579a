"""Making backups: what is copied when, and what is refused."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import transaction
from tests.support.backups import Site, blob_files, content_of, listing, read_blobs
from ZODB.Connection import TransactionMetaData
from ZODB.FileStorage import FileStorage
from ZODB.scripts import repozo
from ZODB.utils import z64

from zeolith.admin.backup import making
from zeolith.admin.backup.blobstore import BlobStore
from zeolith.admin.backup.failures import BackupError, Damage
from zeolith.admin.backup.repository import create_repository
from zeolith.admin.backup.scan import BlobKey, scan
from zeolith.admin.backup.source import find_source
from zeolith.errors import ConfigurationError


def test_the_first_backup_is_full_and_the_next_is_incremental(site: Site) -> None:
    full = site.backup()
    assert (full.kind, full.start, full.end) == ("full", 0, site.path.stat().st_size)
    assert (full.blob_count, full.transactions) == (3, 4)
    assert full.blob_bytes == sum(len(content_of(number)) for number in (1, 2, 3))
    (tid,) = site.commit(4)
    incremental = site.backup()
    assert (incremental.kind, incremental.previous) == ("incremental", full.name)
    assert (incremental.start, incremental.end) == (full.end, site.path.stat().st_size)
    assert (incremental.blob_count, incremental.transactions) == (1, 1)
    assert incremental.last == tid
    assert blob_files(site.repository.path / "blobs") == site.blob_files()


@pytest.mark.parametrize("compress", [False, True])
def test_what_a_manifest_names_is_on_disk_before_it(
    site: Site, compress: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The manifest makes the backup exist; a power failure must not leave it alone."""
    synced: set[str] = set()
    before: set[str] = set()
    fsync = os.fsync
    write_manifest: Callable[..., None] = vars(making)["write_manifest"]

    def sync(descriptor: int) -> None:
        fsync(descriptor)
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        synced.add(os.path.relpath(path, site.repository.path))

    def write(*arguments: Any) -> None:
        before.update(synced)
        write_manifest(*arguments)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(making, "write_manifest", write)
    made = site.backup(compress=compress)
    # A file is synced under its name, or under the one it has while it is written.
    assert {".", made.part, f"{made.name}.index", f"{made.name}.blobs.partial"} <= before
    blobs = site.repository.path / "blobs"
    assert len([name for name in before if name.startswith("blobs/tmp/")]) == made.blob_count == 3
    for path in blobs.rglob("*.blob"):
        for directory in path.relative_to(site.repository.path).parents:
            assert str(directory) in before
    assert f"{made.name}.json.partial" in synced


def test_nothing_new_makes_no_backup(site: Site) -> None:
    site.backup()
    before = listing(site.repository.path)
    assert site.maybe_backup() is None
    assert site.maybe_backup(quick=True) is None
    assert listing(site.repository.path) == before


def test_a_transaction_in_the_making_is_not_backed_up(site: Site) -> None:
    full = site.backup()
    with site.database() as database:
        storage = database.storage
        current = TransactionMetaData()
        storage.tpc_begin(current)
        storage.store(z64, storage.lastTransaction(), b"x" * 5000, "", current)
        storage.tpc_vote(current)
        assert site.path.stat().st_size > full.end
        before = listing(site.repository.path)
        assert site.maybe_backup() is None
        assert listing(site.repository.path) == before
        storage.tpc_abort(current)


def test_a_transaction_that_is_completed_meanwhile_is_read_as_complete(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was read of the file before repozo copied it is out of date."""
    original: Callable[..., Any] = vars(making)["write_part"]
    with site.database() as database:
        storage = database.storage
        current = TransactionMetaData()
        storage.tpc_begin(current)
        storage.store(z64, storage.lastTransaction(), b"x" * 10, "", current)
        storage.tpc_vote(current)

        def completing(*args: Any, **keywords: Any) -> Any:
            storage.tpc_finish(current)
            return original(*args, **keywords)

        monkeypatch.setattr(making, "write_part", completing)
        assert site.path.stat().st_size < 8192  # else what was read is not what matters
        assert site.backup().last == storage.lastTransaction()


@pytest.mark.parametrize("wishes", [{}, {"compress": True}, {"quick": True}, {"link": True}])
def test_repozo_alone_recovers_the_file(site: Site, wishes: dict[str, Any]) -> None:
    """The way out without Zeolith: repozo for the file, a copy of the blobs."""
    site.backup(**wishes)
    site.commit(4)
    name = site.backup(**wishes).name
    output = site.directory / "recovered.fs"
    # Without the date, a backup that was named for the second that has just begun is not found.
    repozo.main(["-R", "-w", "-D", name, "-r", str(site.repository.path), "-o", str(output)])
    repozo.main(["-V", "-r", str(site.repository.path)])
    assert output.read_bytes() == site.path.read_bytes()
    assert read_blobs(output, site.repository.path / "blobs").keys() == {1, 2, 3, 4}


def test_a_full_backup_on_request_copies_no_blob_twice(site: Site) -> None:
    site.backup()
    paths = list(site.repository.path.rglob("*.blob"))
    before = [path.stat().st_ino for path in paths]
    second = site.backup(full=True)
    assert (second.kind, second.blob_count) == ("full", 3)
    assert [path.stat().st_ino for path in paths] == before


def test_hard_links_share_the_blobs(site: Site) -> None:
    site.backup(link=True)
    for path in site.blobs.rglob("*.blob"):
        assert path.stat().st_nlink == 2


def test_a_pack_makes_the_next_backup_full(site: Site) -> None:
    site.backup()
    site.remove(2)
    site.pack()
    made = site.backup()
    assert (made.kind, made.blob_count) == ("full", 2)
    assert made.packed is not None
    assert len(site.repository.read_chains()) == 2


def pack_once(site: Site, monkeypatch: pytest.MonkeyPatch, where: str) -> list[str]:
    """Have the database packed once, just before a function of :mod:`making` is called."""
    original: Callable[..., Any] = getattr(making, where)
    done: list[str] = []

    def packing(*args: Any, **keywords: Any) -> Any:
        if not done:
            done.append(where)
            site.remove(2)
            site.pack()
        return original(*args, **keywords)

    monkeypatch.setattr(making, where, packing)
    return done


def test_a_pack_before_the_file_is_copied_starts_the_backup_again(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert pack_once(site, monkeypatch, "write_part") is not None
    made = site.backup()
    assert "starting again" in site.notes
    assert (made.kind, made.blob_count) == ("full", 2)
    assert [len(chain) for chain in site.repository.read_chains()] == [1]


@pytest.mark.parametrize("with_blobs", [False, True])
def test_a_pack_within_repozo_starts_the_backup_again(
    site: Site, monkeypatch: pytest.MonkeyPatch, with_blobs: bool
) -> None:
    """repozo looks for the end of one file and copies from another."""
    done: list[bool] = []
    original = repozo.copyfile

    def packing(*args: Any) -> Any:
        if not done:
            done.append(True)
            if with_blobs:
                site.remove(2)
            site.pack()
            site.commit(*range(10, 20))  # long enough for repozo not to notice
        return original(*args)

    monkeypatch.setattr(repozo, "copyfile", packing)
    made = site.backup()
    assert "starting again" in site.notes
    assert made.blob_count == (12 if with_blobs else 13)
    assert made.end == site.path.stat().st_size


def test_a_pack_that_takes_blobs_away_starts_the_backup_again(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack_once(site, monkeypatch, "scan")
    made = site.backup()
    assert "starting again" in site.notes
    assert (made.kind, made.blob_count, made.missing) == ("full", 2, [])


def test_a_pack_while_blobs_are_copied_starts_the_backup_again(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = BlobStore.add
    done: list[bool] = []

    def packing(store: BlobStore, blob: BlobKey, *args: Any, **keywords: Any) -> Any:
        if not done:
            done.append(True)
            site.remove(1, 2, 3)
            site.commit(4)
            site.pack()
        return original(store, blob, *args, **keywords)

    monkeypatch.setattr(BlobStore, "add", packing)
    made = site.backup()
    assert "starting again" in site.notes
    assert (made.blob_count, made.missing) == (1, [])


def test_a_file_that_is_always_replaced_is_given_up(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = scan

    def replacing(*args: Any, **keywords: Any) -> Any:
        copy = site.directory / "copy"
        copy.write_bytes(site.path.read_bytes())
        copy.replace(site.path)
        for path in site.blobs.rglob("*.blob"):
            path.unlink()
        return original(*args, **keywords)

    monkeypatch.setattr(making, "scan", replacing)
    with pytest.raises(BackupError, match="was replaced 5 times"):
        site.backup()
    assert site.repository.read_chains() == []


def test_a_blob_that_the_database_has_lost_is_named(site: Site) -> None:
    lost = next(site.blobs.rglob("*.blob"))
    lost.unlink()
    made = site.backup()
    assert made.blob_count == 2
    (blob,) = made.lost
    assert site.source.blobs is not None
    assert site.source.blobs.path_of(blob) == lost


def test_blobs_without_their_directory_are_refused(site: Site) -> None:
    before = listing(site.repository.path)
    with pytest.raises(ConfigurationError, match=r"refers to blobs, blob 0x0.* --no-blobs"):
        site.backup(find_source(str(site.path), None))
    assert listing(site.repository.path).keys() - before.keys() == {"zeolith-backup.json"}


def test_another_choice_of_blobs_makes_a_full_backup(site: Site) -> None:
    first = site.backup(find_source(str(site.path), None), leave_blobs_out=True)
    assert (first.has_blobs, first.blob_count) == (False, 0)
    site.commit(4)
    second = site.backup()
    assert (second.kind, second.blob_count) == ("full", 4)


def test_a_lawn_is_backed_up(tmp_path: Path) -> None:
    site = Site(tmp_path, "lawn")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ZODB.blob.log", lambda *args, **keywords: None)
        site.commit(1, 2)
    made = site.backup()
    assert (made.layout, made.blob_count) == ("lawn", 2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.mkdir(), "is not a file|cannot be read"),
        (lambda path: None, "cannot be read: No such file"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused(
    tmp_path: Path, make: Callable[[Path], None], message: str
) -> None:
    path = tmp_path / "Data.fs"
    make(path)
    with pytest.raises(ConfigurationError, match=f"database {path}: ({message})"):
        find_source(str(path), None)


def test_what_is_no_filestorage_is_refused(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.path.write_bytes(b"something else entirely")
    with pytest.raises(Damage, match=r"Data.fs: is not a FileStorage: it begins with b'some'"):
        site.backup(find_source(str(site.path), None))


def test_a_database_without_transactions_makes_no_backup(tmp_path: Path) -> None:
    site = Site(tmp_path)
    FileStorage(str(site.path)).close()
    assert site.maybe_backup(find_source(str(site.path), None)) is None
    assert "has no transaction yet" in site.notes
    assert site.repository.read_chains() == []


def test_the_blob_cache_of_a_client_is_refused(tmp_path: Path) -> None:
    site = Site(tmp_path, "zeocache")
    with pytest.raises(ConfigurationError, match="is the blob cache of a client"):
        find_source(str(site.path), str(site.blobs))


def test_a_missing_blob_directory_is_refused(site: Site) -> None:
    with pytest.raises(ConfigurationError, match=r"blob directory nowhere|nowhere: cannot be read"):
        find_source(str(site.path), str(site.directory / "nowhere"))


# Which database


def other_site(site: Site) -> Site:
    directory = site.directory.parent / "other"
    directory.mkdir()
    other = Site(directory)
    other.commit(*range(1, 8))
    return other


def test_a_repository_of_another_database_is_refused(site: Site) -> None:
    site.backup()
    before = listing(site.repository.path)
    other = other_site(site)
    with pytest.raises(ConfigurationError) as caught:
        site.backup(other.source)
    assert str(site.path) in str(caught.value)
    assert str(other.path) in str(caught.value)
    assert listing(site.repository.path) == before


def test_another_database_in_the_same_place_is_refused(site: Site) -> None:
    site.backup()
    before = listing(site.repository.path)
    other_site(site).path.replace(site.path)
    with pytest.raises(ConfigurationError, match="backups of another database"):
        site.backup()
    assert listing(site.repository.path) == before
    assert site.backup(same_database=True, leave_blobs_out=True).kind == "full"


def test_a_pack_that_removes_the_first_transaction_does_not_make_another_database(
    site: Site,
) -> None:
    first = site.backup()
    site.remove(1)
    site.pack()
    second = site.backup()
    assert first.first_tid != second.first_tid
    assert second.kind == "full"
    site.commit(4)
    assert site.backup().kind == "incremental"


def test_a_database_that_has_moved_is_recognised(site: Site) -> None:
    site.backup()
    site.commit(4)
    moved = site.directory / "moved.fs"
    site.path.rename(moved)
    made = site.backup(find_source(str(moved), str(site.blobs)))
    assert made.kind == "incremental"
    assert "has moved to" in site.notes


def test_a_copy_with_a_life_of_its_own_is_refused(site: Site) -> None:
    """A copy for testing shares its beginning with the database that is backed up."""
    copy = site.directory / "copy.fs"
    copy.write_bytes(site.path.read_bytes())
    site.commit(4)
    site.backup()
    with pytest.raises(ConfigurationError, match="backups of another database"):
        site.backup(find_source(str(copy), str(site.blobs)))


def test_a_repository_of_repozo_alone_is_left_alone(site: Site) -> None:
    path = site.directory / "repository"
    path.mkdir()
    repozo.main(["-B", "-r", str(path), "-f", str(site.path)])
    before = listing(path)
    with pytest.raises(ConfigurationError, match="repozo alone has made"):
        site.backup()
    assert listing(path) == before


# Failures and their traces


def test_a_second_backup_at_the_same_time_is_refused(site: Site) -> None:
    with (
        site.repository.locked(),
        pytest.raises(BackupError, match=f"process {os.getpid()} is making a backup here"),
        site.repository.locked(),
    ):
        pass


class Unplugged(BaseException):
    """The end of the process, as far as the code can tell."""


STEPS = [
    "write_manifest",
    "write_durably",
    "sync_directory",
    "sync_file",
    "scan",
    "format_blobs",
]


@pytest.mark.parametrize("step", STEPS)
def test_a_crash_leaves_the_earlier_backups_and_the_next_one_cleans_up(
    site: Site, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    site.backup()
    before = listing(site.repository.path)
    site.commit(4)

    def unplug(*args: Any, **keywords: Any) -> None:
        raise Unplugged

    with monkeypatch.context() as patch:
        patch.setattr(making, step, unplug)
        # A process that has ended does not clean up either.
        patch.setattr(making, "_undone", lambda *args: ExitStack())
        with pytest.raises(Unplugged):
            site.backup()
    after = listing(site.repository.path)
    # repozo has added to its own list, which the next backup puts right.
    assert {name: after[name] for name in before if not name.endswith(".dat")}.items() <= (
        before.items()
    )
    assert after.keys() > before.keys()
    assert [len(chain) for chain in site.repository.read_chains()] == [1]
    made = site.backup()
    assert made.kind == "incremental"
    assert len(list(site.repository.path.glob("*fs"))) == 2
    assert not list(site.repository.path.rglob("*.partial"))
    repozo.main(["-V", "-r", str(site.repository.path)])


def test_an_interrupted_backup_cleans_up(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.backup()
    before = listing(site.repository.path)
    site.commit(4)

    def interrupt(*args: Any, **keywords: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(making, "write_manifest", interrupt)
    with pytest.raises(KeyboardInterrupt):
        site.backup()
    after = listing(site.repository.path)
    # The blob may stay: the next backup needs it.
    assert {name: after[name] for name in before} == before
    assert {Path(name).suffix for name in after.keys() - before.keys()} == {".blob"}


@pytest.mark.parametrize("where", ["copyfile", "sync_file"])
def test_a_full_disk_is_named_and_does_no_harm(
    site: Site, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    site.backup()
    before = listing(site.repository.path)
    site.commit(4)

    def full(*args: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "somewhere")

    with monkeypatch.context() as patch:
        patch.setattr(repozo if where == "copyfile" else making, where, full)
        with pytest.raises(
            BackupError, match=r"somewhere: No space left on device; make room .* as they were"
        ):
            site.backup()
    after = listing(site.repository.path)
    assert {name: after[name] for name in before} == before
    assert site.backup().kind == "incremental"


def test_a_part_that_has_vanished_makes_the_next_backup_full(site: Site) -> None:
    site.backup()
    site.commit(4)
    second = site.backup()
    site.commit(5)
    (site.repository.path / second.part).unlink()
    assert site.backup().kind == "full"
    assert "parts of the last one are missing" in site.notes


def test_a_damaged_part_makes_the_next_backup_full(site: Site) -> None:
    part = site.repository.path / site.backup().part
    part.write_bytes(part.read_bytes()[:-1] + b"x")
    site.commit(4)
    assert site.backup().kind == "full"


def test_a_damaged_compressed_part_is_named(site: Site) -> None:
    part = site.repository.path / site.backup(compress=True).part
    part.write_bytes(part.read_bytes()[:-10])
    site.commit(4)
    with pytest.raises(BackupError, match="a compressed part is damaged"):
        site.backup(compress=True)
    assert site.backup(compress=True, full=True).kind == "full"


def test_clocks_that_go_back_do_not_confuse_the_order(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = site.backup()
    site.commit(4)
    monkeypatch.setattr("zeolith.admin.backup.filepart.time.time", lambda: 1_000_000_000.0)
    second = site.backup()
    assert (second.kind, second.previous) == ("incremental", first.name)
    assert second.name > first.name


def test_a_directory_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="No such file or directory; name a directory"):
        create_repository(str(tmp_path / "no" / "where"))
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match=r"repository .*file: cannot be used"):
        create_repository(str(tmp_path / "file"))


def test_undone_revisions_of_blobs_are_backed_up(site: Site) -> None:
    """An undo writes a record without data that points at an earlier one, with a blob file."""
    with site.database() as database:
        with (
            database.transaction() as connection,
            connection.root()["blob 2"].open("w") as file,
        ):
            file.write(b"a mistake")
        database.undo(database.undoLog(0, 1)[0]["id"])
        transaction.commit()
    made = site.backup()
    assert made.blob_count == 5
    assert blob_files(site.repository.path / "blobs") == site.blob_files()


def test_the_site_is_as_the_tests_believe(site: Site) -> None:
    assert read_blobs(site.path, site.blobs) == {n: content_of(n) for n in (1, 2, 3)}
